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

from llmdump_api import excerpt, find
from llmdump_api.index import first, rows
from llmdump_api.params import BadParamError, Cursor
from llmdump_api.query import Query, row_object

WINDOW_ROWS: Final = 50_000
BUDGET_S: Final = 0.006
WORDS_MAX: Final = 32
EXAMINED_MAX: Final = 2000

_WORD = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_TEXTS: Final = "SELECT trace, prompt, answer FROM json_each(?) CROSS JOIN turn_text ON turn_text.trace = json_each.value"


class Wanted(NamedTuple):
    """What is searched for."""

    match: str
    """The FTS5 query."""
    places: re.Pattern[str]
    """Finds it in a text."""


class Hit(NamedTuple):
    """A row, and on each side what was found, as texts outside and inside of it in turn; None: nothing."""

    row: tuple[Any, ...]
    prompt: list[str] | None
    answer: list[str] | None


class Hits(NamedTuple):
    """A page."""

    hits: list[Hit]
    next_cursor: Cursor | None


def expression(typed: str) -> Wanted:
    """What to search for, of what was typed. Raises BadParamError. Pure."""
    wanted: list[str] = []
    unwanted: list[str] = []
    for minus, phrase, word in _WORD.findall(typed):
        text = word or phrase
        if any(character.isalnum() for character in text):
            (unwanted if minus else wanted).append(text)
    if not wanted or len(wanted) + len(unwanted) > WORDS_MAX:
        raise BadParamError("q", f"allowed are 1 to {WORDS_MAX} words, not only unwanted ones")
    match = " AND ".join(f'"{text}"' for text in wanted) + "".join(f' NOT "{text}"' for text in unwanted)
    return Wanted(match, excerpt.pattern(wanted))


def page(db: apsw.Connection, query: Query, wanted: Wanted) -> Hits:
    """A page of what matches. Raises apsw.Error."""
    numbers, reached = _numbers(db, query, wanted.match)
    hits = _hits(db, numbers[: query.limit], wanted.places)
    if len(numbers) > query.limit:
        reached = numbers[query.limit - 1]
    return Hits(hits, None if reached is None else _cursor(db, reached))


def _numbers(db: apsw.Connection, query: Query, match: str) -> tuple[list[int], int | None]:
    """Numbers of rows, falling, one more than the page holds if there are; and where to go on if not at the end."""
    deadline = time.monotonic() + BUDGET_S
    below = _begin(db, query)
    filtered = bool(query.conditions) or query.since_ms is not None or query.until_ms is not None
    numbers: list[int] = []
    while below > 1:
        low = max(1, below - WINDOW_ROWS)
        most = EXAMINED_MAX if filtered else query.limit + 1 - len(numbers)
        looked_at = rows(db, *statement(query, match, low, below, most))
        numbers += [number for number, fits in looked_at if fits]
        below = looked_at[-1][0] if len(looked_at) >= most else low
        if len(numbers) > query.limit:
            return numbers, None
        if time.monotonic() > deadline:
            return numbers, below if below > 1 else None
    return numbers, None


def statement(query: Query, match: str, low: int, below: int, most: int) -> tuple[str, list[Any]]:
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
        [*values, match, low, below, most],
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


def _hits(db: apsw.Connection, numbers: list[int], places: re.Pattern[str]) -> list[Hit]:
    texts = {number: texts for number, *texts in rows(db, _TEXTS, (orjson.dumps(numbers).decode(),))}
    return [Hit(find.row(db, number), *(excerpt.excerpt(places, text) for text in texts[number])) for number in numbers]


def shown(hit: Hit) -> dict[str, Any]:
    """A row as the answers have it, with `found`. Pure."""
    return {**row_object(hit.row), "found": {"prompt": hit.prompt, "answer": hit.answer}}
