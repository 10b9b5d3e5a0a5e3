"""Entries put together to exchanges: request, attempts at a backend, what the client got. Linear, bounded, no I/O.

    entries ─▶ walk ─▶ Paired(entry, its exchange, its attempt, events, gap) … and each Exchange once more when it is over

An exchange is what belongs to one request (see `belonging`). What a backend sends belongs to the last attempt (P->B). Our own
exchanges are over with their `end`; others when the file ends, or when `OPEN_MAX` younger ones are open: so memory does not
depend on the file.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from llmdump.captures.belonging import Requests
from llmdump.captures.entry import (
    BACKEND_TO_PROXY,
    CLIENT_TO_PROXY,
    ITSELF,
    PROXY_TO_BACKEND,
    PROXY_TO_CLIENT,
    Entry,
    Mark,
    text,
)
from llmdump.inspecting.content import NOTHING, WHOLE_BYTES_MAX, Content
from llmdump.reading.exchange import Event

OPEN_MAX: Final = 1024
"""Exchanges that are held open, where a format does not say that they are over."""
ATTEMPTS_MAX: Final = 64
"""Of one exchange; further ones count as the last."""
SESSIONS_MAX: Final = 8
"""Ids of sessions that are kept of one exchange."""
SIZES_MAX: Final = 10_000
"""Sizes and times of chunks that are kept of one leg."""


class Leg:
    """What went one way in one attempt, or to the client."""

    def __init__(self, bytes_max: int) -> None:
        self.content = Content(bytes_max)
        self.entries = 0
        self.chunks = 0
        self.bytes = 0
        self.sizes: list[int] = []
        """Of the chunks, as far as they are kept; when they came is in `stamps`, with their numbers."""
        self.stamps: list[tuple[float, int]] = []
        self.first: Mark | None = None
        """The first with bytes."""
        self.last: Mark | None = None
        self.status: int | None = None
        self.begun = self.ended = False
        """A marker said so."""
        self.ttfb_ms: float | None = None
        self.sdur_ms: float | None = None
        self.latency_ms: float | None = None
        self.failure: Entry | None = None
        """The end-of-stream entry that tells of an error."""

    def take(self, entry: Entry, at_us: int) -> list[Event]:
        """The next entry; the events that end in it."""
        self.entries += 1
        events = self.content.take(entry, at_us)
        if entry.data and not entry.has_head and not self.content.is_again:
            self.chunks += 1
            self.bytes += len(entry.data)
            if len(self.sizes) < SIZES_MAX:
                self.sizes.append(len(entry.data))
                self.stamps.append((entry.ts, entry.seq))
        if entry.data and self.first is None:
            self.first = entry.mark
        self.last = entry.mark
        if not entry.kind or entry.kind in {"head", "answer"}:
            self._mark(entry, entry.meta)
        return events

    def _mark(self, entry: Entry, meta: dict[str, Any]) -> None:
        status = entry.status
        self.status = status if status is not None and entry.kind != "interim" else self.status
        self.begun = self.begun or meta.get("ss") is True
        self.ended = self.ended or meta.get("se") is True
        for name in ("ttfb", "sdur", "lat"):
            value = meta.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._time(name, float(value))
        is_failure = meta.get("eos_term") == "error" or meta.get("eos_err_cls") or meta.get("eos_sig") == "error_termination"
        if is_failure and self.failure is None:
            self.failure = entry

    def _time(self, name: str, value_ms: float) -> None:
        if name == "ttfb":
            self.ttfb_ms = value_ms if self.ttfb_ms is None else self.ttfb_ms
        elif name == "sdur":
            self.sdur_ms = value_ms
        else:
            self.latency_ms = value_ms


class Attempt:
    """One sending to a backend and what came of it."""

    def __init__(self, sent: Mark | None, backend: str, bytes_max: int) -> None:
        self.sent = sent
        self.request = b""
        """What was sent, if everything is read."""
        self.backend = backend
        self.answer = Leg(bytes_max)
        self.finished = False
        """The answer said itself that it is whole: `[DONE]`, a reason to stop, the API's last event."""
        self.failed = 0
        """Failures that were told of it."""
        self.telling: Any = None
        """For whoever reads what was said."""

    @property
    def is_answered(self) -> bool:
        """Whether anything came back that is more than an empty marker."""
        leg = self.answer
        return leg.first is not None or leg.status is not None or leg.ended or leg.failure is not None


class Exchange:
    """One request of a client and everything that belongs to it."""

    def __init__(self, id: str, index: int, entry: Entry, bytes_max: int) -> None:  # noqa: A002
        self.id = id
        self.index = index
        """The n-th that began."""
        self.is_ours = bool(entry.kind)
        """Our own proxy recorded it."""
        self.first = self.last = entry.mark
        self.backend_first = entry.backend
        self.last_direction = entry.direction
        self.follows: Exchange | None = None
        """The request before it in its session, where nothing else tells requests apart; until its first entry is taken."""
        self.number = 0
        """The n-th request of all; 0 while there was none."""
        self.asked: Mark | None = None
        """Where the client asked."""
        self.body: list[bytes] = []
        """What it asked, if everything is read; up to a limit."""
        self.body_bytes = 0
        self.head = b""
        self.sessions: list[str] = []
        self.attempts: list[Attempt] = []
        self.to_client = Leg(bytes_max)
        self.telling: Any = None
        """For whoever reads what the client got."""
        self.end: Entry | None = None
        """Our own record of the end."""
        self.entries = 0
        self.is_meant = False
        """For whoever filters: backend and session are those asked for."""
        self.passed = 0
        """Entries of it that pass all filters."""
        self.found: list[Any] = []
        """For whoever looks for something: what was found so far."""

    @property
    def backend(self) -> str:
        """The backend of the last attempt, or what the client's side says."""
        return self.attempts[-1].backend if self.attempts else ""

    @property
    def retries(self) -> int:
        """Attempts behind the first."""
        return max(0, len(self.attempts) - 1)

    @property
    def status(self) -> int | None:
        """What the client got, as far as it is known."""
        if self.to_client.status is not None or not self.attempts:
            return self.to_client.status
        return self.attempts[-1].answer.status


