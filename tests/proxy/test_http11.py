"""HTTP/1.1 as it is in the wild: connections that are kept, pipelining, interim and early responses, every framing."""

import asyncio
import socket
import struct
from collections import Counter

import pytest

from llmdump.record import CLIENT_TO_PROXY, Record
from tests.patience import WAIT_S
from tests.proxy.harness import Handler, Rig, backend, read_request, replying, running, scenario, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reason(end: Record) -> tuple[str, str]:
    return end.meta["x_end"], end.meta["x_err"]


async def reasons(rig: Rig, count: int = 1) -> list[tuple[str, str]]:
    return [reason(end) for end in await rig.ends(count)]


def counting(handler: Handler, connections: list[asyncio.StreamWriter]) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await handler(reader, writer)

    return handle


async def reading(reader: asyncio.StreamReader, size: int = -1) -> bytes:
    """Exactly `size` bytes, or all until the connection ends."""
    async with asyncio.timeout(WAIT_S):
        return await (reader.read(-1) if size < 0 else reader.readexactly(size))


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


# ------------------------------------------------------------------ connections that end


@pytest.mark.parametrize("how", ["half-closed", "closed", "reset"])
def test_a_head_that_is_cut_off_is_recorded_as_far_as_it_came(how: str) -> None:
    part = GET[:-2] + b"Authorization: Bearer sk-canary"

    @scenario
    async def cut() -> None:
        async with backend(replying(OK)) as where, running(where) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            bytes_before = rig.engine.stats.client_bytes
            writer.write(part)
            await until(lambda: rig.engine.stats.client_bytes == bytes_before + len(part))
            if how == "half-closed":
                writer.write_eof()
                assert await reading(reader) == b""
            elif how == "closed":
                writer.close()
            else:
                reset(writer)
            assert await reasons(rig, 2) == [("complete", ""), ("client_closed", "head_cut")]
            recorded = rig.of_kind("head", CLIENT_TO_PROXY)[1]
            assert recorded.meta["x_bad"] == "head_cut"
            assert recorded.data.startswith(GET[:-2] + b"Authorization:")
            assert b"sk-canary" not in recorded.data

    cut()


# ------------------------------------------------------------------ connections that are kept


@scenario
async def test_connections_are_kept_on_both_sides() -> None:
    connections: list[asyncio.StreamWriter] = []
    async with backend(counting(replying(OK), connections)) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for _ in range(20):
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
        assert len(connections) == 1
        assert [told.meta["x_new"] for told in rig.of_kind("forward")] == [True] + [False] * 19
        assert {told.meta["x_dial"] > 0 for told in rig.of_kind("forward")[1:]} == {False}
        await reading((await another(rig, GET))[0], len(OK))
        assert len(connections) == 1, "an idle backend connection serves any client"


