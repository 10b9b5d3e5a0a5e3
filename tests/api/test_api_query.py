"""Lists: parameters, SQL that never scans the table, pages that neither repeat nor skip."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from made import new_id

from llmdump_api import query
from llmdump_api.index import SCHEMA
from llmdump_indexer.assembly import Exchange
from llmdump_indexer.index import Changes, Index, migrations

BASE_MS = 1_767_225_600_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.sqlite") as found:
        yield found


def row(index: int, **columns: Any) -> tuple[int, Exchange]:
    given = {"ts_ms": BASE_MS + index, "route_path": "/v1/x", "status": 200, "model": "m"} | columns
    return index, Exchange(
        id=new_id(index), instance="00" * 8, started_us=given.pop("ts_ms") * 1000, first_record=1, last_record=2, **given
    )


def store(index: Index, rows: list[tuple[int, Exchange]]) -> None:
    index.save(Changes(rows, [], [], [], [], [], []))


def ask(index: Index, **params: str) -> dict[str, Any]:
    asked = query.parse(params)
    statement, values = query.sql(asked)
    db = apsw.Connection(str(index.path), flags=apsw.SQLITE_OPEN_READONLY)
    return query.page(db.execute(statement, values).fetchall(), asked.limit)


def ids(page: dict[str, Any]) -> list[int]:
    return [int(shown["id"].replace("-", ""), 16) & 0xFFFFFFFF for shown in page["traces"]]


def test_the_api_reads_the_schema_that_the_indexer_writes() -> None:
    assert len(migrations()) == SCHEMA


@pytest.mark.parametrize(
    "params",
    [
        {}, {"path": "/v1/x"}, {"path": "/v1*"}, {"path": "*"}, {"status": "200"}, {"status": "4xx"}, {"model": "m"},
        {"key_hash": "ab" * 8}, {"since": "2026-01-01T00:00:00Z"}, {"until": "2026-01-01T00:00:00Z"},
        {"path": "/v1*", "status": "5xx", "model": "m", "since": "2026-01-01T00:00:00Z"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("cursor", [False, True])
def test_no_list_scans_the_table(index: Index, params: dict[str, str], cursor: bool) -> None:
    store(index, [row(number, status=200 + number % 3, model=f"m{number % 5}") for number in range(1, 200)])
    more = {"cursor": query.encode_cursor(BASE_MS + 100, new_id(100))} if cursor else {}
    statement, values = query.sql(query.parse(params | more))
    db = apsw.Connection(str(index.path))
    for analyzed in (False, True):
        if analyzed:
            db.execute("ANALYZE").fetchall()
        plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        steps = [step for step in plan if step.startswith(("SCAN", "SEARCH")) and "page" not in step]
        assert steps
        assert all("USING" in step and ("INDEX" in step or "PRIMARY KEY" in step) for step in steps), plan
        if params and not cursor and len(params) == 1 and "*" not in params.get("path", ""):
            assert not any(step.startswith("SCAN trace") for step in steps), plan
            assert not any("TEMP B-TREE" in step for step in plan[: plan.index("SCAN page")]), plan


@pytest.mark.parametrize(
    ("params", "want"),
    [
        ({"path": "/v1/chat"}, [1]),
        ({"path": "/v1/*"}, [6, 5, 3, 2, 1]),
        ({"path": "/v1/c*"}, [2, 1]),
        ({"path": "/v1/a_b"}, [5]),
        ({"path": "/v1/a%*"}, [6]),
        ({"path": "/v1/a_*"}, [5]),
        ({"path": "/V1/*"}, []),
        ({"path": "*"}, [6, 5, 4, 3, 2, 1]),
        ({"status": "404"}, [4]),
        ({"status": "4xx"}, [4, 3]),
        ({"status": "2xx", "model": "x"}, [1]),
        ({"key_hash": "cd" * 8}, [2]),
        ({"since": "2026-01-01T00:00:00.004Z"}, [6, 5, 4]),
        ({"since": "2026-01-01T00:00:00.003001Z"}, [6, 5, 4]),
        ({"until": "2026-01-01T01:00:00.002+01:00"}, [1]),
        ({"since": "2026-01-01T00:00:00.002Z", "until": "2026-01-01T00:00:00.004Z"}, [3, 2]),
        ({"path": "' OR 1=1 --"}, []),
    ],
)
def test_filters_find_what_they_say(index: Index, params: dict[str, str], want: list[int]) -> None:
    store(
        index,
        [
            row(1, route_path="/v1/chat", model="x"),
            row(2, route_path="/v1/chats", key_hash="cd" * 8),
            row(3, route_path="/v1/messages", status=400),
            row(4, route_path="/v2/messages", status=404),
            row(5, route_path="/v1/a_b", status=None),
            row(6, route_path="/v1/a%b", status=500),
        ],
    )
    assert ids(ask(index, **params)) == want


BAD = [
    ("limit", "0"), ("limit", "501"), ("limit", "-1"), ("limit", "x"), ("limit", ""), ("limit", "1.5"), ("limit", "٣"),
    ("cursor", "x"), ("cursor", "!!"), ("cursor", ""), ("cursor", "MTIz"), ("cursor", "é"),
    ("cursor", query.encode_cursor(10**19, new_id(1))), ("cursor", query.encode_cursor(1, "not an id")),
    ("status", "3"), ("status", "abc"), ("status", "3xx"), ("status", "0xx"), ("status", "2000"), ("status", ""),
    ("since", "yesterday"), ("since", "2026-01-01"), ("since", "2026-01-01T00:00:00"), ("until", "1767225600"),
    ("key_hash", "xyz"), ("key_hash", "AB" * 8), ("path", "\0"), ("path", "a" * 5000), ("model", "\ud800"),
    ("nobody_knows", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_parameters_are_named(name: str, value: str) -> None:
    with pytest.raises(query.BadParamError) as caught:
        query.parse({name: value})
    assert caught.value.param == name
    assert str(caught.value)


def test_pages_neither_repeat_nor_skip_while_rows_arrive(index: Index) -> None:
    """Many rows share a ms, newer ones come between two pages."""
    chance = random.Random(1)
    store(index, [row(number, ts_ms=BASE_MS + chance.randrange(20)) for number in range(1, 301)])
    seen: list[int] = []
    cursor: dict[str, str] = {}
    for arrived in range(1000, 2000, 10):
        page = ask(index, limit="7", **cursor)
        seen += ids(page)
        store(index, [row(arrived + extra, ts_ms=BASE_MS + 30 + chance.randrange(20)) for extra in range(5)])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == list(range(1, 301))
    assert len(seen) == len(set(seen))


def test_the_last_page_has_no_cursor(index: Index) -> None:
    store(index, [row(1), row(2)])
    assert ask(index, limit="2")["next_cursor"] is None
    assert ask(index, limit="1")["next_cursor"] is not None


def test_a_row_is_shown_in_plain_json(index: Index) -> None:
    store(index, [row(1, stream=True, first_byte_us=1500, duration_us=2001, ts_end=BASE_MS + 3)])
    (shown,) = ask(index)["traces"]
    assert shown["ts_start"] == "2026-01-01T00:00:00.001Z"
    assert shown["ts_end"] == "2026-01-01T00:00:00.003Z"
    assert (shown["stream"], shown["disconnected"], shown["altered"]) == (True, False, False)
    assert (shown["first_byte_ms"], shown["duration_ms"]) == (1.5, 2.001)
    assert (shown["prompt_tokens"], shown["end_reason"], shown["parent_id"]) == (None, None, None)
    assert shown["session_root_id"] == shown["id"]
