"""Upgrades: a real WebSocket client and server, and the raw pipe under it, recorded on both sides byte for byte."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from llmdump import address
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from tests.patience import WAIT_S
from tests.proxy.harness import Rig, backend, read_request, running, scenario, until

ASK = b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: thing/2\r\nConnection: keep-alive, Upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: thing/2\r\nConnection: Upgrade\r\n\r\n"


def piped(rig: Rig, direction: int) -> bytes:
    return b"".join(record.data for record in rig.of_kind("pipe", direction))


# ------------------------------------------------------------------ WebSocket


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "leave":
            await connection.close(4001, "as you wish")
        else:
            await connection.send(message)


@asynccontextmanager
async def websocket(compression: str | None = None) -> AsyncIterator[tuple[Rig, ClientConnection]]:
    async with (
        serve(echo, "127.0.0.1", 0, compression=compression, max_size=2**24) as server,
        running(address.bound(next(iter(server.sockets)))) as rig,
        connect(f"ws://127.0.0.1:{rig.port}/v1/x?y=z", compression=compression, max_size=2**24, proxy=None) as client,
    ):
        yield rig, client


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_of_every_kind_pass(compression: str | None) -> None:
    @scenario
    async def talk() -> None:
        async with websocket(compression) as (rig, client):
            large = os.urandom(2**19) * 2
            for message in ("text äöü", b"\x00binary\xff", "", large, "x" * 2**20):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping(b"are you there"))
            assert ("permessage-deflate" in client.response.headers.get("Sec-WebSocket-Extensions", "")) == bool(compression)
        [end] = await rig.ends()
        assert (end.meta["x_end"], end.meta["x_err"]) == ("complete", "")
        assert rig.of_kind("head", 3)[0].meta["sc"] == 101
        assert end.meta["x_req"] == len(piped(rig, CLIENT_TO_PROXY)) > 2**20
        assert end.meta["tb"] == len(piped(rig, BACKEND_TO_PROXY)) > 2**20
        if not compression:
            assert large in piped(rig, BACKEND_TO_PROXY)

    talk()


@scenario
async def test_either_side_may_close_and_the_other_learns_why() -> None:
    async with websocket() as (rig, client):
        await client.send("leave")
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (4001, "as you wish")
        assert [end.meta["x_end"] for end in await rig.ends()] == ["complete"]
    async with websocket() as (rig, client):
        await client.close(4002, "enough")
        assert client.close_code == 4002
        assert [end.meta["x_end"] for end in await rig.ends()] == ["complete"]


@scenario
async def test_a_client_that_vanishes_ends_the_pipe() -> None:
    async with websocket() as (rig, client):
        await client.send("hello")
        assert await client.recv() == "hello"
        client.transport.abort()
        [end] = await rig.ends()
        assert end.meta["x_end"] in {"client_closed", "complete"}
        await until(lambda: rig.pool.busy == 0)


# ------------------------------------------------------------------ the pipe itself


@scenario
async def test_what_comes_with_the_101_and_ahead_of_it_is_passed_in_order() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: Upgrade\r\nHost: " in head
        assert b"Upgrade: thing/2\r\n" in head
        writer.write(SWITCH + b"first")
        assert await reader.readexactly(9) == b"ahead too"
        writer.write(b" last")

    async with backend(eager) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(ASK + b"ahead")
        await rig.recorded("forward")
        writer.write(b" too")
        async with asyncio.timeout(WAIT_S):
            assert await reader.read(-1) == SWITCH + b"first last"
        writer.close()
        [end] = await rig.ends()
        assert (end.meta["x_end"], end.meta["x_req"], end.meta["tb"]) == ("complete", 9, 10)
        assert (piped(rig, CLIENT_TO_PROXY), piped(rig, BACKEND_TO_PROXY)) == (b"ahead too", b"first last")


@scenario
async def test_two_streams_at_once_are_passed_and_recorded_byte_for_byte() -> None:
    up, down = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(3_000_000)
    arrived: list[bytes] = []

    async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + down)
        arrived.append(await reader.readexactly(len(up)))
        await writer.drain()

    async with backend(both_ways) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(ASK + up)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read(-1) == SWITCH + down
        writer.close()
        await rig.ends()
        assert arrived == [up]
        assert piped(rig, CLIENT_TO_PROXY) == up
        assert piped(rig, BACKEND_TO_PROXY) == down


@pytest.mark.parametrize("early", [False, True])
def test_a_client_that_has_sent_all_still_hears_the_backend(early: bool) -> None:
    @scenario
    async def half() -> None:
        async def answering_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH)
            assert await reader.read() == b"all of it"
            writer.write(b"heard")

        async with backend(answering_at_the_end) as where, running(where) as rig:
            reader, writer = await rig.connect()
            writer.write(ASK)
            if not early:
                assert await reader.readuntil(b"\r\n\r\n") == SWITCH
            writer.write(b"all of it")
            writer.write_eof()
            async with asyncio.timeout(WAIT_S):
                assert await reader.read(-1) == SWITCH * early + b"heard"
            assert [end.meta["x_end"] for end in await rig.ends()] == ["complete"]

    half()


@scenario
async def test_a_backend_that_has_sent_all_still_hears_the_client() -> None:
    heard: list[bytes] = []

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + b"all of it")
        writer.write_eof()
        heard.append(await reader.read())

    async with backend(listening) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(ASK)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read(-1) == SWITCH + b"all of it"
        big = random.Random(3).randbytes(2_000_000)
        writer.write(big)
        writer.write_eof()
        await until(lambda: heard)
        assert heard == [big]
        [end] = await rig.ends()
        assert (end.meta["x_end"], end.meta["x_req"]) == ("complete", len(big))
        assert piped(rig, CLIENT_TO_PROXY) == big


@scenario
async def test_a_client_that_says_nothing_after_the_backend_has_left_is_not_kept_for_ever() -> None:
    async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)

    async with backend(leaving) as where, running(where, client_idle_timeout_s=0.2) as rig:
        reader, writer = await rig.connect()
        writer.write(ASK)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read(-1) == SWITCH
        assert [end.meta["x_end"] for end in await rig.ends()] == ["complete"]
        writer.close()


@pytest.mark.parametrize("status", [b"426 Upgrade Required", b"200 OK"])
def test_a_refused_upgrade_is_an_ordinary_response(status: bytes) -> None:
    @scenario
    async def refused() -> None:
        async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                writer.write(b"HTTP/1.1 " + status + b"\r\nUpgrade: thing/3\r\nContent-Length: 2\r\n\r\nno")

        async with backend(refusing) as where, running(where) as rig:
            reader, writer = await rig.connect()
            for _ in range(2):
                writer.write(ASK)
                assert (await reader.readuntil(b"no")).startswith(b"HTTP/1.1 " + status + b"\r\nUpgrade: thing/3\r\n")
            assert [end.meta["x_end"] for end in await rig.ends(2)] == ["complete"] * 2
            assert rig.of_kind("pipe") == []

    refused()


@scenario
async def test_an_offer_of_h2c_is_not_passed_on() -> None:
    """A backend that took it would speak HTTP/2 in a pipe, and every later request would hide in there."""
    heads: list[bytes] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append((await read_request(reader))[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with backend(serve_one) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for offer in (b"h2c", b"H2C"):
            writer.write(
                b"POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: x\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
                b"Upgrade: " + offer + b"\r\nContent-Length: 2\r\n\r\nhi"
            )
            assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK\r\n")
        await rig.ends(2)
    assert heads == [b"POST / HTTP/1.1\r\nHost: " + where.encode() + b"\r\nContent-Length: 2\r\n\r\n"] * 2


@scenario
async def test_a_backend_that_switches_unasked_is_a_502() -> None:
    async def switching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SWITCH)
        await reader.read()

    async with backend(switching) as where, running(where) as rig:
        assert (await rig.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
        assert [end.meta["x_end"] for end in await rig.ends()] == ["upstream_error"]
