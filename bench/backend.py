"""The backends behind every arm: nginx with a fixed answer for plain JSON, and here a process that streams events.

    python -m bench.backend PORT      serves streams until it is ended; a request says `?events=…&gap_s=…`

Each event carries when it was written, ns of the machine's monotonic clock, so that a client on the same machine knows how
long it was under way, and how far apart two events were when they left. Without a gap each event is a write of its own,
one after the other.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvloop

from bench import processes
from bench.arms import nginx

ANSWER = '{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",' \
    '"message":{"role":"assistant","content":"%s"}}],"usage":{"prompt_tokens":9,"completion_tokens":90,"total_tokens":99}}' % (
        "an answer of words " * 42
    )  # fmt: skip
# `return` alone would answer before the body has come, upon which a proxy may close. `mirror` reads it whole, and nothing
# but the answer of a module that refuses POST comes after that.
PLAIN = """
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        client_body_buffer_size 1m;
        location / {{ mirror /mirrored; empty_gif; error_page 405 =200 @answer; }}
        location = /mirrored {{ internal; return 204; }}
        location @answer {{ default_type application/json; return 200 '{answer}'; }}
    }}
"""
ASKED = re.compile(rb"events=(\d+)&gap_s=([\d.]+)")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o",'
    b'"choices":[{"index":0,"delta":{"content":" w%020d"}}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT % 0), EVENT)
STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@contextmanager
def plain(place: Path) -> Iterator[int]:
    """Answers every request with 1 KB of JSON; gives its port."""
    port = processes.free_port()
    with nginx.serving(PLAIN.format(port=port, answer=ANSWER), port, place / "backend"):
        yield port


@contextmanager
def streams(place: Path) -> Iterator[int]:
    """Answers every request with a stream of events; gives its port."""
    port, log = processes.free_port(), place / "backend.log"
    command: list[str | Path] = [sys.executable, "-m", "bench.backend", str(port)]
    with processes.started(command, log=log) as (pid,):
        processes.wait_for_port(port, pid, log)
        yield port


class Streaming(asyncio.Protocol):
    """A connection. Requests come one at a time, with a Content-Length."""

    def __init__(self) -> None:
        self._events, self._gap_s = 0, 0.0
        self._loop = asyncio.get_running_loop()
        self._request = b""
        self._missing = 0
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._request += data
            head, end, body = self._request.partition(b"\r\n\r\n")
            if not end:
                return
            asked = ASKED.search(head)
            if not asked:
                raise ValueError(f"which stream? {head[:200]!r}")
            self._events, self._gap_s = int(asked[1]), float(asked[2])
            self._missing = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            self._request, data = b"", body
        self._missing -= len(data)
        if not self._missing:
            self._transport.write(STREAM_HEAD)
            self._write(0, self._loop.time())

    def _write(self, index: int, began_s: float) -> None:
        if index == self._events:
            self._transport.write(STREAM_END)
            return
        self._transport.write(CHUNK % time.monotonic_ns())
        following = partial(self._write, index + 1, began_s)
        if self._gap_s:
            self._timer = self._loop.call_at(began_s + (index + 1) * self._gap_s, following)
        else:
            self._timer = self._loop.call_soon(following)


async def serve(port: int) -> None:
    """Until cancelled."""
    create = asyncio.get_running_loop().create_server
    server = await create(Streaming, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
