"""The two pages of a process, over real sockets: what is told, and what strangers can do to the server."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from llmdump import address, admin
from llmdump.admin import CONNECTIONS_MAX, HEAD_BYTES_MAX, Answer, Server

PAGES = {
    "/metrics": lambda: Answer(200, b"llmdump_up 1\n", "text/plain"),
    "/healthz": lambda: Answer(503, b'{"status":"failing"}', "application/json"),
    "/much": lambda: Answer(200, b"x" * 50_000_000),
}


def with_server(work: Callable[[int], Awaitable[None]], timeout_s: float = 5.0) -> None:
    async def run() -> None:
        server, sock = Server(PAGES, timeout_s), address.listen("127.0.0.1:0")
        await server.open(sock)
        await work(sock.getsockname()[1])
        server.close()

    uvloop.run(run())


async def said(port: int, request: bytes) -> bytes:
    """All that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1", b"200 OK", b"llmdump_up 1\n"),
        (b"GET /metrics?name[]=up HTTP/1.0", b"200 OK", b"llmdump_up 1\n"),
        (b"GET http://here/healthz HTTP/1.1", b"503 Service Unavailable", b'{"status":"failing"}'),
        (b"HEAD /metrics HTTP/1.1", b"200 OK", b""),
        (b"GET /else HTTP/1.1", b"404 Not Found", b"there are /metrics and /healthz and /much\n"),
        (b"POST /metrics HTTP/1.1", b"405 Method Not Allowed", b"only GET and HEAD\n"),
        (b"\x16\x03\x01 not http", b"400 Bad Request", b"this is not HTTP/1.1\n"),
    ],
)
def test_each_request_is_answered_and_the_connection_closed(request_line: bytes, status: bytes, body: bytes) -> None:
    async def ask(port: int) -> None:
        head, _, got = (await said(port, request_line + b"\r\nHost: here\r\n\r\n")).partition(b"\r\n\r\n")
        assert (head.splitlines()[0], got) == (b"HTTP/1.1 " + status, body)
        assert {b"Connection: close", b"Cache-Control: no-store"} <= set(head.splitlines())
        assert (b"Allow: GET, HEAD" in head) == status.startswith(b"405")
        assert status.startswith(b"405") or body == b"" or b"Content-Length: %d" % len(body) in head

    with_server(ask)


@pytest.mark.parametrize(
    "request_bytes", [b"GET / HTTP/1.1\r\nX: " + b"x" * 3 * HEAD_BYTES_MAX, b"GET /met"], ids=["long", "slow"]
)
def test_who_sends_too_much_or_too_slowly_is_cut_off_and_counted(request_bytes: bytes) -> None:
    async def ask(port: int) -> None:
        before = admin.swallowed.get("admin_request", 0)
        with contextlib.suppress(ConnectionResetError):
            assert await said(port, request_bytes) == b""
        assert admin.swallowed["admin_request"] == before + 1

    with_server(ask, timeout_s=0.2)


def test_an_answer_that_is_not_taken_is_not_kept() -> None:
    async def ask(port: int) -> None:
        before = admin.swallowed.get("admin_request", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /much HTTP/1.1\r\n\r\n")
        while admin.swallowed.get("admin_request", 0) == before:
            await asyncio.sleep(0.01)
        assert len(await reader.read()) < 50_000_000
        writer.close()

    with_server(ask, timeout_s=0.2)


def test_more_connections_than_there_is_room_for_are_closed_and_those_before_go_on() -> None:
    async def ask(port: int) -> None:
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        with contextlib.suppress(ConnectionResetError):
            assert await said(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for reader, writer in waiting:
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()
        assert (await said(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    with_server(ask)
