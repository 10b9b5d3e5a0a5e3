"""A recorded response stream sent again: the bytes, the reads they came in, and the time between those reads.

    recorded   head ──── chunk ─ chunk ──────── chunk ─ end       ts: when the proxy read it
    replayed   head chunk ─ chunk ──────── chunk ─ end            the first chunk at once, then each gap / speed

Each recorded chunk is one write and one chunk of chunked framing. Times are kept against the clock, so that errors do not
add up: what is late (a client that reads slowly) is sent at once until it is on time again. A stream that was cut, one
that has not ended, and one with bytes that were not kept, end without their last chunk at that place, so that nobody
takes them for whole.

Nothing here looks into the bytes: content codings, comments, ids and `[DONE]` are what they were.
"""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

from aiohttp import web

from llmdump import heads
from llmdump.admin import count_swallowed
from llmdump.record import BACKEND_TO_PROXY, Record
from llmdump_api.gate import error
from llmdump_api.recorded import Exchange, Exchanges, Refusal
from llmdump_api.trace import split_answer

SPEED_MAX: Final = 100.0
REPLAYS_MAX: Final = 16
"""At the same time: each may hold a frame of a sealed segment, 32 MiB."""
GAP_S_MAX: Final = 3600.0
"""A longer one is a clock that was set, not a backend that thought."""
TELLS_CLIENT_GONE_WITHIN_S: Final = 0.5
# Timers of the event loop have whole ms; waiting for less than that would only be spinning.
_TIMER_S: Final = 0.0005
_FIELD_CHARS_MAX: Final = 256
_SPEED = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?|\.[0-9]{1,6}")
_SWITCH: Final = {"1": True, "true": True, "0": False, "false": False}


def parse(params: Mapping[str, str]) -> float:
    """The speed that parameters ask for; infinite: no delays. Raises Refusal, naming the parameter."""
    for name in params:
        if name not in {"speed", "nodelay"}:
            raise _invalid(name, "unknown parameter; known are speed, nodelay")
    if (nodelay := params.get("nodelay", "0")) not in _SWITCH:
        raise _invalid("nodelay", "allowed is 1, true, 0 or false")
    text = params.get("speed", "1")
    if not _SPEED.fullmatch(text) or not 0 < float(text) <= SPEED_MAX:
        raise _invalid("speed", f"allowed is a number above 0, up to {SPEED_MAX:g}")
    return math.inf if _SWITCH[nodelay] else float(text)


def _invalid(name: str, message: str) -> Refusal:
    return Refusal(error(400, "invalid_param", message, param=name))


class Schedule:
    """When each record is due, in s after the first; whatever the recorded clock did, never before the one before."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._last_ts: float | None = None
        self._due_s = 0.0

    def due_s(self, ts: float) -> float:
        """When the next record, of this recorded time, is due."""
        gap_s = 0.0 if self._last_ts is None else ts - self._last_ts
        self._last_ts = ts
        if gap_s > 0:  # false for what is not a number, too
            self._due_s += min(gap_s, GAP_S_MAX) / self._speed
        return self._due_s


class Replays:
    """The route."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._running = 0

    async def replay(self, request: web.Request) -> web.StreamResponse:
        """Send a recorded stream again."""
        try:
            speed = parse(request.query)
            row = await self._exchanges.row(request)
            if not row["stream"]:
                raise _not_streaming("this exchange is not a stream; its response is at /response")
            if self._running >= REPLAYS_MAX:
                raise Refusal(error(503, "too_many_replays", f"{REPLAYS_MAX} replays run already; wait until one has ended"))
        except Refusal as refusal:
            return refusal.response
        self._running += 1
        try:
            return await self._replay(request, await self._exchanges.open(row), speed)
        except Refusal as refusal:
            return refusal.response
        finally:
            self._running -= 1

    async def _replay(self, request: web.Request, exchange: Exchange, speed: float) -> web.StreamResponse:
        async with contextlib.aclosing(exchange.records()) as records:
            head, body = await _opening(records)
            response = _response(head)
            sending = Sending(_Client(request, response), Schedule(speed))
            with contextlib.suppress(ConnectionError):  # the client has gone: nobody is left to send to
                await response.prepare(request)
                if body is not None or await sending.all(records):
                    await response.write_eof(body or b"")
                elif request.transport is not None:
                    request.transport.close()
        return response


