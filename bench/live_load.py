"""For the benches of the live tail: the four processes, streams through them, and viewers."""

import asyncio
import multiprocessing
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmdump import presence
from llmdump.data_dir import DataDir

ROLES = ("proxy", "writer", "indexer", "api")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 32\r\n\r\n"
EVENT_BYTES = 120


class Running(NamedTuple):
    """The four processes."""

    proxy: tuple[str, int]
    api: tuple[str, int]
    token: str
    pids: dict[str, int]

    def cpu_s(self, role: str) -> float:
        """User and system time of a process."""
        fields = Path(f"/proc/{self.pids[role]}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connect(self, path: str) -> socket.socket:
        """A connection on which something was asked of the api."""
        sock = socket.create_connection(self.api)
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode("ascii"))
        return sock

    def ask(self, path: str) -> Any:
        """An answer of the api."""
        return orjson.loads(self.text(path))

    def text(self, path: str) -> bytes:
        """The body of an answer."""
        with self.connect(path) as sock:
            return b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[2]


@contextmanager
def running(upstream: str, *flags: str) -> Iterator[Running]:
    """The four processes, with default settings but for addresses and `flags`, in a directory of their own."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as ends:
        listen = {role: [f"--{role}-admin-listen=127.0.0.1:0"] for role in ROLES[:3]} | {"api": ["--api-listen=127.0.0.1:0"]}
        listen["proxy"] += ["--proxy-listen=127.0.0.1:0", f"--upstream={upstream}"]
        common = [f"--data-dir={place}", "--log-level=warning", *flags]
        programs = {role: Path(sys.executable).parent / f"llmdump-{role}" for role in ROLES}
        processes = [subprocess.Popen([programs[role], *common, *listen[role]]) for role in ROLES]
        for process in processes:
            ends.callback(process.wait)
        for process in processes:
            ends.callback(process.send_signal, signal.SIGTERM)
        data, cards = DataDir(Path(place)), dict[str, presence.Card]()
        while len(cards) < len(ROLES):
            time.sleep(0.05)
            cards = {card.role: card for card in presence.living(data.run) if card.state == "running"}
        proxy, api = ((host, int(port)) for host, _, port in (cards[role].listen.rpartition(":") for role in ("proxy", "api")))
        token = data.admin_token.read_text().strip()
        yield Running(proxy, api, token, {role: card.pid for role, card in cards.items()})


class Load:
    """A backend that streams, and clients of a proxy that read."""

    def __init__(self, streams: int, events: int, gap_s: float) -> None:
        self._streams, self._events, self._gap_s = streams, events, gap_s
        self.arrived: dict[str, list[tuple[int, float]]] = {}
        """By stream: bytes so far, and when they were read, s of the machine's monotonic clock."""
        self.delays_s: list[float] = []
        """Of each event, from the backend's write to the client's read."""
        self.url = ""

    async def serve(self) -> None:
        """Listen."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(32)
        writer.write(HEAD)
        begin = time.monotonic()
        for index in range(self._events):
            event = (b"data: %d " % time.monotonic_ns()).ljust(EVENT_BYTES - 2, b".") + b"\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(max(0.0, begin + (index + 1) * self._gap_s - time.monotonic()))
        writer.write(b"0\r\n\r\n")
        writer.close()

    async def run(self, proxy: tuple[str, int], round_: int = 0) -> None:
        """All streams to their ends; they begin evenly within one gap."""
        self.delays_s, self.arrived = [], {}
        await asyncio.gather(*(self._read(proxy, f"{round_:016d}{index:016d}", index) for index in range(self._streams)))

    async def _read(self, proxy: tuple[str, int], name: str, index: int) -> None:
        await asyncio.sleep(index * self._gap_s / self._streams)
        reader, writer = await asyncio.open_connection(*proxy)
        writer.write(REQUEST + name.encode())
        await reader.readuntil(b"\r\n\r\n")
        read, arrived = 0, self.arrived.setdefault(name, [])
        while size := int(await reader.readline(), 16):
            event = (await reader.readexactly(size + 2))[:-2]
            now = time.monotonic()
            read += size
            arrived.append((read, now))
            self.delays_s.append(now - int(event[6 : event.index(b" ", 6)]) / 1e9)
        writer.close()


@contextmanager
def viewers(at: Running, count: int) -> Iterator["multiprocessing.connection.Connection"]:
    """Viewers in a process of their own; send it something, and it sends what the first one read, [(when, bytes), …]."""
    ours, theirs = multiprocessing.Pipe()
    socks = [at.connect("/api/live") for _ in range(count)]
    process = multiprocessing.get_context("fork").Process(target=_view, args=(socks, theirs))
    process.start()
    for sock in socks:
        sock.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _view(socks: list[socket.socket], asked: "multiprocessing.connection.Connection") -> None:
    os.nice(5)  # they are not what is measured
    reads: list[tuple[float, bytes]] = []
    ready = selectors.DefaultSelector()
    for sock in socks:
        ready.register(sock, selectors.EVENT_READ)
    ready.register(asked, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is asked:
                asked.send(reads)
                return
            data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
            if key.fileobj is socks[0]:
                reads.append((time.monotonic(), data))


def chunks(reads: list[tuple[float, bytes]]) -> Iterator[tuple[str, dict[str, Any], float]]:
    """What a viewer was told, and when: kind, data, s."""
    rest = b""
    for when, data in reads:
        *whole, rest = (rest + data).split(b"\n\n")
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if b"event" in fields:
                yield fields[b"event"].decode(), orjson.loads(fields[b"data"]), when


def mean_s(metrics: bytes, name: str) -> float:
    """The mean of a histogram, over all processes."""
    values = {
        part: sum(map(float, re.findall(rf"^{name}_{part}\S* (\S+)$", metrics.decode(), re.M))) for part in ("sum", "count")
    }
    return values["sum"] / max(1.0, values["count"])


def above(metrics: bytes, name: str, bound: str) -> float:
    """The part of a histogram's observations that are above one of its bounds."""
    text = metrics.decode()
    below, count = (
        sum(map(float, re.findall(rf"^{name}_{part} (\S+)$", text, re.M)))
        for part in (rf'bucket{{.*le="{bound}".*}}', r"count\S*")
    )  # fmt: skip
    return 1 - below / max(1.0, count)


def percentile(values: list[float], part: float) -> float:
    """Of values in any order."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
