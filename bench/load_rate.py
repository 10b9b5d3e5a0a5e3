"""Plain requests at a constant rate, open loop: the next one is due whether or not the last one is answered.

A latency counts from when its request was due, so a stall of an arm delays all that were due meanwhile, and is seen.
"""

import asyncio
import time
from collections import deque

import httptools

from bench import bodies, ticker
from bench.connections import connect, leave

WITHIN_S = 60.0


class Client(asyncio.Protocol):
    """A connection that tells when an answer is whole."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._due_ns = 0
        self.read_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.over.done():
            self._load.over.set_exception(ConnectionError("a connection was closed under way"))

    def send(self, index: int, due_ns: int) -> None:
        """The next request."""
        self._due_ns = due_ns
        self.transport.write(bodies.request(self._load.request_bytes, index))

    def data_received(self, data: bytes) -> None:
        self.read_bytes += len(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._parser.get_status_code() != 200:
            self._load.failed += 1
        self._parser = httptools.HttpResponseParser(self)
        self._load.answered(self, time.monotonic_ns() - self._due_ns)


class Load:
    """One run of it."""

    def __init__(self, request_bytes: int, rate_per_s: float, count: int) -> None:
        self.request_bytes = request_bytes
        self.latencies_ns: list[int] = []
        self.failed = 0
        self.captured_bytes = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gap_ns = int(1e9 / rate_per_s)
        self._count = count
        self._idle: list[Client] = []
        self._waiting: deque[tuple[int, int]] = deque()

    async def run(self, port: int, connections: int) -> None:
        """All of it, until the last answer. Raises TimeoutError and OSError."""
        clients = await connect(lambda: Client(self), port, connections)
        self._idle = list(clients)
        begin_ns = time.monotonic_ns() + 10_000_000
        due = [begin_ns + index * self._gap_ns for index in range(self._count)]
        try:
            async with asyncio.timeout(self._count * self._gap_ns / 1e9 + WITHIN_S):
                await ticker.at_times(due, lambda index: self._send(index, due[index]))
                await self.over
        finally:
            await leave(clients)
        read_bytes = sum(client.read_bytes for client in clients)
        self.captured_bytes = read_bytes + self._count * len(bodies.request(self.request_bytes, 0))

    def _send(self, index: int, due_ns: int) -> None:
        if self.over.done():
            return  # it has failed
        if self._idle:
            self._idle.pop().send(index, due_ns)
        else:
            self._waiting.append((index, due_ns))

    def answered(self, client: Client, latency_ns: int) -> None:
        """A request is over; the connection takes the next one that is due."""
        self.latencies_ns.append(latency_ns)
        if self._waiting:
            client.send(*self._waiting.popleft())
        else:
            self._idle.append(client)
        if len(self.latencies_ns) == self._count and not self.over.done():
            self.over.set_result(None)
