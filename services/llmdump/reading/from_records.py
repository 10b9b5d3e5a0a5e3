"""An exchange read from its records: request and answer put together, in the order of their numbers, and understood.

    records ─▶ request body (codings undone) ─▶ Reader(request, status, fields)
            ─▶ answer: Body or WebSocket ─▶ Event, … ─▶ Reader ─▶ Reading

What was left out by a capture rule, or cut short, ends what can be read of a body. An answer may begin before the
request has ended; it waits for the request up to `WAITING_BYTES_MAX`. Bodies are held up to the limits of `framing`.
Pure; never raises for what is in the records.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.reading import detect, prices
from llmdump.reading.exchange import Reading, Request
from llmdump.reading.framing import BODY_BYTES_MAX, Body, WebSocket
from llmdump.reading.prices import PriceTable
from llmdump.reading.reader import Reader
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump.values import integer, micros

WAITING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of an answer that begins before its request has ended."""


class Told(NamedTuple):
    """What the records tell."""

    request: Request
    reading: Reading
    problem: str
    """What was wrong with a body: that of the answer, else that of the request."""
    answer_cut: bool
    """Bytes of the answer were not kept."""


class FromRecords:
    """One exchange being read."""

    def __init__(self, started_us: int) -> None:
        """`started_us` is what times count from, µs since 1970."""
        self._started_us = started_us
        self._head = heads.Head(("", "", ""), [])
        self._backend = ""
        self._upstream = ""
        self._asking = _Asking()
        self._answering: _Answering | None = None
        self._waiting: list[tuple[Record, int]] = []
        self._waiting_bytes = 0

    def take(self, record: Record) -> None:
        """The next record."""
        at_us = micros(record.ts) - self._started_us
        at_us = max(at_us, 0)
        kind, direction, answering = record.kind, record.direction, self._answering
        if kind == "chunk" and direction == BACKEND_TO_PROXY and answering is not None and not self._waiting:
            answering.take(record, at_us)  # nearly all records are these
        elif direction == CLIENT_TO_PROXY and kind in {"head", "chunk"}:
            self._ask(record)
        elif kind == "forward":
            upstream = record.meta.get("x_up")
            self._upstream = upstream.rpartition("/")[2] if isinstance(upstream, str) else ""
        elif kind in {"pipe", "answer"} or (direction == BACKEND_TO_PROXY and kind in {"head", "chunk"}):
            self._answer(record, at_us)

    def finish(self, *, ended: bool) -> Told:
        """What was told. `ended`: the exchange came to its end by the rules of HTTP."""
        self._release()
        request = self._request()
        answering = self._answering or _Answering(request, None, [], upgraded=False)
        reading = answering.finish(ended)
        return Told(request, reading, answering.problem or self._asking.problem, answering.is_cut)

    def _ask(self, record: Record) -> None:
        if record.kind == "head":
            self._head = heads.parse(record.data)
            backend = record.meta.get("be")
            self._backend = backend if isinstance(backend, str) else ""
            self._asking = _Asking(self._head.all("content-encoding"))
        else:
            self._asking.take(record)
            if self._asking.is_over:
                self._release()

    def _answer(self, record: Record, at_us: int) -> None:
        if self._asking.has_begun and not self._asking.is_over and self._waiting_bytes < WAITING_BYTES_MAX:
            self._waiting.append((record, at_us))
            self._waiting_bytes += len(record.data)
            return
        self._release()
        self._give(record, at_us)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for record, at_us in waiting:
            self._give(record, at_us)

    def _give(self, record: Record, at_us: int) -> None:
        if record.kind in {"head", "answer"}:
            head, _, body = record.data.partition(b"\r\n\r\n")
            fields = heads.parse(head).fields
            status = integer(record.meta.get("sc"))
            self._answering = _Answering(self._request(), status, fields, upgraded=status == 101)
            if record.kind == "answer":
                self._answering.body(body, at_us)
        elif self._answering is not None:
            self._answering.take(record, at_us)

    def _request(self) -> Request:
        method, target, _ = self._head.start
        return Request(
            method, target, self._host(), self._backend, self._head.fields, self._asking.body(),
            body_whole=self._asking.is_whole,
        )  # fmt: skip

    def _host(self) -> str:
        """Where it was sent to, for clients ask the proxy's own host; but theirs if only that one is a service's."""
        asked = self._head.first("host")
        return asked if detect.by_host(asked) and not detect.by_host(self._upstream) else self._upstream or asked


