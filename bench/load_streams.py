"""Streams of events, read as they come: how long until the first, and whether they keep the gaps they were sent with."""

import asyncio
import re
import time

import httptools

from bench import bodies, ticker
from bench.connections import connect, leave

STAMP = re.compile(rb"\d{20}")
STAMP_BYTES = 20
WITHIN_S = 90.0


class Reader(asyncio.Protocol):
    """A connection that asks for streams, one after the other."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._asked_ns = 0
        self._rest = b""
        self._last = (0, 0)
        self._left = load.streams_each
        self.read_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left and not self._load.over.done():
            self._load.over.set_exception(ConnectionError("a stream was cut"))

    def ask(self, due_ns: int) -> None:
        """The next stream; the time to its first event counts from `due_ns`."""
        self._asked_ns, self._last, self._rest = due_ns, (0, 0), b""
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(self._load.next_request())

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.monotonic_ns()
        self.read_bytes += len(data)
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A piece of the stream, at whatever place it was cut."""
        text = self._rest + body
        end = 0
        for found in STAMP.finditer(text):
            end = found.end()
            self._event(int(found[0]))
        self._rest = text[max(end, len(text) - STAMP_BYTES + 1) :]

    def _event(self, written_ns: int) -> None:
        last_written_ns, last_read_ns = self._last
        if last_written_ns:
            self._load.skews_ns.append((self._now_ns - last_read_ns) - (written_ns - last_written_ns))
        else:
            self._load.first_ns.append(self._now_ns - self._asked_ns)
        self._last = written_ns, self._now_ns
        self._load.events += 1

    def on_message_complete(self) -> None:
        """The stream is over."""
        self._left -= 1
        if self._left:
            self.ask(self._now_ns)
        else:
            self._load.ended()


class Load:
    """One run of it."""

    def __init__(self, request_bytes: int, events: int, gap_s: float, *, streams_each: int = 1, spread_s: float = 0.1) -> None:
        """Each connection asks for `streams_each`; the first ones are asked for evenly within `spread_s`."""
        self._request_bytes = request_bytes
        self._query = f"?events={events}&gap_s={gap_s}"
        self._lasts_s = events * gap_s * streams_each
        self.streams_each = streams_each
        self.first_ns: list[int] = []
        self.skews_ns: list[int] = []
        """Of each event but the first: the gap before it at the client less that at the backend."""
        self.events = 0
        self.captured_bytes = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spread_ns = int(spread_s * 1e9)
        self._numbers = 0
        self._open = 0

    async def run(self, port: int, connections: int) -> None:
        """All of it, until the last stream is over. Raises TimeoutError and OSError."""
        readers = await connect(lambda: Reader(self), port, connections)
        self._open = connections
        begin_ns = time.monotonic_ns() + 10_000_000
        due = [begin_ns + index * self._spread_ns // connections for index in range(connections)]
        try:
            async with asyncio.timeout(self._spread_ns / 1e9 + self._lasts_s + WITHIN_S):
                await ticker.at_times(due, lambda index: readers[index].ask(due[index]))
                await self.over
        finally:
            await leave(readers)
        self.captured_bytes = sum(reader.read_bytes for reader in readers)
        self.captured_bytes += self._numbers * len(self._request(0))

    def next_request(self) -> bytes:
        """With the next number."""
        self._numbers += 1
        return self._request(self._numbers)

    def _request(self, number: int) -> bytes:
        return bodies.request(self._request_bytes, number, self._query)

    def ended(self) -> None:
        """A connection has read all its streams."""
        self._open -= 1
        if not self._open and not self.over.done():
            self.over.set_result(None)
