"""What is deleted, in which order, and that it is always told: real writers, a real indexer, real files."""

import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from llmdump import segment
from llmdump.data_dir import DataDir
from llmdump_indexer.follow import Follower
from tests.writer.writer_rig import Proxy, Writer, chunk, files, located, wait_for

INSTANCE = "00000000000000aa"


def write_segments(data: Path, count: int, **settings: Any) -> None:
    """So many closed segments of ten records each."""
    with Writer(data, capture_max_bytes=4096, **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for number in range(1, 10 * count + 1, 10):
            proxy.send(number, number + 9, bytes(150))
            proxy.acknowledged(number + 9)
        writer.stop()
    assert len(segment.find(data / "segments")) == count


def deleted(data: Path) -> list[dict[str, Any]]:
    """The lines of the list of what was deleted."""
    path = data / "segments" / "deleted.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left(data: Path) -> list[int]:
    """The numbers of the segments that are there."""
    return [name.number for name in segment.find(data / "segments")]


def index_only(data: Path, *numbers: int) -> None:
    """Index these segments with the real indexer, as if the others had come later."""
    aside = data / "aside"
    aside.mkdir()
    for name in segment.find(data / "segments"):
        if name.number not in numbers:
            (data / "segments" / name.file).rename(aside / name.file)
    Follower(DataDir(data)).catch_up()
    for path in aside.iterdir():
        path.rename(data / "segments" / path.name)


def test_indexed_segments_go_first_and_an_unindexed_one_goes_loudly(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 6)
    index_only(data, 3, 4, 5, 6)
    with Writer(data, capture_max_files=3) as writer:
        writer.card()
        assert left(data) == [1, 2, 6]
        assert "indexed=no" not in writer.log
        assert writer.metrics()["llmdump_writer_segments_deleted_unindexed_total"] == 0
    with Writer(data, capture_max_files=1) as writer:
        writer.card()
        assert left(data) == [2]
        assert writer.log.count("indexed=no") == 1
        assert writer.metrics()["llmdump_writer_segments_deleted_unindexed_total"] == 1
    assert [(line["segment"], line["indexed"]) for line in deleted(data)] == [
        *((f"w0-{number:08d}.cbor", True) for number in (3, 4, 5, 6)),
        ("w0-00000001.cbor", False),
    ]


def test_sealed_segments_go_before_plain_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 2)
    (data / "segments" / "w0-00000001.cbor").rename(tmp_path / "w0-00000001.cbor")
    with Writer(data, capture_seal="true"):
        wait_for(lambda: list(files(data)) == ["w0-00000002.cbor.zst"])
    (tmp_path / "w0-00000001.cbor").rename(data / "segments" / "w0-00000001.cbor")
    Follower(DataDir(data)).catch_up()
    with Writer(data, capture_max_files=1) as writer:
        writer.card()
        assert left(data) == [1]


