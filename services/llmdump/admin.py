"""A process's own /metrics and /healthz, on a loopback port of its own.

Two pages, one request a connection, for scrapers and `llmdump status`. Not aiohttp's server: to import it takes more
than half of the time in which a process starts, and a third of the memory it has then.
"""

import asyncio
import http
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from llmdump import address, heads, log, presence
from llmdump.metrics import CONTENT_TYPE, Page, Sample, by_label

Samples = Callable[[], Iterable[Sample]]
Health = Callable[[], tuple[bool, dict[str, Any]]]
HEAD_BYTES_MAX: Final = 8192
TIMEOUT_S: Final = 5.0
"""For the request to come whole and the answer to be taken."""
CONNECTIONS_MAX: Final = 64
"""More are closed at once."""
_PAGE_BYTES: Final = resource.getpagesize()
_STARTED_AT: Final = time.time()

swallowed: Final[dict[str, int]] = {}
"""Errors that were dealt with where they arose, by place; `count_swallowed` adds."""


def count_swallowed(where: str) -> None:
    """Count an error that goes no further. `where` is from a small closed set."""
    swallowed[where] = swallowed.get(where, 0) + 1


def process_samples(role: str, version: str) -> Iterator[Sample]:
    """The samples that every process has."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield Sample("llmdump_up", 1, (role, version))
    yield Sample("llmdump_start_time_seconds", _STARTED_AT)
    yield Sample("llmdump_resident_memory_bytes", _resident_bytes(usage))
    yield Sample("llmdump_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
    yield from by_label("llmdump_swallowed_errors_total", swallowed)


def _resident_bytes(usage: resource.struct_rusage) -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:  # macOS has no /proc; the peak in bytes is the nearest it tells
        return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024


class Answer(NamedTuple):
    """What is said to a request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str = ""


class Server:
    """Answers GET and HEAD with what `pages` make, by path. Opened by `serve`."""

    def __init__(self, pages: Mapping[str, Callable[[], Answer]], timeout_s: float = TIMEOUT_S) -> None:
        self._pages = pages
        self._timeout_s = timeout_s
        self._connections = 0

    async def open(self, sock: socket.socket) -> None:
        """Begin to answer on a listening socket."""
        self._server = await asyncio.start_server(self._client, sock=sock, limit=HEAD_BYTES_MAX)

    def close(self) -> None:
        """Answer no more."""
        self._server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections == CONNECTIONS_MAX:
            count_swallowed("admin_connection")
            writer.transport.abort()
            return
        self._connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            count_swallowed("admin_request")
            writer.transport.abort()
        finally:
            self._connections -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._timeout_s):
            writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
            writer.close()
            await writer.wait_closed()  # all is taken

    def _answer(self, head: bytes) -> bytes:
        method, target, protocol = heads.parse(head).start
        if not protocol.startswith("HTTP/1."):
            return _message(Answer(400, b"this is not HTTP/1.1\n"))
        if method not in {"GET", "HEAD"}:
            return _message(Answer(405, b"only GET and HEAD\n", allow="GET, HEAD"))
        page = self._pages.get(heads.path_of(target))
        answer = page() if page else Answer(404, f"there are {' and '.join(self._pages)}\n".encode())
        return _message(answer, with_body=method == "GET")


async def serve(listen: str, own: presence.Presence, samples: Samples, health: Health) -> Server:
    """Serve /metrics and /healthz and write the address on the process's card. Raises OSError.

    `health` gives whether the process works, and details; 200 or 503 follows.
    """
    page = Page(lambda: [*process_samples(own.card.role, own.card.version), *samples()])
    server = Server(
        {"/metrics": lambda: Answer(200, page.render(), CONTENT_TYPE), "/healthz": lambda: _health_answer(own, health)}
    )
    sock = address.listen_near(listen)
    await server.open(sock)
    own.update(admin="http://" + reachable(sock))
    log.debug("admin_listening", url=own.card.admin)
    return server


def reachable(sock: socket.socket) -> str:
    """The address others use: a wildcard listener (in a container) is reached by the host's name."""
    host, port = address.split(address.bound(sock))
    return address.join(socket.gethostname() if host in {"0.0.0.0", "::"} else host, port)


def _health_answer(own: presence.Presence, health: Health) -> Answer:
    works, details = health()
    body = {"status": "ok" if works else "failing", **msgspec.to_builtins(own.card), **details}
    return Answer(200 if works else 503, orjson.dumps(body), "application/json")


def _message(answer: Answer, *, with_body: bool = True) -> bytes:
    fields = [
        f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if answer.allow:
        fields.append(f"Allow: {answer.allow}")
    return "\r\n".join([*fields, "\r\n"]).encode() + (answer.body if with_body else b"")
