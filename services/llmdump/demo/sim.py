"""Oddities of the simulated backend under /sim/…, for tests: sizes, paces, statuses, cuts, an echo of the request.

/sim/bytes/{n}                          n bytes with a Content-Length
/sim/chunks?n=10&size=100&gap_ms=0      n chunks of size bytes, Transfer-Encoding chunked
/sim/status/{code}                      that status, with a small body where one is allowed
/sim/slow?ms=100                        a small answer after that time
/sim/cut?after=1000&framing=length|chunked&how=close|reset
                                        an answer that is broken off after so many body bytes
/sim/echo                               method, target, head and body digest of the request, as JSON
"""

import asyncio
import hashlib
import socket
import struct
from typing import Final

from aiohttp import web

from llmdump.demo.reply import compact

BYTES_MAX: Final = 16 * 1024**3
CHUNKS_MAX: Final = 1_000_000
SLEEP_MS_MAX: Final = 60_000
BLOCK: Final = bytes(range(256)) * 256
"""The bytes that all bodies here consist of, again and again: 64 KiB."""
_BODILESS: Final = {204, 205, 304}


def number(request: web.Request, name: str, default: int, at_most: int) -> int:
    """A query parameter as a whole number from 0 to `at_most`. Raises HTTPBadRequest."""
    text = request.query.get(name, str(default))
    if not text.isdecimal() or int(text) > at_most:
        raise web.HTTPBadRequest(text=f"{name} is a whole number from 0 to {at_most}")
    return int(text)


async def pause(milliseconds: float) -> None:
    """Sleep, or not at all for 0."""
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)


async def send_bytes(request: web.Request) -> web.StreamResponse:
    """`n` bytes, in blocks, with a length."""
    left = int(request.match_info["n"])
    if left > BYTES_MAX:
        raise web.HTTPBadRequest(text=f"at most {BYTES_MAX} bytes")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = left
    await response.prepare(request)
    while left and request.method != "HEAD":
        await response.write(BLOCK[: min(left, len(BLOCK))])
        left -= min(left, len(BLOCK))
    return response


async def chunks(request: web.Request) -> web.StreamResponse:
    """`n` chunks of `size` bytes, `gap_ms` apart."""
    count, size = number(request, "n", 10, CHUNKS_MAX), number(request, "size", 100, len(BLOCK))
    gap_ms = number(request, "gap_ms", 0, SLEEP_MS_MAX)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for at in range(count):
        await pause(gap_ms if at else 0)
        await response.write(BLOCK[:size])
    return response


async def status(request: web.Request) -> web.StreamResponse:
    """The status that the path names."""
    code = int(request.match_info["code"])
    if not 200 <= code <= 599:
        raise web.HTTPBadRequest(text="a status is 200 to 599")
    if code in _BODILESS:
        return web.Response(status=code)
    return web.Response(status=code, body=compact({"status": code}), content_type="application/json")


async def slow(request: web.Request) -> web.StreamResponse:
    """An answer after `ms` milliseconds."""
    await pause(number(request, "ms", 100, SLEEP_MS_MAX))
    return web.Response(text="at last\n")


async def cut(request: web.Request) -> web.StreamResponse:
    """An answer that breaks off after `after` body bytes: by a close, or by a reset."""
    after = number(request, "after", 1000, BYTES_MAX)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if request.query.get("framing", "length") == "chunked":
        response.enable_chunked_encoding()
    else:
        response.content_length = after + 1000
    await response.prepare(request)
    for begin in range(0, after, len(BLOCK)):
        await response.write(BLOCK[: min(after - begin, len(BLOCK))])
    _break_off(request, reset=request.query.get("how", "close") == "reset")
    return response


def _break_off(request: web.Request, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    if reset:  # SO_LINGER with time 0: the kernel sends RST and forgets what was not sent
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


async def echo(request: web.Request) -> web.StreamResponse:
    """What arrived: header fields in order with their case, and the body's length and SHA-256."""
    digest, length = hashlib.sha256(), 0
    async for block in request.content.iter_any():
        digest.update(block)
        length += len(block)
    told = {
        "method": request.method,
        "path": request.raw_path,
        "http_version": f"{request.version.major}.{request.version.minor}",
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
        "body_bytes": length,
        "body_sha256": digest.hexdigest(),
    }
    return web.Response(body=compact(told), content_type="application/json")


ROUTES: Final = (
    web.get("/sim/bytes/{n:[0-9]+}", send_bytes),
    web.get("/sim/chunks", chunks),
    web.route("*", "/sim/status/{code:[0-9]{3}}", status),
    web.get("/sim/slow", slow),
    web.get("/sim/cut", cut),
    web.route("*", "/sim/echo", echo),
    web.route("*", "/sim/echo/{rest:.*}", echo),
)
