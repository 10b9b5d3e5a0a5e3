"""A proxy in this process, between real sockets: raw clients on one side, scripted backends on the other.

`running(...)` gives a `Rig`. Records go to a list instead of a writer, so a test sees them at once. When a rig is left,
and when a scenario is over, nothing may be left behind: every exchange has ended once, as its last record, and no session,
backend connection, task or descriptor is there any more.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

from llmdump import address
from llmdump.record import NO_EXCHANGE, Record, decode
from llmdump.settings import Settings
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.redact import Redaction
from llmdump_proxy.session import Session
from llmdump_proxy.transport import ClientProtocol, Pool
from tests.patience import WAIT_S

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TICK_S = 0.05


class MemoryShelf:
    """Keeps records in a list; `room` False refuses them."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.room = True
        self.why = "overflow"

    def lane(self, exchange: str) -> None:
        return None

    def ship(self, lane: None, number: int, record: bytes, reserve: bool = False) -> bool:
        if self.room or reserve:
            self.records.append(record)
        return self.room or reserve


class Rig:
    """A running proxy and what it recorded."""

    def __init__(
        self, engine: Engine, pool: Pool, shelf: MemoryShelf, port: int, sessions: set[Session], host: str = "127.0.0.1"
    ) -> None:
        self.engine = engine
        self.pool = pool
        self.shelf = shelf
        self.host = host
        self.port = port
        self.sessions = sessions
        self._clients: list[asyncio.StreamWriter] = []

    @property
    def records(self) -> list[Record]:
        return [decode(record) for record in self.shelf.records]

    def of_kind(self, kind: str, direction: int | None = None) -> list[Record]:
        return [r for r in self.records if r.kind == kind and direction in (None, r.direction)]

    async def ends(self, count: int = 1) -> list[Record]:
        """The `end` records, once there are `count` of them."""
        return await self.recorded("end", count=count)

    async def recorded(self, kind: str, direction: int | None = None, *, count: int = 1) -> list[Record]:
        """The records of a kind, once there are `count` of them."""
        await until(lambda: len(self.of_kind(kind, direction)) >= count)
        return self.of_kind(kind, direction)

    def bodies(self, direction: int) -> list[bytes]:
        """The recorded body of each exchange, in order of their beginning."""
        found: dict[str, list[bytes]] = {}
        for record in self.records:
            if record.kind in {"head", "chunk"}:
                found.setdefault(record.exchange, [])
            if record.kind == "chunk" and record.direction == direction:
                found[record.exchange].append(record.data)
        return [b"".join(parts) for parts in found.values()]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=2**20)
        self._clients.append(writer)
        return reader, writer

    async def ask(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything that comes back on a connection of its own, until it is closed."""
        reader, writer = await self.connect()
        writer.write(request)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read(-1)
        writer.close()
        return answer

    def close_clients(self) -> None:
        for writer in self._clients:
            writer.close()

    def abort_clients(self) -> None:
        for writer in self._clients:
            writer.transport.abort()

    async def nothing_is_left(self) -> None:
        """Wait until sessions and backend connections are gone, and check the records for whole exchanges."""
        await until(lambda: not self.sessions and not self.pool.idle and not self.pool.busy)
        assert self.engine.stats.open_exchanges == 0
        ended: dict[str, int] = {}
        for record in self.records:
            assert not ended.get(record.exchange), f"{record} after the end of its exchange"
            ended[record.exchange] = record.kind == "end"
        unfinished = [exchange for exchange, over in ended.items() if not over and exchange != NO_EXCHANGE]
        assert not unfinished or not self.shelf.room, f"no end record: {unfinished}"


async def until(promise: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait for something that happens soon and tells nobody."""
    async with asyncio.timeout(within_s):
        while not promise():
            await asyncio.sleep(0.002)


def wire_of_chunks(chunks: list[Record]) -> bytes:
    """The bytes on the wire of a chunked body, from its records; see `llmdump.record`."""
    return b"".join(map(_wire_of_chunk, chunks))


def _wire_of_chunk(chunk: Record) -> bytes:
    framing = chunk.meta.get("x_f")
    if framing is None:
        return b"%x\r\n%b\r\n" % (len(chunk.data), chunk.data)
    at, parts = 0, []
    for item in framing:
        if isinstance(item, int):
            parts.append(chunk.data[at : at + item])
            at += item
        else:
            parts.append(item)
    assert at == len(chunk.data)
    return b"".join(parts)


@asynccontextmanager
async def backend(handler: Handler, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[str]:
    """A TCP server that runs `handler` for each connection; gives its `host:port`. What a handler asserts, fails the test."""
    tasks: set[asyncio.Task[Any]] = set()
    failures: list[BaseException] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as err:
            failures.append(err)
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
    for failure in failures:
        raise failure


@asynccontextmanager
async def running(
    upstream: str = "", *, scheme: str = "http", host: str = "127.0.0.1", shelf: MemoryShelf | None = None, **settings: Any
) -> AsyncIterator[Rig]:
    """A proxy in front of `upstream` (`host:port`), with these settings."""
    if upstream:
        settings.setdefault("upstream", f"{scheme}://{upstream}")
    loop = asyncio.get_running_loop()
    chosen = Settings(**settings)
    shelf, stats, sessions = shelf or MemoryShelf(), Stats(), set[Session]()
    redaction = None
    if chosen.capture_redact_bodies:
        literals = [text.encode() for text in chosen.capture_redact_literals]
        redaction = Redaction(literals, [text.encode() for text in chosen.capture_redact_patterns])
    recorder = Recorder("0123456789abcdef", shelf, chosen.capture_truncate_bytes, redaction)
    pool = Pool(chosen, stats, loop)
    engine = Engine(chosen, recorder, pool, stats, loop.time())
    server = await loop.create_server(lambda: ClientProtocol(engine, sessions), host, 0)
    ticking = loop.create_task(_tick(engine, pool, sessions))
    rig = Rig(engine, pool, shelf, server.sockets[0].getsockname()[1], sessions, host)
    try:
        yield rig
        shut_down(server, rig)
    except BaseException:
        rig.abort_clients()
        shut_down(server, rig)
        with suppress(TimeoutError):  # uvloop may hang in closing a loop on which there are still connections
            await until(lambda: not sessions, 1)
        raise
    else:
        rig.close_clients()
        await rig.nothing_is_left()
    finally:
        ticking.cancel()


def shut_down(server: asyncio.Server, rig: Rig) -> None:
    server.close()
    for session in list(rig.sessions):
        session.shut_down()
    rig.pool.close()


async def _tick(engine: Engine, pool: Pool, sessions: set[Session]) -> None:
    """As the proxy does, but with a clock that stands still while this process is held up: what was to come meanwhile could
    not, for both ends are in here too."""
    loop = asyncio.get_running_loop()
    while True:
        engine.clock.now = min(loop.time(), engine.clock.now + 2 * TICK_S)
        for session in list(sessions):
            session.tick()
        pool.tick()
        await asyncio.sleep(TICK_S)


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test on uvloop, as the proxy does."""

    def run() -> None:
        uvloop.run(_leaving_nothing(test))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def _leaving_nothing(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with backend(replying(b"")):
        before = descriptors() - 1  # with what libuv opens for the first listening socket, and without that socket
    try:
        await test()
    finally:
        gc.collect()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    await until(lambda: descriptors() <= before)


def descriptors() -> int:
    """Open file descriptors of this process."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


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
