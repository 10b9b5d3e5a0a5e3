"""How well a replay keeps time: the error of each gap between chunks, against the gaps that were recorded.

    python bench/replay_pacing.py [--chunks N] [--speed S] [--streams N] [--serve]

Records streams with gaps as models have them (mostly 5 to 40 ms, now and then 300), lets a real `llmdump-api` (or with
--serve `llmdump serve`) replay them side by side, and takes the time of each chunk where it leaves the socket of a client.
"""

import argparse
import itertools
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uuid_utils

from llmdump import presence, record
from llmdump.data_dir import DataDir
from llmdump.segment import header
from llmdump_indexer.follow import Follower

EVENT = b'data: {"choices":[{"delta":{"content":"y"}}]}\n\n'
FRAMED = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
APART = 1_000_000
"""Numbers of records between those of two streams."""


def gaps_ms(chunks: int, seed: int) -> list[float]:
    """The gap before each chunk."""
    drawn = random.Random(seed)
    return [drawn.uniform(250, 350) if drawn.random() < 0.02 else drawn.uniform(5, 40) for _ in range(chunks)]


def asked(number: int) -> bytes:
    """A request of its own for each stream."""
    return b'{"model":"m","stream":true,"seed":%d}' % number


def stream(exchange: str, number: int, gaps: list[float]) -> bytes:
    """The records of a stream with these gaps; `number` is that of the first record."""
    identity = record.Identity("00" * 8, exchange, {"sid": "c1", "be": "openai"})
    numbers, now, parts = itertools.count(number), time.time(), []

    def add(direction: int, kind: str, data: bytes = b"", **meta: object) -> None:
        extra, count = record.entries(meta)
        parts.append(record.encode(now, direction, next(numbers), data, identity, record.kind_entry(kind), extra, count))

    add(0, "head", HEAD, x_peer="127.0.0.1:5000", x_key="ab" * 8)
    add(0, "chunk", asked(number), ci=1, x_z=True)
    add(3, "head", ANSWER, sc=200, ttfb=1.0)
    for index, gap in enumerate(gaps, 1):
        now += gap / 1000
        add(3, "chunk", EVENT, ci=index, **({"x_z": True} if index == len(gaps) else {}))
    add(1, "end", se=True, tc=len(gaps), tb=0, x_req=0, x_end="complete", x_err="", x_own=[1, 2, 3], x_lost=0)
    return b"".join(parts)


def arrivals(where: tuple[str, int], request: bytes, count: int) -> list[float]:
    """When each chunk was read, s."""
    times: list[float] = []
    with socket.create_connection(where) as sock:
        sock.sendall(request)
        got = b""
        while len(times) < count:
            more = sock.recv(65536)
            assert more, got
            got += more
            times += [time.monotonic()] * (got.count(FRAMED) - len(times))
    return times


def by_api(place: str, data: DataDir, speed: str, ids: list[str]) -> tuple[subprocess.Popen[str], str, list[bytes]]:
    """A running api, its address, and the requests for the streams."""
    code = "from llmdump_api.main import main; main()"
    api = subprocess.Popen([sys.executable, "-c", code, f"--data-dir={place}", "--api-listen=127.0.0.1:0"], text=True)
    while not (cards := [card for card in presence.living(data.run, "api") if card.state == "running"]):
        time.sleep(0.05)
    head = f"Host: localhost\r\nAuthorization: Bearer {data.admin_token.read_text().strip()}\r\n\r\n"
    return api, cards[0].listen, [f"GET /api/traces/{id_}/replay?speed={speed} HTTP/1.1\r\n{head}".encode() for id_ in ids]


def by_serve(place: str, speed: str, streams: int) -> tuple[subprocess.Popen[str], str, list[bytes]]:
    """The same of `llmdump serve`."""
    command = [Path(sys.executable).parent / "llmdump", "serve", place, "--listen=127.0.0.1:0", f"--speed={speed}"]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    found = next(filter(None, (re.match(r"serving .* at http://(\S+)$", line) for line in serving.stdout)))
    bodies = [asked(1 + index * APART) for index in range(streams)]
    return serving, found[1], [HEAD[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies]


def main() -> None:
    """Print the errors."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--chunks", type=int, default=400)
    options.add_argument("--speed", default="1")
    options.add_argument("--streams", type=int, default=1)
    options.add_argument("--serve", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = DataDir(Path(place)).create()
        gaps = [gaps_ms(given.chunks, seed) for seed in range(given.streams)]
        ids = [str(uuid_utils.uuid7()) for _ in gaps]
        made = [stream(id_, 1 + index * APART, one) for index, (id_, one) in enumerate(zip(ids, gaps, strict=True))]
        (data.segments / "w0-00000001.cbor").write_bytes(header("w0", 1, time.time()) + b"".join(made))
        Follower(data).catch_up()
        running, listen, requests = (
            by_serve(place, given.speed, given.streams) if given.serve else by_api(place, data, given.speed, ids)
        )
        host, _, port = listen.rpartition(":")
        with ThreadPoolExecutor(given.streams) as threads:
            seen = list(threads.map(lambda request: arrivals((host, int(port)), request, given.chunks), requests))
        running.send_signal(signal.SIGTERM)
        running.communicate()
    errors = sorted(
        abs((after - before) * 1000 - gap / float(given.speed))
        for times, one in zip(seen, gaps, strict=True)
        for (before, after), gap in zip(itertools.pairwise(times), one[1:], strict=True)
    )
    p50, p99 = statistics.median(errors), errors[int(len(errors) * 0.99)]
    print(f"{len(errors)} gaps at speed {given.speed}, {given.streams} streams: error of a gap")
    print(f"median {p50:.2f} ms, p99 {p99:.2f} ms, worst {errors[-1]:.2f} ms")


if __name__ == "__main__":
    main()