async def another(rig: Rig, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await rig.connect()
    writer.write(request)
    return reader, writer


@scenario
async def test_connections_that_end_at_the_backend_are_not_used_again() -> None:
    connections: list[asyncio.StreamWriter] = []
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with backend(counting(replying(closing), connections)) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for count in (1, 2, 3):
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK, "Connection: close is the backend's own hop"
            assert len(connections) == count


@scenario
async def test_a_client_that_asks_to_close_is_closed_and_the_backend_connection_kept() -> None:
    connections: list[asyncio.StreamWriter] = []
    async with backend(counting(replying(OK), connections)) as where, running(where) as rig:
        for _ in range(3):
            answer = await rig.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        assert len(connections) == 1


@scenario
async def test_no_idle_backend_connection_is_kept_when_none_is_wanted() -> None:
    connections: list[asyncio.StreamWriter] = []
    async with backend(counting(replying(OK), connections)) as where, running(where, upstream_keepalive_s=0) as rig:
        reader, writer = await rig.connect()
        for _ in range(3):
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
        assert len(connections) == 3


@scenario
async def test_idle_backend_connections_are_closed_in_time() -> None:
    async with backend(replying(OK)) as where, running(where, upstream_keepalive_s=0.1) as rig:
        await rig.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert rig.pool.idle == 1
        await until(lambda: rig.pool.idle == 0)


@scenario
async def test_idle_clients_are_closed_in_time() -> None:
    async with backend(replying(OK)) as where, running(where, client_idle_timeout_s=0.2) as rig:
        for request, answer in ((b"", b""), (GET, OK)):
            reader, writer = await another(rig, request)
            assert await reading(reader) == answer
            writer.close()


@scenario
async def test_a_connection_the_backend_closed_while_idle_harms_nobody() -> None:
    connections: list[asyncio.StreamWriter] = []
    async with backend(counting(replying(OK), connections)) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for count in (1, 2, 3):
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            connections[-1].close()
            await until(lambda: rig.pool.idle == 0)
            assert len(connections) == count
        assert await reasons(rig, 3) == [("complete", "")] * 3


def dying_at_second(requests: list[bytes], last_words: bytes = b"") -> Handler:
    """A backend whose kept connections die as they are used for the second time."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await read_request(reader))[0])
        writer.write(OK)
        requests.append((await read_request(reader))[0])
        writer.write(last_words)

    return handle


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_a_request_that_may_be_repeated_is_sent_again_when_a_kept_connection_dies(method: bytes) -> None:
    @scenario
    async def once_more() -> None:
        requests: list[bytes] = []
        async with backend(dying_at_second(requests)) as where, running(where) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            writer.write(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
            size = len(OK) - 2 * (method == b"HEAD")
            assert await reading(reader, size) == OK[:size]
            assert len(requests) == 3
            assert [told.meta["x_new"] for told in rig.of_kind("forward")] == [True, False, True]
            assert await reasons(rig, 2) == [("complete", "")] * 2

    once_more()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
        b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_a_request_that_may_have_had_an_effect_is_not_sent_again(request_bytes: bytes) -> None:
    @scenario
    async def only_once() -> None:
        requests: list[bytes] = []
        async with backend(dying_at_second(requests)) as where, running(where) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            writer.write(request_bytes)
            assert (await reading(reader)).startswith(b"HTTP/1.1 502 ")
            assert len(requests) == 2
            assert await reasons(rig, 2) == [("complete", ""), ("upstream_closed", "upstream_closed")]

    only_once()


@pytest.mark.parametrize("words", [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_request_whose_answer_had_begun_is_not_sent_again(words: bytes) -> None:
    @scenario
    async def only_once() -> None:
        requests: list[bytes] = []
        async with backend(dying_at_second(requests, words)) as where, running(where) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            writer.write(GET)
            answer = await reading(reader)
            assert answer.removeprefix(words).startswith(b"HTTP/1.1 502 ")
            assert len(requests) == 2

    only_once()


@scenario
async def test_a_dead_backend_is_not_tried_for_ever() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async with backend(counting(leave, connections)) as where, running(where) as rig:
        assert (await rig.ask(GET)).startswith(b"HTTP/1.1 502 ")
    assert len(connections) == 1


# ------------------------------------------------------------------ pipelining


@scenario
async def test_pipelined_requests_are_answered_in_order_and_each_recorded() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            path = head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path + body), path + body))

    count = 300
    requests = [
        b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n%b" % (n, b"%d" % n * 400)[:1000]
        if n % 2
        else b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n
        for n in range(count)
    ]
    requests = [head + b"\r\n\r\n" + body[:400] for head, _, body in (request.partition(b"\r\n\r\n") for request in requests)]
    async with backend(echo) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(b"".join(requests))
        for n in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r")[0])
            body = (b"%d" % n * 400)[:400] if n % 2 else b""
            assert await reading(reader, length) == b"/%d" % n + body
        assert await reasons(rig, count) == [("complete", "")] * count
        assert [head.data.split(b" ")[1] for head in rig.of_kind("head", 0)] == [b"/%d" % n for n in range(count)]


@scenario
async def test_pipelined_requests_are_all_answered_after_a_half_close() -> None:
    async with backend(replying(OK)) as where, running(where) as rig:
        assert await rig.ask(GET * 5, half_close=True) == OK * 5
        assert await reasons(rig, 5) == [("complete", "")] * 5


# ------------------------------------------------------------------ interim and bodiless responses


@scenario
async def test_a_client_that_waits_for_100_continue_gets_it_from_the_backend() -> None:
    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue\r\n" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)
        await reader.read()

    async with backend(careful) as where, running(where) as rig:
        reader, writer = await another(rig, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert rig.bodies(0) == [b""]
        writer.write(b"body")
        assert await reading(reader, len(OK)) == OK
        assert rig.bodies(0) == [b"body"]
        assert [interim.meta["sc"] for interim in rig.of_kind("interim")] == [100]


@scenario
async def test_several_interim_responses_pass_however_they_are_cut() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"
    words = b"HTTP/1.1 102 Processing\r\n\r\n" + hints + hints + OK

    async def hinting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for cut in range(0, len(words), 7):
            await read_request(reader)
            writer.write(words[:cut])
            await asyncio.sleep(0.001)
            writer.write(words[cut:])

    async with backend(hinting) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for count, _ in enumerate(range(0, len(words), 7), 1):
            writer.write(GET)
            assert await reading(reader, len(words)) == words
            assert [interim.meta["sc"] for interim in rig.of_kind("interim")] == [102, 103, 103] * count
        assert rig.of_kind("interim")[1].data == hints


@scenario
async def test_interim_responses_never_go_to_a_client_of_http_1_0() -> None:
    async with backend(replying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as where, running(where) as rig:
        answer = await rig.ask(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        assert len(rig.of_kind("interim")) == 1


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: "a"\r\n\r\n'),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_a_response_without_a_body_ends_with_its_head(method: bytes, response: bytes) -> None:
    @scenario
    async def twice() -> None:
        connections: list[asyncio.StreamWriter] = []
        async with backend(counting(replying(response), connections)) as where, running(where) as rig:
            reader, writer = await rig.connect()
            for _ in range(2):
                writer.write(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await reading(reader, len(response)) == response
            assert await reasons(rig, 2) == [("complete", "")] * 2
            assert rig.of_kind("chunk") == []
            assert len(connections) == 1

    twice()


# ------------------------------------------------------------------ targets and versions


@scenario
async def test_clients_of_http_1_0_are_answered_and_closed() -> None:
    heads: list[bytes] = []

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: a\r\n\r\nuntil the end")

    async with backend(old) as where, running(where) as rig:
        for field in (b"", b"Connection: keep-alive\r\n"):
            answer = await rig.ask(b"GET /old HTTP/1.0\r\nHost: x\r\n" + field + b"\r\n")
            assert answer == b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: a\r\n\r\nuntil the end"
        assert heads == [b"GET /old HTTP/1.0\r\nHost: " + where.encode() + b"\r\n\r\n"] * 2
        assert await reasons(rig, 2) == [("complete", "")] * 2
        assert rig.bodies(3) == [b"until the end"] * 2


@pytest.mark.parametrize(
    ("sent", "path", "forwarded"),
    [
        (b"http://elsewhere.example:99/a/b?c=d&e", "", b"/a/b?c=d&e"),
        (b"http://elsewhere.example", "", b"/"),
        (b"http://elsewhere.example?a", "", b"/?a"),
        (b"http://elsewhere.example/a?", "", b"/a?"),
        (b"HTTPS://elsewhere.example//a//b;c=1", "", b"//a//b;c=1"),
        (b"/a/../b/%2e%2E/c//d", "", b"/a/../b/%2e%2E/c//d"),
        (b"//a?b?c", "", b"//a?b?c"),
        (b"/v1/x?y=%20+z", "/base/path/", b"/base/path/v1/x?y=%20+z"),
        (b"*", "", b"*"),
        (b"*", "/base", b"*"),
    ],
)
def test_the_target_reaches_the_backend_as_it_was_sent(sent: bytes, path: str, forwarded: bytes) -> None:
    @scenario
    async def once() -> None:
        lines: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines.append((await read_request(reader))[0])
            writer.write(OK)

        async with backend(serve) as where, running(where + path) as rig:
            await rig.ask(b"OPTIONS " + sent + b" HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n")
        assert lines == [b"OPTIONS " + forwarded + b" HTTP/1.1\r\nHost: " + where.encode() + b"\r\n\r\n"]

    once()


# ------------------------------------------------------------------ early responses

EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large"
EARLY_SEEN = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large"


@pytest.mark.parametrize("early", [EARLY, EARLY_SEEN])
def test_after_an_early_response_the_request_still_reaches_a_backend_that_goes_on_reading(early: bytes) -> None:
    @scenario
    async def slowly() -> None:
        size, arrived = 4_000_000, asyncio.Event()

        async def reading_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            # Much slower than what comes, so that something is still to be written at the end.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            writer.write(early)
            left = size
            while left:
                await asyncio.sleep(0.001)
                left -= len(await reader.readexactly(min(2**16, left)))
            arrived.set()

        async with backend(reading_on) as where, running(where) as rig:
            reader, writer = await another(rig, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            assert await reading(reader, len(EARLY_SEEN)) == EARLY_SEEN
            writer.write(bytes(size))
            assert await reading(reader) == b""
            async with asyncio.timeout(WAIT_S):
                await arrived.wait()
            assert await reasons(rig) == [("complete", "")]
            assert len(rig.bodies(0)[0]) == size

    slowly()


@pytest.mark.parametrize("sent_before", [0, 100_000, 5_000_000])
def test_an_early_response_is_read_even_if_the_backend_closes_at_once(sent_before: int) -> None:
    """The backend leaves most of the request unread, so its kernel resets the connection."""

    @scenario
    async def many_times() -> None:
        async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(EARLY)

        async with backend(hasty) as where, running(where) as rig:
            for _ in range(20):
                reader, writer = await another(rig, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
                writer.write(bytes(sent_before))
                assert await reading(reader, len(EARLY_SEEN)) == EARLY_SEEN
                writer.close()
            assert await reasons(rig, 20) == [("complete", "request_unfinished")] * 20

    many_times()


@scenario
async def test_an_early_response_is_not_lost_when_the_reset_after_it_comes_first() -> None:
    """The client never stops sending, so the proxy writes into a connection that the backend has just reset."""

    def serve() -> None:
        for _ in range(30):
            connection, _ = listening.accept()
            connection.recv(200)
            connection.sendall(EARLY)
            connection.close()

    def send_and_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
            for _ in range(90):
                client.sendall(bytes(100_000))
            return client.recv(65536)

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        serving = loop.run_in_executor(None, serve)
        async with running(f"127.0.0.1:{listening.getsockname()[1]}") as rig:
            for _ in range(30):
                # Where all of the request has come before the response is read, the connection may stay.
                assert await loop.run_in_executor(None, send_and_read, rig.port) in {EARLY_SEEN, EARLY}
        await serving


@scenario
async def test_an_early_response_ends_the_exchange_even_if_the_client_goes_silent() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EARLY)
        await reader.read()

    async with backend(hasty) as where, running(where) as rig:
        reader, _ = await another(rig, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert await reading(reader) == EARLY_SEEN
        assert await reasons(rig) == [("complete", "request_unfinished")]


# ------------------------------------------------------------------ who leaves when


@scenario
async def test_a_half_closed_client_is_answered() -> None:
    async def after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b"body", "the backend sees the end of what the client sends"
        del head
        writer.write(OK)

    async with backend(after_the_end) as where, running(where) as rig:
        answer = await rig.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", half_close=True)
        assert answer == OK
        assert await reasons(rig) == [("complete", "")]


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize(
    "began", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"]
)
def test_the_backend_sees_at_once_that_the_client_has_left(began: bytes, leave: str) -> None:
    @scenario
    async def leaving() -> None:
        seen = asyncio.Event()

        async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(began)
            try:
                assert await reader.read() == b""
            finally:
                seen.set()

        async with backend(patient) as where, running(where) as rig:
            reader, writer = await another(rig, GET)
            await rig.recorded("forward")
            if began:
                assert (await reader.readuntil(b"hello")).endswith(b"hello")
            if leave == "reset":
                reset(writer)
            else:
                writer.close()
            async with asyncio.timeout(1):
                await seen.wait()
            assert await reasons(rig) == [("client_closed", "client_left")]

    leaving()


@scenario
async def test_a_client_that_leaves_within_its_request_leaves_no_whole_request_behind() -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    for framing, part in ((b"Content-Length: 10", b"12345"), (b"Transfer-Encoding: chunked", b"5\r\n12345\r\n")):
        received.clear()
        async with backend(serve) as where, running(where) as rig:
            _, writer = await another(rig, b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + part)
            await rig.recorded("forward")
            await rig.recorded("chunk")
            writer.close()
            assert await reasons(rig) == [("client_closed", "request_cut")]
            await until(lambda: received)
            assert received[0].endswith(part)
            assert not rig.of_kind("chunk")[-1].ends_body


CUTS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",) * 2,
    "in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",) * 2,
    "before the last line": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",) * 2,
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
}


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("framing", CUTS)
def test_a_backend_that_leaves_within_a_body_is_a_cut_to_the_client(framing: str, leave: str) -> None:
    sent, passed = CUTS[framing]

    @scenario
    async def cut() -> None:
        go_on = asyncio.Event()

        async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(sent)
            await go_on.wait()
            if leave == "reset":
                reset(writer)

        async with backend(leaving) as where, running(where) as rig:
            reader, _ = await another(rig, GET)
            assert await reading(reader, len(passed)) == passed
            go_on.set()
            if framing == "until close" and leave == "close":
                assert await reading(reader) == b""
                assert await reasons(rig) == [("complete", "")]
                assert rig.of_kind("chunk")[-1].ends_body
            elif framing == "until close":
                with pytest.raises(ConnectionResetError):
                    await reading(reader)
                assert await reasons(rig) == [("upstream_error", "upstream_reset")]
            else:
                assert await reading(reader) == b"", "nothing is added that would make it whole"
                wanted = ("upstream_closed", "upstream_cut") if leave == "close" else ("upstream_error", "upstream_reset")
                assert await reasons(rig) == [wanted]
                assert not rig.of_kind("chunk")[-1].ends_body

    cut()


@pytest.mark.parametrize(
    ("words", "leave", "wanted"),
    [
        (b"", "close", ("upstream_closed", "upstream_closed")),
        (b"HTTP/1.1 200 OK\r\nContent-", "close", ("upstream_closed", "upstream_closed")),
        (b"", "reset", ("upstream_error", "upstream_reset")),
    ],
)
def test_a_backend_that_leaves_before_its_answer_is_a_502_that_says_so(
    words: bytes, leave: str, wanted: tuple[str, str]
) -> None:
    @scenario
    async def gone() -> None:
        async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(words)
            if leave == "reset":
                reset(writer)

        async with backend(leaving) as where, running(where) as rig:
            answer = await rig.ask(GET)
            assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n")
            assert f'"code":"{wanted[1]}"'.encode() in answer
            assert await reasons(rig) == [wanted]
            assert rig.of_kind("answer")[0].data == answer

    gone()


@scenario
async def test_a_backend_that_closes_as_it_accepts_is_a_502_at_once() -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with backend(slam) as where, running(where) as rig:
        for _ in range(100):
            async with asyncio.timeout(WAIT_S):
                assert (await rig.ask(GET)).startswith(b"HTTP/1.1 502 ")
        assert set(await reasons(rig, 100)) <= {("upstream_error", "upstream_reset"), ("upstream_closed", "upstream_closed")}


@scenario
async def test_a_backend_that_says_more_than_was_asked_is_not_trusted_again() -> None:
    connections: list[asyncio.StreamWriter] = []
    async with backend(counting(replying(OK + b"HTTP/1.1 200 OK\r\n"), connections)) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for count in (1, 2):
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
            assert len(connections) == count


# ------------------------------------------------------------------ limits


@scenario
async def test_one_connection_too_many_is_told_so_and_the_others_live() -> None:
    async with backend(replying(OK)) as where, running(where, max_connections=3) as rig:
        kept = [await rig.connect() for _ in range(3)]
        await until(lambda: len(rig.sessions) == 3)
        for _ in range(20):
            answer = await rig.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b'"code":"too_many_connections"' in answer
        assert rig.engine.stats.refused_connections == 20
        for reader, writer in kept:
            writer.write(GET)
            assert await reading(reader, len(OK)) == OK
        kept[0][1].close()
        await until(lambda: len(rig.sessions) == 2)
        assert await reading((await another(rig, GET))[0], len(OK)) == OK


@scenario
async def test_a_client_that_is_turned_away_can_send_all_it_wants_and_then_read_why() -> None:
    def send_and_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            for _ in range(20):
                client.sendall(bytes(100_000))
            return client.recv(65536)

    async with backend(replying(OK)) as where, running(where, max_connections=1) as rig:
        await rig.connect()
        await until(lambda: rig.sessions)
        answer = await asyncio.get_running_loop().run_in_executor(None, send_and_read, rig.port)
        assert answer.startswith(b"HTTP/1.1 503 ")


# ------------------------------------------------------------------ a thousand disconnects


@scenario
async def test_a_thousand_disconnects_leave_a_thousand_ends_and_no_descriptor() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not (reader.at_eof() or writer.is_closing()):
            writer.write(b"5\r\nhello\r\n")
            await asyncio.sleep(0.005)

    async def disconnect(rig: Rig, number: int) -> None:
        reader, writer = await rig.connect()
        writer.write(GET)
        await reader.readuntil(b"hello")
        if number % 2:
            reset(writer)
        else:
            writer.close()

    async with backend(drip) as where, running(where) as rig:
        for batch in range(10):
            await asyncio.gather(*(disconnect(rig, batch * 100 + number) for number in range(100)))
        assert Counter(await reasons(rig, 1000)) == {("client_closed", "client_left"): 1000}
        assert len({end.exchange for end in rig.of_kind("end")}) == 1000
