"""The indexer on real files: followed while they grow, killed, sealed, damaged, deleted; the rows are always the same."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from made import Instance, Service, append, begin_segment, exchange, new_id, running, until

from llmdump import jsonl, presence, segment
from llmdump.data_dir import DataDir
from llmdump.durable import Mark
from llmdump.presence import Presence
from llmdump.seekable import compress_frame, seek_table
from llmdump.tail import Tail
from llmdump_indexer.follow import Follower
from llmdump_indexer.index import Index
from tests.patience import WAIT_S, Limit

TABLES = ("damage", "ledger", "ledger_gap", "ledger_instance")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


@contextlib.contextmanager
def opened(data: DataDir) -> Iterator[apsw.Connection]:
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    try:
        yield db
    finally:
        db.close()


def indexed(data: DataDir) -> bool:
    """Whether there is an index with tables."""
    if not data.index.exists():
        return False
    with opened(data) as db:
        return bool(db.pragma("user_version"))


def rows(data: DataDir, columns: str = "*", where: str = "1") -> list[tuple[Any, ...]]:
    with opened(data) as db:
        return db.execute(f"SELECT {columns} FROM trace WHERE {where} ORDER BY id").fetchall()


def contents(data: DataDir) -> dict[str, list[tuple[Any, ...]]]:
    """All that an index says, without the numbers it gives to rows and segments."""
    with opened(data) as db:
        found = {table: sorted(db.execute(f"SELECT * FROM {table}")) for table in TABLES if table != "damage"}
        columns = [row[1] for row in db.execute("PRAGMA table_info(trace)")]
        shown = ", ".join(f"trace.{name}" for name in columns if name != "number")
        found["trace"] = db.execute(f"SELECT {shown} FROM trace ORDER BY id").fetchall()
        found["position"] = db.execute(
            "SELECT trace.id, piece, segment.name, runs FROM position JOIN trace ON trace.number = position.trace "
            "JOIN segment ON segment.number = position.segment ORDER BY trace.id, piece"
        ).fetchall()
        found["damage"] = db.execute(
            "SELECT name, damage.offset, size FROM damage JOIN segment ON segment.number = damage.segment ORDER BY 1, 2"
        ).fetchall()
        return found


def catch_up(data: DataDir) -> dict[str, list[tuple[Any, ...]]]:
    Follower(data).catch_up()
    return contents(data)


def undisturbed(data: DataDir, tmp_path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What an index says that is made at once from the same segments."""
    other = DataDir(tmp_path / f"other-{time.monotonic_ns()}").create()
    shutil.rmtree(other.segments)
    shutil.copytree(data.segments, other.segments)
    return catch_up(other)


def streams(instance: Instance, count: int, chunks: int, first_id: int = 1) -> Iterator[bytes]:
    """Interleaved streams; some have their model at the end of a body in two pieces."""
    made = [
        exchange(instance, new_id(first_id + index), b'{"messages":[],"model":"m%d"}' % (index % 3), (b"data: x\n\n",) * chunks)
        for index in range(count)
    ]
    for turn in itertools.zip_longest(*made):
        yield from (record for record in turn if record is not None)


# --- exactly once


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_the_rows_are_those_of_an_undisturbed_run(data: DataDir, tmp_path: Path, seed: int) -> None:
    chance, instance, path = random.Random(seed), Instance(), begin_segment(data)
    records = [instance.about("hello", x_about={"pid": 1}), *streams(instance, 300, 20), instance.about("bye", x_last=1)]
    grown = threading.Event()

    def grow() -> None:
        for at in range(0, len(records), 40):
            append(path, b"".join(records[at : at + 40]))
            time.sleep(0.01)  # the writer's pace, so that there is something to be killed in
        grown.set()

    writer = threading.Thread(target=grow)
    writer.start()
    kills = 0
    while not grown.is_set() or kills < 2:
        service = Service("indexer", data)
        service.card()
        grown.wait(chance.uniform(0.0, 0.3))
        service.kill()
        assert service.process.stderr is not None
        service.process.stderr.close()
        kills += 1
    writer.join()
    with running("indexer", data) as service:
        until(lambda: indexed(data) and ledger_end(data) == len(records))
        assert service.stop() == 0
    assert contents(data) == undisturbed(data, tmp_path)
    assert len(rows(data, where="end_reason = 'complete'")) == 300


