"""`llmdump rebuild`: the same rows however the first index came about, swapped in under running processes."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from made import Instance, Service, append, begin_segment, exchange, new_id, running, until

from llmdump.data_dir import DataDir
from llmdump.tail import SegmentRow
from llmdump_indexer.follow import Follower
from llmdump_indexer.index import Changes, Index, ReplacedError
from tests.patience import WAIT_S

TABLES = ("trace", "position", "segment", "damage", "ledger", "ledger_instance", "ledger_gap")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


def tables(data: DataDir) -> dict[str, list[tuple[Any, ...]]]:
    """Every table, every column, every number."""
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    try:
        assert db.pragma("integrity_check") == "ok"
        found = [
            name
            for (name,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'search%'"
            )  # how FTS5 lays out its own tables depends on when what was written
        ]
        assert set(found) >= set(TABLES)
        return {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in found}
    finally:
        db.close()


def rebuild(data: DataDir, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "llmdump"), "rebuild", f"--data-dir={data.root}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def traffic(data: DataDir, segments: int = 3) -> None:
    """Segments with whole, open, damaged and missing things in them."""
    instance, other = Instance(), Instance("11" * 8)
    for number in range(1, segments + 1):
        path = begin_segment(data, number)
        append(path, instance.about("hello", x_about={"pid": 1}) if number == 1 else b"")
        for index in range(20):
            said = [{"role": "user", "content": f"word{turn}"} for turn in range(1 + index % 4)]
            request = json.dumps({"model": "gpt-4o", "messages": said}).encode()
            append(path, b"".join(exchange(instance, new_id(100 * number + index), request)))
        append(path, b"\xa5\x62ts damage")
        instance.number += 4
        append(path, instance.about("gap", x_gap=[[instance.number - 3, instance.number]], x_why="overflow"))
        append(path, b"".join(list(exchange(other, new_id(100 * number + 50)))[: 2 + number]))
    append(path, instance.about("bye", x_last=instance.number + 1))


def in_pieces(data: DataDir, restarts: int) -> None:
    """An index made by an indexer that is killed again and again."""
    service = Service("indexer", data)
    for _ in range(restarts):
        service.card()
        service.kill()
        assert service.process.stderr is not None
        service.process.stderr.close()
        service = Service("indexer", data)
    service.card()
    assert service.stop() == 0
    assert service.process.stderr is not None
    service.process.stderr.close()
    Follower(data).catch_up()  # on a busy machine it leaves before it is through


@pytest.mark.parametrize("restarts", [0, 3])
def test_the_result_is_the_same_row_for_row_however_the_index_came_about(data: DataDir, restarts: int) -> None:
    traffic(data)
    in_pieces(data, restarts)
    Follower(data, lost_after_s=0.0).catch_up()  # what a running indexer does in time
    before = tables(data)
    assert len(before["trace"]) == 63
    done = rebuild(data, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["exchanges"], told["rows_forgotten"], told["damaged_places"]) == (63, 0, 3)
    assert tables(data) == before
    assert sorted(path.name for path in data.root.glob("index.sqlite*"))[0] == "index.sqlite"
    assert not list(data.root.glob("*.rebuild*"))


def test_what_is_wrong_in_the_index_in_use_is_right_afterwards(data: DataDir) -> None:
    traffic(data)
    Follower(data, lost_after_s=0.0).catch_up()
    before = tables(data)
    db = apsw.Connection(str(data.index))
    db.execute("DELETE FROM trace WHERE number % 2; UPDATE ledger SET last = last - 1; UPDATE trace SET status = 1").get  # noqa: B018
    db.close()
    assert tables(data) != before
    done = rebuild(data)
    assert done.stdout.startswith("the index holds 63 exchanges of ")
    assert tables(data) == before


@pytest.mark.parametrize("there", ["nothing", "garbage", "cut in half"])
def test_an_index_that_is_not_there_or_is_broken_is_made(data: DataDir, there: str) -> None:
    traffic(data)
    Follower(data, lost_after_s=0.0).catch_up()
    before, content = tables(data), data.index.read_bytes()
    for path in data.root.glob("index.sqlite*"):
        path.unlink()
    if there != "nothing":
        data.index.write_bytes(b"no database at all " * 300 if there == "garbage" else content[: len(content) // 2])
    done = rebuild(data)
    assert done.returncode == 0, done.stderr
    assert tables(data) == before


def test_indexer_and_api_go_on_while_it_is_swapped_again_and_again(data: DataDir) -> None:
    instance, written = Instance(), 0

    def more(path: Path) -> Iterator[int]:
        nonlocal written
        while True:
            append(path, b"".join(exchange(instance, new_id(written))))
            written += 1
            yield written

    path = begin_segment(data)
    go = more(path)
    with running("indexer", data), running("api", data) as api:
        asked = Asked(api, data)
        for _ in range(4):
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "llmdump"), "rebuild", f"--data-dir={data.root}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            while process.poll() is None:
                for _ in range(5):
                    next(go)
                asked.look()
                time.sleep(0.02)
            output, errors = process.communicate()
            assert process.returncode == 0, errors
            assert "exchanges" in output
        until(lambda: asked.look() == written)
    left = tables(data)
    assert len(left["trace"]) == written
    for path in data.root.glob("index.sqlite*"):
        path.unlink()
    Follower(data).catch_up()
    assert tables(data) == left


class Asked:
    """How many exchanges the api has; what it once had it always has."""

    def __init__(self, api: Service, data: DataDir) -> None:
        self._url = api.card().admin
        self._token = data.admin_token.read_text().strip()

    def look(self) -> int:
        request = urllib.request.Request(self._url + "/api/ledger", headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            found = json.loads(answer.read())
        assert found["missing"] == {}
        return int(found["indexed"]) // 6


def test_what_was_read_of_the_old_content_is_not_written_to_the_new(data: DataDir) -> None:
    begin_segment(data)
    Follower(data).catch_up()
    change = Changes([], [], [SegmentRow(7, "w7-00000007.cbor", 1, False, False)], [], [], [], [])
    with Index(data.index) as open_index:
        assert open_index.still_there()
        assert rebuild(data).returncode == 0
        assert not open_index.still_there()
        with pytest.raises(ReplacedError):
            open_index.save(change)
    with Index(data.index) as again:
        again.save(change)
        again.save(change)
        assert again.still_there()
    assert (7, "w7-00000007.cbor", 1, 0, 0) in tables(data)["segment"]


@pytest.mark.parametrize("gone", [(1,), (2,), (1, 2), (1, 2, 3)], ids=str)
def test_rows_of_deleted_segments_are_carried_over_and_all_is_the_same_row_for_row(
    data: DataDir, gone: tuple[int, ...]
) -> None:
    traffic(data)
    instance, long = Instance("22" * 8), new_id(77)
    parts = list(exchange(instance, long, response=(b"a",) * 8))
    for number, part in ((1, parts[:3]), (2, parts[3:6]), (3, parts[6:9])):
        append(data.segments / f"w0-{number:08d}.cbor", b"".join(part))
    Follower(data, lost_after_s=1e9).catch_up()
    for number in gone:
        (data.segments / f"w0-{number:08d}.cbor").unlink()
    Follower(data, lost_after_s=0.0).catch_up()
    before = tables(data)
    for _ in range(2):  # what was carried over once is carried over again
        done = rebuild(data, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["rows_carried"], told["rows_forgotten"]) == (21 * len(gone) + 1, 0)
        assert {name: rows for name, rows in tables(data).items() if rows != before[name]} == {}
    path = data.segments / "w0-00000003.cbor" if 3 not in gone else begin_segment(data, 4)
    append(path, b"".join(parts[9:]))
    Follower(data).catch_up()
    db = apsw.Connection(str(data.index))
    found = db.execute("SELECT end_reason, resp_bytes, last_record FROM trace WHERE id = ?", (long,)).fetchone()
    db.close()
    assert found == ("complete", 8, len(parts))


def test_a_row_that_went_on_after_the_index_stopped_is_carried_over_and_goes_on(data: DataDir) -> None:
    parts = list(exchange(Instance(), new_id(1), response=(b"abc",) * 8))
    append(begin_segment(data, 1), b"".join(parts[:5]))
    path = begin_segment(data, 2)
    append(path, b"".join(parts[5:7]))
    Follower(data, lost_after_s=1e9).catch_up()
    (data.segments / "w0-00000001.cbor").unlink()
    append(path, b"".join(parts[7:-1]))  # without an end, sizes are summed up from the records
    assert rebuild(data).returncode == 0
    db = apsw.Connection(str(data.index))
    assert db.execute("SELECT resp_bytes, resp_chunks FROM trace").fetchall() == [(24, 8)]
    assert db.execute("SELECT first, last FROM ledger").fetchall() == [(1, len(parts) - 1)]
    db.close()


def test_rows_of_deleted_segments_are_forgotten_if_asked(data: DataDir) -> None:
    traffic(data)
    Follower(data, lost_after_s=0.0).catch_up()
    (data.segments / "w0-00000001.cbor").unlink()
    done = rebuild(data, "--forget-deleted", "--json")
    assert done.returncode == 0
    assert (json.loads(done.stdout)["rows_forgotten"], json.loads(done.stdout)["rows_carried"]) == (21, 0)
    assert len(tables(data)["trace"]) == 42


def test_killed_anywhere_it_leaves_the_old_content_or_the_new(data: DataDir) -> None:
    traffic(data, 6)
    Follower(data, lost_after_s=0.0).catch_up()
    before = tables(data)
    for wait_s in (0.2, 0.4, 0.6, 0.8):
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "llmdump"), "rebuild", f"--data-dir={data.root}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert tables(data) == before
    assert rebuild(data).returncode == 0
    assert tables(data) == before


def test_a_directory_without_segments_is_told_apart(tmp_path: Path) -> None:
    done = rebuild(DataDir(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "is this the data directory?" in done.stderr
    assert not (tmp_path / "nowhere").exists()
