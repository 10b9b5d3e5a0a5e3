"""The limits of the live tail that take too long or too much with their real figures: here made small, in this process."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from made import Instance, append, begin_segment, new_id

from llmdump.data_dir import DataDir
from llmdump_api import live, watching
from llmdump_api.index import Index
from llmdump_api.live import Live
from llmdump_api.watching import Watching
from llmdump_indexer.follow import Follower
from tests.api.streams import stream

WAIT_S = 20.0


class Place:
    """A tail of a data directory, served on a port, and what writes its segment."""

    def __init__(self, data: DataDir) -> None:
        self.data = data
        self.path = begin_segment(data)
        self.instance = Instance("ab" * 8)
        self.index = Index(data.index)
        self.live = Live(data.segments, self.index)
        self.port = 0
        self.clients: list[socket.socket] = []

    def open(self, number: int) -> None:
        """An exchange begins."""
        append(self.path, b"".join([*stream(self.instance, new_id(number), [], end=None)]))

    def more(self, number: int, data: bytes = b"data: x\n\n") -> None:
        """And goes on."""
        append(self.path, self.instance.record(new_id(number), 3, "chunk", data, {"sid": "c1", "be": "openai"}, ci=1))

    def end(self, *numbers: int) -> None:
        """And ends."""
        for number in numbers:
            told = {"se": True, "x_end": "complete", "tc": 1, "tb": 9}
            append(self.path, self.instance.record(new_id(number), 1, "end", b"", {"sid": "c1", "be": "openai"}, **told))

    async def watch(self, query: str = "", *, buffer_bytes: int = 0) -> socket.socket:
        """A connection that watches, of which nothing was read yet."""
        client = socket.socket()
        self.clients.append(client)
        if buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        await asyncio.get_running_loop().sock_sendall(client, f"GET /api/live{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return client

    @property
    def viewers(self) -> int:
        """How many watch."""
        return next(int(one.value) for one in self.live.samples() if one.name == "llmdump_live_viewers")


@contextlib.asynccontextmanager
async def served(root: Path) -> AsyncIterator[Place]:
    place = Place(DataDir(root).create())
    app = web.Application()
    app.router.add_get("/api/live", Watching(place.live).live)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        place.port = runner.addresses[0][1]
        yield place
    finally:
        for client in place.clients:
            client.close()
        await place.live.close()
        await runner.cleanup()
        place.index.close()


class Reading:
    """What a connection that watches is told."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._rest = b""
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.ended = False

    async def until(self, kind: str, count: int = 1) -> None:
        """So many events of a kind came."""
        async with asyncio.timeout(WAIT_S):
            while sum(one == kind for one, _ in self.told) < count and not self.ended:
                data = await asyncio.get_running_loop().sock_recv(self._client, 1 << 16)
                self.ended = not data or b"0\r\n\r\n" in data[-5:]
                self._take(data)

    def _take(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for event in whole:
            lines = [line.partition(b": ") for line in event.replace(b"\r", b"").split(b"\n")]
            fields = {name: value for name, _, value in lines if name in {b"event", b"data"}}
            if b"event" in fields:
                self.told.append((fields[b"event"].decode(), json.loads(fields[b"data"])))

    def ids(self, kind: str) -> list[str]:
        """The exchanges of the events of a kind."""
        return [data["id"] for one, data in self.told if one == kind]


async def rest_of(client: socket.socket) -> bytes:
    """What still comes on a connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            found += data
    return found


async def until(holds: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.02)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_viewer_that_takes_nothing_is_cut_off_and_one_that_reads_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STALLED_S_MAX", 0.5)

    async def test() -> None:
        async with served(tmp_path) as place:
            stuck, client = await place.watch("?chunks=response", buffer_bytes=4096), await place.watch("?chunks=response")
            reading = Reading(client)
            await until(lambda: place.viewers == 2)
            place.open(1)
            began = time.monotonic()
            for count in range(1, 41):
                place.more(1, b"x" * 200_000)
                await reading.until("chunk", count)
            await until(lambda: place.viewers == 1)
            assert time.monotonic() - began > 0.5, "it had its time"
            assert not (await rest_of(stuck)).endswith(b"0\r\n\r\n"), "it was cut off"
            place.more(1)
            await reading.until("chunk", 41)
            assert not reading.ended

    run(test())


def test_of_more_exchanges_than_are_known_the_one_that_was_silent_longest_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EXCHANGES_MAX", 4)

    async def test() -> None:
        async with served(tmp_path) as place:
            reading = Reading(await place.watch())
            await until(lambda: place.viewers == 1)
            for number in (1, 2, 3, 4):
                place.open(number)
            await reading.until("open", 4)
            of_silent = Reading(await place.watch(f"?id={new_id(2)}"))
            await of_silent.until("open")
            place.more(1)  # so it is the second that was silent longest
            place.open(5)
            await reading.until("open", 5)
            await of_silent.until("end")
            assert of_silent.ended, "nothing more will come of the one that is forgotten"
            place.end(1, 2, 5)
            await reading.until("end", 2)
            assert reading.ids("open") == [new_id(number) for number in (1, 2, 3, 4, 5)]
            assert reading.ids("end") == [new_id(1), new_id(5)]

    run(test())


def test_of_those_that_the_index_has_open_the_oldest_is_forgotten_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EXCHANGES_MAX", 3)

    async def test() -> None:
        async with served(tmp_path) as place:
            for number in (1, 2, 3):
                place.open(number)
            Follower(place.data).catch_up()
            reading = Reading(await place.watch())
            await reading.until("open", 3)
            place.open(4)
            await reading.until("open", 4)
            place.end(1, 2, 4)
            await reading.until("end", 2)
            assert reading.ids("end") == [new_id(2), new_id(4)]

    run(test())
