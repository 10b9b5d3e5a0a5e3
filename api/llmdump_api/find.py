"""How the rows of a page are found: by one index, in order, a bounded number of them looked at. Blocking.

Every column that can be asked for has an index that ends with the order of the list. A query is driven by the condition
that the fewest rows meet, as the sums in `usage` tell; the others are checked on the rows that it gives:

    model=x, status=5xx ─▶ statuses that there are: 500 (3,012 requests), 503 (41) < model x (250,000)
                        ─▶ trace_by_status = 500 ┐
                           trace_by_status = 503 ┴▶ merged by time, model checked, until the page is full

A range (a class of statuses, the paths that begin so, a magnitude of tokens) is a few values, each with its rows in
order. Where there are more than `STREAMS_MAX`, or where nothing is asked for, the index by time drives.

No more than `EXAMINED_MAX` rows are looked at for a page. If it is not full by then it is given out as it is, with a
cursor to go on from: so a page may have less rows than asked for, even none, and not be the last.
"""

from typing import Any, Final, NamedTuple

import apsw

from llmdump_api.index import first, rows
from llmdump_api.params import Cursor
from llmdump_api.query import COLUMNS, Condition, Query

EXAMINED_MAX: Final = 5000
STREAMS_MAX: Final = 64

_ROW: Final = f"SELECT {', '.join(COLUMNS)} FROM trace WHERE number = ?"
_COUNT: Final = "SELECT requests FROM usage WHERE seconds = 0 AND dimension = ? AND bucket = 0 AND value = ?"
_COUNT_SESSION: Final = "SELECT n_turns FROM session WHERE root = ?"
_VALUES: Final = (
    "SELECT value, requests FROM usage WHERE seconds = 0 AND dimension = ? AND bucket = 0 AND value >= ? AND value < ? "
    f"LIMIT {STREAMS_MAX + 1}"
)

Place = tuple[int, str]
"""(ts_start, id): the order of the list."""


class Stream(NamedTuple):
    """Rows that have one value in one index, in order; the SQL of its statement and what is bound to it."""

    by: str
    """The index."""
    where: list[str]
    values: list[Any]


class Found(NamedTuple):
    """A page."""

    rows: list[tuple[Any, ...]]
    """`query.COLUMNS`."""
    next_cursor: Cursor | None


