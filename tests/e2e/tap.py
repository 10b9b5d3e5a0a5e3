"""A wire tap: a TCP relay that keeps every read with its time, and reads the recorded bytes as HTTP/1.1 by h11.

    client → front tap → proxy → back tap → backend

What crossed on both sides of the proxy is then known byte for byte, from a hand that is not llmdump's. A call made
straight to the back tap is the same call without the proxy.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import h11

from tests.patience import WAIT_S

CLIENT, SERVER = "client", "server"
_READ_BYTES: Final = 256 * 1024
_HEAD_BYTES_MAX: Final = 1024 * 1024
# Fields of a connection and not of the message (RFC 9110 section 7.6.1), Host, and Date, which is the clock's.
OWN_FIELDS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"host", b"date"}
)


class Read(NamedTuple):
    """Bytes of one read, when and from whom."""

    ts: float
    side: str
    data: bytes


class Message(NamedTuple):
    """A request or a response as it crossed."""

    head: bytes
    body: bytes
    chunks: list[bytes]
    """Of a chunked body, its chunks; else empty."""
    whole: bool
    """Whether its end crossed too."""
    after: bytes
    """What followed an upgrade."""
    arrivals: list[tuple[float, int]]
    """When how many bytes of the body were there."""

    @property
    def lines(self) -> list[bytes]:
        """The head's lines in order, case and spacing, without those that belong to the connection, to Host or Date."""
        start, *fields = self.head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        return [start, *(line for line in fields if line.partition(b":")[0].strip().lower() not in OWN_FIELDS)]

    def arrived(self, offset: int) -> float:
        """When the body byte before this offset was there."""
        return next(ts for ts, total in self.arrivals if total >= offset)


class Connection:
    """One connection through a tap."""

    def __init__(self) -> None:
        self.reads: list[Read] = []

    def exchange(self) -> tuple[Message, Message]:
        """The first request and its response, as far as they have crossed. Fails where a head is not whole."""
        request = self._message(CLIENT, h11.Connection(h11.SERVER, _HEAD_BYTES_MAX))
        asked = h11.Connection(h11.CLIENT, _HEAD_BYTES_MAX)
        method, target, _ = request.head.split(b"\r\n", 1)[0].split(b" ")
        fields: list[Any] = [("Host", "tap")]
        if request.after or b"\r\nupgrade:" in request.head.lower():
            fields += [("Connection", "upgrade"), ("Upgrade", "websocket")]
        asked.send(h11.Request(method=method, target=target, headers=fields))
        asked.send(h11.EndOfMessage())
        return request, self._message(SERVER, asked)

    def _message(self, side: str, parser: h11.Connection) -> Message:
        reading = _Reading(parser)
        for read in self.reads:
            if read.side == side:
                reading.feed(read.ts, read.data)
        return reading.message(b"".join(read.data for read in self.reads if read.side == side))


class _Reading:
    """One message while its bytes are read."""

    def __init__(self, parser: h11.Connection) -> None:
        self._parser = parser
        self._interim = 0
        self._begun = self._upgraded = self._whole = False
        self._chunks = [b""]
        self._arrivals: list[tuple[float, int]] = []

    def feed(self, ts: float, data: bytes) -> None:
        """The next bytes. Raises h11.RemoteProtocolError."""
        self._parser.receive_data(data)
        before = self._size()
        while not self._whole and not self._upgraded:
            event = self._parser.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            self._take(event)
        if self._size() > before:
            self._arrivals.append((ts, self._size()))

    def _take(self, event: Any) -> None:
        if isinstance(event, h11.InformationalResponse):
            self._upgraded = self._begun = event.status_code == 101
            self._interim += not self._upgraded
        elif isinstance(event, h11.Request | h11.Response):
            self._begun = True
        elif isinstance(event, h11.Data):
            self._chunks[-1] += event.data
            if event.chunk_end:
                self._chunks.append(b"")
        elif isinstance(event, h11.EndOfMessage):
            self._whole = True

    def message(self, wire: bytes) -> Message:
        """What was read; `wire` are all the bytes. Fails where the head is not there."""
        assert self._begun, wire[:1000]
        if not self._whole and not self._upgraded:
            self._end()
        rest = wire
        for _ in range(self._interim):
            rest = rest.partition(b"\r\n\r\n")[2]
        head, blank, rest = rest.partition(b"\r\n\r\n")
        head += blank
        chunked = b"\r\ntransfer-encoding: chunked\r\n" in head.lower()
        upgrade = b"\r\nupgrade:" in head.lower()
        return Message(
            head,
            b"".join(self._chunks),
            self._chunks[:-1] if chunked else [],
            self._whole or self._upgraded,
            rest if upgrade else b"",
            self._arrivals,
        )

    def _end(self) -> None:
        """The connection is over: the end of a body without a length, else a cut."""
        try:
            self._parser.receive_data(b"")
            self._take(self._parser.next_event())
        except h11.RemoteProtocolError:
            pass

    def _size(self) -> int:
        return sum(map(len, self._chunks))


class Tap:
    """A relay to one address. Made by `tapping`."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self.url = ""
        self.connections: list[Connection] = []

    @property
    def last(self) -> Connection:
        """The newest connection."""
        return self.connections[-1]

    async def serve(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection()
        self.connections.append(connection)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pump(connection, CLIENT, reader, far_writer), _pump(connection, SERVER, far_reader, writer))
        finally:
            writer.close()
            far_writer.close()


async def _pump(connection: Connection, side: str, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_READ_BYTES):
            connection.reads.append(Read(time.time(), side, data))
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        target.transport.abort()


@contextlib.contextmanager
def tapping(target: str) -> Iterator[Tap]:
    """A tap before `target` (a base URL), in a thread of its own."""
    tap, up = Tap(target), threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def live() -> None:
        down = asyncio.Event()
        running.append((asyncio.get_running_loop(), down))
        async with await tap.serve():
            up.set()
            await down.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert up.wait(WAIT_S)
    try:
        yield tap
    finally:
        loop, down = running[0]
        loop.call_soon_threadsafe(down.set)
        thread.join(WAIT_S)
