"""What is counted over a whole capture in one pass: each class takes what `pairing.walk` gives and holds little. Pure.

The filter's word comes with each entry (`passes`), so that every sum is of what was asked for.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from llmdump.captures.entry import ITSELF, PROXY_TO_BACKEND, name_of, text
from llmdump.inspecting import issues
from llmdump.inspecting.issues import FOUND_MAX, Issue
from llmdump.inspecting.pairing import Exchange, Paired

ISSUES_MAX: Final = 10_000
"""Issues of one kind that are kept; the rest is counted."""
NAMES_MAX: Final = 10_000
"""Different backends, statuses or pairs that are told apart."""
SESSIONS_MAX: Final = 100_000
"""Conversations that are told apart; the rest is counted."""


class Summary:
    """What there is in all."""

    def __init__(self) -> None:
        self.entries = self.passed = self.bytes = 0
        self.directions: Counter[int] = Counter()
        self.first_ts: float | None = None
        """Of the traffic, not of what a recorder says of itself."""
        self.last_ts = 0.0

    def take(self, paired: Paired, passes: bool) -> None:
        """The next entry."""
        entry = paired.entry
        self.entries += 1
        if passes:
            self.passed += 1
            self.bytes += len(entry.data)
            self.directions[entry.direction] += 1
            if entry.direction != ITSELF:
                self.first_ts = entry.ts if self.first_ts is None else self.first_ts
                self.last_ts = entry.ts

    def told(self) -> dict[str, Any]:
        """The sums."""
        return {
            "total_entries": self.entries,
            "entries": self.passed,
            "directions": {name_of(direction): self.directions[direction] for direction in sorted(self.directions)},
            "total_bytes": self.bytes,
            "duration_s": None if self.first_ts is None or self.passed < 2 else round(self.last_ts - self.first_ts, 6),
        }


class Backends:
    """Entries by backend; chunks count for that of their attempt."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def take(self, paired: Paired, passes: bool) -> None:
        """The next entry."""
        if passes and paired.backend and (paired.backend in self.counts or len(self.counts) < NAMES_MAX):
            self.counts[paired.backend] += 1


class Statuses:
    """Statuses by exchange: what the client got; and for each backend how many of its answers were 429."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.attempts: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()

    def over(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if not exchange.passed:
            return
        if exchange.status is not None:
            self.counts[exchange.status] += 1
        for attempt in exchange.attempts:
            if attempt.answer.status is not None and (attempt.backend in self.attempts or len(self.attempts) < NAMES_MAX):
                self.attempts[attempt.backend] += 1
                self.limited[attempt.backend] += attempt.answer.status == 429

    def told(self) -> dict[str, Any]:
        """The sums, with shares in percent."""
        total = sum(self.counts.values())
        return {
            "exchanges": total,
            "statuses": [
                {"status": status, "count": count, "percent": _percent(count, total)}
                for status, count in sorted(self.counts.items())
            ],
            "backends": [
                {"backend": backend, "limited": self.limited[backend], "answers": count,
                 "percent": _percent(self.limited[backend], count)}
                for backend, count in sorted(self.attempts.items())
            ],
        }  # fmt: skip


def _percent(count: int, total: int) -> float:
    return round(100 * count / total, 1) if total else 0.0


class Pairs:
    """Sending entries by their two session ids, the client's leg and the backend's."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def take(self, paired: Paired, passes: bool) -> None:
        """The next entry."""
        entry = paired.entry
        if passes and entry.direction == PROXY_TO_BACKEND:
            pair = text(entry.meta.get("asid")), text(entry.meta.get("bsid"))
            if all(pair) and (pair in self.counts or len(self.counts) < NAMES_MAX):
                self.counts[pair] += 1


