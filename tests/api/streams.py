"""Streams made for tests at chosen times, and a client that sees each chunk of chunked framing and when it came."""

import http.client
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from made import BEGAN_S, Instance, append, begin_segment, new_id

from llmdump_indexer.follow import Follower
from tests.api.test_api_serve import Served

WAIT_S = 30.0


class At(NamedTuple):
    """A chunk, ms after the response head, with what else its record says."""

    ms: float
    data: bytes
    meta: Mapping[str, Any] = MappingProxyType({})


def stream(
    instance: Instance,
    id: str,  # noqa: A002
    chunks: Iterable[At],
    *,
    content_type: str = "text/event-stream",
    fields: str = "",
    status: str = "200 OK",
    end: str | None = "complete",
    end_ms: float | None = None,
    request: bytes = b'{"model":"m","stream":true}',
    closed: bool = True,
    lost: int = 0,
) -> Iterator[bytes]:
    """The records of a streamed exchange. `closed`: the last chunk says that the body ends; `end` None: still open."""
    common = {"sid": "c1", "be": "openai"}
    now = BEGAN_S

    def record(ms: float, direction: int, kind: str, data: bytes = b"", **meta: Any) -> bytes:
        instance.began_s = now + ms / 1000 - (instance.number + 1) / 1000
        return instance.record(id, direction, kind, data, common, **meta)

    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\r\n"
    yield record(0, 0, "head", head, x_peer="127.0.0.1:5000", x_key="ab" * 8)
    yield record(0, 0, "chunk", request, ci=1, x_z=True)
    yield record(1, 2, "forward", head, x_up="http://backend", x_addr="127.0.0.1:9", x_dial=1.5, x_new=True)
    answer = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{fields}\r\n".encode("latin-1")
    now += 0.05
    yield record(0, 3, "head", answer, sc=int(status[:3]), ttfb=2.0)
    all_chunks = list(chunks)
    for index, chunk in enumerate(all_chunks, 1):
        last = {"x_z": True} if closed and index == len(all_chunks) else {}
        yield record(chunk.ms, 3, "chunk", chunk.data, **{"ci": index, **last, **chunk.meta})
    if end is not None:
        sizes = {"tc": len(all_chunks), "tb": sum(len(chunk.data) for chunk in all_chunks), "x_req": len(request)}
        at_ms = end_ms if end_ms is not None else all_chunks[-1].ms if all_chunks else 0
        yield record(at_ms, 1, "end", se=True, x_end=end, x_err="", x_own=[1, 2, 3], x_lost=lost, **sizes)


_numbers = itertools.count(1)


def put(api: Served, make: Callable[[Instance, str], Iterable[bytes]]) -> str:
    """Record an exchange of an instance and in a segment of its own, and index it; its id."""
    number = next(_numbers)
    append(begin_segment(api.data, number), b"".join(make(Instance(f"{number:016x}"), new_id(number))))
    Follower(api.data).catch_up()
    return new_id(number)


def put_stream(api: Served, chunks: Iterable[At], **how: Any) -> str:
    """Record and index a stream; its id."""
    return put(api, lambda instance, id_: stream(instance, id_, chunks, **how))


class Reply(NamedTuple):
    """A response in chunked framing as it came."""

    status: int
    fields: dict[str, str]
    chunks: list[bytes]
    times_s: list[float]
    """When each chunk was there, by the monotonic clock."""
    whole: bool
    """The last chunk came; False: the connection ended before it."""
    head_s: float
    end_s: float

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks)


def connect(api: Served, path: str) -> socket.socket:
    """A connection on which the request was sent."""
    where = urlsplit(api.url)
    sock = socket.create_connection((where.hostname, where.port or 80), timeout=WAIT_S)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n\r\n".encode())
    return sock


def get(api: Served, path: str) -> Reply:
    """The response of a request whose answer is in chunked framing."""
    with closing(connect(api, path)) as sock:
        return read(sock)


def read(sock: socket.socket) -> Reply:
    """The response on a connection: until its last chunk, or the end of the connection."""
    buffer = b""
    while b"\r\n\r\n" not in buffer:
        more = sock.recv(65536)
        assert more, buffer
        buffer += more
    head, _, buffer = buffer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    head_s, chunks, times_s, whole = time.monotonic(), [], [], False
    if fields.get("transfer-encoding") != "chunked":
        buffer = _rest(sock, buffer, int(fields["content-length"]))
        return Reply(int(first.split()[1]), fields, [buffer], [head_s], True, head_s, time.monotonic())
    left = memoryview(buffer)
    pending = bytearray(left)
    while True:
        now = time.monotonic()
        for chunk in _chunks(pending):
            if not chunk:
                whole = True
                break
            chunks.append(chunk)
            times_s.append(now)
        if whole or not (more := sock.recv(1 << 20)):
            return Reply(int(first.split()[1]), fields, chunks, times_s, whole, head_s, time.monotonic())
        pending += more


def _rest(sock: socket.socket, have: bytes, size: int) -> bytes:
    while len(have) < size:
        more = sock.recv(65536)
        assert more
        have += more
    return have


def _chunks(pending: bytearray) -> Iterator[bytes]:
    """The chunks that are there whole, taken off `pending`; an empty one is the last."""
    at = 0
    try:
        while (line_end := pending.find(b"\r\n", at)) >= 0:
            size = int(pending[at:line_end], 16)
            begin, end = line_end + 2, line_end + 2 + size
            if len(pending) < end + 2:
                return
            assert pending[end : end + 2] == b"\r\n"
            at = end + 2
            yield bytes(pending[begin:end])
    finally:
        del pending[:at]


def status_of(api: Served, path: str, method: str = "GET") -> int:
    """Only the status of a request."""
    where = urlsplit(api.url)
    with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=WAIT_S)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {api.token}"})
        return connection.getresponse().status