def ledger_end(data: DataDir) -> int:
    """The highest number that is indexed."""
    with opened(data) as db:
        return int(db.execute("SELECT max(last) FROM ledger").get or 0)


@pytest.mark.parametrize("seed", range(20))
def test_stopped_after_any_step_the_rows_are_the_same(data: DataDir, tmp_path: Path, seed: int) -> None:
    """As above, with the file cut at random places instead of time: also within heads, bodies and checksums."""
    chance, instance, path = random.Random(seed), Instance(), begin_segment(data)
    whole = b"".join(streams(instance, 12, 6))
    cuts = sorted(chance.randrange(len(whole)) for _ in range(8))
    for begin, end in itertools.pairwise([0, *cuts, len(whole)]):
        append(path, whole[begin:end])
        catch_up(data)
    assert contents(data) == undisturbed(data, tmp_path)
    assert len(rows(data, where="end_reason = 'complete' AND model IS NOT NULL")) == 12


def test_a_transaction_that_fails_at_its_end_has_written_nothing(data: DataDir, tmp_path: Path) -> None:
    append(begin_segment(data), b"".join(streams(Instance(), 5, 5)))
    with Index(data.index):
        pass
    with contextlib.closing(sqlite3.connect(data.index)) as db:  # the ledger is written after rows and positions
        db.execute("CREATE TRIGGER fails BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
    with pytest.raises(apsw.ConstraintError, match="disk on fire"):
        Follower(data).catch_up()
    with opened(data) as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").get for table in ("trace", "position", "segment", "ledger")]
    assert counts == [0, 0, 0, 0]
    with contextlib.closing(sqlite3.connect(data.index)) as db:
        db.execute("DROP TRIGGER fails")
    assert catch_up(data) == undisturbed(data, tmp_path)


def test_what_was_read_is_not_read_again(data: DataDir) -> None:
    append(begin_segment(data), b"".join(streams(Instance(), 5, 5)))
    catch_up(data)
    again = Follower(data)
    again.catch_up()
    assert (again.records, again.bytes) == (0, 0)


@pytest.mark.parametrize("cut_at", [0, 500])
@pytest.mark.parametrize("forwarded_first", [False, True])
def test_a_request_body_in_pieces_over_a_restart_still_tells_its_model(
    data: DataDir, cut_at: int, forwarded_first: bool
) -> None:
    instance, path, body = Instance(), begin_segment(data), b'{"messages":["' + b"x" * 1000 + b'"],"model":"late"}'
    append(path, next(exchange(instance, new_id(1))))
    if cut_at:
        append(path, instance.record(new_id(1), 0, "chunk", body[:cut_at], ci=1))
    catch_up(data)
    if forwarded_first:  # what comes first after the restart is no part of the body
        append(path, instance.record(new_id(1), 2, "forward", b"", x_up="http://backend", x_addr="127.0.0.1:9", x_new=True))
    append(path, instance.record(new_id(1), 0, "chunk", body[cut_at:], ci=2, x_z=True))
    catch_up(data)
    assert rows(data, "model, req_bytes") == [("late", len(body))]


def test_a_record_that_is_stored_twice_counts_once(data: DataDir) -> None:
    path = begin_segment(data)
    whole = b"".join(exchange(Instance(), new_id(1), response=(b"12345",)))
    append(path, whole + whole)
    second = begin_segment(data, writer="w1")
    append(second, whole)
    catch_up(data)
    assert rows(data, "resp_bytes, last_record") == [(5, 6)]
    with opened(data) as db:
        assert db.execute("SELECT count(*) FROM position").get == 1


# --- tails, damage, sealing


def test_an_open_exchange_is_a_row_before_its_end(data: DataDir) -> None:
    records = list(exchange(Instance(), new_id(1), response=(b"1", b"2")))
    path = begin_segment(data)
    with running("indexer", data):
        append(path, b"".join(records[:5]))
        until(lambda: indexed(data) and rows(data, where="status = 200 AND resp_bytes = 1 AND end_reason IS NULL"))
        append(path, b"".join(records[5:]))
        until(lambda: rows(data, where="resp_bytes = 2 AND end_reason = 'complete'"))


def test_torn_tail_is_not_yet_a_record(data: DataDir) -> None:
    path = begin_segment(data)
    records = list(exchange(Instance(), new_id(1)))
    whole, last = b"".join(records[:-1]), records[-1]
    append(path, whole)
    for cut in (0, 3, 20, 45, len(last) - 1):
        path.write_bytes(path.read_bytes()[: path.stat().st_size])
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size)
        append(path, last[:cut])
        found = catch_up(data)
        assert found["damage"] == []
        assert rows(data, "end_reason") == [(None,)]
        os.truncate(path, path.stat().st_size - cut)
    append(path, last)
    assert catch_up(data)["damage"] == []
    assert rows(data, "end_reason") == [("complete",)]


