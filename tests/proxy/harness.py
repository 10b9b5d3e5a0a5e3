"""A proxy in this process, between real sockets: raw clients on one side, scripted backends on the other.

`running(...)` gives a `Rig`. Records go to a list instead of a writer, so a test sees them at once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from llmdump import address
from llmdump.record import Record, decode
from llmdump.settings import Settings
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.redact import Redaction
from llmdump_proxy.session import Session
from llmdump_proxy.transport import ClientProtocol, Pool

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WITHIN_S = 10.0
TICK_S = 0.05


class MemoryShelf:
    """Keeps records in a list; `room` False refuses them."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.room = True

    def lane(self, exchange: str) -> None:
        return None

    def ship(self, lane: None, number: int, record: bytes, *, reserve: bool = False) -> bool:
        if self.room or reserve:
            self.records.append(record)
        return self.room or reserve


class Rig:
    """A running proxy and what it recorded."""

    def __init__(self, engine: Engine, pool: Pool, shelf: MemoryShelf, port: int, sessions: set[Session]) -> None:
        self.engine = engine
        self.pool = pool
        self.shelf = shelf
        self.port = port
        self.sessions = sessions

    @property
    def records(self) -> list[Record]:
        return [decode(record) for record in self.shelf.records]

    def of_kind(self, kind: str, direction: int | None = None) -> list[Record]:
        return [r for r in self.records if r.kind == kind and direction in (None, r.direction)]

    async def ends(self, count: int = 1) -> list[Record]:
        """The `end` records, once there are `count` of them."""
        async with asyncio.timeout(WITHIN_S):
            while len(found := self.of_kind("end")) < count:
                await asyncio.sleep(0.005)
        return found

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def ask(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything that comes back on a connection of its own, until it is closed."""
        reader, writer = await self.connect()
        writer.write(request)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(WITHIN_S):
            answer = await reader.read(-1)
        writer.close()
        return answer


@asynccontextmanager
async def backend(handler: Handler, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[str]:
    """A TCP server that runs `handler` for each connection; gives its `host:port`."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, host, 0, limit=2**20, **options)
    try:
        yield address.bound(server.sockets[0])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0)


@asynccontextmanager
async def running(upstream: str = "", *, scheme: str = "http", **settings: Any) -> AsyncIterator[Rig]:
    """A proxy in front of `upstream` (`host:port`), with these settings."""
    if upstream:
        settings.setdefault("upstream", f"{scheme}://{upstream}")
    loop = asyncio.get_running_loop()
    chosen = Settings(**settings)
    shelf, stats, sessions = MemoryShelf(), Stats(), set[Session]()
    redaction = None
    if chosen.capture_redact_bodies:
        literals = [text.encode() for text in chosen.capture_redact_literals]
        redaction = Redaction(literals, [text.encode() for text in chosen.capture_redact_patterns])
    recorder = Recorder("0123456789abcdef", shelf, chosen.capture_truncate_bytes, redaction)
    pool = Pool(chosen, stats, loop)
    engine = Engine(chosen, recorder, pool, stats, loop.time())
    server = await loop.create_server(lambda: ClientProtocol(engine, sessions), "127.0.0.1", 0)
    ticking = loop.create_task(_tick(engine, pool, sessions))
    try:
        yield Rig(engine, pool, shelf, server.sockets[0].getsockname()[1], sessions)
    finally:
        ticking.cancel()
        server.close()
        for session in list(sessions):
            session.shut_down()
        pool.close()
        await asyncio.sleep(0.01)


async def _tick(engine: Engine, pool: Pool, sessions: set[Session]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        engine.clock.now = loop.time()
        for session in list(sessions):
            session.tick()
        pool.tick()
        await asyncio.sleep(TICK_S)


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test on uvloop, as the proxy does."""

    def run() -> None:
        uvloop.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def replying(response: bytes, *, close: bool = False) -> Handler:
    """A backend that reads one head (and its Content-Length body) at a time and answers each with the same bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(response)
            await writer.drain()
            if close:
                return

    return handle


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request, by Content-Length or chunked (raw)."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return head, await reader.readuntil(b"0\r\n\r\n")
    at = lower.find(b"content-length:")
    length = int(lower[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
    return head, await reader.readexactly(length)
