"""A proxy that leaves serves everybody who has reached it once more, and tells them to connect anew."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmdump import address
from llmdump_proxy.listening import Listener
from llmdump_proxy.transport import ClientProtocol
from tests.patience import WAIT_S
from tests.proxy.harness import Rig, backend, read_request, replying, running, scenario

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await reader.read(-1)


async def part(reader: asyncio.StreamReader, size: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(size)


@scenario
async def test_an_idle_connection_is_kept_for_one_more_request_and_that_response_says_close() -> None:
    async with backend(replying(OK)) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(GET)
        assert await part(reader, len(OK)) == OK
        rig.engine.leaving = True
        writer.write(GET)
        assert await rest(reader) == LAST


@scenario
async def test_a_response_that_has_not_begun_says_close() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await answer.wait()
        writer.write(OK)

    async with backend(slow) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(GET)
        await asked.wait()
        rig.engine.leaving = True
        answer.set()
        assert await rest(reader) == LAST


@scenario
async def test_after_a_response_whose_head_had_gone_there_is_one_more_that_says_close() -> None:
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(OK[:-1])
            await go_on.wait()
            writer.write(OK[-1:])

    async with backend(slow) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(GET)
        assert await part(reader, len(OK) - 1) == OK[:-1]
        rig.engine.leaving = True
        go_on.set()
        assert await part(reader, 1) == OK[-1:]
        writer.write(GET)
        assert await rest(reader) == LAST


@scenario
async def test_requests_sent_ahead_do_not_cost_the_client_the_last_response() -> None:
    """A socket that is closed with something unread is reset, and what the client has not got of the response is gone."""
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with backend(replying(large)) as where, running(where) as rig:
        rig.engine.leaving = True
        with slow_reader(rig.port) as client:
            client.sendall(GET * 2)
            await rig.ends(1)
            client.sendall(GET)
            client.setblocking(False)
            received = bytearray()
            async with asyncio.timeout(WAIT_S):
                while data := await asyncio.get_running_loop().sock_recv(client, 65536):
                    received += data
        assert received == large.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n", 1)


def slow_reader(port: int) -> socket.socket:
    """A client whose kernel takes little ahead of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


@asynccontextmanager
async def listening(rig: Rig, sock: socket.socket) -> AsyncIterator[Listener]:
    listener = Listener(sock, lambda: ClientProtocol(rig.engine, rig.sessions), asyncio.get_running_loop())
    await listener.open()
    yield listener
    await listener.close(taken=False)


def connected(to: str) -> socket.socket:
    """A client that the kernel has connected; whoever listens there has had no turn to accept it."""
    client = socket.create_connection(address.split(to))
    client.sendall(GET)
    client.setblocking(False)
    return client


async def answer_to(client: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        return await rest(reader)
    finally:
        writer.close()


@scenario
async def test_who_waits_in_the_queue_of_a_listener_that_closes_is_served() -> None:
    async with backend(replying(OK)) as where, running(where) as rig:
        rig.engine.leaving = True
        async with listening(rig, address.listen("127.0.0.1:0", shared=True)) as listener:
            clients = [connected(listener.address) for _ in range(50)]
            await listener.close(taken=False)
            assert [await answer_to(client) for client in clients] == [LAST] * 50
        with pytest.raises(ConnectionRefusedError):
            connected(listener.address)


@scenario
async def test_who_waits_in_the_queue_of_a_socket_that_was_handed_over_is_served_by_the_successor() -> None:
    async with backend(replying(OK)) as where, running(where) as old, running(where) as new:
        new.engine.leaving = True
        async with listening(old, address.listen("127.0.0.1:0", shared=True)) as listener:
            taken = listener.socket.dup()
            clients = [connected(listener.address) for _ in range(50)]
            await listener.close(taken=True)
            async with listening(new, taken):
                assert [await answer_to(client) for client in clients] == [LAST] * 50
        assert old.records == []
