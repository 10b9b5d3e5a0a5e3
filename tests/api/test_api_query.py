"""Lists: parameters, SQL that never scans the table, pages that neither repeat nor skip."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made import new_id

from llmdump.assembly import Exchange
from llmdump.indexed import SCHEMA
from llmdump_api import find, params, query
from llmdump_api.index import connect
from llmdump_indexer.index import Changes, Index
from llmdump_indexer.read import Read
from llmdump_indexer.statements import migrations
from llmdump_indexer.store import TraceRow

READ = frozenset(Read.__dataclass_fields__) - {"model"}
BASE_MS = 1_767_225_600_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.sqlite") as found:
        yield found


def row(index: int, **columns: Any) -> TraceRow:
    given = {"ts_ms": BASE_MS + index, "route_path": "/v1/x", "status": 200, "model": "m", "end_reason": "complete"} | columns
    read = Read(**{name: given.pop(name) for name in list(given) if name in READ})
    exchange = Exchange(
        id=new_id(index), instance="00" * 8, started_us=given.pop("ts_ms") * 1000, first_record=1, last_record=2, **given
    )
    return TraceRow(index, exchange, read)


def store(index: Index, rows: list[TraceRow]) -> None:
    index.save(Changes(rows, [], [], [], [], [], []))


def ask(index: Index, **given: str) -> dict[str, Any]:
    asked = query.parse(given)
    db = connect(index.path)
    try:
        found = find.page(db, asked)
    finally:
        db.close()
    return query.page([query.row_object(row) for row in found.rows], found.next_cursor)


def ids(page: dict[str, Any]) -> list[int]:
    return [int(shown["id"].replace("-", ""), 16) & 0xFFFFFFFF for shown in page["traces"]]


def test_the_api_reads_the_schema_that_the_indexer_writes() -> None:
    assert len(migrations()) == SCHEMA


@pytest.mark.parametrize(
    ("given", "want"),
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
def test_filters_find_what_they_say(index: Index, given: dict[str, str], want: list[int]) -> None:
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
    assert ids(ask(index, **given)) == want


BAD = [
    ("limit", "0"), ("limit", "501"), ("limit", "-1"), ("limit", "x"), ("limit", ""), ("limit", "1.5"), ("limit", "٣"),
    ("cursor", "x"), ("cursor", "!!"), ("cursor", ""), ("cursor", "MTIz"), ("cursor", "é"),
    ("cursor", params.encode_cursor(10**19, new_id(1))), ("cursor", params.encode_cursor(1, "not an id")),
    ("status", "3"), ("status", "abc"), ("status", "3xx"), ("status", "0xx"), ("status", "2000"), ("status", ""),
    ("since", "yesterday"), ("since", "2026-01-01"), ("since", "2026-01-01T00:00:00"), ("until", "1767225600"),
    ("key_hash", "xyz"), ("key_hash", "AB" * 8), ("path", "\0"), ("path", "a" * 5000), ("model", "\ud800"),
    ("nobody_knows", "1"), ("min_tokens", "-1"), ("min_tokens", "x"), ("max_tokens", "1e5"), ("min_cost_usd", "1.0000000001"),
    ("max_ttft_ms", "99999999999"), ("session_root_id", "x"), ("session_root_id", "A" * 36), ("key_hash", "' OR 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_parameters_are_named(name: str, value: str) -> None:
    with pytest.raises(params.BadParamError) as caught:
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
    assert (shown["prompt_tokens"], shown["cost_usd"], shown["parent_id"]) == (None, None, None)
    assert shown["session_root_id"] == shown["id"]


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"provider": "openai"}, [1]),
        ({"api": "openai.chat"}, [2, 1]),
        ({"client": "curl"}, [3]),
        ({"project": "p"}, [4]),
        ({"session_root_id": new_id(2)}, [2]),
        ({"end_reason": "timeout"}, [5]),
        ({"finish_reason": "stop"}, [2]),
        ({"error": "overloaded"}, [5]),
        ({"min_tokens": "1000"}, [6, 2]),
        ({"min_tokens": "1001"}, [6]),
        ({"max_tokens": "1000"}, [2, 1]),
        ({"min_tokens": "1", "max_tokens": "1000"}, [2]),
        ({"min_cost_usd": "0.25"}, [4, 3]),
        ({"max_cost_usd": "0.25"}, [3, 1]),
        ({"min_ttft_ms": "1.5"}, [6, 2]),
        ({"max_ttft_ms": "1.5"}, [2, 1]),
        ({"api": "openai.chat", "min_tokens": "500"}, [2]),
        ({"path": "/v1*", "status": "2xx", "max_cost_usd": "1", "until": "2026-01-01T00:00:00.002Z"}, [1]),
        ({"path": "/new*"}, [7]),
        ({"status": "1xx"}, [7]),
    ],
)
def test_filters_of_what_was_read_find_what_they_say(index: Index, given: dict[str, str], want: list[int]) -> None:
    store(
        index,
        [
            row(1, provider="openai", api="openai.chat", total_tokens=0, cost_nano_usd=0, ttft_us=0),
            row(2, api="openai.chat", finish_reason="stop", total_tokens=1000, ttft_us=1500),
            row(3, client_kind="curl", cost_nano_usd=250_000_000),
            row(4, client_project="p", cost_nano_usd=9_999 * 10**9),
            row(5, end_reason="timeout", error_type="overloaded"),
            row(6, total_tokens=2**33, ttft_us=1501),
            row(7, end_reason=None, route_path="/new/path", status=101),
        ],
    )
    assert ids(ask(index, **given)) == want


def test_a_filter_that_fits_few_rows_gives_parts_of_a_page_until_all_is_looked_at(index: Index) -> None:
    store(
        index,
        [
            row(number, model="m", provider="rare" if number % 4000 == 1 else None, key_hash="ab" * 8)
            for number in range(1, 9001)
        ],
    )
    store(index, [row(number, model="n", provider="rare") for number in range(9001, 14000)])
    first = ask(index, model="m", provider="rare", limit="2")
    assert (ids(first), first["next_cursor"] is None) == ([8001], False)
    second = ask(index, model="m", provider="rare", limit="2", cursor=first["next_cursor"])
    assert (ids(second), second["next_cursor"]) == ([4001, 1], None)


def test_more_paths_than_can_be_merged_are_found_by_time(index: Index) -> None:
    store(index, [row(number, route_path=f"/files/{number}") for number in range(1, 300)])
    assert ids(ask(index, path="/files/1*", limit="3")) == [199, 198, 197]
    assert ids(ask(index, path="/files/29*", limit="3")) == [299, 298, 297]


def numbered(index: Index, most: int, **given: str) -> tuple[list[int], int | None]:
    db = connect(index.path)
    try:
        return find.numbers(db, query.parse(given)._replace(limit=most))
    finally:
        db.close()


@pytest.mark.parametrize(
    "given", [{}, {"status": "200"}, {"model": "m", "status": "2xx"}, {"path": "/v1/*"}, {"min_tokens": "1"}]
)
def test_of_many_rows_the_newest_are_added_up_and_it_is_known_from_when_on(index: Index, given: dict[str, str]) -> None:
    store(index, [row(number, status=200 + number % 2, total_tokens=number) for number in range(1, 41)])
    every = sorted(ids(ask(index, limit="500", **given)))
    assert (sorted(numbered(index, 1000, **given)[0]), numbered(index, 1000, **given)[1]) == (every, None)
    numbers, since_ms = numbered(index, 6, **given)
    assert len(numbers) <= 6
    assert since_ms is not None
    assert sorted(numbers) == [number for number in every if BASE_MS + number >= since_ms]
