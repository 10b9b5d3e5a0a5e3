"""Requests that must not be forwarded: the answer, the record, and what the backend sees of them, which is nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import uvloop

from llmdump.record import CLIENT_TO_PROXY
from tests.patience import WAIT_S
from tests.proxy.harness import Rig, backend, replying, running, scenario, until
from tests.proxy.probes import BODIES, CANARY, CODINGS, FIELDS, HOST, LENGTHS, LINES, MAX_HEAD_BYTES, SIZES, Probe

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
LAST_GET = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
# Cutting at each of hundreds of places needs a connection each: so many at once.
TOGETHER = 40


class Heard:
    """What a backend has heard, connection by connection. It answers whole good requests, and nothing else."""

    def __init__(self) -> None:
        self.connections: list[bytearray] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = bytearray()
        self.connections.append(heard)
        while data := await reader.read(65536):
            heard += data
            if heard.endswith(self.request):
                writer.write(OK)

    def answers_at(self, address: str) -> None:
        """What a good request looks like here."""
        self.request = GET.replace(HOST, b"Host: " + address.encode() + b"\r\n")

    request = b""


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[tuple[Rig, Heard]]:
    heard = Heard()
    async with backend(heard) as address, running(address, max_head_bytes=MAX_HEAD_BYTES, **settings) as rig:
        heard.answers_at(address)
        yield rig, heard


def check_answer(answer: bytes, probe: Probe) -> None:
    """One whole JSON error and the end of the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % probe.status), (probe.name, answer)
    assert b"\r\nConnection: close" in head and b"\r\nContent-Length: %d\r\n" % len(body) in head
    error = orjson.loads(body)["error"]
    assert error["code"] == probe.code, probe.name
    assert error["message"].startswith("llmdump: ")
    assert CANARY.decode() not in error["message"]


async def check_records(rig: Rig, probe: Probe, count: int = 1) -> None:
    """`count` exchanges: the head with what is wrong about it, our answer, and the end. They are forgotten then."""
    await rig.ends(count)
    assert [r.meta["x_bad"] for r in rig.of_kind("head", CLIENT_TO_PROXY)] == [probe.code] * count, probe.name
    assert [r.meta["sc"] for r in rig.of_kind("answer")] == [probe.status] * count
    assert [(r.meta["x_end"], r.meta["x_err"]) for r in rig.of_kind("end")] == [("bad_request", probe.code)] * count
    assert not rig.of_kind("forward") and not rig.of_kind("chunk")
    assert CANARY not in b"".join(rig.shelf.records), f"{probe.name}: a credential was recorded"
    rig.shelf.records.clear()


async def dribble(rig: Rig, *pieces: bytes) -> bytes:
    """What comes back to a request sent in pieces, each in a read of its own."""
    reader, writer = await rig.connect()
    answer = asyncio.ensure_future(reader.read(-1))
    async with asyncio.timeout(WAIT_S):
        for piece in pieces:
            before = rig.engine.stats.client_bytes
            writer.write(piece)
            while rig.engine.stats.client_bytes == before and not answer.done():
                await asyncio.sleep(0)
        found = await answer
    writer.close()
    return found


BY_GROUP = pytest.mark.parametrize(
    "probes", [LENGTHS, CODINGS, FIELDS, LINES, SIZES], ids=["lengths", "codings", "fields", "lines", "sizes"]
)


@BY_GROUP
def test_a_bad_head_is_refused_and_the_backend_hears_nothing(probes: tuple[Probe, ...]) -> None:
    async def ask() -> None:
        async with listening() as (rig, heard):
            for probe in probes:
                check_answer(await rig.ask(probe.request), probe)
                await check_records(rig, probe)
            assert heard.connections == []
            assert rig.engine.stats.ends["bad_request"] == len(probes)

    uvloop.run(ask())


@BY_GROUP
def test_a_bad_head_after_a_good_request_reaches_no_kept_connection(probes: tuple[Probe, ...]) -> None:
    """The way in which smuggling works: two requests in one read, the backend connection open and trusted."""

    async def ask() -> None:
        async with listening() as (rig, heard):
            for count, probe in enumerate(probes, 1):
                answer = await rig.ask(GET + probe.request)
                assert answer.startswith(OK)
                check_answer(answer.removeprefix(OK), probe)
                await rig.ends(2 * count)
                assert heard.connections == [heard.request * count]
            assert CANARY not in b"".join(rig.shelf.records)

    uvloop.run(ask())