@pytest.mark.parametrize("capture_format", [pytest.param("cbor", marks=pytest.mark.only_long), "both"])
def test_what_was_deleted_is_written_down_with_its_numbers(tmp_path: Path, capture_format: str) -> None:
    data = tmp_path / "data"
    settings = {"capture_format": capture_format, "capture_max_bytes": 6000, "capture_max_files": 2}
    held: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    before = time.time()
    with Writer(data, **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for number in range(1, 200, 5):
            proxy.send(number, number + 4)
            proxy.acknowledged(number + 4)
            for name in segment.find(data / "segments"):
                records = [one.record for one in located(data / "segments", name)]
                held[name.segment] = [one.number for one in records if one.kind != "footer"]
                sizes[name.segment] = files(data)[name.file]
    lines = deleted(data)
    assert len(lines) >= 5
    for line in lines:
        numbers = held[line["segment"]]
        assert line["instances"] == {INSTANCE: [numbers[0], numbers[-1], len(numbers)]} and line["records"] == len(numbers)
        assert line["bytes"] == sizes[line["segment"]] and line["reason"] == "max_files"
        assert before <= line["at"] <= time.time()
    assert {line["segment"] for line in lines} == set(held) - {name.segment for name in segment.find(data / "segments")}


def test_a_segment_is_deleted_when_its_last_record_is_too_old(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 3)
    hour_ago = time.time() - 3600
    for number in (1, 2):
        os.utime(data / "segments" / f"w0-{number:08d}.cbor", (hour_ago, hour_ago))
    with Writer(data, capture_seal="true"):
        wait_for(lambda: all(name.endswith(".zst") for name in files(data)))
    with Writer(data, capture_max_age_s=3000) as writer:
        # A segment is counted after its file has gone.
        wait_for(lambda: writer.metrics().get('llmdump_writer_segments_deleted_total{reason="max_age"}') == 2)
        assert left(data) == [3]
    with Writer(data, capture_max_age_s=1.0):
        wait_for(lambda: left(data) == [])
    assert [line["reason"] for line in deleted(data)] == ["max_age"] * 3


def test_recovery_does_not_make_a_segment_younger(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 5)
        proxy.acknowledged(5)
        writer.kill()
    hour_ago = time.time() - 3600
    os.utime(data / "segments" / "w0-00000001.cbor", (hour_ago, hour_ago))
    with Writer(data, capture_max_age_s=3000):
        wait_for(lambda: left(data) == [])


def test_an_active_segment_is_never_too_old(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_max_age_s=0.2) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for number in range(1, 8):
            proxy.send(number, number)
            proxy.acknowledged(number)
            assert proxy.hear(0.3) is None
        assert left(writer.data) == [1] and not deleted(writer.data)


def test_the_list_goes_on_behind_a_line_that_was_cut_short(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 3)
    (data / "segments" / "deleted.jsonl").write_bytes(b'{"segment": "w0-000')
    with Writer(data, capture_max_files=1) as writer:
        writer.card()
    torn, *whole = (data / "segments" / "deleted.jsonl").read_text().splitlines()
    assert torn == '{"segment": "w0-000' and len(whole) == 2
    assert [json.loads(line)["segment"] for line in whole] == ["w0-00000001.cbor", "w0-00000002.cbor"]


def test_room_is_made_even_if_the_list_cannot_be_written_and_it_is_written_later(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 3)
    (data / "segments" / "deleted.jsonl").mkdir()
    with Writer(data, capture_max_files=1) as writer, Proxy(writer.card().listen) as proxy:
        assert left(data) == [3]
        assert writer.metrics()['llmdump_swallowed_errors_total{where="deletion_note"}'] >= 2
        (data / "segments" / "deleted.jsonl").rmdir()
        assert proxy.hello() == 30
        proxy.send(31, 31)
        proxy.acknowledged(31)
    assert [line["segment"] for line in deleted(data)] == ["w0-00000001.cbor", "w0-00000002.cbor"]


class Sampler(threading.Thread):
    """Adds up the files of a directory as fast as it can; counts only what stood still while it looked."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.done = threading.Event()
        self.totals: list[int] = []
        self.saw_sealing = 0

    @property
    def has_seen_enough(self) -> bool:
        """How often it looks is the machine's affair."""
        return len(self.totals) > 200 and self.saw_sealing > 10

    def look(self) -> dict[int, tuple[str, int]]:
        """Name and size by inode."""
        found = {}
        for entry in os.scandir(self.directory):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            if entry.name != "deleted.jsonl":
                found[stat.st_ino] = (entry.name, stat.st_size)
        return found

    def run(self) -> None:
        """Until `done`."""
        while not self.done.is_set():
            before = self.look()
            if before == self.look():
                self.totals.append(sum(size for _, size in before.values()))
                self.saw_sealing += any(name.endswith(".tmp") and size for name, size in before.values())


@pytest.mark.parametrize("capture_format", [pytest.param("cbor", marks=pytest.mark.only_long), "both"])
def test_the_total_cap_holds_at_every_moment_while_segments_are_sealed(tmp_path: Path, capture_format: str) -> None:
    cap, data = 6_000_000, tmp_path / "data"
    settings = {"capture_seal": "true", "capture_total_max_bytes": cap, "capture_max_bytes": 1_500_000, "fsync": "off"}
    with Writer(data, capture_format=capture_format, **settings) as writer, Proxy(writer.card().listen) as proxy:
        sampler = Sampler(data / "segments")
        sampler.start()
        proxy.hello()
        for number in itertools.takewhile(lambda number: number < 150 or not sampler.has_seen_enough, range(1, 5000)):
            proxy.batch([chunk(number, os.urandom(100_000), INSTANCE)])
            proxy.acknowledged(number)
        sampler.done.set()
        sampler.join()
    assert max(sampler.totals) <= cap and max(sampler.totals) > cap * 0.7
    assert sampler.has_seen_enough
    assert len(deleted(data)) > 10


def test_what_was_deleted_is_held_and_its_numbers_are_not_used_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 3)
    Follower(DataDir(data)).catch_up()
    with Writer(data, capture_max_age_s=0.05):
        wait_for(lambda: not left(data))
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 30
        proxy.send(28, 31)
        proxy.acknowledged(31)
        assert writer.metrics()["llmdump_records_duplicate_total"] == 3
        assert left(data) == [4]
    Follower(DataDir(data)).catch_up()
    db = apsw.Connection(str(DataDir(data).index))
    assert db.execute("SELECT first, last FROM ledger").fetchall() == [(1, 31)]
    db.close()


def test_a_list_that_cannot_be_read_keeps_nobody_from_capturing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segments(data, 1)
    (data / "segments" / "deleted.jsonl").mkdir()
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 10
        assert writer.metrics()['llmdump_swallowed_errors_total{where="deletion_notes_not_read"}'] == 1