def test_a_tail_that_stays_torn_in_a_segment_that_is_over_is_damage(data: DataDir) -> None:
    path = begin_segment(data)
    records = list(exchange(Instance(), new_id(1)))
    append(path, b"".join(records[:-1]) + records[-1][:50])
    at = path.stat().st_size - 50
    assert catch_up(data)["damage"] == []
    begin_segment(data, 2)
    assert catch_up(data)["damage"] == [(path.name, at, 50)]


@pytest.mark.parametrize("later", [True, False])
def test_damage_in_the_middle_costs_the_damaged_records_only(data: DataDir, tmp_path: Path, later: bool) -> None:
    path, instance = begin_segment(data), Instance()
    exchanges = [list(exchange(instance, new_id(index))) for index in range(1, 6)]
    begin = path.stat().st_size
    broken = len(b"".join(itertools.chain(*exchanges[:2])))
    append(path, b"".join(itertools.chain(*exchanges)))
    content = bytearray(path.read_bytes())
    content[begin + broken + 60] ^= 0x40
    path.write_bytes(content)
    if later:
        begin_segment(data, 2)
    found = catch_up(data)
    assert found["damage"] == [(path.name, begin + broken, len(exchanges[2][0]))]
    assert [row[0] for row in rows(data, "method")] == ["POST", "POST", None, "POST", "POST"]
    assert len(rows(data, where="end_reason = 'complete'")) == 5
    assert found["ledger"] == [("00" * 8, 1, 12), ("00" * 8, 14, 30)]
    assert found == undisturbed(data, tmp_path)


def test_a_destroyed_header_costs_only_itself(data: DataDir) -> None:
    path = begin_segment(data)
    size = path.stat().st_size
    path.write_bytes(b"\x00" * size)
    append(path, b"".join(exchange(Instance(), new_id(1))))
    assert catch_up(data)["damage"] == [(path.name, 0, size)]
    assert rows(data, "end_reason") == [("complete",)]


def test_a_header_that_is_not_whole_yet_is_waited_for(data: DataDir) -> None:
    path = begin_segment(data)
    header = path.read_bytes()
    whole = header + b"".join(exchange(Instance(), new_id(1)))
    for cut in range(len(header) + 50):
        path.write_bytes(whole[:cut])
        assert catch_up(data)["damage"] == []
    path.write_bytes(whole)
    assert catch_up(data)["damage"] == []
    assert rows(data, "end_reason") == [("complete",)]


