"""Streams made for tests at chosen times, and requests to an api that replays them."""

import http.client
import itertools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from made import BEGAN_S, Instance, append, begin_segment, new_id

from llmdump_indexer.follow import Follower
from tests.api.chunked import WAIT_S, Reply, read, send
from tests.api.test_api_serve import Served


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


def connect(api: Served, path: str, receive_bytes: int = 0) -> socket.socket:
    """A connection on which the request was sent; see `send`."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n\r\n"
    return send(api.url, head.encode(), receive_bytes)


def get(api: Served, path: str) -> Reply:
    """The response of a request whose answer is in chunked framing."""
    with closing(connect(api, path)) as sock:
        return read(sock)


def status_of(api: Served, path: str, method: str = "GET") -> int:
    """Only the status of a request."""
    where = urlsplit(api.url)
    with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=WAIT_S)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {api.token}"})
        return connection.getresponse().status
