"""A recorded answer given again to whoever asks, as the backend gave it: head, bytes, reads, chunk framing, pace, cut.

    recorded   request ──── head ──── chunk ─ chunk ────── chunk ─ end
    given      request ──── head ──── chunk ─ chunk ────── chunk         each gap / speed, counted from the request's end

Of the head only what belongs to the connection is left out (RFC 9110 section 7.6.1), and `Connection: close` put in where
the connection ends here. The body has its recorded framing, chunk for chunk and read for read. An answer that was cut is
cut at the same byte: the connection is closed, or broken where it was broken or its end would be taken for the body's.

Two clients cannot be given the recorded bytes. One that speaks HTTP/1.0 gets no chunked framing. One that does not take
the recorded content coding gets the body decoded, piece by piece, in chunks: a coding is taken if Accept-Encoding names
it (or `*`) without `q=0`, or is what it was in the recorded request.
"""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final, Protocol

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_api.http_server import Asked, Connection
from llmdump_api.replay import Schedule, Sending
from llmdump_api.trace import split_answer

DECODED_BYTES_MAX: Final = 1024 * 1024 * 1024
_OF_THE_CONNECTION: Final = frozenset(("connection", "keep-alive", "proxy-connection"))
_NEVER_LEFT_OUT: Final = frozenset(("transfer-encoding", "content-length", "upgrade"))
_BODILESS: Final = frozenset(("204", "304"))
_QUALITY_0: Final = re.compile(r"q=0(\.0*)?")


class Source(Protocol):
    """An exchange whose records can be read."""

    def records(self) -> AsyncIterator[Record]:
        """All of them, once. Raises OSError, ValueError."""


class Giving:
    """One answer on its way."""

    def __init__(self, asked: Asked, connection: Connection, speed: float) -> None:
        self._asked = asked
        self._connection = connection
        self._sending = Sending(self, Schedule(speed))
        self._recorded_accepts: str | None = None
        self._frames: _Frames | None = None

    async def give(self, exchange: Source) -> None:
        """Send the answer, or as much of it as was recorded and then close. Raises ConnectionError, OSError, ValueError."""
        async with aclosing(exchange.records()) as records:  # type: ignore[type-var]
            head = await self._until_head(records)
            if head is None:
                raise ValueError("no answer was recorded")
            await self._sending.due(head.ts)
            if head.kind == "answer":
                raw, body = split_answer(head)
                await self._begin(raw)
                await self._connection.write(body)
                await self._finish(complete=True)
                return
            await self._begin(head.data)
            complete = await self._sending.all(records)
        await self._finish(complete=complete)

    async def _until_head(self, records: AsyncIterator[Record]) -> Record | None:
        """The answer's head; times count from the request's end. Interim responses that came before it are sent."""
        request: Record | None = None
        async for record in records:
            if record.direction == CLIENT_TO_PROXY and record.kind in {"head", "chunk"}:
                request = record
                if record.kind == "head":
                    self._recorded_accepts = _accepts(heads.parse(record.data).fields)
                continue
            is_head = record.kind == "answer" or (record.kind == "head" and record.direction == BACKEND_TO_PROXY)
            if (is_head or record.kind == "interim") and request is not None:
                await self._sending.due(request.ts)
                request = None
            if is_head:
                return record
            if record.kind == "interim" and record.meta.get("sc") != 100:  # the server itself says when to go on
                await self._sending.due(record.ts)
                await self._connection.write(record.data)
        return None

    async def _begin(self, raw: bytes) -> None:
        head = heads.parse(raw)
        self._frames = frames = _Frames(self._asked, head, self._takes(head))
        await self._connection.write(frames.head(raw))

    def _takes(self, head: heads.Head) -> bool:
        """Whether the client can be given the body in its recorded coding."""
        given = _accepts(self._asked.fields)
        codings = head.all("content-encoding")
        return not codings or given == self._recorded_accepts or all(_is_named(coding, given or "") for coding in codings)

    @property
    def has_gone(self) -> bool:
        """For `Sending`."""
        return self._connection.has_gone

    async def write(self, chunk: Record) -> None:
        """For `Sending`."""
        assert self._frames is not None
        if data := self._frames.chunk(chunk):
            await self._connection.write(data)

    async def _finish(self, *, complete: bool) -> None:
        frames = self._frames
        assert frames is not None
        if complete:
            if last := frames.last():
                await self._connection.write(last)
            if frames.closes:
                self._connection.close()
        elif frames.ends_with_connection:
            await self._connection.reset()
        else:
            self._connection.close()