def seal(path: Path, frame_bytes: int = 3000) -> Path:
    """As the writer seals: the sealed file appears under its name, then the plain one goes."""
    plain, frames, sizes = path.read_bytes(), list[bytes](), list[tuple[int, int]]()
    for at in range(0, len(plain), frame_bytes):
        part = plain[at : at + frame_bytes]
        frames.append(compress_frame(part))
        sizes.append((len(frames[-1]), len(part)))
    aside = path.with_suffix(".tmp")
    aside.write_bytes(b"".join(frames) + seek_table(sizes))
    sealed = path.with_name(path.name + ".zst")
    aside.rename(sealed)
    path.unlink()
    return sealed


def test_sealed_while_it_is_read_the_reading_goes_on(data: DataDir, tmp_path: Path) -> None:
    path, instance = begin_segment(data), Instance()
    records = list(streams(instance, 40, 10))
    half = len(records) // 2
    append(path, b"".join(records[:half]))
    with running("indexer", data) as service:
        until(lambda: indexed(data) and rows(data))
        append(path, b"".join(records[half:]))
        seal(path)
        append(begin_segment(data, 2), b"".join(streams(instance, 5, 3, first_id=1000)))
        until(lambda: len(rows(data, where="end_reason = 'complete'")) == 45)
        assert service.stop() == 0
    assert contents(data) == undisturbed(data, tmp_path)
    assert contents(data)["damage"] == []


def test_sealed_while_it_is_open_it_is_read_beyond_the_writers_mark(data: DataDir) -> None:
    """A footer that could not be synced lies behind the mark, which names this segment until the next one begins."""
    path = begin_segment(data)
    append(path, b"".join(streams(Instance(), 2, 3)))
    mark = Mark(data.segments, "w0")
    mark.set(1, {"cbor": path.stat().st_size})
    with Tail(data.segments, []) as tail:
        tail.look()
        while tail.step() is not None:
            pass
        append(path, Instance().about("footer"))
        size = path.stat().st_size
        seal(path)
        tail.look()
        step = tail.step()
    assert step and (step.segment.offset, step.segment.closed) == (size, True)


