"""The passes over a capture that the views need. Reads the files through what is given in; prints nothing.

Every view is one pass. What is counted (summary, backends, statuses, issues, sessions, pairs) shares a pass, and a second
pass makes what is printed as it is read (timeline, entries, requests, streams): so memory does not depend on the file.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from llmdump.captures.entry import Entry
from llmdump.captures.v2 import Header
from llmdump.inspecting import content, files, stories
from llmdump.inspecting.files import Source
from llmdump.inspecting.issues import Issue
from llmdump.inspecting.pairing import Exchange, Paired, walk
from llmdump.inspecting.selection import NOTHING, Filters, Selector, is_meant
from llmdump.inspecting.sums import Backends, Conversations, Found, Pairs, Statuses, Summary

WAITING_MAX: Final = 1024
"""Requests that are told and wait for one that began before them and is not over."""
HEADERS_MAX: Final = 10_000

Advance = Callable[[int], None]


def nobody(_: int) -> None:
    """Hears of progress."""


class Capture:
    """The files of one call, and what is asked of them."""

    def __init__(self, sources: list[Source], filters: Filters) -> None:
        self.sources = sources
        self.filters = filters if filters.is_any else NOTHING

    def paired(
        self,
        bytes_max: int = content.NOTHING,
        advance: Advance = nobody,
        aside: Callable[[Header | Issue], None] = lambda _: None,
    ) -> Iterator[tuple[Paired, bool] | Exchange]:
        """One pass: every entry with the filters' word, every exchange that is over. `aside` gets headers and damage."""
        for item in walk(self._entries(advance, aside), bytes_max):
            yield (item, is_meant(self.filters, item)) if isinstance(item, Paired) else item

    def passing(self) -> Iterator[Paired]:
        """The entries that pass."""
        return (item[0] for item in self.paired() if not isinstance(item, Exchange) and item[1])

    def began_s(self) -> float:
        """When the first entry was made; 0 if there is none. Raises UnreadableError."""
        for source in self.sources:
            for item in files.items(source):
                if isinstance(item, Entry):
                    return item.ts
        return 0.0

    def _entries(self, advance: Advance, aside: Callable[[Header | Issue], None]) -> Iterator[Entry]:
        for source in self.sources:
            for item in files.items(source, advance):
                if isinstance(item, Entry):
                    yield item
                else:
                    aside(item)


class Sums(NamedTuple):
    """What is counted in one pass."""

    summary: Summary
    backends: Backends
    statuses: Statuses
    pairs: Pairs
    conversations: Conversations
    found: Found
    headers: list[Header]
    tracked: int | None
    """Which exchange, by the order in which they began, is the one to be followed."""


def sums(capture: Capture, *, with_issues: bool, with_sessions: bool, track: int = 0, advance: Advance = nobody) -> Sums:
    """The first pass. Blocking. Raises UnreadableError."""
    summary, backends, statuses, pairs, conversations = Summary(), Backends(), Statuses(), Pairs(), Conversations()
    found = Found(capture.filters.since_s, capture.filters.until_s)
    headers: list[Header] = []
    candidates = _Lowest(track)

    def aside(item: Header | Issue) -> None:
        if isinstance(item, Issue):
            found.damage(item)
        elif len(headers) < HEADERS_MAX:
            headers.append(item)

    depth = content.FAILURES_BYTES_MAX if with_issues else content.NOTHING
    for item in capture.paired(depth, advance, aside):
        if isinstance(item, Exchange):
            statuses.over(item)
            if with_sessions:
                conversations.over(item)
            if with_issues:
                found.over(item)
            if track and item.passed and (item.asked or item.attempts):
                candidates.add(item.index)
            continue
        paired, passes = item
        summary.take(paired, passes)
        backends.take(paired, passes)
        pairs.take(paired, passes)
        if with_issues:
            found.take(paired, passes)
    return Sums(summary, backends, statuses, pairs, conversations, found, headers, candidates.highest())


class _Lowest:
    """The n lowest of many numbers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[int] = []

    def add(self, number: int) -> None:
        heapq.heappush(self._kept, -number)
        if len(self._kept) > self._count:
            heapq.heappop(self._kept)

    def highest(self) -> int | None:
        """The n-th lowest; None if there are less."""
        return -self._kept[0] if self._kept and len(self._kept) == self._count else None


def timeline(capture: Capture) -> Iterator[tuple[Paired, float | None]]:
    """The entries that pass, with the seconds since the one before."""
    before: float | None = None
    for paired in capture.passing():
        ts = paired.entry.ts
        yield paired, None if before is None else round(ts - before, 6)
        before = ts


def entries(capture: Capture, selector: Selector) -> Iterator[Paired]:
    """The entries that pass and are picked."""
    return selector.pick(capture.passing())


def steps(capture: Capture, index: int | None) -> Iterator[dict[str, Any]]:
    """The entries of one exchange, which `sums` found."""
    if index is None:
        return
    for item in capture.paired(content.WHOLE_BYTES_MAX):
        if isinstance(item, Exchange):
            if item.index == index:
                return
        elif item[0].exchange is not None and item[0].exchange.index == index:
            yield stories.step(item[0], item[0].exchange.first.ts)


def requests(capture: Capture) -> Iterator[dict[str, Any]]:
    """What each request said that the filters mean, in the order in which they began."""
    return _by_beginning(_analysed(capture))


def _analysed(capture: Capture) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for item in capture.paired(content.WHOLE_BYTES_MAX):
        if isinstance(item, Exchange):
            yield item.index, [stories.analysis(item)] if item.passed and item.asked else []
        else:
            stories.listen(item[0])


def streams(capture: Capture) -> Iterator[dict[str, Any]]:
    """How the answers of backends came, an attempt each."""
    return _by_beginning(_streamed(capture))


def _streamed(capture: Capture) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    wanted = capture.filters.backend
    for item in capture.paired():
        if isinstance(item, Exchange):
            attempts = [one for one in item.attempts if item.passed and (not wanted or one.backend == wanted)]
            yield item.index, [stories.stream(item, attempt) for attempt in attempts]


def _by_beginning(told: Iterable[tuple[int, list[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """Exchanges come as they end; here as they began. One that does not end holds up `WAITING_MAX` others at most."""
    waiting: list[tuple[int, list[dict[str, Any]]]] = []
    following = 1
    for index, parts in told:
        heapq.heappush(waiting, (index, parts))
        while waiting and (waiting[0][0] <= following or len(waiting) > WAITING_MAX):
            first, ready = heapq.heappop(waiting)
            following = max(following, first + 1)
            yield from ready
    while waiting:
        yield from heapq.heappop(waiting)[1]
