"""A recorded WebSocket given again: what the backend sent, each time the client has said as much as it had then.

    recorded   101 ── c1 ──▶ s1 s2 s3 ── c2 ──▶ s4 …  c: messages of the client, s: bytes of the backend
    given      101 ── c1 ──▶ s1 s2 s3 ── c2 ──▶ s4 …  paced from the client's message on

The client's messages are counted, the first one has chosen the recording (see `shelf`). Frames are those that were
recorded. Compression is never agreed on: a backend that had compressed is given message for message, in whole frames.
Pings are answered here.
"""

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from llmdump import heads
from llmdump.reading.framing import EVENT_BYTES_MAX
from llmdump.reading.websocket import WebSocketDirection, is_deflate_agreed
from llmdump.record import BACKEND_TO_PROXY, Record
from llmdump_api.giving import Source
from llmdump_api.http_server import Asked, Connection
from llmdump_api.replay import Schedule

SILENT_S_MAX: Final = 3600.0
"""How long a client is waited for."""
LEAVES_WITHIN_S: Final = 2.0
"""How long a client may take to answer a close."""
_READ_BYTES: Final = 256 * 1024
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_PONG: Final = 10
_LEFT_OUT: Final = frozenset((b"sec-websocket-accept", b"sec-websocket-extensions"))
NORMAL: Final = 1000
POLICY: Final = 1008


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole, unmasked frame (RFC 6455 section 5.2)."""
    size = len(payload)
    length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 1 << 16 else b"\x7f" + size.to_bytes(8)
    return bytes((0x80 | opcode,)) + length + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame."""
    return frame(_CLOSE, code.to_bytes(2) + reason.encode()[:120])


def refusal(event: bytes, reason: str) -> bytes:
    """An event as a text message, and the end."""
    return frame(_TEXT, event) + close_frame(POLICY, reason)


def switching(asked: Asked, recorded: bytes) -> bytes:
    """The 101 for this request, otherwise as recorded."""
    key = asked.first("sec-websocket-key") or ""
    accept = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest())
    lines = recorded.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _LEFT_OUT]
    return b"\r\n".join([*kept, b"Sec-WebSocket-Accept: " + accept]) + b"\r\n\r\n"


class Client:
    """The client's side while it is open. Use it in a `with`."""

    def __init__(self, connection: Connection, rest: bytes) -> None:
        """`rest` came right behind the request."""
        self._connection = connection
        self._frames = WebSocketDirection(EVENT_BYTES_MAX, inflates=False)
        self._changed = asyncio.Condition()
        self._rest = rest
        self._reading: asyncio.Task[None] | None = None
        self.first: bytes | None = None
        """Its first message."""
        self.messages = 0
        self.has_left = False
        """It has closed, or has gone."""

    def __enter__(self) -> "Client":
        self._reading = asyncio.ensure_future(self._read())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()

    async def _read(self) -> None:
        data = self._rest
        with contextlib.suppress(ConnectionError):
            while not self._frames.problem and self._frames.close_code is None:
                await self._take(data)
                if not (data := await self._connection.reader.read(_READ_BYTES)):
                    break
                await self._take(data)
                data = b""
        async with self._changed:
            self.has_left = True
            self._changed.notify_all()

    async def _take(self, data: bytes) -> None:
        messages = self._frames.feed(data, 0)
        if self._frames.ping is not None:
            payload, self._frames.ping = self._frames.ping, None
            await self._connection.write(frame(_PONG, payload))
        async with self._changed:
            self.messages += len(messages)
            self.first = messages[0].data if messages and self.first is None else self.first
            self._changed.notify_all()

    async def has_said(self, messages: int) -> bool:
        """Wait until it has said so many; False if it leaves before. Raises TimeoutError."""
        async with asyncio.timeout(SILENT_S_MAX), self._changed:
            await self._changed.wait_for(lambda: self.messages >= messages or self.has_left)
        return self.messages >= messages

    async def leaves(self, within_s: float) -> None:
        """Wait until it has left, or for that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: self.has_left)


class Talk:
    """One recording being given to a client."""

    def __init__(self, client: Client, connection: Connection, speed: float) -> None:
        self._client = client
        self._connection = connection
        self._schedule = Schedule(speed)
        self._began_s = time.monotonic()
        self._wanted = 0
        self._has_closed = False

    async def give(self, exchange: Source) -> None:
        """Give all that was recorded, then end the connection. Raises ConnectionError, TimeoutError, OSError, ValueError."""
        async with aclosing(exchange.records()) as records:  # type: ignore[type-var]
            reason = await self._give(records)
        if not self._has_closed:
            if reason in {"complete", "client_closed"}:
                await self._client.leaves(SILENT_S_MAX)
            await self._connection.write(close_frame(NORMAL, ""))
        await self._client.leaves(LEAVES_WITHIN_S)
        self._connection.close()

    async def _give(self, records: AsyncIterator[Record]) -> str:
        """How it had ended."""
        recorded: dict[int, WebSocketDirection] = {}
        compressed = False
        async for record in records:
            if record.kind == "head" and record.direction == BACKEND_TO_PROXY:
                compressed = is_deflate_agreed(heads.parse(record.data).all("sec-websocket-extensions"))
                recorded = {way: WebSocketDirection(EVENT_BYTES_MAX, inflates=compressed) for way in (0, BACKEND_TO_PROXY)}
                self._now_is(record.ts)
            elif record.kind == "pipe" and record.direction == BACKEND_TO_PROXY:
                await self._send(record, recorded[BACKEND_TO_PROXY], compressed)
            elif record.kind == "pipe" and not await self._heard(record, recorded[0]):
                return "client_closed"
            elif record.kind == "end":
                return str(record.meta.get("x_end"))
        return "lost"

    async def _heard(self, record: Record, recorded: WebSocketDirection) -> bool:
        """Wait until the client has said what it had said by then; False if it leaves instead."""
        messages = len(recorded.feed(record.data, 0))
        self._wanted += messages
        if recorded.close_code is not None:
            await self._client.leaves(SILENT_S_MAX)
        elif messages and not await self._client.has_said(self._wanted):
            return False
        if messages:
            self._now_is(record.ts)
        return True

    def _now_is(self, ts: float) -> None:
        """From here on, times count from this recorded one."""
        self._began_s = time.monotonic() - self._schedule.due_s(ts)

    async def _send(self, record: Record, recorded: WebSocketDirection, compressed: bool) -> None:
        left_s = self._began_s + self._schedule.due_s(record.ts) - time.monotonic()
        if left_s > 0:
            await asyncio.sleep(left_s)
        messages = recorded.feed(record.data, 0)
        data = record.data
        if compressed:
            data = b"".join(frame(_TEXT if one.kind == "text" else _BINARY, one.data) for one in messages)
        if recorded.close_code is not None and not self._has_closed:
            self._has_closed = True
            data += close_frame(recorded.close_code, "") if compressed and recorded.close_code != 1005 else b""
        if data:
            await self._connection.write(data)
