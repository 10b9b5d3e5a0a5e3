"""Sums of exchanges by time and dimension, as they change with a transaction: the rows of `usage`. Pure.

    row ─ add(row, ±1) ─▶ the share of an exchange, put to each of its cells ─ changes() ─▶ cells, summed up

Every exchange that has ended is in one cell of each dimension that it has a value for (of `tool` in one for each that it
calls), at each of the dimension's bucket lengths. What was written before and is no longer so is added with the sign -1.
All sums are whole numbers, so the result does not depend on the order in which exchanges come.

Times are those at which exchanges began.
"""

from collections.abc import Iterator, Mapping
from operator import add
from typing import Any, Final, NamedTuple

import orjson

from llmdump import spread
from llmdump.values import INTEGER_MAX

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400
EVER: Final = 0

_SERIES: Final = (MINUTE, HOUR, DAY, EVER)
_COARSE: Final = (HOUR, DAY, EVER)
DIMENSIONS: Final[dict[str, tuple[int, ...]]] = {
    "": _SERIES,
    "model": _SERIES,
    "client_kind": _SERIES,
    "key_hash": _SERIES,
    "status_class": _SERIES,
    "api": _COARSE,
    "provider": _COARSE,
    "client_project": _COARSE,
    "end_reason": _COARSE,
    "status": _COARSE,
    "error_type": _COARSE,
    "finish_reason": _COARSE,
    "tool": _COARSE,
    "media_count": (EVER,),
    "route_path": (EVER,),
    "tokens_class": (EVER,),
    "cost_class": (EVER,),
    "ttft_class": (EVER,),
}
"""Dimensions and the lengths of their buckets, in seconds, the finest first."""

AMOUNTS: Final = (
    "requests", "errors", "input_tokens", "input_uncached_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "reasoning_tokens", "cost_nano_usd", "priced", "req_bytes", "resp_bytes",
)  # fmt: skip
SPREADS: Final = ("duration_us", "ttft_us", "tokens_per_second", "own_us")
COLUMNS: Final = (
    "ts_start", "end_reason", "status", "model", "api", "provider", "client_kind", "client_project", "key_hash",
    "error_type", "finish_reason", "route_path", "tokens_class", "cost_class", "ttft_class", "input_tokens",
    "input_uncached_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "cost_nano_usd", "req_bytes", "resp_bytes", "duration_us", "ttft_us", "output_tokens_per_second", "own_worst_us",
    "tool_calls", "media_count",
)  # fmt: skip
"""Columns of a trace row that this looks at."""

_AS_IT_IS: Final = AMOUNTS[2:8]
_NOT_OURS: Final = frozenset({"complete", "client_closed"})
"""Ends that are nobody's fault."""


Key = tuple[int, str, int, str]
"""A row of `usage`: seconds, dimension, bucket, value."""


class Cell:
    """Sums, in the order of `AMOUNTS`, and histograms, in that of `SPREADS`."""

    __slots__ = ("amounts", "spreads")

    def __init__(self, shares: list["_Share"]) -> None:
        self.amounts = shares[0].amounts if len(shares) == 1 else list(map(sum, zip(*(s.amounts for s in shares), strict=True)))
        self.spreads = [_bins(shares, at) for at in range(len(SPREADS))]

    def add(self, row: tuple[Any, ...]) -> None:
        """Add what a row of `usage` has, its columns in the order of `AMOUNTS` and `SPREADS`."""
        self.amounts = list(map(add, self.amounts, row))
        for bins, packed in zip(self.spreads, row[len(AMOUNTS) :], strict=True):
            spread.add(bins, spread.pairs(spread.unpack(packed)))

    def row(self) -> list[Any]:
        """The columns in the order of `AMOUNTS` and `SPREADS`. Sums that no integer holds stay at its limit."""
        return [*(min(amount, INTEGER_MAX) for amount in self.amounts), *map(spread.pack, self.spreads)]


class _Share(NamedTuple):
    """What one exchange gives to each of its cells."""

    amounts: list[int]
    bins: list[int | None]
    sign: int


def _bins(shares: list[_Share], at: int) -> spread.Bins:
    if len(shares) == 1:  # as most are, of short buckets
        only = shares[0].bins[at]
        return {} if only is None else {only: shares[0].sign}
    bins: spread.Bins = {}
    spread.add(bins, ((index, share.sign) for share in shares if (index := share.bins[at]) is not None))
    return bins


class Tally:
    """What the exchanges of one transaction change."""

    def __init__(self) -> None:
        self._shares: dict[Key, list[_Share]] = {}

    def add(self, row: Mapping[str, Any], sign: int) -> None:
        """Count a trace row (`COLUMNS`) in, with +1, or what it was before out, with -1. Open ones do not count."""
        if row["end_reason"] is None:
            return
        bins = [None if value is None else spread.bin_of(value) for value in _spread(row)]
        share = _Share([sign * amount for amount in _amounts(row)], bins, sign)
        started_s = row["ts_start"] // 1000
        begins = {seconds: started_s - started_s % seconds if seconds else 0 for seconds in _SERIES}
        for dimension, value in _values(row):
            for seconds in DIMENSIONS[dimension]:
                self._shares.setdefault((seconds, dimension, begins[seconds], value), []).append(share)

    def changes(self) -> Iterator[tuple[Key, Cell]]:
        """What is to be added to each row of `usage`."""
        return ((key, Cell(shares)) for key, shares in self._shares.items())


def is_error(row: Mapping[str, Any]) -> bool:
    """Whether an exchange failed: by its status, within its stream, or before its end by another than the client."""
    return (row["status"] or 0) >= 400 or row["error_type"] is not None or row["end_reason"] not in _NOT_OURS


def _amounts(row: Mapping[str, Any]) -> list[int]:
    cost = row["cost_nano_usd"]
    return [
        1, is_error(row), *(row[name] or 0 for name in _AS_IT_IS), cost or 0, cost is not None, row["req_bytes"],
        row["resp_bytes"],
    ]  # fmt: skip


def _spread(row: Mapping[str, Any]) -> tuple[int | None, ...]:
    rate = row["output_tokens_per_second"]
    return row["duration_us"], row["ttft_us"], None if rate is None else round(rate * 1000), row["own_worst_us"]


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "", ""
    for dimension in DIMENSIONS:
        if dimension == "tool":
            yield from (("tool", name) for name in _tools(row["tool_calls"]))
            continue
        if dimension == "status_class":
            value = None if row["status"] is None else f"{row['status'] // 100}xx"
        else:
            value = row[dimension] if dimension else None
        if value is not None:
            yield dimension, str(value)


def _tools(packed: str | None) -> set[str]:
    """The tools that an exchange calls, each once however often it does."""
    if not packed:
        return set()
    return {str(call["name"]) for call in orjson.loads(packed) if call.get("name")}
