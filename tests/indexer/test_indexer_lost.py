"""Exchanges of a proxy that died: ended as `lost`, taken up again should more come, and the same in an index made anew."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from made import Instance, append, begin_segment, exchange, new_id, running, until

from llmdump.data_dir import DataDir
from llmdump.presence import Presence
from llmdump_indexer import absorb
from llmdump_indexer.follow import LOST_AFTER_S, Follower


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


def ends(data: DataDir) -> list[tuple[Any, ...]]:
    if not data.index.exists():
        return []
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    try:
        there = db.pragma("user_version")
        return db.execute("SELECT id, end_reason FROM trace ORDER BY id").fetchall() if there else []
    finally:
        db.close()


def table(data: DataDir) -> list[tuple[Any, ...]]:
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [*db.execute("SELECT * FROM trace ORDER BY number"), *db.execute("SELECT * FROM position ORDER BY trace, piece")]
    finally:
        db.close()


def catch_up(data: DataDir, lost_after_s: float = 0.0) -> None:
    Follower(data, lost_after_s).catch_up()


def beginnings(instance: Instance, count: int) -> Iterator[bytes]:
    for index in range(count):
        yield from list(exchange(instance, new_id(index)))[:4]


def test_open_exchanges_of_a_dead_proxy_are_lost_and_those_of_a_living_one_are_not(data: DataDir) -> None:
    dead, living = Instance(), Instance("11" * 8)
    path = begin_segment(data)
    append(path, b"".join(exchange(dead, new_id(1))) + b"".join(list(exchange(dead, new_id(2)))[:5]))
    append(path, b"".join(list(exchange(living, new_id(3)))[:5]))
    proxy = Presence.claim(data.run, "proxy")
    proxy.update(instance=living.name)
    catch_up(data)
    assert ends(data) == [(new_id(1), "complete"), (new_id(2), "lost"), (new_id(3), None)]
    proxy.release()
    catch_up(data)
    assert ends(data)[2] == (new_id(3), "lost")


def test_open_exchanges_of_a_dead_proxy_are_not_lost_while_records_of_it_wait_in_a_spill_file(data: DataDir) -> None:
    dead, other = Instance(), Instance("11" * 8)
    path = begin_segment(data)
    append(path, b"".join(list(exchange(dead, new_id(1)))[:4]) + b"".join(list(exchange(other, new_id(2)))[:4]))
    spill = data.spill / f"{dead.name}-0-00000001.spill"
    spill.touch()
    catch_up(data)
    assert ends(data) == [(new_id(1), None), (new_id(2), "lost")]
    spill.unlink()
    catch_up(data)
    assert ends(data)[0] == (new_id(1), "lost")


@pytest.mark.parametrize("at", range(1, 6))
def test_a_lost_exchange_goes_on_if_more_of_it_comes(data: DataDir, tmp_path: Path, at: int) -> None:
    records = list(exchange(Instance(), new_id(1), b'{"messages":[],"model":"m1"}'))
    path = begin_segment(data)
    append(path, b"".join(records[:at]))
    catch_up(data)
    assert ends(data) == [(new_id(1), "lost")]
    append(path, b"".join(records[at:]))
    catch_up(data)
    assert ends(data) == [(new_id(1), "complete")]
    other = DataDir(tmp_path / "other").create()
    append(begin_segment(other), b"".join(records))
    catch_up(other)
    assert table(data) == table(other)


def test_more_of_it_without_its_end_is_lost_again(data: DataDir) -> None:
    records = list(exchange(Instance(), new_id(1)))
    path = begin_segment(data)
    append(path, b"".join(records[:3]))
    catch_up(data)
    append(path, b"".join(records[3:5]))
    catch_up(data)
    assert ends(data) == [(new_id(1), "lost")]


def test_however_many_there_are_all_are_lost_and_none_is_open(data: DataDir) -> None:
    count = 2 * absorb.LOST_AT_ONCE + 7
    append(begin_segment(data), b"".join(beginnings(Instance(), count)))
    follower = Follower(data, 0.0)
    follower.catch_up()
    assert [reason for _, reason in ends(data)] == ["lost"] * count
    assert follower.open_exchanges == 0
    assert follower.exchanges == count


def test_nothing_is_lost_before_its_proxy_is_dead_for_so_long(data: DataDir) -> None:
    append(begin_segment(data), b"".join(beginnings(Instance(), 1)))
    follower, begin = Follower(data, 1.0), time.monotonic()
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        until(lambda: ends(data) == [(new_id(0), "lost")])
        assert time.monotonic() - begin > 1.0
    finally:
        follower.finish()
        thread.join()


@pytest.mark.only_long
def test_a_running_indexer_waits_before_it_calls_anything_lost(data: DataDir) -> None:
    path, begin = begin_segment(data), time.monotonic()
    with running("indexer", data) as service:
        append(path, b"".join(beginnings(Instance(), 1)))
        until(lambda: ends(data) == [(new_id(0), "lost")])
        assert time.monotonic() - begin > LOST_AFTER_S
        assert service.stop() == 0
