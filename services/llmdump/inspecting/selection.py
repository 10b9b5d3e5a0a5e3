"""Which entries are meant: filters, which hold for every view alike, and selectors, which pick a few for showing. Pure.

An entry passes by its own ids, its time, its direction and what is searched in it; the backend is that of its attempt, where
it does not say one. A view of exchanges shows those of which an entry passes.
"""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from llmdump.captures.entry import NAMES, Entry, as_text, escaped, text
from llmdump.inspecting.pairing import Paired

CONTEXT_DEFAULT: Final = 5
_RANGE: Final = re.compile(r"\s*([0-9]{1,18})\s*(?:-|:|\.\.)\s*([0-9]{1,18})\s*")


class Filters(NamedTuple):
    """What an entry must have; what is empty is not asked for."""

    direction: str = ""
    backend: str = ""
    session: str = ""
    """Exactly."""
    session_part: str = ""
    """In any case of letters."""
    search: str = ""
    """In any case of letters."""
    since_s: float = -math.inf
    until_s: float = math.inf
    """Both inclusive."""

    @property
    def is_any(self) -> bool:
        """Whether anything is asked for."""
        return self != Filters()

    def is_meant(self, paired: Paired) -> bool:
        """Whether backend and session are those asked for."""
        entry = paired.entry
        if self.backend and paired.backend != self.backend:
            return False
        if self.session and entry.session != self.session:
            return False
        return not self.session_part or self._has_session_part(entry)

    def passes(self, paired: Paired) -> bool:
        """Whether all is as asked for."""
        entry = paired.entry
        return (
            self.since_s <= entry.ts <= self.until_s
            and (not self.direction or NAMES.get(entry.direction) == self.direction)
            and self.is_meant(paired)
            and (not self.search or self._is_found(entry))
        )

    def _has_session_part(self, entry: Entry) -> bool:
        part = self.session_part.lower()
        return part in entry.session.lower() or part in text(entry.meta.get("bsid")).lower()

    def _is_found(self, entry: Entry) -> bool:
        sought = self.search.lower()
        return sought in as_text(entry.data).lower() or sought in escaped(repr(entry.meta)).lower()


def is_meant(filters: Filters, paired: Paired) -> bool:
    """`filters.passes`, noted at the exchange."""
    if filters is NOTHING:
        if paired.exchange is not None:
            paired.exchange.is_meant = True
            paired.exchange.passed += 1
        return True
    passes = filters.passes(paired)
    exchange = paired.exchange
    if exchange is not None:
        exchange.is_meant = exchange.is_meant or filters.is_meant(paired)
        exchange.passed += passes
    return passes


NOTHING: Final = Filters()


def numbers(value: str) -> tuple[int, int]:
    """The first and last number of a range such as 10-15, 10:15 or 10..15. Raises ValueError."""
    found = _RANGE.fullmatch(value)
    if not found:
        raise ValueError(f"{value!r} is no range; allowed are 10-15, 10:15 and 10..15")
    return int(found[1]), int(found[2])


class Selector(NamedTuple):
    """Which entries are picked of those that pass; the first that is given counts."""

    entry: int | None = None
    around: int | None = None
    context: int = CONTEXT_DEFAULT
    range: tuple[int, int] | None = None
    last: int | None = None

    def pick(self, entries: Iterable[Paired]) -> Iterator[Paired]:
        """Those that are picked, in order. Holds `last` or `context` entries at most."""
        if self.entry is not None:
            return (one for one in entries if one.entry.seq == self.entry)
        if self.around is not None:
            return _around(entries, self.around, max(0, self.context))
        if self.range is not None:
            low, high = self.range
            return (one for one in entries if low <= one.entry.seq <= high)
        if self.last is not None:
            return iter(deque(entries, self.last) if self.last > 0 else entries)
        return iter(entries)


def _around(entries: Iterable[Paired], seq: int, context: int) -> Iterator[Paired]:
    before: deque[Paired] = deque(maxlen=context)
    after = -1
    for one in entries:
        if after > 0:
            after -= 1
            yield one
        elif one.entry.seq == seq:
            yield from before
            yield one
            after = context
        else:
            before.append(one)
        if after == 0:
            return
