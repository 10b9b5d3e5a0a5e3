"""The checker: what clients saw against what is stored, byte for byte, from the files, through the api and by verify."""

import contextlib
import http.client
import json
import math
import random
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

import apsw

from llmdump.data_dir import DataDir
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from tests.chaos.clients import Seen
from tests.chaos.stored import Exchange, Stored
from tests.e2e.pipeline import BIN, Pipeline, Reader, environment
from tests.e2e.tap import OWN_FIELDS
from tests.patience import WAIT_S

SETTLED_WITHIN_S: Final = 120.0
WAITING: Final = (
    "llmdump_proxy_open_exchanges", "llmdump_queue_depth_records", "llmdump_spill_orphaned_bytes", "llmdump_indexer_lag_bytes",
)  # fmt: skip
LOOK_EVERY_S: Final = 0.2
"""Metrics cost each process some milliseconds."""
SURE_AFTER_S: Final = 0.5
BODIES_MAX: Final = 4000
"""Bodies asked for through the api: more cost minutes. All of them are compared in the files."""


def settle(pipe: Pipeline) -> dict[str, float]:
    """Wait until all that proxies made is acknowledged, read and indexed; the metrics. An indexer that was killed all the
    time may have much to read: it has as long as it needs, if it goes on."""
    pipe.wait_until_ready()
    before, since = (math.inf, 0), time.monotonic()
    while True:
        found = pipe.metrics()
        waiting = sum(found.get(name, math.inf) for name in WAITING)  # a process that did not answer in time has no samples
        # An indexer that has just started tells no lag before its first look: so all must have ended in two looks.
        rows = pipe.rows() if not waiting else []
        now = waiting, sum(bool(row["end_reason"]) for row in rows)
        if rows and now == before and now[1] == len(rows):
            return found
        if now != before:
            before, since = now, time.monotonic()
        assert time.monotonic() - since < SETTLED_WITHIN_S, f"still waiting: {waiting}, {now[1]} of {len(rows)} ended"
        time.sleep(LOOK_EVERY_S if waiting else SURE_AFTER_S)


def check_whole(one: Seen, exchange: Exchange) -> None:
    """An exchange that its client had whole is stored whole: both heads, both bodies with their framing, and its end."""
    assert exchange.reason == "complete", (one.id, exchange.reason)
    assert exchange.lost == 0
    assert sorted(exchange.numbers) == exchange.numbers, "not in the order in which it happened"
    assert exchange.wire(CLIENT_TO_PROXY) == one.wire, one.id
    assert lines(exchange.response_head) == lines(one.answer.head), one.id
    assert exchange.wire(BACKEND_TO_PROXY) == one.answer.wire, one.id


def lines(head: bytes) -> list[bytes]:
    """A head in order, case and spacing, without the fields that belong to the connection."""
    start, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return [start, *(line for line in fields if line.partition(b":")[0].strip().lower() not in OWN_FIELDS)]


def check_files(stored: Stored, done: Sequence[Seen]) -> None:
    """Each of these exchanges is in the files once and whole, nothing else is, and no number is missing or there twice."""
    found = stored.by_request()
    for one in done:
        assert len(found.get(one.head, [])) == 1, f"{one.id} is stored {len(found.get(one.head, []))} times"
        check_whole(one, found[one.head][0])
    assert len(stored.exchanges) == len(done)
    for instance, seen in stored.numbers.items():
        assert sorted(seen) == list(range(1, len(seen) + 1)), instance


def check_api(pipe: Reader, done: Sequence[Seen]) -> None:
    """Each of these exchanges is one row, and its bodies come back as they crossed: of many, those of some."""
    asked = {one.id for one in random.Random(len(done)).sample(done, min(BODIES_MAX, len(done)))}
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pipe.rows():
        rows.setdefault(row["path"].partition("?id=")[2], []).append(row)
    with contextlib.closing(Bodies(pipe)) as bodies:
        for one in done:
            assert len(rows.get(one.id, [])) == 1, f"{one.id} has {len(rows.get(one.id, []))} rows"
            (row,) = rows[one.id]
            assert (row["end_reason"], row["status"], row["records_lost"]) == ("complete", 200, 0), row
            if one.id in asked:
                assert bodies.get(row, "request") == one.body, one.id
                assert bodies.get(row, "response") == bytes(one.answer.body), one.id


class Bodies:
    """Bodies through the api, over one connection."""

    def __init__(self, pipe: Reader) -> None:
        host, _, port = pipe.api.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        self._headers = {"Authorization": f"Bearer {pipe.data.admin_token.read_text().strip()}"}

    def get(self, row: dict[str, Any], side: str) -> bytes:
        """`request` or `response` of a row."""
        self._connection.request("GET", f"/api/traces/{row['id']}/{side}", headers=self._headers)
        with self._connection.getresponse() as answer:
            assert answer.status == 200, (row, answer.read())
            return answer.read()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def command(data: DataDir, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """What `llmdump …` does on this data directory."""
    environ = environment(data.root.parent, data_dir=data.root)
    return subprocess.run(
        [str(BIN / "llmdump"), *arguments],
        cwd=data.root.parent,
        env=environ,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def verify(data: DataDir) -> Any:
    """The certificate; the exit code says the same as it does."""
    done = command(data, "verify", "--json")
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"] == (done.returncode == 0), found["problems"]
    return found


def check_certified(data: DataDir, stored: Stored) -> None:
    """verify says: complete, and as many records as are in the files."""
    found = verify(data)
    assert found["complete"], found["problems"]
    assert (found["made"], found["in_files"], found["indexed"], found["duplicates"]) == (stored.records,) * 3 + (0,)


def check_rebuilt(data: DataDir) -> None:
    """The index is, row for row, what `llmdump rebuild` makes of the files. No process may be running."""
    before = index_tables(data)
    done = command(data, "rebuild", "--json")
    assert done.returncode == 0, done.stderr
    after = index_tables(data)
    assert before.keys() == after.keys()
    for table, rows in before.items():
        assert rows == after[table], table


def index_tables(data: DataDir) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the index, every column; segments by name, for their numbers in the index are its own affair.

    Of the full text every word and its place: how FTS5 lays out its own tables depends on what was written when.
    """
    with contextlib.closing(apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        assert db.pragma("integrity_check") == "ok"
        tables = """SELECT name FROM sqlite_master WHERE type = 'table'
            AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'search%' AND name != 'segment'"""
        db.execute("CREATE VIRTUAL TABLE temp.word USING fts5vocab (main, search, instance)")
        found = {name: _rows(db, name) for (name,) in [*db.execute(tables)]}
        found["search"] = sorted(db.execute("SELECT term, doc, col, offset FROM temp.word"))
        return {**found, "segment": sorted(db.execute("SELECT name, offset, closed FROM segment"))}


def _rows(db: apsw.Connection, table: str) -> list[tuple[Any, ...]]:
    columns = [column for _, column, *_ in db.execute(f"PRAGMA table_info({table})")]
    by_name = "(SELECT name FROM segment WHERE segment.number = {}.segment)".format
    asked = ", ".join(by_name(table) if column == "segment" else column for column in columns)
    return sorted(db.execute(f"SELECT {asked} FROM {table}"), key=repr)