def _accepts(fields: list[tuple[str, str]]) -> str | None:
    found = [value for name, value in fields if name.lower() == "accept-encoding"]
    return ", ".join(found) if found else None


def _is_named(coding: str, accepts: str) -> bool:
    for member in accepts.lower().split(","):
        name, _, quality = member.partition(";")
        if name.strip() in {coding, coding.removeprefix("x-"), "*"}:
            return not _QUALITY_0.fullmatch(quality.strip().replace(" ", ""))
    return coding == "identity"


class _Frames:
    """The bytes of one answer: its head, and each read of its body."""

    def __init__(self, asked: Asked, head: heads.Head, takes_coding: bool) -> None:
        self._asked = asked
        self._was_chunked = "chunked" in head.all("transfer-encoding")
        self._decoder = None if takes_coding else _decoder(head.all("content-encoding"))
        is_old = asked.version == "1.0"
        self._as_recorded = self._decoder is None and not (is_old and self._was_chunked)
        has_body = asked.method != "HEAD" and head.start[1] not in _BODILESS
        has_end = self._was_chunked or bool(head.first("content-length"))
        self.ends_with_connection = has_body and not (has_end if self._as_recorded else not is_old)
        """The end of the connection is the end of the body."""
        self._makes_chunks = has_body and not self._as_recorded and not is_old
        self.closes = self.ends_with_connection or not asked.keeps_alive

    def head(self, raw: bytes) -> bytes:
        """The head to send."""
        lines = raw.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
        fields = [(line.partition(b":")[0].decode("latin-1").lower(), line) for line in lines[1:]]
        named = {
            name.strip().lower() for field, line in fields if field == "connection"
            for name in line.partition(b":")[2].decode("latin-1").split(",")
        }  # fmt: skip
        left_out = _OF_THE_CONNECTION | (named - _NEVER_LEFT_OUT)
        if not self._as_recorded:
            left_out |= {"transfer-encoding", "content-length"} | ({"content-encoding"} if self._decoder else set())
        kept = [lines[0], *(line for field, line in fields if field not in left_out)]
        if self._makes_chunks:
            kept.append(b"Transfer-Encoding: chunked")
        if self.closes:
            kept.append(b"Connection: close")
        return b"\r\n".join(kept) + b"\r\n\r\n"

    def chunk(self, chunk: Record) -> bytes:
        """What to send for a read of the body."""
        if self._as_recorded:
            return as_framed(chunk) if self._was_chunked else chunk.data
        data = self._decoder.feed(chunk.data) if self._decoder else chunk.data
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._makes_chunks else data

    def last(self) -> bytes:
        """What to send after the last read."""
        return b"0\r\n\r\n" if self._makes_chunks else b""


def _decoder(codings: list[str]) -> Decoder | None:
    try:
        return Decoder(codings, DECODED_BYTES_MAX)
    except ValueError:
        return None  # a coding that nobody knows: as recorded


def as_framed(chunk: Record) -> bytes:
    """A read of a body in chunked framing, as it was on the wire."""
    framing = chunk.meta.get("x_f")
    if framing is None:
        return b"%x\r\n%b\r\n" % (len(chunk.data), chunk.data)
    parts, at = [], 0
    for part in framing:
        if isinstance(part, int):
            parts.append(chunk.data[at : at + part])
            at += part
        else:
            parts.append(part)
    return b"".join(parts)