class Paired(NamedTuple):
    """An entry with what it belongs to."""

    entry: Entry
    exchange: Exchange | None
    attempt: Attempt | None
    events: list[Event]
    gap_s: float
    """Since the entry before it in its exchange; 0 for what a client takes to think: it has been answered, and asks."""
    backend: str
    """The entry's own word for it, else that of its attempt."""


def walk(entries: Iterable[Entry], bytes_max: int = NOTHING) -> Iterator[Paired | Exchange]:
    """Every entry with its exchange, and every exchange after its last entry.

    `bytes_max` of bodies that are read, see `content`; with `WHOLE_BYTES_MAX` requests are kept as well."""
    pairing = _Pairing(bytes_max)
    for entry in entries:
        yield pairing.take(entry)
        yield from pairing.over()
    yield from pairing.rest()


class _Pairing:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._whole = bytes_max >= WHOLE_BYTES_MAX
        self._open: OrderedDict[str, Exchange] = OrderedDict()
        self._requests = Requests()
        self._over: list[Exchange] = []
        self._asked = self._begun = 0

    def over(self) -> list[Exchange]:
        """The exchanges that are over by now."""
        if len(self._open) > OPEN_MAX:
            self._over.append(self._open.popitem(last=False)[1])
        over, self._over = self._over, []
        return over

    def rest(self) -> Iterator[Exchange]:
        """Those that were open at the end."""
        yield from self._open.values()

    def take(self, entry: Entry) -> Paired:
        if entry.direction == ITSELF:
            return Paired(entry, None, None, [], 0.0, "")
        exchange = self._exchange(entry)
        gap_s = self._gap_s(entry, exchange)
        exchange.last_direction = entry.direction
        exchange.entries += 1
        attempt, events = self._place(entry, exchange)
        exchange.last = entry.mark
        if entry.kind:
            backend = exchange.backend
        else:
            backend = entry.backend or (attempt.backend if attempt else exchange.backend)
            self._session(exchange, entry)
        if entry.kind == "end":
            exchange.end = entry
            self._over.append(self._open.pop(exchange.id))
        return Paired(entry, exchange, attempt, events, gap_s, backend)

    def _gap_s(self, entry: Entry, exchange: Exchange) -> float:
        before = exchange if exchange.entries else exchange.follows
        exchange.follows = None
        is_waiting = before is not None and before.last_direction in (CLIENT_TO_PROXY, PROXY_TO_BACKEND)
        if before is None or (entry.direction == CLIENT_TO_PROXY and (entry.kind or not is_waiting)):
            return 0.0
        return round(entry.ts - before.last.ts, 6)

    def _exchange(self, entry: Entry) -> Exchange:
        before = None if entry.rid else self._open.get(self._requests.last(entry.session))
        key = self._requests.of(entry)
        found = self._open.get(key)
        if found is None:
            self._begun += 1
            found = self._open[key] = Exchange(key, self._begun, entry, self._bytes_max)
            found.follows = before
            if entry.kind and entry.kind != "end":
                self._session(found, entry)
        elif not entry.kind:
            self._open.move_to_end(key)
        return found

    def _session(self, exchange: Exchange, entry: Entry) -> None:
        for session in (entry.session, text(entry.meta.get("sid"))):
            if session and session not in exchange.sessions and len(exchange.sessions) < SESSIONS_MAX:
                exchange.sessions.append(session)

    def _place(self, entry: Entry, exchange: Exchange) -> tuple[Attempt | None, list[Event]]:
        at_us = max(0, round((entry.ts - exchange.first.ts) * 1e6))
        direction = entry.direction
        if direction == CLIENT_TO_PROXY:
            self._ask(entry, exchange)
            socket = exchange.attempts[-1] if entry.kind == "pipe" and exchange.attempts else None
            if socket is not None:
                socket.answer.content.take(entry, at_us)
            return socket, []
        if direction == PROXY_TO_BACKEND:
            return self._attempt(entry, exchange), []
        if direction == BACKEND_TO_PROXY:
            if not exchange.attempts:
                exchange.attempts.append(Attempt(None, entry.backend, self._bytes_max))
            attempt = exchange.attempts[-1]
            attempt.backend = attempt.backend or entry.backend
            return attempt, attempt.answer.take(entry, at_us)
        if direction == PROXY_TO_CLIENT and entry.kind != "end":
            return (exchange.attempts[-1] if exchange.attempts else None), exchange.to_client.take(entry, at_us)
        return None, []

    def _ask(self, entry: Entry, exchange: Exchange) -> None:
        if exchange.asked is None:
            self._asked += 1
            exchange.number, exchange.asked = self._asked, entry.mark
        if self._whole:
            if entry.kind == "head":
                exchange.head = entry.data
            elif exchange.body_bytes < WHOLE_BYTES_MAX:
                exchange.body.append(entry.data)
                exchange.body_bytes += len(entry.data)

    def _attempt(self, entry: Entry, exchange: Exchange) -> Attempt:
        if exchange.attempts and (entry.is_message or len(exchange.attempts) >= ATTEMPTS_MAX):
            return exchange.attempts[-1]
        attempt = Attempt(entry.mark, entry.backend, self._bytes_max)
        attempt.request = entry.data if self._whole else b""
        exchange.attempts.append(attempt)
        return attempt
