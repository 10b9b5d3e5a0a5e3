"""Time-outs: each ends what stands still, none ends what goes on. The proxy looks four times a second, here twenty."""

import asyncio
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from llmdump.record import BACKEND_TO_PROXY
from tests.patience import WAIT_S
from tests.proxy.errors import CUT
from tests.proxy.harness import backend, read_request, replying, running, scenario, until
from tests.proxy.test_failures import LENGTH, all_of, check, full_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
SOON_S = 0.2
# What must not be cut gets more: a busy machine may sleep for a while.
PATIENT_S = 0.6
LATER_S = 60.0
ALL_LATER: dict[str, Any] = {
    "client_header_timeout_s": LATER_S,
    "client_idle_timeout_s": LATER_S,
    "client_body_timeout_s": LATER_S,
    "upstream_header_timeout_s": LATER_S,
    "upstream_idle_timeout_s": LATER_S,
}


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that takes everything and never says a word."""
    while await reader.read(65536):
        pass


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_is_a_408(part: bytes) -> None:
    async def wait() -> None:
        async with running("127.0.0.1:1", **ALL_LATER | {"client_header_timeout_s": SOON_S}) as rig:
            began = time.monotonic()
            answer = await rig.ask(part)
            assert SOON_S <= time.monotonic() - began < WAIT_S
            await check(rig, answer, 408, "head_timeout")
            assert rig.of_kind("head")[0].meta["x_bad"] == "head_timeout"

    uvloop.run(wait())


@scenario
async def test_a_head_that_dribbles_has_no_more_time_than_one_that_stands_still() -> None:
    async with running("127.0.0.1:1", **ALL_LATER | {"client_header_timeout_s": SOON_S}) as rig:
        reader, writer = await rig.connect()
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        answer = asyncio.ensure_future(reader.read(-1))
        async with asyncio.timeout(WAIT_S):
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
        await check(rig, await answer, 408, "head_timeout")


@pytest.mark.parametrize("used", [False, True])
def test_an_idle_connection_is_closed_without_a_word(used: bool) -> None:
    async def wait() -> None:
        settings = ALL_LATER | {"client_idle_timeout_s": SOON_S}
        async with backend(replying(OK)) as address, running(address, **settings) as rig:
            reader, writer = await rig.connect()
            if used:
                writer.write(GET)
                assert await reader.readexactly(len(OK)) == OK
            async with asyncio.timeout(WAIT_S):
                assert await reader.read() == b""
            assert len(rig.of_kind("end")) == used

    uvloop.run(wait())


@pytest.mark.parametrize(
    "sent", [POST, POST + b"12345", POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"5\r\nhe"]
)
def test_a_body_that_stands_still_is_a_408(sent: bytes) -> None:
    async def wait() -> None:
        settings = ALL_LATER | {"client_body_timeout_s": SOON_S}
        async with backend(silent) as address, running(address, **settings) as rig:
            assert "0.2 s" in await check(rig, await rig.ask(sent), 408, "request_timeout")
            assert rig.pool.idle == 0

    uvloop.run(wait())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_backend_that_does_not_answer_is_a_504(said: bytes) -> None:
    async def wait() -> None:
        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(said)
            await reader.read(1)

        settings = ALL_LATER | {"upstream_header_timeout_s": SOON_S}
        async with backend(slow) as address, running(address, **settings) as rig:
            message = await check(rig, await rig.ask(GET), 504, "upstream_timeout")
            assert "0.2 s (upstream_header_timeout_s)" in message

    uvloop.run(wait())


@scenario
async def test_the_time_to_connect_is_not_taken_from_the_time_to_answer() -> None:
    """The port exists and does not accept for a while; the answer comes soon after that."""

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # those that filled the queue say nothing
            await read_request(reader)
            await asyncio.sleep(SOON_S / 2)
            writer.write(OK)
            await reader.read(1)
        writer.close()

    settings = ALL_LATER | {"upstream_header_timeout_s": PATIENT_S, "upstream_connect_timeout_s": LATER_S}
    with full_server() as (server, fillers):
        async with running(f"127.0.0.1:{server.getsockname()[1]}", **settings) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            await rig.recorded("head")
            await asyncio.sleep(PATIENT_S * 1.2)
            for filler in fillers:
                filler.close()
            async with await asyncio.start_server(answering, sock=server):
                async with asyncio.timeout(WAIT_S):
                    assert await reader.readexactly(len(OK)) == OK


@pytest.mark.parametrize("said", [LENGTH, LENGTH + b"hello", b"HTTP/1.1 200 OK\r\n\r\nhello"])
def test_a_response_that_stands_still_is_cut(said: bytes) -> None:
    async def wait() -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(said)
            await reader.read(1)

        settings = ALL_LATER | {"upstream_idle_timeout_s": SOON_S}
        async with backend(stall) as address, running(address, **settings) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            await check(rig, await all_of(reader), CUT, "upstream_stalled")

    uvloop.run(wait())


@scenario
async def test_a_steady_slow_stream_is_never_cut() -> None:
    """Many times as long as every time-out, with pauses of a sixth of them."""

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n")
        for _ in range(18):
            await asyncio.sleep(PATIENT_S / 6)
            writer.write(b"x")
        await reader.read(1)

    soon: dict[str, Any] = dict.fromkeys(ALL_LATER, PATIENT_S)
    async with backend(slowly) as address, running(address, **soon) as rig:
        reader, writer = await rig.connect()
        writer.write(GET)
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readuntil(b"x" * 18)).endswith(b"x" * 18)
        assert (await rig.ends())[0].meta["x_end"] == "complete"


@scenario
async def test_a_steady_slow_request_is_never_cut() -> None:
    soon: dict[str, Any] = dict.fromkeys(ALL_LATER, PATIENT_S)
    async with backend(replying(OK)) as address, running(address, **soon) as rig:
        reader, writer = await rig.connect()
        writer.write(POST)
        for _ in range(10):
            await asyncio.sleep(PATIENT_S / 5)
            writer.write(b"x")
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(len(OK)) == OK


@scenario
async def test_a_client_that_does_not_read_is_cut_and_its_backend_let_go() -> None:
    ended = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        finally:
            ended.set()

    settings = ALL_LATER | {"client_body_timeout_s": SOON_S}
    async with backend(pour) as address, running(address, **settings) as rig:
        _, writer = await rig.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        (end,) = await rig.ends()
        assert (end.meta["x_end"], end.meta["x_err"]) == ("timeout", "client_stalled")
        async with asyncio.timeout(WAIT_S):
            await ended.wait()
        await until(lambda: not rig.sessions)
        assert not any(r.ends_body for r in rig.of_kind("chunk", BACKEND_TO_PROXY))


@scenario
async def test_a_client_that_reads_slowly_is_not_blamed_on_the_backend() -> None:
    """While the client holds us up, the backend's time-out does not run; and when it goes on, it begins anew."""
    block = b"x" * 65536
    go_on, last = asyncio.Semaphore(0), asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not last.is_set():
            await go_on.acquire()
            writer.write(block)

    settings = ALL_LATER | {"upstream_idle_timeout_s": PATIENT_S}
    async with backend(pour) as address, running(address, **settings) as rig:
        reader, writer = await rig.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        head = len(b"HTTP/1.1 200 OK\r\n\r\n")
        await until(lambda: rig.engine.stats.upstream_bytes == head)
        (session,) = rig.sessions
        sent = 0
        while not session._upstream_brake.why:  # all that was sent has been read, and the client's buffers are full
            sent += len(block)
            go_on.release()
            await until(lambda: rig.engine.stats.upstream_bytes == head + sent)  # noqa: B023
        await asyncio.sleep(PATIENT_S * 2)
        assert not rig.of_kind("end")
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            await reader.readexactly(sent)
        await asyncio.sleep(PATIENT_S / 3)
        last.set()
        go_on.release()
        async with asyncio.timeout(WAIT_S):
            assert await reader.read(-1) == block
        assert (await rig.ends())[0].meta["x_end"] == "complete"


