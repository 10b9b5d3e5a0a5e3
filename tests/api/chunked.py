"""A client that sees each chunk of chunked framing, when it came, and whether the last one came at all."""

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.patience import WAIT_S


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


def send(url: str, request: bytes, receive_bytes: int = 0) -> socket.socket:
    """A connection on which a request was sent. `receive_bytes`: the kernel keeps about as many for us, not more."""
    where = urlsplit(url)
    sock = socket.socket()
    sock.settimeout(WAIT_S)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((where.hostname, where.port))
    sock.sendall(request)
    return sock


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
