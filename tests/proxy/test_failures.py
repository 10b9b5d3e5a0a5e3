"""What a client gets when its backend fails, and what is recorded: one table, which docs/proxy.md prints."""

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import uvloop

from llmdump.metrics import END_REASONS
from llmdump.record import BACKEND_TO_PROXY
from tests.patience import WAIT_S
from tests.proxy.errors import BY_OUTCOME, CUT, ERRORS
from tests.proxy.harness import Handler, Rig, backend, read_request, running, scenario, until
from tests.proxy.probes import BODIES, HEADS

ROOT = Path(__file__).parents[2]
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-canary-0123456789\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


class Fault(NamedTuple):
    """What a backend says, and then does; and the line of the table it leads to."""

    name: str
    says: tuple[bytes, ...]
    then: str
    status: int
    code: str


# Each of `says` comes in a read of its own.
FAULTS = (
    Fault("closes_without_a_word", (), "close", 502, "upstream_closed"),
    Fault("resets_without_a_word", (), "reset", 502, "upstream_reset"),
    Fault("closes_within_its_head", (b"HTTP/1.1 200 OK\r\nX: ",), "close", 502, "upstream_closed"),
    Fault("resets_within_its_head", (b"HTTP/1.1 200 OK\r\nX: ",), "reset", 502, "upstream_reset"),
    Fault("closes_after_an_interim_head", (b"HTTP/1.1 103 Early Hints\r\n\r\n",), "close", 502, "upstream_closed"),
    Fault("closes_within_a_length", (LENGTH + b"hello",), "close", CUT, "upstream_cut"),
    Fault("resets_within_a_length", (LENGTH + b"hello",), "reset", CUT, "upstream_reset"),
    Fault("closes_within_chunks", (CHUNKED + b"5\r\nhello\r\n",), "close", CUT, "upstream_cut"),
    Fault("closes_within_trailers", (CHUNKED + b"5\r\nhello\r\n0\r\nX: ",), "close", CUT, "upstream_cut"),
    Fault("resets_within_chunks", (CHUNKED + b"5\r\nhello\r\n",), "reset", CUT, "upstream_reset"),
    Fault("resets_until_close", (UNTIL_CLOSE + b"hello",), "reset", CUT, "upstream_reset"),
    Fault("speaks_ssh", (b"SSH-2.0-OpenSSH_9.2\r\n",), "wait", 502, "upstream_malformed"),
    Fault("sends_a_tls_alert", (b"\x15\x03\x01\x00\x02\x02\x46",), "wait", 502, "upstream_malformed"),
    Fault("speaks_http_2", (b"\0\0\x06\x04\0\0\0\0\0",), "wait", 502, "upstream_malformed"),
    Fault("ends_lines_with_lf", (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",), "wait", 502, "upstream_malformed"),
    Fault("has_two_lengths", (LENGTH[:-2] + b"Content-Length: 3\r\n\r\n",), "wait", 502, "upstream_malformed"),
    Fault("has_chunks_twice", (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n",), "wait", 502, "upstream_malformed"),
    Fault("says_http_2_0", (b"HTTP/2.0 200 OK\r\n\r\n",), "wait", 502, "upstream_malformed"),
    Fault("status_below_100", (b"HTTP/1.1 042 What\r\n\r\n",), "wait", 502, "upstream_malformed"),
    Fault("switches_unasked", (SWITCH,), "wait", 502, "upstream_malformed"),
    Fault("head_too_large", (LENGTH[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n",), "wait", 502, "upstream_head_too_large"),
    Fault("head_endless", (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000,), "wait", 502, "upstream_head_too_large"),
    Fault("bad_chunk_at_once", (CHUNKED + b"g\r\n",), "wait", 502, "upstream_malformed"),
    Fault("bad_chunk_after_the_head", (CHUNKED, b"0x5\r\nhello\r\n"), "wait", CUT, "upstream_malformed"),
    Fault("bad_chunk_after_a_good_one", (CHUNKED + b"5\r\nhello\r\n", b"2\r\nabc"), "wait", CUT, "upstream_malformed"),
    Fault("chunk_with_lf_only", (CHUNKED, b"5\nhello\r\n"), "wait", CUT, "upstream_malformed"),
)  # fmt: skip


def failing(fault: Fault, seen: asyncio.Event) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for words in fault.says:
            writer.write(words)
            await asyncio.sleep(0.01)
        if fault.says and fault.then != "wait":
            await seen.wait()
        if fault.then == "reset":
            writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then == "wait":
            assert await reader.read(1) == b"", "the proxy is to leave this connection"

    return handle


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_failing_backend_is_told_to_the_client_and_in_the_records(fault: Fault) -> None:
    async def fail() -> None:
        seen = asyncio.Event()
        async with backend(failing(fault, seen)) as address, running(address, max_head_bytes=1024) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            await until(lambda: rig.engine.stats.upstream_bytes == sum(map(len, fault.says)) or rig.of_kind("end"))
            seen.set()
            await check(rig, await all_of(reader), fault.status, fault.code)
            assert rig.pool.idle == 0
            assert b"sk-canary" not in b"".join(rig.shelf.records)

    uvloop.run(fail())


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """What came until the connection ended, in whatever way."""
    answer = b""
    async with asyncio.timeout(WAIT_S):
        try:
            while data := await reader.read(65536):
                answer += data
        except ConnectionResetError:
            answer += b"<reset>"
    return answer


async def check(rig: Rig, answer: bytes, status: int, code: str) -> str:
    """The answer, the end record and the counters are as the table says; gives the error's message."""
    expected = BY_OUTCOME[status, code]
    (end,) = await rig.ends()
    assert end.meta["x_end"] == expected.reason
    assert end.meta["x_err"] == (code if code != "shutdown" or status else "")
    assert rig.engine.stats.ends[expected.reason] == 1
    answer = answer.removeprefix(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    if status == CUT:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert is_cut(answer), answer
        assert not any(r.ends_body for r in rig.of_kind("chunk", BACKEND_TO_PROXY)), "a cut is never a clean end"
        assert not rig.of_kind("answer")
        return ""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"\r\nConnection: close" in head
    assert [(r.data, r.meta["sc"]) for r in rig.of_kind("answer")] == [(answer, status)]
    error = orjson.loads(body)["error"]
    assert error["code"] == code
    return str(error["message"])


def is_cut(answer: bytes) -> bool:
    """Whether a client can tell that this is not the whole response."""
    head, _, body = answer.removesuffix(b"<reset>").partition(b"\r\n\r\n")
    if b"chunked" in head:
        return not body.endswith(b"0\r\n\r\n")
    return len(body) < 10 if b"Content-Length: 10" in head else answer.endswith(b"<reset>")


@scenario
async def test_a_backend_that_refuses_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    async with running(address) as rig:
        message = await check(rig, await rig.ask(GET), 502, "upstream_refused")
        assert f"http://{address}" in message and "is it running?" in message


@scenario
async def test_an_address_to_which_there_is_no_way_is_named() -> None:
    # A broadcast address: connect(2) gives ENETUNREACH, and nothing leaves the machine.
    async with running("127.255.255.255:9") as rig:
        assert "127.255.255.255:9" in await check(rig, await rig.ask(GET), 502, "upstream_unreachable")


@scenario
async def test_a_name_that_does_not_exist_is_named() -> None:
    # RFC 6761 section 6.4: `invalid` never exists.
    async with running("backend.invalid:80", upstream_connect_timeout_s=5) as rig:
        answer = await rig.ask(GET)
        code = orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
        if code == "upstream_connect_timeout":
            pytest.skip("this machine's resolver does not answer")
        assert "backend.invalid:80" in await check(rig, answer, 502, "upstream_name_failure")


@contextmanager
def full_server() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A port where the kernel answers no SYN any more, for its queue of one is full; and those who fill it."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as server:
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(server.getsockname())
            yield server, fillers
        finally:
            for filler in fillers:
                filler.close()


@scenario
async def test_a_backend_that_does_not_accept_is_a_time_out_that_names_the_setting() -> None:
    with full_server() as (server, _):
        async with running(f"127.0.0.1:{server.getsockname()[1]}", upstream_connect_timeout_s=0.2) as rig:
            message = await check(rig, await rig.ask(GET), 504, "upstream_connect_timeout")
            assert "0.2 s (upstream_connect_timeout_s)" in message


@scenario
async def test_a_path_without_a_route_is_answered_with_what_to_set() -> None:
    async with running(routes=("/v1=http://127.0.0.1:1",)) as rig:
        answer = await rig.ask(GET.replace(b"/v1/models", b"/v2/models?key=sk-canary"))
        message = await check(rig, answer, 404, "no_route")
        assert "/v2/models" in message and "LLMDUMP_UPSTREAM" in message
        assert b"sk-canary" not in answer + b"".join(rig.shelf.records)


@pytest.mark.parametrize(("says", "status"), [(b"", 503), (CHUNKED + b"5\r\nhello\r\n", CUT)])
def test_an_exchange_that_is_stopped_says_so(says: bytes, status: int) -> None:
    async def stop() -> None:
        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(says)
            await reader.read(1)

        async with backend(slow) as address, running(address) as rig:
            reader, writer = await rig.connect()
            writer.write(GET)
            await until(lambda: rig.of_kind("chunk") if says else rig.of_kind("forward"))
            for session in list(rig.sessions):
                session.shut_down()
            await check(rig, await all_of(reader), status, "shutdown")

    uvloop.run(stop())


@scenario
async def test_one_backends_failure_is_not_the_next_requests() -> None:
    """A hundred failures in turn leave nothing open behind them, and then a good answer goes through."""
    fail = True

    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if not fail:
            writer.write(LENGTH + b"0123456789")
            await reader.read(1)

    async with backend(moody) as address, running(address) as rig:
        for _ in range(100):
            assert b" 502 " in await rig.ask(GET)
        assert (rig.pool.idle, rig.pool.busy, rig.engine.stats.open_exchanges) == (0, 0, 0)
        fail = False
        reader, writer = await rig.connect()
        writer.write(GET)
        assert (await reader.readexactly(len(LENGTH) + 10)).endswith(b"0123456789")


# ---------------------------------------------------------------- the table itself


def test_the_docs_have_the_same_table() -> None:
    rows = re.findall(r"^\| (\S+) \| `(\w+)` \| (\S+) \| (.+?) \|$", (ROOT / "docs/proxy.md").read_text(), re.MULTILINE)
    statuses = {CUT: "cut"}
    expected = [(str(statuses.get(e.status, e.status)), e.code, f"`{e.reason}`" if e.reason else "–", e.cause) for e in ERRORS]
    assert rows == expected


def test_every_code_of_the_proxy_is_in_the_table() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "proxy/llmdump_proxy").glob("*.py"))
    known = {error.code for error in ERRORS}
    calls = r'(?:BadHeadError|_answer|_finish|_cut|error_response)\((?:[^()"]|\([^()]*\))*"\w+"(?:, "(\w+)")?'
    said = set(re.findall(r'(?:BadHeadError|_answer|error_response)\([^"()]*?(?:40\d|431|50\d), "(\w+)"', sources))
    said |= {code for code in re.findall(calls, sources) if code}
    said |= set(re.findall(r'return 50\d, "(\w+)"', sources))
    assert len(said) > 15
    assert said - known <= {"request_unfinished"}


def test_every_line_of_the_table_is_one_that_tests_reach() -> None:
    reached: set[tuple[Any, str]] = {(p.status, p.code) for p in (*HEADS, *BODIES)} | {(f.status, f.code) for f in FAULTS}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for error in ERRORS:
        assert error.reason in {*END_REASONS, ""}
        assert (error.status, error.code) in reached or f'"{error.code}"' in tests, error
