"""Which record numbers of each proxy instance have been seen, as runs that merge. Pure.

A proxy numbers its records 1, 2, 3 … and several writers store them, each some, so numbers come interleaved. Kept are
the runs; in steady state that is one or two an instance. What changed since the last look goes to the index with the
rows, in the same transaction, so the ledger is as exact as they are. A number that comes a second time is told.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llmdump.record import Record
from llmdump.values import integer, micros, text


class Runs:
    """Merged runs of numbers."""

    __slots__ = ("_at", "_changed", "_firsts", "_lasts")

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """`runs` are (first, last), rising and apart."""
        pairs = list(runs)
        self._firsts = [first for first, _ in pairs]
        self._lasts = [last for _, last in pairs]
        self._at = len(pairs) - 1  # the run that grew last, most often grows next
        self._changed: set[int] = set()

    def add(self, number: int) -> bool:
        """Whether the number is new."""
        at = self._at
        firsts, lasts = self._firsts, self._lasts
        if not (at >= 0 and lasts[at] == number - 1):
            at = bisect_right(firsts, number) - 1
            if at >= 0 and lasts[at] >= number:
                return False
        self._changed.add(self._place(at, number))
        return True

    def _place(self, at: int, number: int) -> int:
        """Put a new number behind run `at`; the first number of the run it is in now."""
        firsts, lasts = self._firsts, self._lasts
        if at >= 0 and lasts[at] == number - 1:
            lasts[at] = number
        else:
            at += 1
            firsts.insert(at, number)
            lasts.insert(at, number)
        if at + 1 < len(firsts) and firsts[at + 1] == number + 1:
            self._changed.add(firsts.pop(at + 1))
            lasts[at] = lasts.pop(at + 1)
        self._at = at
        return firsts[at]

    def runs(self) -> list[tuple[int, int]]:
        """All runs, rising."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def take_changes(self) -> list[tuple[int, int | None]]:
        """The runs that changed since the last call, as (first, last); last None: this run is part of another now."""
        changed, self._changed = self._changed, set()
        return [(first, self._last(first)) for first in sorted(changed)]

    def _last(self, first: int) -> int | None:
        at = bisect_right(self._firsts, first) - 1
        return self._lasts[at] if at >= 0 and self._firsts[at] == first else None


class Gap(NamedTuple):
    """Numbers that will never come, as the instance itself says."""

    instance: str
    first: int
    last: int
    reason: str


class About(NamedTuple):
    """What an instance says of itself: when it began (hello), and the number of its last record (bye)."""

    instance: str
    hello_us: int | None = None
    about: Any = None
    bye_us: int | None = None
    bye_last: int | None = None


def about(record: Record) -> About | None:
    """What a hello or bye record says, None for other kinds."""
    if record.kind == "hello":
        return About(record.instance, hello_us=micros(record.ts), about=record.meta.get("x_about"))
    if record.kind == "bye":
        return About(record.instance, bye_us=micros(record.ts), bye_last=integer(record.meta.get("x_last")))
    return None


def gaps(record: Record) -> Iterator[Gap]:
    """What a gap record says; what is malformed in it is passed over."""
    pairs = record.meta.get("x_gap")
    reason = text(record.meta.get("x_why")) or ""
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [int(first), int(last)] if 0 < first <= last and integer(last) is not None:
                yield Gap(record.instance, first, last, reason)
