"""No question of the api scans a table: EXPLAIN QUERY PLAN of every statement that the answers run."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest
from made import new_id

from llmdump.assembly import Exchange
from llmdump_api import filtering, find, found, index, params, query, search, sessions, sums
from llmdump_indexer.index import Changes, Index
from llmdump_indexer.read import Read
from llmdump_indexer.store import TraceRow

BASE_MS = 1_767_225_600_000
SINCE, UNTIL = "2026-01-01T00:00:00Z", "2026-01-01T06:00:00Z"


def trace(number: int) -> TraceRow:
    exchange = Exchange(
        id=new_id(number), instance="00" * 8, started_us=(BASE_MS + 60_000 * number) * 1000, first_record=1,
        status=200 + number % 3,
        end_reason="complete" if number % 50 else None, key_hash="ab" * 8, route_path=f"/v1/{number % 7}", own_worst_us=1,
    )  # fmt: skip
    read = Read(
        provider="p", api="a", model=f"m{number % 5}", total_tokens=number, cost_nano_usd=number * 1000, ttft_us=number,
        client_kind="c", client_project="d", finish_reason="stop", error_type="e" if number % 9 == 0 else None,
        session_hint=f"s{number % 20}", prompt_new=f"word{number % 3} other", answer_new="other",
        tool_calls=f'[{{"name":"t{number % 3}","id":"x"}}]',
    )  # fmt: skip
    return TraceRow(number, exchange, read)


@pytest.fixture(scope="module", params=["as it is", "analyzed"])
def db(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[apsw.Connection]:
    path = tmp_path_factory.mktemp("plans") / "index.sqlite"
    with Index(path) as made:
        made.save(Changes([trace(number) for number in range(1, 400)], [], [], [], [], [], []))
    if request.param == "analyzed":
        writer = apsw.Connection(str(path))
        writer.execute("ANALYZE").fetchall()
        writer.close()
    reader = index.connect(path)
    yield reader
    reader.close()


def listed(**given: str) -> Callable[[apsw.Connection], Any]:
    return lambda db: find.page(db, query.parse(given))


EXPRESSIONS = {
    "an index": "model=m1 and ttft>1ms",
    "a class": "status=2xx and not client=c",
    "paths": "path=/v1* and stream",
    "a magnitude": "cost>$0.001",
    "either": "model=m1 or status=201",
    "nothing known": "not (model=m1 and provider=null)",
}


def filtered(text: str, **given: str) -> Callable[[apsw.Connection], Any]:
    asked = query.parse(given)
    asked.conditions.extend(filtering.conditions(text, BASE_MS))
    return lambda db: find.page(db, asked)


def searched(**given: str) -> Callable[[apsw.Connection], Any]:
    return lambda db: search.page(db, query.parse({"q": "other", **given}), search.expression("other -word1"))


CURSOR = params.encode_cursor(BASE_MS + 100 * 60_000, new_id(100))
FILTERS = {
    "model": "m1", "provider": "p", "api": "a", "client": "c", "project": "d", "key_hash": "ab" * 8, "status": "201",
    "end_reason": "complete", "finish_reason": "stop", "error": "e", "path": "/v1/1", "session_root_id": new_id(1),
    "min_tokens": "5", "max_tokens": "50", "min_cost_usd": "0.001", "max_cost_usd": "1", "min_ttft_ms": "1",
    "max_ttft_ms": "500", "pinned": "true",
}  # fmt: skip
QUESTIONS: dict[str, Callable[[apsw.Connection], Any]] = {
    "list": listed(),
    "list from a cursor": listed(cursor=CURSOR),
    "list of a time": listed(since=SINCE, until=UNTIL),
    "list of a class": listed(status="2xx"),
    "list of paths": listed(path="/v1*"),
    "list of all paths": listed(path="*"),
    **{f"list by {name}": listed(**{name: value}) for name, value in FILTERS.items()},
    **{f"list by {name}, all": listed(**{name: value}, since=SINCE, cursor=CURSOR, status="2xx")
       for name, value in FILTERS.items() if name != "status"},
    "list by everything": listed(**FILTERS),
    **{f"list by an expression, {name}": filtered(text) for name, text in EXPRESSIONS.items()},
    "list by an expression, all": filtered(" and ".join(EXPRESSIONS.values()), since=SINCE, cursor=CURSOR, **FILTERS),
    "search": searched(),
    "search with filters": searched(**FILTERS, since=SINCE, cursor=CURSOR),
    "facets ever": lambda db: sums.facet_answer(db, sums.facets({})),
    "facets of a time": lambda db: sums.facet_answer(db, sums.facets({"since": SINCE, "until": UNTIL})),
    "stats": lambda db: sums.series_answer(db, sums.series({"since": SINCE, "until": UNTIL}, 0)),
    "stats by model": lambda db: sums.series_answer(db, sums.series({"since": SINCE, "until": UNTIL, "by": "model"}, 0)),
    "stats of a model": lambda db: sums.series_answer(
        db, sums.series({"since": SINCE, "until": UNTIL, "by": "model", "value": "m1", "step": "minute"}, 0)
    ),
    **{f"facets by an expression, {name}": lambda db, text=text: found.facet_answer(
        db, sums.facets({"since": SINCE}), filtering.conditions(text, BASE_MS)) for name, text in EXPRESSIONS.items()},
    "stats by an expression": lambda db: found.series_answer(
        db, sums.series({"since": SINCE, "until": UNTIL, "by": "tool"}, 0), filtering.conditions(EXPRESSIONS["either"], BASE_MS)
    ),
    "sessions": lambda db: sessions.page(db, sessions.parse({"since": SINCE, "cursor": CURSOR}), []),
    **{f"sessions by {name}": lambda db, name=name: sessions.page(db, sessions.parse({name: FILTERS[name]}), [])
       for name in ("client", "project", "key_hash")},
    **{f"sessions by an expression, {name}": lambda db, text=text: sessions.page(
        db, sessions.parse({}), filtering.conditions(text, BASE_MS)) for name, text in EXPRESSIONS.items()},
    "a session": lambda db: sessions.tree(db, new_id(1), None, 10),
    "a row": lambda db: db.execute(*query.sql_one(new_id(1))).fetchall(),
    "positions": lambda db: db.execute(index.POSITIONS, (new_id(1),)).fetchall(),
}  # fmt: skip
SMALL = re.compile(
    r"SCAN (json_each|wanted|at|at VIRTUAL TABLE|wanted VIRTUAL TABLE|CONSTANT ROW|\(subquery-\d+\)|segment)( |$)"
)
FULL_TEXT = re.compile(r"SCAN search VIRTUAL TABLE INDEX \d+:\S*M")
IN_ORDER = re.compile(
    r"SCAN trace USING (COVERING )?INDEX (trace_by_time|trace_open|trace_pinned)$|SCAN session USING INDEX session_by_time$"
)


def plans(db: apsw.Connection, question: Callable[[apsw.Connection], Any]) -> dict[str, list[str]]:
    """The plan of each statement that a question runs."""
    ran: dict[str, Any] = {}

    def note(_: apsw.Cursor, statement: str, bindings: Any) -> bool:
        ran[statement] = bindings
        return True

    db.exec_trace = note
    try:
        question(db)
    finally:
        db.exec_trace = None
    return {
        statement: [str(detail) for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        for statement, values in ran.items()
    }


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_scans_a_table(db: apsw.Connection, name: str) -> None:
    ran = plans(db, QUESTIONS[name])
    assert ran
    for statement, plan in ran.items():
        for step in plan:
            if step.startswith("SCAN") and not SMALL.match(step) and not FULL_TEXT.match(step):
                assert IN_ORDER.match(step), (step, statement)
                assert "LIMIT" in statement
            assert "ANY(" not in step, (step, statement)
            if "TEMP B-TREE" in step:  # of open exchanges, facets' groups, a session's models: few
                assert any(few in statement for few in ("trace_open", "GROUP BY", "FROM session_model")), (step, statement)


def test_a_scan_would_be_seen(db: apsw.Connection) -> None:
    for statement in ("SELECT * FROM trace WHERE refusal = 'x'", "SELECT count(*) FROM turn_text", "SELECT * FROM usage"):
        with pytest.raises(AssertionError):
            QUESTIONS["a bad one"] = lambda db, statement=statement: db.execute(statement).fetchall()
            test_no_question_scans_a_table(db, "a bad one")
    del QUESTIONS["a bad one"]


def test_every_filter_is_among_these_questions() -> None:
    assert set(query.PARAMETERS) - {"since", "until", "q", "filter", "limit", "cursor"} == set(FILTERS)
