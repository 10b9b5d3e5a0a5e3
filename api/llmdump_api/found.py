"""Sums of the exchanges that a filter finds, in the shapes of `sums`. Blocking.

There are no sums kept of what a filter may ask, so rows are added up: the newest that pass, with no more than `ROWS_MAX`
looked at. Where there are more, `counted_since` says from which time on the answer is whole.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import apsw
import orjson

from llmdump import tally
from llmdump.tally import EVER, Cell, Key, Tally
from llmdump_api import find, params, sums
from llmdump_api.index import rows
from llmdump_api.query import Condition, Query
from llmdump_api.sums import DIMENSIONS, Facets, Series

ROWS_MAX: Final = 10_000
"""Looked at for one answer."""
ROWS: Final = f"SELECT {', '.join(tally.COLUMNS)} FROM json_each(?) AS wanted CROSS JOIN trace ON trace.number = wanted.value"


class Counted(NamedTuple):
    """The sums, as rows of `usage` would have them."""

    cells: dict[Key, Cell]
    since: str | None
    """From when on they are whole; None: all are counted."""

    def of(self, seconds: int, dimension: str) -> Iterable[tuple[int, str, Cell]]:
        """Bucket, value and sums of a dimension."""
        return (
            (key[2], key[3], cell)
            for key, cell in sorted(self.cells.items(), key=lambda item: item[0])
            if key[:2] == (seconds, dimension)
        )


def facet_answer(db: apsw.Connection, asked: Facets, conditions: list[Condition]) -> dict[str, Any]:
    """The answer of /api/facets with a filter. Raises apsw.Error."""
    since_ms, until_ms = (None if at is None else at * 1000 for at in (asked.since_s, asked.until_s))
    counted = _count(db, conditions, since_ms, until_ms)
    times = {"since": params.rfc3339(since_ms), "until": params.rfc3339(until_ms), "counted_since": counted.since}
    return {**times, "facets": {name: _facet(counted, name, asked.limit) for name in asked.by}}


def _facet(counted: Counted, name: str, limit: int) -> dict[str, Any]:
    found = [(value, *cell.amounts) for _, value, cell in counted.of(EVER, DIMENSIONS[name])]
    return sums.shown_values(sorted(found, key=lambda row: (-row[1], row[0])), limit, cut=counted.since is not None)


def series_answer(db: apsw.Connection, asked: Series, conditions: list[Condition]) -> dict[str, Any]:
    """The answer of /api/stats with a filter. Raises apsw.Error."""
    counted = _count(db, conditions, asked.since_s * 1000, asked.until_s * 1000)
    points: dict[str, list[tuple[Any, ...]]] = {}
    for bucket, value, cell in counted.of(asked.step_s, DIMENSIONS.get(asked.by, "")):
        points.setdefault(value, []).append((bucket, *cell.amounts, *_spreads(asked, cell)))
    if asked.only is not None:
        points = {asked.only: points.get(asked.only, [])}
    elif not asked.by:
        points.setdefault("", [])
    most = sorted(points, key=lambda value: (-sum(point[1] for point in points[value]), value))[: asked.limit]
    series = [sums.shown_series(asked, value, points[value]) for value in most]
    return sums.no_series(asked) | {"series": series, "counted_since": counted.since}


def _spreads(asked: Series, cell: Cell) -> list[Any]:
    packed = dict(zip(tally.SPREADS, cell.row()[len(tally.AMOUNTS) :], strict=True))
    return [packed[sums.SPREADS[name][0]] for name in asked.spreads]


def _count(db: apsw.Connection, conditions: list[Condition], since_ms: int | None, until_ms: int | None) -> Counted:
    numbers, reached_ms = find.numbers(db, Query(conditions, since_ms, until_ms, None, ROWS_MAX))
    added = Tally()
    for row in rows(db, ROWS, (orjson.dumps(numbers).decode(),)):
        added.add(dict(zip(tally.COLUMNS, row, strict=True)), +1)
    return Counted(dict(added.changes()), params.rfc3339(reached_ms))
