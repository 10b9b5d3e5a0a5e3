"""Facets and time series from the sums that the indexer keeps in `usage`. Blocking but for what is parsed.

Times are those at which exchanges began; a bucket counts as a whole, so ranges are widened to whole buckets and the
answer says to which.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import apsw
import orjson

from llmdump import spread
from llmdump_api import params as given
from llmdump_api.index import rows
from llmdump_api.params import BadParamError, Param

STEPS: Final = {"minute": 60, "hour": 3600, "day": 86400}
DIMENSIONS: Final = {
    "model": "model", "api": "api", "provider": "provider", "client": "client_kind", "project": "client_project",
    "key_hash": "key_hash", "status_class": "status_class", "status": "status", "end_reason": "end_reason",
    "error": "error_type", "finish_reason": "finish_reason", "tool": "tool",
}  # fmt: skip
"""What can be asked by, and the dimension of `usage` that it is."""
BY_MINUTE: Final = frozenset({"", "model", "client_kind", "key_hash", "status_class"})
"""Dimensions that are kept by minute too."""
FACET_VALUES_DEFAULT: Final = 20
FACET_VALUES_MAX: Final = 200
FACET_ROWS_MAX: Final = 20_000
"""Rows of `usage` that are added up for one facet; of more the answer says that it is cut."""
SERIES_DEFAULT: Final = 10
POINTS_MAX: Final = 400
"""Buckets times groups times spreads in an answer."""
_FACET_BUCKETS: Final = 100

_AMOUNTS: Final = (
    "requests", "errors", "input_tokens", "input_uncached_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "reasoning_tokens", "cost_nano_usd", "priced", "req_bytes", "resp_bytes",
)  # fmt: skip
SPREADS: Final = {
    "duration_ms": ("duration_us", 1000), "ttft_ms": ("ttft_us", 1000),
    "output_tokens_per_second": ("tokens_per_second", 1000), "own_us": ("own_us", 1),
}  # fmt: skip
"""What percentiles there are of, with the column of `usage` and its scale."""
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_SHARES_OF: Final = tuple(_SHARES.values())
_SUMS: Final = ", ".join(f"sum({name})" for name in _AMOUNTS)
TOP: Final = (
    f"SELECT value, {', '.join(_AMOUNTS)} FROM usage INDEXED BY usage_top WHERE seconds = 0 AND dimension = ? "
    "ORDER BY requests DESC, value LIMIT ?"
)
IN_RANGE: Final = (
    f"SELECT value, {_SUMS} FROM (SELECT * FROM usage WHERE seconds = ? AND dimension = ? AND bucket >= ? AND bucket < ? "
    f"LIMIT {FACET_ROWS_MAX + 1}) GROUP BY value ORDER BY sum(requests) DESC, value LIMIT ?"
)
ROWS_IN_RANGE: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM usage WHERE seconds = ? AND dimension = ? AND bucket >= ? AND bucket < ? "
    f"LIMIT {FACET_ROWS_MAX + 1})"
)
_POINTS: Final = (
    "WITH RECURSIVE at (bucket) AS ("
    "SELECT :since_s UNION ALL SELECT bucket + :step_s FROM at WHERE bucket + :step_s < :until_s) "
    "SELECT usage.value, at.bucket, {columns} FROM at CROSS JOIN json_each(:values) AS wanted "
    "CROSS JOIN usage ON seconds = :step_s AND dimension = :dimension AND usage.bucket = at.bucket "
    "AND usage.value = wanted.value"
)
BOUNDS: Final = (
    "SELECT (SELECT bucket FROM usage WHERE seconds = 86400 AND dimension = '' ORDER BY bucket LIMIT 1), "
    "(SELECT bucket FROM usage WHERE seconds = 86400 AND dimension = '' ORDER BY bucket DESC LIMIT 1)"
)


SHOWN: Final = (*_SHARES, *SPREADS, *_AMOUNTS[:8], "cost_usd", "unpriced")
"""Members of sums in the answers."""


class Facets(NamedTuple):
    """Which facets are asked for."""

    by: list[str]
    since_s: int | None
    until_s: int | None
    limit: int


class Series(NamedTuple):
    """Which series are asked for."""

    by: str
    only: str | None
    """One value of `by`."""
    step_s: int
    since_s: int
    until_s: int
    limit: int
    spreads: tuple[str, ...]
    """Of `SPREADS`."""


FACET_PARAMS: Final = (
    Param("by", "which facets", given.some_of(DIMENSIONS)), given.SINCE, given.UNTIL,
    given.limit_param(FACET_VALUES_DEFAULT, FACET_VALUES_MAX), given.FILTER,
)  # fmt: skip
SERIES_PARAMS: Final = (
    Param("by", "a series for each of its values", {"type": "string", "enum": ["", *DIMENSIONS]}),
    Param("value", "only this value of by", given.text("text")),
    Param("step", "length of a bucket", {"type": "string", "enum": list(STEPS)}),
    Param("spread", "percentiles of what", given.some_of(SPREADS, 0)), given.SINCE, given.UNTIL,
    given.limit_param(SERIES_DEFAULT, POINTS_MAX), given.FILTER,
)  # fmt: skip
FACET_PARAMETERS: Final = tuple(param.name for param in FACET_PARAMS)
SERIES_PARAMETERS: Final = tuple(param.name for param in SERIES_PARAMS)


def facets(params: Mapping[str, str]) -> Facets:
    """What the parameters of /api/facets ask for. Raises BadParamError. Pure."""
    given.check(params, FACET_PARAMETERS)
    by = params["by"].split(",") if "by" in params else list(DIMENSIONS)
    for name in by:
        _dimension(name)
    since_s, until_s = (_seconds(name, params) for name in ("since", "until"))
    return Facets(by, since_s, until_s, given.limit(params, FACET_VALUES_DEFAULT, FACET_VALUES_MAX))


def series(params: Mapping[str, str], now_s: int) -> Series:
    """What the parameters of /api/stats ask for: without a range the last day. Raises BadParamError. Pure."""
    given.check(params, SERIES_PARAMETERS)
    by = params.get("by", "")
    if by:
        _dimension(by)
    if "value" in params and not by:
        raise BadParamError("value", "allowed together with by, of which it is a value")
    until_s = _seconds("until", params) or now_s
    since_s = _seconds("since", params)
    since_s = until_s - 86400 if since_s is None else since_s
    step_s = _step(params, until_s - since_s, DIMENSIONS.get(by, ""))
    limit = 1 if not by or "value" in params else given.limit(params, SERIES_DEFAULT, POINTS_MAX)
    spreads = _spreads(params.get("spread", "ttft_ms"))
    asked = Series(by, params.get("value"), step_s, since_s - since_s % step_s, until_s, limit, spreads)
    if len(buckets(asked)) * limit * max(1, len(spreads)) > POINTS_MAX:
        raise BadParamError(
            "step", f"allowed are {POINTS_MAX} buckets times groups times spreads: take a longer step, or a lower limit"
        )
    return asked


def buckets(asked: Series) -> range:
    """The begin of each bucket of a series."""
    return range(asked.since_s, asked.until_s, asked.step_s)


def _dimension(name: str) -> str:
    if name not in DIMENSIONS:
        raise BadParamError("by", f"allowed are {', '.join(DIMENSIONS)}")
    return DIMENSIONS[name]


def _spreads(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(","))) if value else ()
    if not set(names) <= SPREADS.keys():
        raise BadParamError("spread", f"allowed are some of {', '.join(SPREADS)}, with commas between")
    return names


def _seconds(name: str, params: Mapping[str, str]) -> int | None:
    return -(-given.time_ms(name, params[name]) // 1000) if name in params else None


def _step(params: Mapping[str, str], length_s: int, dimension: str) -> int:
    allowed = {name: step for name, step in STEPS.items() if step > 60 or dimension in BY_MINUTE}
    if "step" in params:
        if params["step"] not in allowed:
            raise BadParamError("step", f"allowed here are {', '.join(allowed)}")
        return allowed[params["step"]]
    return next((step for step in allowed.values() if length_s <= 150 * step), STEPS["day"])


def facet_answer(db: apsw.Connection, asked: Facets) -> dict[str, Any]:
    """The answer of /api/facets. Raises apsw.Error."""
    if asked.since_s is None and asked.until_s is None:
        return {"since": None, "until": None, "facets": {name: _top(db, name, asked.limit) for name in asked.by}}
    ((begin, end),) = rows(db, BOUNDS)
    since_s = max(begin or 0, asked.since_s or 0)
    until_s = min((end or 0) + 86400, asked.until_s or 2**40)
    step_s = next((step for step in (3600, 86400) if until_s - since_s <= _FACET_BUCKETS * step), 86400)
    since_s, until_s = since_s - since_s % step_s, until_s + -until_s % step_s
    return {
        "since": given.rfc3339(since_s * 1000),
        "until": given.rfc3339(until_s * 1000),
        "facets": {name: _range(db, (step_s, DIMENSIONS[name], since_s, until_s), asked.limit) for name in asked.by},
    }


def no_facets(asked: Facets) -> dict[str, Any]:
    """The answer while there is no index. Pure."""
    empty: dict[str, Any] = {"values": [], "more": False, "cut": False}
    return {"since": None, "until": None, "facets": dict.fromkeys(asked.by, empty)}


def _top(db: apsw.Connection, name: str, limit: int) -> dict[str, Any]:
    return shown_values(rows(db, TOP, (DIMENSIONS[name], limit + 1)), limit, cut=False)


def _range(db: apsw.Connection, where: tuple[Any, ...], limit: int) -> dict[str, Any]:
    found = rows(db, IN_RANGE, (*where, limit + 1))
    cut = int(db.execute(ROWS_IN_RANGE, where).get) > FACET_ROWS_MAX
    return shown_values(found, limit, cut=cut)


def shown_values(found: list[tuple[Any, ...]], limit: int, *, cut: bool) -> dict[str, Any]:
    """A facet of values with their amounts, those with the most requests first. Pure."""
    return {"values": [_value(row) for row in found[:limit]], "more": len(found) > limit, "cut": cut}


def _value(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"value": row[0], **_amounts(row[1:])}


def series_answer(db: apsw.Connection, asked: Series) -> dict[str, Any]:
    """The answer of /api/stats. Raises apsw.Error."""
    points: dict[str, list[tuple[Any, ...]]] = {value: [] for value in _groups(db, asked)}
    columns = ", ".join([*_AMOUNTS, *(SPREADS[name][0] for name in asked.spreads)])
    for value, *point in rows(db, _POINTS.format(columns=columns), _bound(asked, list(points))):
        points[value].append(tuple(point))
    return no_series(asked) | {"series": [shown_series(asked, value, found) for value, found in points.items()]}


def no_series(asked: Series) -> dict[str, Any]:
    """The answer while there is no index. Pure."""
    since, until = given.rfc3339(asked.since_s * 1000), given.rfc3339(asked.until_s * 1000)
    return {"step_s": asked.step_s, "since": since, "until": until, "series": []}


def _groups(db: apsw.Connection, asked: Series) -> list[str]:
    """The values with the most requests in the range."""
    if not asked.by:
        return [""]
    if asked.only is not None:
        return [asked.only]
    day = STEPS["day"] if asked.until_s - asked.since_s > 4 * STEPS["day"] else STEPS["hour"]
    until_s = asked.until_s + -asked.until_s % day
    where = (day, DIMENSIONS[asked.by], asked.since_s - asked.since_s % day, until_s)
    return [row[0] for row in rows(db, IN_RANGE, (*where, asked.limit))]


def _bound(asked: Series, values: list[str]) -> dict[str, Any]:
    return {
        "since_s": asked.since_s, "until_s": asked.until_s, "step_s": asked.step_s,
        "dimension": DIMENSIONS.get(asked.by, ""), "values": orjson.dumps(values).decode(),
    }  # fmt: skip


def shown_series(asked: Series, value: str, found: list[tuple[Any, ...]]) -> dict[str, Any]:
    """A series of points: bucket, amounts, and packed spreads as they were asked for. Pure."""
    total, points = [0] * len(_AMOUNTS), []
    spreads: list[spread.Bins] = [{} for _ in asked.spreads]
    for bucket, *row in found:
        amounts, own = row[: len(_AMOUNTS)], [spread.unpack(packed) for packed in row[len(_AMOUNTS) :]]
        total = list(map(operator.add, total, amounts))
        for bins, more in zip(spreads, own, strict=True):
            spread.add(bins, spread.pairs(more))
        points.append({"ts": given.rfc3339(bucket * 1000), **_amounts(amounts), **_percentiles(asked, own)})
    summed = {**_amounts(total), **_percentiles(asked, map(spread.flat, spreads))}
    return {"value": value, "total": summed, "buckets": points}


def _amounts(values: Any) -> dict[str, Any]:
    shown = dict(zip(_AMOUNTS, values, strict=True))
    shown["cost_usd"] = shown.pop("cost_nano_usd") / 1e9
    shown["unpriced"] = shown["requests"] - shown.pop("priced")
    return shown


def _percentiles(asked: Series, spreads: Iterable[list[int]]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, numbers in zip(asked.spreads, spreads, strict=True):
        scale = SPREADS[name][1]
        found = spread.percentiles(numbers, _SHARES_OF) if numbers else ()
        shown[name] = {share: value / scale for share, value in zip(_SHARES, found, strict=True)} if found else None
    return shown