class _Asking:
    """The request body."""

    def __init__(self, codings: list[str] | None = None) -> None:
        self._decoder: Decoder | None = None
        self._parts: list[bytes] = []
        self._room = BODY_BYTES_MAX
        self._cut = False
        self.problem = ""
        self.has_begun = self.is_over = False
        try:
            self._decoder = Decoder(codings, BODY_BYTES_MAX) if codings else None
        except ValueError:
            self.problem = "unknown_coding"

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there."""
        return (self.is_over or not self.has_begun) and not self._cut and not self.problem

    def take(self, record: Record) -> None:
        """The next chunk."""
        self.has_begun = True
        self.is_over = self.is_over or record.ends_body
        if not self._cut:
            self._add(self._decoder.feed(record.data) if self._decoder else record.data)
        self._cut = self._cut or record.mentions(b"x_cut")

    def _add(self, data: bytes) -> None:
        if len(data) > self._room or (self._decoder and self._decoder.problem):
            self.problem = (self._decoder and self._decoder.problem) or "limit"
            self._cut = True
        self._parts.append(data[: self._room])
        self._room -= len(self._parts[-1])

    def body(self) -> bytes:
        """What there is of it, decoded."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""


class _Answering:
    """The answer, and what reads it."""

    def __init__(self, request: Request, status: int | None, fields: list[tuple[str, str]], *, upgraded: bool) -> None:
        head = heads.Head(("", "", ""), fields)
        self._reader = Reader(request, status, fields)
        is_socket = upgraded and head.first("upgrade").lower() == "websocket"
        self._socket = WebSocket(fields) if is_socket else None
        self._body = Body(head.first("content-type"), head.all("content-encoding"))
        self._last_us = 0
        self.is_cut = False

    @property
    def problem(self) -> str:
        """What was wrong with the bytes."""
        return self._socket.problem if self._socket else self._body.problem

    def take(self, record: Record, at_us: int) -> None:
        """The next chunk, or bytes after an upgrade."""
        if self._socket is not None:
            self._message(self._socket, record, at_us)
        elif record.direction == BACKEND_TO_PROXY and not self.is_cut:
            self._last_us = at_us
            for event in self._body.feed(record.data, at_us):
                self._reader.event(event)
        if record.mentions(b"x_cut"):
            self.is_cut = True

    def body(self, data: bytes, at_us: int) -> None:
        """Bytes of the body."""
        self._last_us = at_us
        for event in self._body.feed(data, at_us):
            self._reader.event(event)

    def finish(self, ended: bool) -> Reading:
        """What was read."""
        if self._socket is not None:
            self._socket.finish()
            return self._reader.finish(ended and not self.is_cut, "websocket", self._socket.problem)
        for event in self._body.finish(self._last_us):
            self._reader.event(event)
        return self._reader.finish(ended and not self.is_cut, self._body.framing, self._body.problem)

    def _message(self, socket: WebSocket, record: Record, at_us: int) -> None:
        if self.is_cut:
            return
        for event in socket.feed(record.direction, record.data, at_us):
            if record.direction == CLIENT_TO_PROXY:
                self._reader.client_event(event)
            else:
                self._reader.event(event)


def read(records: Iterable[Record], started_us: int, *, ended: bool, table: PriceTable | None = None) -> Told:
    """What these records of one exchange tell, with its cost by `table`."""
    reading = FromRecords(started_us)
    for record in records:
        reading.take(record)
    told = reading.finish(ended=ended)
    if table is not None:
        told.reading.normalised["cost_usd"] = _cost_usd(told.reading, table)
    return told


def _cost_usd(reading: Reading, table: PriceTable) -> float | None:
    """What the provider says it charged, else the sum by the table."""
    normalised: dict[str, Any] = reading.normalised
    reported = prices.reported_cost_usd(reading.usage_raw)
    tokens = prices.tokens_of(normalised, reading.usage_raw)
    if reported is not None or tokens is None:
        return reported
    return table.cost_usd(reading.reading["provider"], normalised["model"], tokens)