def test_sealed_between_two_runs_the_position_holds(data: DataDir) -> None:
    path = begin_segment(data)
    records = list(streams(Instance(), 20, 5))
    append(path, b"".join(records[: len(records) // 2]))
    catch_up(data)
    append(path, b"".join(records[len(records) // 2 :]))
    seal(path)
    assert catch_up(data)["damage"] == []
    assert len(rows(data, where="end_reason = 'complete'")) == 20


def test_a_damaged_frame_of_a_sealed_segment_costs_that_frame(data: DataDir) -> None:
    path = begin_segment(data)
    append(path, b"".join(exchange(Instance(), new_id(1), response=(b"x" * 100,) * 200)))
    sealed = seal(path)
    content = bytearray(sealed.read_bytes())
    at = content.index(b"\x28\xb5\x2f\xfd", 4)  # the second frame's magic number
    content[at] ^= 0xFF
    sealed.write_bytes(content)
    damage = catch_up(data)["damage"]
    assert damage[0][0] == path.name
    assert 3000 <= sum(size for _, _, size in damage) < 4000
    assert rows(data, "end_reason") == [("complete",)]


# --- several writers, two formats


def test_two_writers_are_followed_side_by_side(data: DataDir, tmp_path: Path) -> None:
    instance = Instance()
    paths = [begin_segment(data, writer=writer) for writer in ("w0", "w1")]
    for index in range(1, 41):
        append(paths[index % 2], b"".join(exchange(instance, new_id(index))))
    found = catch_up(data)
    assert len(found["trace"]) == 40
    assert found["ledger"] == [(instance.name, 1, 240)]
    assert found == undisturbed(data, tmp_path)


def test_where_a_writer_has_both_formats_cbor_is_read(data: DataDir) -> None:
    append(begin_segment(data), b"".join(exchange(Instance(), new_id(1))))
    (data.segments / "w0-00000001.jsonl").write_bytes(b"not a line of ours\n")
    assert catch_up(data)["damage"] == []
    with opened(data) as db:
        assert db.execute("SELECT name FROM segment").fetchall() == [("w0-00000001.cbor",)]
    (data.segments / "w0-00000001.cbor").unlink()
    assert catch_up(data)["damage"] == []


def as_lines(records: list[bytes]) -> bytes:
    lines = []
    for number, raw in enumerate(records, 1):
        whole = segment.record.decode(raw)
        line = jsonl.Line(whole.ts, number, "inbound_request", "a", "b", None, "openai", "m", "k")
        lines.append(jsonl.encode(line, jsonl.payload_of(whole.data), jsonl.facts(whole)))
    return b"".join(lines)


def test_jsonl_gives_the_same_rows(data: DataDir, tmp_path: Path) -> None:
    records = list(streams(Instance(), 10, 4))
    append(begin_segment(data), b"".join(records))
    other = DataDir(tmp_path / "jsonl").create()
    (other.segments / "w0-00000001.jsonl").write_bytes(as_lines(records))
    found, same = catch_up(data), catch_up(other)
    assert same["trace"] == found["trace"]
    assert same["ledger"] == found["ledger"]
    assert {row[2] for row in same["position"]} == {"w0-00000001.jsonl"}


# --- ledger, retention, the index itself


def test_the_ledger_holds_hello_gaps_and_goodbye(data: DataDir) -> None:
    instance = Instance()
    path = begin_segment(data)
    append(path, instance.about("hello", x_about={"version": "0.1.0", "pid": 7}))
    instance.number += 3
    append(path, instance.about("gap", x_gap=[[2, 4], ["x", 9], [9, 3]], x_why="overflow"))
    append(path, instance.about("bye", x_last=6))
    found = catch_up(data)
    assert found["ledger"] == [(instance.name, 1, 1), (instance.name, 5, 6)]
    assert found["ledger_gap"] == [(instance.name, 2, 4, "overflow")]
    ((name, hello_us, about, bye_us, bye_last),) = found["ledger_instance"]
    assert (name, about, bye_last) == (instance.name, '{"version":"0.1.0","pid":7}', 6)
    assert hello_us < bye_us


def test_rows_stay_when_a_segment_is_deleted_and_it_is_marked(data: DataDir) -> None:
    path = begin_segment(data)
    append(path, b"".join(exchange(Instance(), new_id(1))))
    begin_segment(data, 2)
    with running("indexer", data):
        until(lambda: indexed(data) and rows(data, where="end_reason = 'complete'"))
        path.unlink()

        def marked() -> list[tuple[Any, ...]]:
            with opened(data) as db:
                return db.execute("SELECT name FROM segment WHERE gone").fetchall()

        assert until(marked) == [(path.name,)]
    assert len(rows(data)) == 1


def test_a_deleted_index_is_made_anew_while_the_indexer_runs(data: DataDir) -> None:
    append(begin_segment(data), b"".join(exchange(Instance(), new_id(1))))
    with running("indexer", data):
        until(lambda: indexed(data) and rows(data, where="end_reason = 'complete'"))
        old = data.index.open("rb")  # as long as it is open, its inode is not given to another
        inode = data.index.stat().st_ino
        for suffix in ("", "-wal", "-shm"):
            Path(f"{data.index}{suffix}").unlink(missing_ok=True)
        until(lambda: indexed(data) and data.index.stat().st_ino != inode and rows(data))
        old.close()


def test_a_broken_index_is_set_aside_and_made_anew(data: DataDir) -> None:
    append(begin_segment(data), b"".join(exchange(Instance(), new_id(1))))
    data.index.write_bytes(b"this is no database at all, but long enough to be looked at as one" * 20)
    with running("indexer", data):
        until(lambda: data.index.with_name("index.sqlite.damaged").exists() and data.index.exists())
        until(lambda: indexed(data) and rows(data))


def test_an_index_of_a_newer_llmdump_is_refused_in_one_line(data: DataDir) -> None:
    with contextlib.closing(sqlite3.connect(data.index)) as db:
        db.execute("PRAGMA user_version = 999")
    service = Service("indexer", data)
    assert service.process.wait(WAIT_S) == 1
    *_, last = service.errors().strip().splitlines()
    assert "schema 999" in last
    assert "delete the file" in last


def test_of_two_indexers_one_writes_and_the_other_takes_over(data: DataDir) -> None:
    path, instance = begin_segment(data), Instance()
    with running("indexer", data) as first, running("indexer", data) as second:
        append(path, b"".join(exchange(instance, new_id(1))))
        until(lambda: indexed(data) and len(rows(data)) == 1)
        assert (health(first)["standby"], health(second)["standby"]) == (False, True)
        first.kill()
        append(path, b"".join(exchange(instance, new_id(2))))
        until(lambda: len(rows(data)) == 2)
        assert second.stop() == 0


def health(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(urllib.request.urlopen(f"{service.card().admin}/healthz").read())
    return found


def test_what_writers_write_while_they_leave_is_indexed_before_the_indexer_leaves(data: DataDir) -> None:
    """honcho signals all at once: the writer, still stopping, hands over after the indexer got its signal."""
    path, content = begin_segment(data), b"".join(streams(Instance(), 200, 40))
    writer = Presence.claim(data.run, "writer")
    with running("indexer", data) as service:
        writer.update(state="stopping")
        limit = Limit(4.0)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in [card.state for card in presence.living(data.run, "indexer")])
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.6)
        append(path, content)
        writer.release()
        assert service.process.wait(WAIT_S) == 0
        assert limit.is_kept
    assert len(rows(data, where="end_reason = 'complete'")) == 200


def test_an_unreadable_segment_does_not_hold_up_the_others(data: DataDir) -> None:
    (data.segments / "w0-00000001.cbor").mkdir()  # reading it fails: EISDIR, for root too
    append(begin_segment(data, writer="w1"), b"".join(exchange(Instance(), new_id(1))))
    with running("indexer", data) as service:
        until(lambda: indexed(data) and rows(data))
        page = urllib.request.urlopen(f"{service.card().admin}/metrics").read().decode()
        assert 'llmdump_swallowed_errors_total{where="segment_not_read"}' in page


def test_metrics_tell_what_was_done(data: DataDir) -> None:
    path = begin_segment(data)
    append(path, b"".join(exchange(Instance(), new_id(1))) + b"garbage")
    append(path, b"".join(exchange(Instance("11" * 8), new_id(2), status=500)))
    with running("indexer", data) as service:
        until(lambda: indexed(data) and len(rows(data)) == 2)
        page = urllib.request.urlopen(f"{service.card().admin}/metrics").read().decode()
    assert "llmdump_records_indexed_total 12.0" in page
    assert "llmdump_exchanges_indexed_total 2.0" in page
    assert "llmdump_indexer_damaged_bytes_total 7.0" in page
    assert "llmdump_indexer_open_exchanges 0.0" in page
    name = "gen_ai_client_operation_duration_seconds_count"
    assert f'{name}{{error_type="500",gen_ai_provider_name="openai",gen_ai_request_model="gpt-4o"}} 1.0' in page


def test_no_body_is_in_the_index(data: DataDir) -> None:
    secret = b"a sentence that nobody else writes"
    append(begin_segment(data), b"".join(exchange(Instance(), new_id(1), b'{"model":"' + secret + b'x"}', (secret,))))
    append(begin_segment(data, writer="w1"), b"".join(exchange(Instance("11" * 8), new_id(2), secret, (secret,))))
    catch_up(data)
    rows(data)
    found = b"".join(file.read_bytes() for file in data.root.glob("index.sqlite*"))
    assert found.count(secret) == found.count(secret + b"x")  # as the name of a model only
