"""A backend that sends exactly these bytes, in these sends, and a client that keeps what it gets with times.

    ANSWERS["/sse"] = [Send(0, b"HTTP/1.1 200 …"), Send(30, b"…"), …]     what, and how many ms after the one before

What a path has several answers for is given in turn. After the last send the connection is closed.
"""

import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tests.patience import WAIT_S

GAP_MS: Final = 60.0


class Send(NamedTuple):
    """Bytes of one send."""

    after_ms: float
    data: bytes


def _whole(status: str, fields: str, body: bytes) -> list[Send]:
    return [Send(0, f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)]


_SSE_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_JSON: Final = "Content-Type: application/json\r\n"
GZIPPED: Final = b'{"text":"' + b"gzip " * 100 + b'"}'

ANSWERS: Final[dict[str, list[list[Send]]]] = {
    # Order, case, doubled names, blanks and a byte beyond ASCII are kept.
    "/plain": [_whole("200 Fine By Me", f"{_JSON}X-B: 1\r\nx-a:  2 \r\nX-B: 3\r\nX-Name: caf\xe9\r\n", b'{"a": 1}')],
    # Two chunks in a send, a chunk over two sends, an extension, capital digits, a comment, a trailer.
    "/sse": [
        [
            Send(0, _SSE_HEAD),
            Send(GAP_MS, b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n"),
            Send(GAP_MS, b"0012;x=Y\r\ndata: 3"),
            Send(GAP_MS, b"\nid: 4711\n\n\r\n"),
            Send(GAP_MS, b"9\r\n: alive\n\n\r\n"),
            Send(GAP_MS, b"e\r\ndata: [DONE]\n\n\r\n"),
            Send(GAP_MS, b"0\r\nX-Sum: 7\r\n\r\n"),
        ]
    ],
    "/ndjson": [
        [
            Send(0, b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Send(0, b'a\r\n{"one": 1}\r\n1\r\n\n\r\n'),
            Send(0, b'b\r\n{"two": 22}\r\n0\r\n\r\n'),
        ]
    ],
    "/cut-length": [[Send(0, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 417)]],
    "/cut-chunked": [[Send(0, _SSE_HEAD + b"9\r\ndata: 1\n\n\r\n"), Send(20, b"20\r\ndata: cut he")]],
    "/until-close": [[Send(0, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nto the "), Send(20, b"end")]],
    "/gzip": [_whole("200 OK", _JSON + "Content-Encoding: gzip\r\n", gzip.compress(GZIPPED, mtime=0))],
    "/hints": [
        [Send(0, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), *_whole("200 OK", _JSON, b"{}")],
    ],
    "/nothing": [[Send(0, b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n")]],
    "/busy": [
        _whole("429 Too Many Requests", f"{_JSON}Retry-After: 0\r\n", b'{"error":{"message":"later"}}'),
        _whole("500 Oh No", _JSON, b'{"error":{"message":"sorry"}}'),
        _whole("200 OK", _JSON, b'{"ok":true}'),
    ],
}
for _path, _sends in ANSWERS.items():
    assert all(send.data for sends in _sends for send in sends), _path


@contextmanager
def serving() -> Iterator[str]:
    """Serves `ANSWERS`; gives the base URL."""
    given: dict[str, int] = {}
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=_accept, args=(listener, given))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with closing(socket.create_connection(listener.getsockname())) as last:
                last.sendall(b"QUIT")
            thread.join(WAIT_S)


def _accept(listener: socket.socket, given: dict[str, int]) -> None:
    while True:
        sock, _ = listener.accept()
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = _request(sock)
            if request.startswith(b"QUIT"):
                return
            path = request.split(b" ", 2)[1].decode()
            number = given[path] = given.get(path, -1) + 1
            for send in ANSWERS[path][number]:
                _pause(send.after_ms)
                sock.sendall(send.data)


def _pause(ms: float) -> None:
    due = time.monotonic() + ms / 1000
    while (left := due - time.monotonic()) > 0:
        time.sleep(left)


def _request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and not data.startswith(b"QUIT"):
        data += sock.recv(65536)
    found = re.search(rb"(?i)content-length: *(\d+)", data)
    size = int(found[1]) if found else 0
    while len(data.partition(b"\r\n\r\n")[2]) < size:
        data += sock.recv(65536)
    return data


class Got(NamedTuple):
    """What a client read until the end of the connection."""

    reads: list[bytes]
    times_s: list[float]
    reset: bool

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self.reads)


def post(url: str, path: str, body: bytes = b"{}", fields: str = "", version: str = "1.1", connection: str = "close") -> Got:
    """One request on a connection of its own, which the server is asked to close unless `connection` says otherwise."""
    where = urlsplit(url)
    head = f"POST {path} HTTP/{version}\r\nHost: {where.netloc}\r\nConnection: {connection}\r\n{fields}"
    with closing(socket.create_connection((where.hostname, where.port), timeout=WAIT_S)) as sock:
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        reads, times_s = [], []
        try:
            while data := sock.recv(1 << 20):
                reads.append(data)
                times_s.append(time.monotonic())
        except ConnectionResetError:
            return Got(reads, times_s, True)
    return Got(reads, times_s, False)


def with_close(answer: bytes) -> bytes:
    """An answer as it is sent to a client that asked for the connection's end."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 103"):
        return head + b"\r\n\r\n" + with_close(body)
    return head + b"\r\nConnection: close\r\n\r\n" + body