@scenario
async def test_a_backend_that_does_not_read_the_request_is_a_504() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(WAIT_S)

    settings = ALL_LATER | {"upstream_idle_timeout_s": SOON_S}
    async with backend(deaf) as address, running(address, **settings) as rig:
        reader, writer = await rig.connect()
        writer.write(POST.replace(b"10", b"%d" % (1 << 26)))
        answer = asyncio.ensure_future(all_of(reader))
        for _ in range(1 << 10):
            writer.write(b"x" * 65536)
        await check(rig, await answer, 504, "upstream_stalled")


@scenario
async def test_a_client_that_breaks_its_connection_while_its_backend_does_not_read_is_noticed() -> None:
    """It is not read meanwhile, so no event tells."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(WAIT_S)

    async with backend(deaf) as address, running(address, **ALL_LATER) as rig:
        _, writer = await rig.connect()
        writer.write(POST.replace(b"10", b"%d" % (1 << 26)) + bytes(1 << 26))
        await until(lambda: rig.sessions)
        (session,) = rig.sessions
        read, since = 0, time.monotonic()

        def stands_still() -> bool:
            nonlocal read, since
            if read != rig.engine.stats.client_bytes or not session._client_brake.why:
                read, since = rig.engine.stats.client_bytes, time.monotonic()
            return time.monotonic() > since + SOON_S

        await until(stands_still)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        (end,) = await rig.ends()
        assert (end.meta["x_end"], end.meta["x_err"]) == ("client_closed", "client_left")


@scenario
async def test_our_own_waiting_for_room_is_nobodys_time_out() -> None:
    """With `on_overflow: block` everything stands still until records have room, and then goes on."""
    go_on = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(LENGTH + b"hello")
        await go_on.wait()
        writer.write(b"world")
        await reader.read(1)

    soon: dict[str, Any] = dict.fromkeys(ALL_LATER, PATIENT_S)
    async with backend(waiting) as address, running(address, **soon) as rig:
        reader, writer = await rig.connect()
        writer.write(GET)
        assert await reader.readexactly(len(LENGTH) + 5) == LENGTH + b"hello"
        (session,) = rig.sessions
        session.capture_full()
        await asyncio.sleep(PATIENT_S * 2)
        assert not rig.of_kind("end")
        session.capture_drained()
        await asyncio.sleep(PATIENT_S / 3)
        go_on.set()
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(5) == b"world"
        assert (await rig.ends())[0].meta["x_end"] == "complete"


@scenario
async def test_a_client_that_comes_while_records_have_no_room_waits_too() -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(LENGTH + b"helloworld")
        await reader.read(1)

    async with backend(answering) as address, running(address) as rig:
        rig.engine.capture_full = True
        reader, writer = await rig.connect()
        writer.write(GET)
        await until(lambda: len(rig.sessions) == 1)
        await asyncio.sleep(SOON_S)
        assert rig.engine.stats.client_bytes == 0
        rig.engine.capture_full = False
        for session in rig.sessions:
            session.capture_drained()
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(len(LENGTH) + 10) == LENGTH + b"helloworld"
