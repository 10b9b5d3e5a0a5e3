"""Rows have an age of their own: real indexers, real segments."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import apsw
import pytest
from made import Instance, append, begin_segment, exchange, new_id, running, until

from llmdump.data_dir import DataDir
from llmdump.pins import Room, pin
from llmdump_indexer.follow import EXPIRED_AT_ONCE, Follower
from llmdump_indexer.index import Index
from tests.patience import WAIT_S

MANY = 2 * EXPIRED_AT_ONCE + 100
OPEN, PINNED, NEW = new_id(90_001), new_id(90_002), new_id(90_003)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Many old exchanges, one of them pinned, an old one that is open, and a new one."""
    data = DataDir(tmp_path / "data").create()
    old, new = Instance(began_s=time.time() - 7200), Instance("11" * 8, time.time() - 60)
    records = [old.about("hello"), *(one for index in range(MANY) for one in exchange(old, new_id(index)))]
    records += [*list(exchange(old, OPEN))[:4], *exchange(old, PINNED), *exchange(new, NEW)]
    append(begin_segment(data), b"".join(records))
    Follower(data, lost_after_s=1e9).catch_up()
    pin(data, PINNED, Room(0, 0))
    Follower(data, lost_after_s=1e9).catch_up()
    return data


def ask(data: DataDir, statement: str) -> list[tuple[object, ...]]:
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    try:
        return list(db.execute(statement))
    finally:
        db.close()


def test_old_rows_go_but_open_and_pinned_ones_stay_and_the_ledger_too(data: DataDir) -> None:
    ledger = ask(data, "SELECT * FROM ledger")
    with running("indexer", data, **{"index-max-age-s": "3600"}) as service:
        until(lambda: len(ask(data, "SELECT 1 FROM trace")) == 3)
        with urllib.request.urlopen(service.card().admin + "/metrics", timeout=WAIT_S) as page:
            assert f"llmdump_indexer_rows_expired_total {float(MANY)}" in page.read().decode()
    assert {exchange for (exchange,) in ask(data, "SELECT id FROM trace")} == {OPEN, PINNED, NEW}
    assert ask(data, "SELECT count(*) FROM position WHERE trace NOT IN (SELECT number FROM trace)") == [(0,)]
    assert ask(data, "SELECT * FROM ledger") == ledger
    command = [str(Path(sys.executable).parent / "llmdump"), "verify", "--json", f"--data-dir={data.root}"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False).stdout)
    assert [one["not_indexed"] for one in found["instances"]] == [[], []]
    Follower(data).catch_up()
    assert len(ask(data, "SELECT 1 FROM trace")) == 3


def test_by_default_rows_stay(data: DataDir) -> None:
    with running("indexer", data) as service:
        append(begin_segment(data, 2), Instance("22" * 8).about("hello"))
        until(lambda: ask(data, "SELECT 1 FROM ledger WHERE instance LIKE '22%'"))
        assert service.stop() == 0
    assert len(ask(data, "SELECT 1 FROM trace")) == MANY + 3


def test_a_transaction_deletes_no_more_than_it_is_asked_for_the_oldest_first(data: DataDir) -> None:
    ids = [exchange for (exchange,) in ask(data, "SELECT id FROM trace ORDER BY ts_start, id")]
    with Index(data.index) as index:
        assert index.expire(int(time.time() * 1000) - 3_600_000, 10) == 10
        assert index.still_there()
    assert [exchange for (exchange,) in ask(data, "SELECT id FROM trace ORDER BY ts_start, id")] == ids[10:]
    ended = ask(data, "SELECT count(*) FROM trace WHERE end_reason IS NOT NULL")
    assert ask(data, "SELECT requests FROM usage WHERE seconds = 0 AND dimension = ''") == ended
    assert ask(data, "SELECT sum(n_turns) FROM session") == [(len(ids) - 10,)]