def page(db: apsw.Connection, query: Query) -> Found:
    """A page of rows. Raises apsw.Error."""
    driver, streams = _drive(db, query)
    others = [condition for condition in query.conditions if condition is not driver or condition.high is not None]
    places, reached = _merge(db, query, streams, others, max(query.limit + 1, EXAMINED_MAX // len(streams)))
    here = [row(db, number) for _, _, number in places[: query.limit]]
    if len(places) > query.limit:
        return Found(here, Cursor(*places[query.limit - 1][:2]))
    return Found(here, None if reached is None else Cursor(*reached))


def numbers(db: apsw.Connection, query: Query) -> tuple[list[int], int | None]:
    """The numbers of the rows that pass, newest first, of the `query.limit` that are looked at; and if there are more, the
    time (ms) from which on these are all. Raises apsw.Error."""
    driver, streams = _drive(db, query)
    others = [condition for condition in query.conditions if condition is not driver or condition.high is not None]
    places, reached = _merge(db, query, streams, others, max(1, query.limit // len(streams)))
    if reached is None:
        return [number for _, _, number in places], None
    return [number for ts_ms, _, number in places if ts_ms > reached[0]], reached[0] + 1


def row(db: apsw.Connection, number: int) -> tuple[Any, ...]:
    """The row of a number, `query.COLUMNS`."""
    found = first(db, _ROW, (number,))
    assert found is not None, "the number was found in the same snapshot"
    return found


def _drive(db: apsw.Connection, query: Query) -> tuple[Condition | None, list[Stream]]:
    """The condition to look rows up by, and the streams that it comes to."""
    best: tuple[int, Condition | None, list[Any]] = (2**63, None, [])
    for condition in query.conditions:
        counts = _counts(db, condition)
        if counts is not None and sum(counts.values()) < best[0]:
            best = sum(counts.values()), condition, list(counts)
    _, driver, values = best
    if driver is None:
        return None, [Stream("trace_by_time", [], [])]
    column, index = driver.column, f"trace_by_{_INDEX_OF.get(driver.column, driver.column)}"
    if column == "pinned":
        return driver, [Stream("trace_pinned", ["pinned"], [])]
    if driver.high is None:
        return driver, [Stream(index, [f"{column} = ?"], [driver.low])]
    streams = [Stream(index, [f"{column} = ?", "end_reason IS NOT NULL"], [value]) for value in values]
    return driver, [*streams, Stream("trace_open", ["end_reason IS NULL"], [])]  # these are in no sum yet


_INDEX_OF: Final = {"route_path": "path", "key_hash": "key", "session_root_id": "session"}


def _counts(db: apsw.Connection, condition: Condition) -> dict[Any, int] | None:
    """The values that a condition allows, with how many rows about have each; None if they are too many."""
    if not condition.column:
        return None
    if condition.column == "pinned":  # few are, and there is no index of those that are not
        return {1: 0} if condition.low else None
    if condition.column == "session_root_id":
        return {condition.low: db.execute(_COUNT_SESSION, (condition.low,)).get or 0}
    if condition.high is None:
        return {condition.low: db.execute(_COUNT, (condition.column, str(condition.low))).get or 0}
    if isinstance(condition.low, str):
        counts: dict[Any, int] = dict(rows(db, _VALUES, (condition.column, condition.low, condition.high)))
        return counts if len(counts) <= STREAMS_MAX else None
    known = {value: db.execute(_COUNT, (condition.column, str(value))).get for value in range(condition.low, condition.high)}
    counts = {value: int(count) for value, count in known.items() if count}
    return counts if len(counts) <= STREAMS_MAX else None


def _merge(
    db: apsw.Connection, query: Query, streams: list[Stream], others: list[Condition], examined: int
) -> tuple[list[tuple[int, str, int]], Place | None]:
    """Places with their rows' numbers, one more than the page holds if there are; and the last place that was looked at,
    if there are more behind. No more than `examined` are looked at in a stream."""
    found: list[tuple[int, str, int]] = []
    reached: Place | None = None
    for stream in streams:
        places = rows(db, *statement(query, stream, others, examined))
        found += places
        if (others or examined <= query.limit) and len(places) <= query.limit:
            end: Any = first(db, *frontier(query, stream, examined))
            if end is not None:
                reached = end if reached is None else max(reached, end)
    found = sorted((place for place in found if reached is None or place[:2] >= reached), reverse=True)
    return found[: query.limit + 1], reached


def statement(query: Query, stream: Stream, others: list[Condition], examined: int) -> tuple[str, list[Any]]:
    """The statement for places of a stream that meet the other conditions."""
    fits = " AND ".join(condition.sql for condition in others) or "1"
    fits_values = [value for condition in others for value in condition.values]
    where, values = _where(query, stream)
    inner = (
        f"SELECT ts_start, id, number, ({fits}) AS fits FROM trace INDEXED BY {stream.by} {where} "
        "ORDER BY ts_start DESC, id DESC LIMIT ?"
    )
    return f"SELECT ts_start, id, number FROM ({inner}) WHERE fits LIMIT ?", [*fits_values, *values, examined, query.limit + 1]


def frontier(query: Query, stream: Stream, examined: int) -> tuple[str, list[Any]]:
    """The statement for the last place of a stream that was looked at, if it goes on behind."""
    where, values = _where(query, stream)
    return (
        f"SELECT ts_start, id FROM trace INDEXED BY {stream.by} {where} ORDER BY ts_start DESC, id DESC LIMIT 1 OFFSET ?",
        [*values, examined - 1],
    )


def _where(query: Query, stream: Stream) -> tuple[str, list[Any]]:
    parts, values = list(stream.where), list(stream.values)
    for part, value in (("ts_start >= ?", query.since_ms), ("ts_start < ?", query.until_ms)):
        if value is not None:
            parts.append(part)
            values.append(value)
    if query.cursor is not None:
        parts.append("(ts_start, id) < (?, ?)")
        values += query.cursor
    return "WHERE " + " AND ".join(parts) if parts else "", values
