"""What forwarding costs the proxy process: CPU per plain request of 1 KB each way, and per chunk of an event stream.

    python bench/proxy_cost.py             recording nothing, then everything (to a running writer)
    python bench/proxy_cost.py --profile   the same under cProfile, with the functions that take the most

A real `llmdump-proxy` stands between a backend and a client in processes of their own; its user and system time is read
before and after a counted load. CPU time is steadier than requests a second on a machine with other work.
"""

import argparse
import asyncio
import multiprocessing
import os
import pstats
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from llmdump import address, presence
from llmdump.data_dir import DataDir

CONNECTIONS = 32
REQUESTS = 40_000
STREAMS = 100
EVENTS = 100
EVENT_EVERY_S = 0.02
BODY = b'{"text":"' + b"x" * 1012 + b'"}'
EVENT = b'data: {"choices":[{"delta":{"content":"' + b"y" * 100 + b'"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
FIELDS = b"Host: bench\r\nUser-Agent: bench/1\r\nAccept: */*\r\nAuthorization: Bearer sk-bench-0123456789\r\n"
PLAIN = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, len(BODY), BODY)
STREAM = PLAIN.replace(b"/v1/chat", b"/v1/stream/chat")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: bench\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Backend(asyncio.Protocol):
    """Answers each whole request with 1 KB, or with a stream of events."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = 0
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if b"/v1/stream/" in data:
            self._streaming = asyncio.get_running_loop().create_task(self._stream())
        self._received += data.count(BODY[-100:])
        while self._received and not self._streaming:
            self._received -= 1
            self.transport.write(ANSWER)

    async def _stream(self) -> None:
        self.transport.write(STREAM_HEAD)
        for _ in range(EVENTS):
            await asyncio.sleep(EVENT_EVERY_S)
            self.transport.write(CHUNK)
        self.transport.write(b"0\r\n\r\n")


class Client(asyncio.Protocol):
    """Sends `request` `count` times, each after the answer before has come whole."""

    def __init__(self, request: bytes, answer_ends: bytes, count: int) -> None:
        self._request = request
        self._answer_ends = answer_ends
        self._left = count
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-len(self._answer_ends) :]
        if self._tail != self._answer_ends:
            return
        self._left -= 1
        self._tail = b""
        if self._left:
            self._transport.write(self._request)
        else:
            self._transport.close()
            self.done.set_result(None)


async def load(port: int, request: bytes, answer_ends: bytes, connections: int, count: int) -> None:
    """`count` requests on each of `connections`."""
    clients = []
    for _ in range(connections):
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Client(request, answer_ends, count), "127.0.0.1", port
        )
        clients.append(client.done)
    await asyncio.gather(*clients)


def serve_backend(sock: socket.socket) -> None:
    """A process of its own."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Backend, sock=sock)
        await server.serve_forever()

    uvloop.run(serve())


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def card_of(data: DataDir, role: str) -> presence.Card:
    """The card of a process once it runs."""
    while True:
        for card in presence.living(data.run):
            if card.role == role and card.state == "running":
                return card
        time.sleep(0.02)


def measure(backend: str, *, recording: bool, profile: str) -> None:
    """Print the figures of one proxy process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "LLMDUMP_DATA_DIR": folder,
            "LLMDUMP_PROXY_LISTEN": "127.0.0.1:0",
            "LLMDUMP_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
            "LLMDUMP_WRITER_ADMIN_LISTEN": "127.0.0.1:0",
            "LLMDUMP_UPSTREAM": f"http://{backend}",
            "LLMDUMP_CAPTURE_RULES": "" if recording else "/*=none",
            "LLMDUMP_LOG_LEVEL": "error",
        }
        profiled = ["-m", "cProfile", "-o", profile] if profile else []
        script = Path(sys.executable).with_name("llmdump-proxy")
        writer = subprocess.Popen([sys.executable, str(script.with_name("llmdump-writer"))], env=environment)
        proxy = subprocess.Popen([sys.executable, *profiled, str(script)], env=environment)
        data = DataDir(Path(folder)).create()
        card_of(data, "writer")
        port = address.split(card_of(data, "proxy").listen)[1]
        uvloop.run(load(port, PLAIN, BODY[-20:], CONNECTIONS, 100))
        told = "recording everything" if recording else "recording nothing"
        report(told, proxy.pid, port, PLAIN, BODY[-20:], CONNECTIONS, REQUESTS // CONNECTIONS, 1, "request")
        report(told, proxy.pid, port, STREAM, b"\r\n0\r\n\r\n", STREAMS, 1, EVENTS, "chunk")
        for process in (proxy, writer):
            process.send_signal(signal.SIGTERM)
            process.wait()
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def report(
    told: str, pid: int, port: int, request: bytes, answer_ends: bytes, connections: int, count: int, units: int, unit: str
) -> None:
    """Run one load and print what a unit of it cost."""
    cpu_before, since = cpu_s(pid), time.monotonic()
    uvloop.run(load(port, request, answer_ends, connections, count))
    took_s, total = time.monotonic() - since, connections * count * units
    cost_us = (cpu_s(pid) - cpu_before) * 1e6 / total
    print(f"{told:22} {cost_us:6.1f} µs CPU a {unit:8} {total / took_s:8.0f} {unit}s/s", flush=True)


def main() -> None:
    """Measure without and with recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true")
    profile = parser.parse_args().profile
    sock = socket.create_server(("127.0.0.1", 0))
    backend = multiprocessing.Process(target=serve_backend, args=(sock,), daemon=True)
    backend.start()
    with tempfile.TemporaryDirectory() as folder:
        for recording in (False, True):
            path = str(Path(folder) / "profile") if profile else ""
            measure(address.bound(sock), recording=recording, profile=path)
    backend.terminate()


if __name__ == "__main__":
    main()
