"""A backend that says exactly what it was told to, and a client that sends exactly what it is told to: raw sockets."""

import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.patience import WAIT_S

Part = bytes | float
"""Bytes to send, or seconds to wait."""
CUT = b""
"""The end of the connection, where a response is not over."""


def reply(
    body: bytes,
    content_type: str = "application/json",
    *,
    status: int = 200,
    parts: Sequence[Part] | None = None,
    fields: str = "",
) -> list[Part]:
    """A response of known length; with `parts` instead of `body` a chunked one, a chunk a part."""
    head = f"HTTP/1.1 {status} Fine\r\nContent-Type: {content_type}\r\n{fields}"
    if parts is None:
        return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body]
    framed = [part if isinstance(part, float) else b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part != CUT]
    end: list[Part] = [] if CUT in parts else [b"0\r\n\r\n"]
    return [f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *framed, *end]


class Backend:
    """Answers by the `t` in the query; what it does not know it answers with `{}`."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Part]] = {}

        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer._serve(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass  # a client that leaves is what some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _serve(self, handler: socketserver.StreamRequestHandler) -> None:
        while head := _head(handler):
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
            handler.rfile.read(length)
            tag = head.partition(b"t=")[2].partition(b" ")[0].decode()
            parts = self.replies.get(tag, reply(b"{}"))
            for part in parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    handler.wfile.write(part)
                    handler.wfile.flush()
            if parts[0].startswith(b"HTTP/1.1 200 Fine") and b"chunked" in parts[0] and parts[-1] != b"0\r\n\r\n":  # type: ignore[union-attr]
                return

    @contextmanager
    def running(self) -> Iterator["Backend"]:
        """Serves within the `with`."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _head(handler: socketserver.StreamRequestHandler) -> bytes:
    """The next request's head; nothing at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line: bytes = handler.rfile.readline()
        if not line:
            return b""
        head += line
    return head


class Got(NamedTuple):
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


def send(proxy: str, target: str, body: bytes, *fields: tuple[str, str], method: str = "POST") -> Got:
    """One request on a connection of its own."""
    host, _, port = proxy.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    try:
        connection.putrequest(method, target)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *fields):
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Got(answer.status, headers, answer.read(), True)
        except http.client.IncompleteRead as err:
            return Got(answer.status, headers, err.partial, False)
    finally:
        connection.close()


def leave_after(proxy: str, target: str, body: bytes, what: bytes) -> bytes:
    """Send a request, read until `what` was there, and leave without a word. What was read."""
    host, _, port = proxy.removeprefix("http://").rpartition(":")
    head = f"POST {target} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as sock:
        sock.sendall(head.encode() + body)
        got = b""
        while what not in got:
            more = sock.recv(65536)
            assert more, got
            got += more
    return got