class Conversation:
    """Exchanges that share a session id."""

    __slots__ = ("backend", "entries", "first_seq", "first_ts", "last_seq", "last_ts", "name")

    def __init__(self, exchange: Exchange) -> None:
        self.name = exchange.sessions[0] if exchange.sessions else ""
        self.backend = exchange.backend_first or exchange.backend
        self.entries = 0
        self.first_seq, self.last_seq = exchange.first.seq, exchange.last.seq
        self.first_ts, self.last_ts = exchange.first.ts, exchange.last.ts

    def add(self, entries: int, first: tuple[float, int], last: tuple[float, int]) -> None:
        """So many entries more, from the time and number of the first to those of the last."""
        self.entries += entries
        self.first_ts, self.first_seq = min((self.first_ts, self.first_seq), first)
        self.last_ts, self.last_seq = max((self.last_ts, self.last_seq), last)


class Conversations:
    """Entries by conversation: ids that one exchange has are one conversation's."""

    def __init__(self) -> None:
        self._by_session: dict[str, Conversation] = {}
        self.left_out = 0
        """Exchanges of conversations beyond the limit."""

    def over(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if not exchange.passed:
            return
        sessions = exchange.sessions or [""]
        known = list(dict.fromkeys(self._by_session[session] for session in sessions if session in self._by_session))
        if not known and len(self._by_session) >= SESSIONS_MAX:
            self.left_out += 1
            return
        whole = min(known, key=lambda one: one.first_ts) if known else Conversation(exchange)
        whole.add(exchange.passed, (exchange.first.ts, exchange.first.seq), (exchange.last.ts, exchange.last.seq))
        for other in known:
            if other is not whole:
                whole.add(other.entries, (other.first_ts, other.first_seq), (other.last_ts, other.last_seq))
                self._rename(other, whole)
        for session in sessions:
            self._by_session[session] = whole

    def _rename(self, other: Conversation, whole: Conversation) -> None:
        for session, found in self._by_session.items():
            if found is other:
                self._by_session[session] = whole

    def told(self) -> list[dict[str, Any]]:
        """The conversations in the order in which they began."""
        found = sorted(dict.fromkeys(self._by_session.values()), key=lambda one: (one.first_ts, one.first_seq))
        return [
            {"session": one.name, "backend": one.backend, "entries": one.entries,
             "duration_s": round(one.last_ts - one.first_ts, 6), "first": one.first_seq, "last": one.last_seq}
            for one in found
        ]  # fmt: skip


class Found:
    """Issues, in the order of the file."""

    def __init__(self, since_s: float, until_s: float) -> None:
        self._window = (since_s, until_s)
        self._kept: dict[str, list[tuple[int, Issue]]] = {}
        self._files: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.retries = self.unfinished = 0

    def take(self, paired: Paired, passes: bool) -> None:
        """The next entry."""
        exchange = paired.exchange
        self._files.setdefault(paired.entry.file, len(self._files))
        if exchange is None:
            if passes and paired.entry.flag:
                self._add(issues.of_entry(paired))
            return
        for issue in issues.of_entry(paired):
            if passes and len(exchange.found) < FOUND_MAX:
                exchange.found.append(issue)

    def damage(self, issue: Issue) -> None:
        """Something is wrong with a file."""
        self._files.setdefault(issue.at.file, len(self._files))
        self._add([issue])

    def over(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if exchange.is_meant:
            self._add(exchange.found)
        if exchange.passed:
            low, high = self._window
            self._add(issue for issue in issues.of_exchange(exchange) if low <= issue.at.ts <= high)
            self.retries += exchange.retries
            self.unfinished += exchange.is_ours and exchange.end is None
        exchange.found = []

    def _add(self, found: Any) -> None:
        for issue in found:
            self.counts[issue.kind] += 1
            kept = self._kept.setdefault(issue.kind, [])
            if len(kept) < ISSUES_MAX:
                kept.append((self._files.get(issue.at.file, 0), issue))

    def kinds(self) -> Iterator[tuple[str, int, list[Issue]]]:
        """Each kind with its count and those that are kept, by where the first of it is."""
        ordered = {
            kind: sorted(kept, key=lambda one: (one[0], one[1].at.seq, one[1].at.ts))
            for kind, kept in self._kept.items()
            if kept
        }
        for kind, kept in sorted(ordered.items(), key=lambda one: (one[1][0][0], one[1][0][1].at.seq)):
            yield kind, self.counts[kind], [issue for _, issue in kept]
