"""One viewer of the live tail: what it wants, what it is to be told next, and what it missed. Pure, but for a wake-up.

    events ── wanted? ─▶ buffer, VIEWER_BUFFER_BYTES ─▶ taken, numbered ─▶ kept, RESUME_BYTES, for a connection that breaks
                           │ full: counted, told with `lost`

An exchange is announced (`open`) as soon as it is certain that the filter means it, with all it has said before then: that
is read again from the segments when its turn comes, and not held (`CatchUp`).
"""

import asyncio
import contextlib
import itertools
import secrets
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import orjson

from llmdump.record import Record
from llmdump_api import live_exchange
from llmdump_api.live_asked import Asked
from llmdump_api.live_exchange import LiveExchange

VIEWER_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Of events that one viewer has not taken. The events of all viewers share their text."""
RESUME_BYTES: Final = 1024 * 1024
"""Of events that were taken, to be told again should the connection have broken meanwhile."""
LOST_NAMED_MAX: Final = 100
"""Exchanges that a `lost` names."""
TAKEN_AT_ONCE_BYTES: Final = 256 * 1024
_HELD_BYTES: Final = 200
"""What an event takes beside its text."""


class Event:
    """Something that happened to an exchange. Its text is made once, when the first viewer wants it."""

    __slots__ = ("_data", "exchange", "kind", "offset", "record")

    def __init__(self, exchange: LiveExchange, kind: str, record: Record | None = None, offset: int = 0) -> None:
        """`kind` is `open`, `chunk` (of the record), `end`, `row`, or not told: `known` (something new), `over` (forget it)."""
        self.exchange = exchange
        self.kind = kind
        self.record = record
        self.offset = offset
        self._data = b""

    @property
    def data(self) -> bytes:
        """JSON."""
        if not self._data:
            exchange, record = self.exchange, self.record
            self._data = exchange.shown() if record is None else live_exchange.chunk(exchange.exchange, record, self.offset)
        return self._data


class Told(NamedTuple):
    """An event for one viewer."""

    kind: str
    data: bytes


class CatchUp:
    """Chunks of an exchange that came before it was announced."""

    __slots__ = ("after", "before", "exchange")

    def __init__(self, exchange: LiveExchange, before: int) -> None:
        self.exchange = exchange
        self.before = before
        """Only records with a lower number."""
        self.after = 0
        """Only those with a higher one: rises as they are told."""


class Viewer:
    """One of them. Not for several threads."""

    def __init__(self, asked: Asked, buffer_bytes: int = VIEWER_BUFFER_BYTES) -> None:
        self.asked = asked
        self._buffer_bytes = buffer_bytes
        self.name = secrets.token_hex(8)
        self.told = 0
        """Events that were taken; each has its number."""
        self.connections = 0
        """Rises with each: only the newest takes events."""
        self.left_at: float | None = None
        """When its connection broke; None while it has one."""
        self.over = False
        """Nothing more will come: what waits is all."""
        self.lost_events = 0
        """All that it ever missed."""
        self._waiting: deque[Told | CatchUp] = deque()
        self._waiting_bytes = 0
        self._announced: set[LiveExchange] = set()
        self._judged: dict[LiveExchange, int] = {}
        self._is_full = False
        self._missed = 0
        self._missed_of: dict[str, None] = {}
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._wake = asyncio.Event()

    # --- from the tail

    def begin(self, exchanges: Iterable[LiveExchange]) -> None:
        """Announce those that there are already."""
        for exchange in exchanges:
            self._with_all_before(exchange)
        self._wake.set()

    def _with_all_before(self, exchange: LiveExchange) -> None:
        if self._is_announced(exchange, exchange.exchange.last_record + 1) and exchange.exchange.end_reason is not None:
            self._add(Event(exchange, "end"))

    def offer(self, events: Iterable[Event]) -> None:
        """Take of these what is wanted; nothing once it is over, for the index may have told of what the tail reads later.
        All of them were read before the first is offered."""
        for event in itertools.takewhile(lambda _: not self.over, events):
            exchange = event.exchange
            if event.kind == "row":
                self._row(event)
            elif (exchange in self._announced or self._is_announced(exchange, exchange.first_of_batch)) and self._tells(event):
                self._add(event)
            if event.kind in {"row", "over"}:
                self._forget(exchange)
        self._wake.set()

    def _tells(self, event: Event) -> bool:
        return event.kind == "end" or (event.record is not None and event.record.direction in self.asked.directions)

    def _row(self, event: Event) -> None:
        exchange = event.exchange
        if exchange not in self._announced:
            self._with_all_before(exchange)
        if exchange in self._announced:
            self._add(event)

    def _is_announced(self, exchange: LiveExchange, before: int) -> bool:
        """Announce an exchange if it is certain now that it is wanted, with its chunks of records before this number."""
        if self._judged.get(exchange) == exchange.version:
            return False
        if self._is_full:  # there may be room when it goes on
            self._judged.pop(exchange, None)
            return False
        if not self.asked.means(exchange):
            self._judged[exchange] = exchange.version
            return False
        if not self._add(Event(exchange, "open")):
            return False
        self._announced.add(exchange)
        if self.asked.directions and exchange.exchange.first_record < before:
            self._waiting.append(CatchUp(exchange, before))
            self._waiting_bytes += _HELD_BYTES
        return True

    def _forget(self, exchange: LiveExchange) -> None:
        if exchange not in self._announced and self._is_full and self.asked.means(exchange):
            self._miss(exchange.id)  # there was no room to announce it
        self._announced.discard(exchange)
        self._judged.pop(exchange, None)
        self.over = self.over or exchange.id == self.asked.exchange

    def _add(self, event: Event) -> bool:
        """Put an event into the buffer. Once that is full, count what is missed until half of it was taken."""
        self._is_full = self._is_full or self._waiting_bytes + len(event.data) > self._buffer_bytes
        if self._is_full:
            self._miss(event.exchange.id)
            return False
        self._tell_missed()
        self._waiting.append(Told(event.kind, event.data))
        self._waiting_bytes += len(event.data) + _HELD_BYTES
        return True

    def _miss(self, exchange: str) -> None:
        self._missed += 1
        self.lost_events += 1
        if len(self._missed_of) < LOST_NAMED_MAX:
            self._missed_of[exchange] = None

    def _tell_missed(self) -> None:
        if self._missed:
            self._waiting.append(lost(self._missed, "slow", list(self._missed_of)))
            self._missed = 0
            self._missed_of.clear()

    def finish(self) -> None:
        """Nothing more will come."""
        self.over = True
        self._wake.set()

    # --- to the viewer

    async def wait(self, timeout_s: float) -> None:
        """Until there may be something to take, or the time is over."""
        self._wake.clear()
        if self._waiting or self._missed or self.over:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout_s)

    @property
    def next(self) -> Told | CatchUp | None:
        """What comes next."""
        if not self._waiting:
            self._tell_missed()
        return self._waiting[0] if self._waiting else None

    def take(self) -> list[Told]:
        """The next events, up to a catch-up; some of them, if they are many."""
        taken: list[Told] = []
        size = 0
        while size < TAKEN_AT_ONCE_BYTES and isinstance(item := self.next, Told):
            taken.append(item)
            size += len(item.data)
            self._waiting.popleft()
            if item.kind != "lost":
                self._waiting_bytes -= len(item.data) + _HELD_BYTES
        self._is_full = self._is_full and self._waiting_bytes > self._buffer_bytes // 2
        return taken

    def connect(self) -> int:
        """The number of a new connection."""
        self.connections += 1
        self.left_at = None
        return self.connections

    def caught_up(self) -> None:
        """The catch-up that was next is done."""
        self._waiting.popleft()
        self._waiting_bytes -= _HELD_BYTES

    def sse(self, events: Iterable[Told]) -> bytes:
        """Events on the wire; kept for a while, for a connection that breaks."""
        parts = [self._numbered(event) for event in events]
        while self._kept_bytes > RESUME_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])
        return b"".join(parts)

    def _numbered(self, event: Told) -> bytes:
        self.told += 1
        text = _sse(self.name, self.told, event)
        self._kept.append((self.told, text))
        self._kept_bytes += len(text)
        return text

    def again(self, after: int) -> bytes:
        """On the wire, what was told after the event of this number; what is no longer kept is `lost`."""
        parts = [text for number, text in self._kept if number > after]
        first = self.told + 1 - len(parts)
        if first > after + 1:
            parts.insert(0, _sse(self.name, first - 1, lost(first - 1 - after, "resumed")))
        return b"".join(parts)


def lost(events: int | None, reason: str, exchanges: Iterable[str] = ()) -> Told:
    """Tell a viewer that it missed so many events (None: nobody knows), of these exchanges."""
    return Told("lost", orjson.dumps({"events": events, "reason": reason, "exchanges": list(exchanges)}))


def _sse(viewer: str, number: int, event: Told) -> bytes:
    return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (viewer.encode(), number, event.kind.encode(), event.data)
