"""A small HTTP/1.1 server whose handler writes every byte of its answers itself.

aiohttp adds fields and frames bodies as it likes; what `llmdump serve` gives has to be what was recorded, byte for byte.
So requests are parsed (llhttp), held whole up to a limit, and answered one after another on each connection:

    bytes ─▶ _Parsing ─▶ Asked ─▶ handler(Asked, Connection) ─▶ connection.write(…) …

A request that is wrong or too large is answered here with a few words, and its connection closed.
"""

import asyncio
import collections
import contextlib
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import httptools

HEAD_BYTES_MAX: Final = 256 * 1024
BODY_BYTES_MAX: Final = 128 * 1024 * 1024
CONNECTIONS_MAX: Final = 1000
IDLE_S_MAX: Final = 600.0
"""How long a connection may be silent between and within requests."""
DRAIN_S_MAX: Final = 600.0
"""How long a client may not read."""
SENT_WITHIN_S: Final = 1.0
_READ_BYTES: Final = 256 * 1024
_SIOCOUTQ: Final = 0x5411
_LOOK_EVERY_S: Final = 0.005


class Asked(NamedTuple):
    """A whole request."""

    method: str
    target: str
    version: str
    """`1.1` or `1.0`."""
    fields: list[tuple[str, str]]
    body: bytes
    """Without transfer framing."""
    keeps_alive: bool
    upgrades: bool
    """The client wants another protocol; what follows the head is `rest`."""
    rest: bytes = b""

    def first(self, name: str) -> str | None:
        """The value of the first field of this name (lower case); None if there is none."""
        return next((value for field, value in self.fields if field.lower() == name), None)


Handler = Callable[[Asked, "Connection"], Awaitable[None]]


class Connection:
    """One client's connection, for writing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @property
    def has_gone(self) -> bool:
        """Whether the client is known to have gone, or the connection was closed here."""
        return self._writer.transport.is_closing()

    async def write(self, data: bytes) -> None:
        """Send now, and wait while the client does not read. Raises ConnectionError."""
        if self.has_gone:
            raise ConnectionResetError("the client has gone")
        self._writer.write(data)
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                await self._writer.drain()
        except TimeoutError as err:
            raise ConnectionResetError("the client does not read") from err

    def close(self) -> None:
        """Close when all is sent."""
        self._writer.close()

    async def reset(self) -> None:
        """Break the connection so that the client sees that it was broken, after it has got all that was sent."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(SENT_WITHIN_S):
                while self._writer.transport.get_write_buffer_size() or _unacknowledged_bytes(sock):
                    await asyncio.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _unacknowledged_bytes(sock: socket.socket) -> int:
    """What the kernel still holds of what was sent; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - of no use elsewhere

    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(4)))[0])


class _Parsing:
    """llhttp's callbacks, gathering requests. (They cannot raise: llhttp would make another error of it.)"""

    def __init__(self) -> None:
        self.done: collections.deque[Asked] = collections.deque()
        self.wants_continue = False
        self.in_request = False
        self._head_too_long = False
        self._parser = httptools.HttpRequestParser(self)
        self._clear()

    def _clear(self) -> None:
        self._target = b""
        self._fields: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._in_head = True
        self.head_bytes = 0

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises _RefusedError, httptools.HttpParserError."""
        self.head_bytes += len(data) if self._in_head else 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as err:
            at = err.args[0]
            if self.done and self.done[-1].upgrades:
                self.done[-1] = self.done[-1]._replace(rest=data[at:])
        if self._head_too_long or (self.in_request and self._in_head and self.head_bytes > HEAD_BYTES_MAX):
            raise _RefusedError(431, "Request Header Fields Too Large")
        if self._body_bytes > BODY_BYTES_MAX:
            raise _RefusedError(413, "Content Too Large")

    def on_message_begin(self) -> None:
        self._clear()
        self.in_request = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        self._head_too_long = self._head_too_long or size > HEAD_BYTES_MAX
        self.wants_continue = any(name.lower() == "expect" and value.lower() == "100-continue" for name, value in self._fields)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= BODY_BYTES_MAX:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self.in_request = False
        parser = self._parser
        self.done.append(
            Asked(
                parser.get_method().decode("ascii"), self._target.decode("latin-1"), parser.get_http_version(), self._fields,
                b"".join(self._body), parser.should_keep_alive(), parser.should_upgrade(),
            )
        )  # fmt: skip
        self._clear()


class _RefusedError(Exception):
    """A request beyond a limit."""


async def serve(sock: socket.socket, handler: Handler) -> asyncio.Server:
    """Serve connections of a listening socket; close what it gives. `handler` writes one whole answer, or closes."""
    open_connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            if open_connections > CONNECTIONS_MAX:
                writer.write(_refusal(503, "Too Many Connections"))
            else:
                await _converse(Connection(reader, writer), writer, handler)
        except (ConnectionError, TimeoutError):
            pass  # the client has gone, or has nothing more to say
        except asyncio.CancelledError:
            pass  # the server stops, and asyncio's streams would make a traceback of it
        finally:
            open_connections -= 1
            writer.close()

    return await asyncio.start_server(connected, sock=sock, limit=_READ_BYTES)


async def _converse(connection: Connection, writer: asyncio.StreamWriter, handler: Handler) -> None:
    parsing = _Parsing()
    while not connection.has_gone:
        try:
            asked = await _next(parsing, connection)
        except _RefusedError as err:
            writer.write(_refusal(*err.args))
            return
        except httptools.HttpParserError:
            writer.write(_refusal(400, "Bad Request"))
            return
        if asked is None:
            return
        await handler(asked, connection)
        if asked.upgrades or not asked.keeps_alive:
            return


async def _next(parsing: _Parsing, connection: Connection) -> Asked | None:
    """The next request, None at the end of the connection. Raises what `feed` raises, ConnectionError, TimeoutError."""
    while not parsing.done:
        async with asyncio.timeout(IDLE_S_MAX):
            data = await connection.reader.read(_READ_BYTES)
        if not data:
            return None
        parsing.feed(data)
        if parsing.wants_continue and not parsing.done:
            parsing.wants_continue = False
            await connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return parsing.done.popleft()


def _refusal(status: int, reason: str) -> bytes:
    body = f'{{"error": {{"type": "llmdump_error", "message": "llmdump: {reason}"}}}}'.encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