async def _opening(records: AsyncIterator[Record]) -> tuple[bytes, bytes | None]:
    """The response's head; and the whole body of an answer that the proxy itself made."""
    try:
        async for record in records:
            if record.kind == "answer":
                return split_answer(record)
            if record.kind == "head" and record.direction == BACKEND_TO_PROXY:
                return record.data, None
    except (OSError, ValueError) as err:
        raise Refusal(error(500, "segment_unreadable", str(err))) from err
    raise _not_streaming("no response of this exchange was recorded")


def _not_streaming(message: str) -> Refusal:
    return Refusal(error(400, "not_streaming", message))


def _response(head: bytes) -> web.StreamResponse:
    """The response with the recorded status, type and codings. Raises Refusal."""
    parsed = heads.parse(head)
    if not re.fullmatch("[2-5][0-9]{2}", parsed.start[1]):
        raise _not_streaming("the connection was switched to another protocol; what went through is at /chunks")
    fields = {"X-Accel-Buffering": "no"}
    for name in ("Content-Type", "Content-Encoding"):
        values = [value for field, value in parsed.fields if field.lower() == name.lower()]
        if values:
            fields[name] = _printable(", ".join(values))
    return web.StreamResponse(status=int(parsed.start[1]), reason=_printable(parsed.start[2]) or None, headers=fields)


def _printable(value: str) -> str:
    return "".join(character for character in value[:_FIELD_CHARS_MAX] if " " <= character <= "~")


class Out(Protocol):
    """Where a stream is sent again."""

    @property
    def has_gone(self) -> bool:
        """Whether nobody is left to send to."""

    async def write(self, chunk: Record) -> None:
        """Send the body bytes of a chunk, in one write. Raises ConnectionError."""


class _Client:
    """Out to a client of the api."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response

    @property
    def has_gone(self) -> bool:
        return self._request.transport is None or self._request.transport.is_closing()

    async def write(self, chunk: Record) -> None:
        if chunk.data:
            await self._response.write(chunk.data)


class Sending:
    """One stream on its way."""

    def __init__(self, out: Out, schedule: Schedule) -> None:
        self._out = out
        self._schedule = schedule
        self._began_s = 0.0

    async def all(self, records: AsyncIterator[Record]) -> bool:
        """Send chunks when they are due; whether the body ended as it should. Raises ConnectionError."""
        try:
            return await self._chunks(records)
        except ConnectionError:
            raise
        except (OSError, ValueError):
            count_swallowed("replay_not_read")
            return False

    async def _chunks(self, records: AsyncIterator[Record]) -> bool:
        sent = 0
        async for record in records:
            if record.kind == "end":
                await self.due(record.ts)
                return record.meta.get("x_end") == "complete" and not record.meta.get("x_lost")
            if record.kind == "chunk" and record.direction == BACKEND_TO_PROXY:
                sent += 1
                if "x_cut" in record.meta or record.meta.get("ci") != sent:
                    return False  # bytes are missing here
                await self.due(record.ts)
                await self._out.write(record)
                await asyncio.sleep(0)  # so that the loop sends it now, and not together with the next
                if record.ends_body:
                    return True
        return False  # it has not ended yet, or nobody knows how

    async def due(self, ts: float) -> None:
        """Wait until a record is due; the first is at once. Raises ConnectionError once nobody is left to send to."""
        due_s = self._schedule.due_s(ts)
        if not self._began_s:
            self._began_s = time.monotonic()
        while (left_s := self._began_s + due_s - time.monotonic()) > _TIMER_S:
            await asyncio.sleep(min(left_s, TELLS_CLIENT_GONE_WITHIN_S))
            if self._out.has_gone:
                raise ConnectionResetError("the client has gone")
