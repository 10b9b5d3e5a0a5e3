"""The certificate: of the numbers that a proxy instance gave out, which are there, and why each other one is not. Pure.

An instance numbers its records 1, 2, 3 … without a hole and says goodbye with its last number. So what is missing is
known exactly, up to the highest number of which there is any trace; and behind that, nothing is known of an instance
that died without a goodbye. A number that is not there is

    told         a gap record names it with a reason (`overflow`)
    retired      retention deleted it, and wrote down when and for which cap (see `retention`): not missing
    under way    the instance lives, or has records in spill files, and its writer has not stored anything later of it
    `damaged`    it stood, or may have stood, where a file holds no record any more: within these neighbours
    `deleted`    the same for a segment that is not there
    `unknown`    nothing explains it

What is written down of a deleted segment is first number, last number and count. Where these leave no room, the numbers
are exact. Where several writers stored an instance, its numbers lie between each other: then as many as were deleted
must be absent, and no more. If more are, nobody knows which, and all of them count as missing.

A window of time is a range of numbers: from the first record in it to the last one, and what is missing beside these,
because it may have been made within. Numbers rise with time as long as the host's clock does.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from llmdump import ranges
from llmdump.ledger import Gap
from llmdump.ranges import Range, Ranges

DAMAGED: Final = "damaged"
DELETED: Final = "deleted"
UNKNOWN: Final = "unknown"
PENDING: Final = "pending"


class Hole(NamedTuple):
    """A place where records of an instance may have stood: with numbers above `after` and below `before`."""

    reason: str
    """`DAMAGED` or `DELETED`."""
    where: str
    after: int
    before: int | None
    """None: no record of the instance comes after it."""


class Retired(NamedTuple):
    """Records of an instance that went with a segment that retention deleted: so many numbers from `first` to `last`."""

    first: int
    last: int
    records: int
    reason: str
    where: str
    """The segment."""
    at: float
    """Seconds since 1970."""


class Facts(NamedTuple):
    """What is known of one instance."""

    instance: str
    present: Ranges
    made: int
    """The highest number of which there is any trace."""
    told: Sequence[Gap] = ()
    holes: Sequence[Hole] = ()
    ended: bool = False
    """It said goodbye."""
    living: bool = False
    settled: int = 0
    """Of a living or pending one: what is missing up to this number is not under way any more."""
    retired: Sequence[Retired] = ()
    pending: bool = False
    """It does not live, and records of it wait in spill files."""


class Missing(NamedTuple):
    """Numbers that are not there, and why; `where` names a file, if the reason has one."""

    first: int
    last: int
    reason: str
    where: str = ""

    @property
    def numbers(self) -> int:
        """How many."""
        return self.last - self.first + 1


class Statement(NamedTuple):
    """What the certificate says of one instance."""

    instance: str
    state: str
    """`ended` with a goodbye, `living`, `pending` while records wait in spill files, or `died`."""
    made: int
    """Numbers given out within the window, as far as is known."""
    present: int
    missing: list[Missing]
    retired: list[Retired]
    """Numbers that retention deleted, rising; each range is whole."""
    under_way: int
    unknown_after: int | None
    """The number behind which nothing is known; None where the end is known, or still to come."""

    @property
    def lost(self) -> int:
        """How many numbers are missing."""
        return sum(one.numbers for one in self.missing)

    @property
    def deleted(self) -> int:
        """How many numbers retention deleted."""
        return sum(one.records for one in self.retired)

    @property
    def complete(self) -> bool:
        """Every number is there, under way or deleted on purpose, and the end is known."""
        return not self.missing and self.unknown_after is None and self.state != PENDING


def state(facts: Facts) -> str:
    """`ended`, `living`, `pending` or `died`."""
    if facts.pending and not facts.living:
        return PENDING
    return "ended" if facts.ended else "living" if facts.living else "died"


def judge(facts: Facts, within: Range | None = None, *, ends_within: bool = True) -> Statement:
    """What can be said of an instance, of all its numbers or of those `within`.

    `ends_within`: its last known record lies in the window, so that an unknown end does.
    """
    asked = ranges.merged([within or (1, facts.made)])
    absent = ranges.without(asked, facts.present)
    rest = absent
    told: list[Missing] = []
    for gap in facts.told:
        rest = _explain(rest, [(gap.first, gap.last)], gap.reason or UNKNOWN, "", told)
    retired: list[Retired] = []
    rest = _retire(rest, [one for one in facts.retired if one.records == one.last - one.first + 1], retired)
    under_way: Ranges = []
    if facts.living or facts.pending:
        under_way = ranges.both(rest, ranges.merged([(facts.settled + 1, facts.made)]))
        rest = ranges.without(rest, under_way)
    for group in _overlapping(one for one in facts.retired if one.records < one.last - one.first + 1):
        candidates = ranges.both(rest, ranges.merged((one.first, one.last) for one in group))
        if ranges.count(candidates) <= sum(one.records for one in group):
            rest = _retire(rest, group, retired)
    for hole in facts.holes:
        until = facts.made if hole.before is None else hole.before - 1
        rest = _explain(rest, ranges.merged([(hole.after + 1, until)]), hole.reason, hole.where, told)
    told += [Missing(first, last, UNKNOWN) for first, last in rest]
    died = state(facts) == "died"
    return Statement(
        instance=facts.instance,
        state=state(facts),
        made=ranges.count(asked),
        present=ranges.count(ranges.both(asked, facts.present)),
        missing=_joined(told),
        retired=sorted(retired),
        under_way=ranges.count(under_way),
        unknown_after=facts.made if died and ends_within else None,
    )


def _explain(rest: Ranges, by: Sequence[Range], reason: str, where: str, told: list[Missing]) -> Ranges:
    """Note what `by` explains of `rest`; what is left."""
    found = ranges.both(rest, by)
    if not found:
        return rest
    told += [Missing(first, last, reason, where) for first, last in found]
    return ranges.without(rest, found)


def _retire(rest: Ranges, by: Iterable[Retired], retired: list[Retired]) -> Ranges:
    """Note what was deleted of `rest`; what is left."""
    for one in by:
        found = ranges.both(rest, [(one.first, one.last)])
        retired += [one._replace(first=first, last=last, records=last - first + 1) for first, last in found]
        rest = ranges.without(rest, found)
    return rest


def _overlapping(retired: Iterable[Retired]) -> Iterator[list[Retired]]:
    """Groups that have no number between each other."""
    group: list[Retired] = []
    last = 0
    for one in sorted(retired):
        if group and one.first > last:
            yield group
            group = []
        group.append(one)
        last = max(last, one.last)
    if group:
        yield group


def _joined(missing: Iterable[Missing]) -> list[Missing]:
    """Rising; neighbours with the same reason are one."""
    found: list[Missing] = []
    for one in sorted(missing):
        if found and found[-1].last + 1 == one.first and found[-1][2:] == one[2:]:
            found[-1] = found[-1]._replace(last=one.last)
        else:
            found.append(one)
    return found


def window(first: int | None, last: int | None, facts: Facts, before: int = 0) -> Range:
    """The numbers of a window of time, perhaps none (last before first).

    `first` is the lowest number from its beginning on, `last` the highest before its end; None if there is none.
    Numbers up to `before` are known to be from before its beginning.
    """
    low = facts.made + 1 if first is None else first
    high = 0 if last is None else last
    absent = ranges.without(ranges.merged([(1, facts.made)]), facts.present)
    begin, end = min(low, high + 1), max(high, low - 1)
    begin = next((one for one, other in absent if one < begin <= other + 1), begin)
    end = next((other for one, other in absent if one - 1 <= end < other), end)
    return max(begin, before + 1), end
