"""Full text: what people type to a query that FTS5 takes, and its pages. Blocking but for `expression`.

    refund policy        both words            "refund policy"   next to each other, in this order
    -policy              not this word

Rows come in the order in which they were first indexed, falling, which is nearly that of time and which the index of
words is in. It is looked through in windows of `WINDOW_ROWS`, until the page is full, or until `BUDGET_S` is over: then
the page is given out as it is, with a cursor to go on from.
"""

import re
import time
from typing import Any, Final, NamedTuple

import apsw
import orjson

from llmdump_api import find
from llmdump_api.index import first, rows
from llmdump_api.params import BadParamError, Cursor
from llmdump_api.query import Query, row_object

WINDOW_ROWS: Final = 50_000
BUDGET_S: Final = 0.006
WORDS_MAX: Final = 32
EXAMINED_MAX: Final = 2000
SNIPPET_TOKENS: Final = 16

_WORD = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_MARK: Final = ("\x02", "\x03")
_SNIPPETS: Final = (
    "SELECT rowid, snippet(search, 0, :open, :close, '…', :tokens), snippet(search, 1, :open, :close, '…', :tokens) "
    "FROM search WHERE search MATCH :match AND rowid BETWEEN :low AND :high AND rowid IN (SELECT value FROM json_each(:rows))"
)


class Hit(NamedTuple):
    """A row with where it was found."""

    row: tuple[Any, ...]
    prompt: list[Any] | None
    answer: list[Any] | None


class Hits(NamedTuple):
    """A page."""

    hits: list[Hit]
    next_cursor: Cursor | None


def expression(typed: str) -> str:
    """The FTS5 query for what was typed. Raises BadParamError. Pure."""
    wanted: list[str] = []
    unwanted: list[str] = []
    for minus, phrase, word in _WORD.findall(typed):
        text = word or phrase
        if any(character.isalnum() for character in text):
            (unwanted if minus else wanted).append(f'"{text}"')
    if not wanted or len(wanted) + len(unwanted) > WORDS_MAX:
        raise BadParamError("q", f"allowed are 1 to {WORDS_MAX} words, not only unwanted ones")
    return " AND ".join(wanted) + "".join(f" NOT {word}" for word in unwanted)


def page(db: apsw.Connection, query: Query, match: str) -> Hits:
    """A page of what matches. Raises apsw.Error."""
    numbers, reached = _numbers(db, query, match)
    hits = _hits(db, numbers[: query.limit], match)
    if len(numbers) > query.limit:
        reached = numbers[query.limit - 1]
    return Hits(hits, None if reached is None else _cursor(db, reached))


def _numbers(db: apsw.Connection, query: Query, match: str) -> tuple[list[int], int | None]:
    """Numbers of rows, falling, one more than the page holds if there are; and where to go on if not at the end."""
    deadline = time.monotonic() + BUDGET_S
    below = _begin(db, query)
    numbers: list[int] = []
    while below > 1:
        low = max(1, below - WINDOW_ROWS)
        looked_at = rows(db, *statement(query, match, low, below))
        numbers += [number for number, fits in looked_at if fits]
        below = looked_at[-1][0] if len(looked_at) >= EXAMINED_MAX else low
        if len(numbers) > query.limit:
            return numbers, None
        if time.monotonic() > deadline:
            return numbers, below if below > 1 else None
    return numbers, None


def statement(query: Query, match: str, low: int, below: int) -> tuple[str, list[Any]]:
    """The statement for numbers of rows in a window, and whether they meet the other conditions."""
    conditions = [condition.sql for condition in query.conditions]
    values = [value for condition in query.conditions for value in condition.values]
    for part, value in (("ts_start >= ?", query.since_ms), ("ts_start < ?", query.until_ms)):
        if value is not None:
            conditions.append(part)
            values.append(value)
    fits = " AND ".join(conditions)
    source = "search CROSS JOIN trace ON trace.number = search.rowid" if fits else "search"
    return (
        f"SELECT search.rowid, ({fits or '1'}) FROM {source} WHERE search MATCH ? AND search.rowid >= ? AND search.rowid < ? "
        "ORDER BY search.rowid DESC LIMIT ?",
        [*values, match, low, below, EXAMINED_MAX],
    )


def _begin(db: apsw.Connection, query: Query) -> int:
    if query.cursor is None:
        return int(db.execute("SELECT coalesce(max(trace), 0) + 1 FROM turn_text").get)
    number = db.execute("SELECT number FROM trace WHERE id = ?", (query.cursor.id,)).get
    if number is None:
        raise BadParamError("cursor", "the row it names is no longer there: begin again")
    return int(number)


def _cursor(db: apsw.Connection, number: int) -> Cursor | None:
    """The row with this number, or the one with the next greater; everything below is still to be looked at."""
    row = first(db, "SELECT ts_start, id FROM trace WHERE number >= ? ORDER BY number LIMIT 1", (number,))
    return None if row is None else Cursor(*row)


def _hits(db: apsw.Connection, numbers: list[int], match: str) -> list[Hit]:
    if not numbers:
        return []
    found = rows(
        db,
        _SNIPPETS,
        {
            "open": _MARK[0], "close": _MARK[1], "tokens": SNIPPET_TOKENS, "match": match,
            "low": numbers[-1], "high": numbers[0], "rows": orjson.dumps(numbers).decode(),
        },
    )  # fmt: skip
    snippets = {number: (_parts(prompt), _parts(answer)) for number, prompt, answer in found}
    return [Hit(find.row(db, number), *snippets[number]) for number in numbers]


def _parts(snippet: str) -> list[Any] | None:
    """The snippet as texts in turn outside and inside of what was found; None if nothing was found in it."""
    parts = re.split(f"[{_MARK[0]}{_MARK[1]}]", snippet)
    return parts if len(parts) > 1 else None


def shown(hit: Hit) -> dict[str, Any]:
    """A row as the answers have it, with `found`. Pure."""
    return {**row_object(hit.row), "found": {"prompt": hit.prompt, "answer": hit.answer}}