@BY_GROUP
def test_a_bad_head_is_refused_wherever_it_is_cut(probes: tuple[Probe, ...]) -> None:
    async def ask() -> None:
        async with listening() as (rig, heard):
            for probe in probes:
                # All places of a short one, 200 of a long one.
                cuts = list(range(1, len(probe.request), max(1, len(probe.request) // 200)))
                for start in range(0, len(cuts), TOGETHER):
                    some = cuts[start : start + TOGETHER]
                    for answer in await asyncio.gather(*(cut_in_two(rig, probe.request, at) for at in some)):
                        check_answer(answer, probe)
                await check_records(rig, probe, len(cuts))
            assert heard.connections == []

    uvloop.run(ask())


async def cut_in_two(rig: Rig, request: bytes, at: int) -> bytes:
    reader, writer = await rig.connect()
    writer.write(request[:at])
    await asyncio.sleep(0.002)
    writer.write(request[at:])
    async with asyncio.timeout(WAIT_S):
        answer = await reader.read(-1)
    writer.close()
    return answer


@BY_GROUP
def test_a_bad_head_that_dribbles_is_refused(probes: tuple[Probe, ...]) -> None:
    async def ask() -> None:
        async with listening() as (rig, heard):
            for probe in probes:
                check_answer(await dribble(rig, *(bytes((byte,)) for byte in probe.request)), probe)
                await check_records(rig, probe)
            assert heard.connections == []

    uvloop.run(ask())


@pytest.mark.parametrize("way", ["whole", "head_first", "dribbled", "connection_kept"])
def test_a_bad_body_is_refused_and_its_connection_never_used_again(way: str) -> None:
    async def ask() -> None:
        async with listening() as (rig, heard):
            for probe in BODIES:
                await send_bad_body(rig, heard, probe, way)
            assert CANARY not in b"".join(rig.shelf.records)

    uvloop.run(ask())


async def send_bad_body(rig: Rig, heard: Heard, probe: Probe, way: str) -> None:
    head = probe.request[: probe.request.index(b"\r\n\r\n") + 4]
    body = probe.request[len(head) :]
    rig.shelf.records.clear()
    heard.connections.clear()
    kept = way == "connection_kept"
    if kept:
        assert (await rig.ask(LAST_GET)).endswith(b"ok")
        assert rig.pool.idle == 1
    start = body[:100]
    dribbled = [head, *(bytes((byte,)) for byte in start), body[len(start) :]]
    pieces = {"dribbled": dribbled, "head_first": [head, body]}.get(way, [probe.request])
    check_answer(await dribble(rig, *filter(None, pieces)), probe)
    end = (await rig.ends(1 + kept))[-1]
    assert (end.meta["x_end"], end.meta["x_err"]) == ("bad_request", "malformed_body")
    await until(lambda: rig.pool.busy == 0)
    assert rig.pool.idle == 0
    for connection in heard.connections:
        # Of the body, nothing but what was right about it so far.
        sent = bytes(connection).partition(b"chunked\r\n\r\n")[2]
        assert body.startswith(sent) and len(sent) < len(body), probe.name
        assert way in {"head_first", "dribbled"} or not sent


@scenario
async def test_whoever_speaks_tls_is_told_that_this_port_does_not() -> None:
    async with listening() as (rig, _):
        answer = await rig.ask(b"\x16\x03\x01\x02\x00\x01")
        assert b"this port speaks plain HTTP" in answer and b"http://" in answer


@scenario
async def test_empty_lines_before_a_request_are_passed_over() -> None:
    async with backend(replying(OK)) as address, running(address) as rig:
        assert (await rig.ask(b"\r\n\r\n" + LAST_GET)).endswith(b"ok")


@scenario
async def test_a_refused_client_that_goes_on_sending_is_left_after_a_while() -> None:
    async with listening() as (rig, _):
        reader, writer = await rig.connect()
        writer.write(b"get / HTTP/1.1\r\n\r\n")
        assert b"malformed_head" in await reader.read(-1)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0.05)
        assert len(rig.of_kind("end")) == 1


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [(("/v1/*=none",), False), (("/other*=none",), True), (("/v1/x=sizes",), True)],
    ids=["none", "other", "sizes"],
)
def test_capture_rules_hold_for_refused_heads(settings: tuple[str, ...], recorded: bool) -> None:
    async def ask() -> None:
        async with listening(capture_rules=settings) as (rig, _):
            await rig.ask(b"POST /v1/x HTTP/1.1\r\n" + HOST + b"Prompt: tell-nobody\r\nContent-Length: +2\r\n\r\n")
            await until(lambda: rig.engine.stats.ends["bad_request"] == 1)
            assert bool(rig.records) == recorded
            assert rig.engine.stats.unrecorded == (not recorded)
            assert (b"tell-nobody" in b"".join(rig.shelf.records)) == (settings == ("/other*=none",))

    uvloop.run(ask())
