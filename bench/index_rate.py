"""How fast the indexer is, bodies read and all: exchanges and records a second, one core, its own CPU time.

    python bench/index_rate.py [--exchanges N] [--streams N] [--turns N]

Makes segment files in a temporary directory: plain exchanges of 2 KB each way, interleaved streams of 200 events, and
turns of an agent that sends 800 KB of history each time, a turn longer than the last. A follower catches up with each.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import orjson
import uuid_utils

from llmdump import record
from llmdump.data_dir import DataDir
from llmdump.segment import header
from llmdump_indexer.follow import Follower

CHUNKS = 200
CONCURRENT = 50
READ_BYTES = 256 * 1024
REQUEST = b'{"model":"gpt-4o","messages":[{"role":"user","content":"' + b"x" * 1900 + b'"}],"stream":true}'
EVENT = b'data: {"choices":[{"delta":{"content":"' + b"y" * 80 + b'"}}]}\n\n'


class Instance:
    """A proxy instance that numbers its records."""

    def __init__(self) -> None:
        self.number = 0

    def make(self, identity: record.Identity, direction: int, kind: str, data: bytes, **meta: object) -> bytes:
        """One record."""
        self.number += 1
        extra, count = record.entries(meta)
        return record.encode(time.time(), direction, self.number, data, identity, record.kind_entry(kind), extra, count)


def exchange(instance: Instance, content_type: bytes, events: list[bytes], request: bytes = REQUEST) -> Iterator[bytes]:
    """The records of one exchange."""
    identity = record.Identity("00" * 8, str(uuid_utils.uuid7()), {"sid": "c1", "be": "openai"})
    make = instance.make
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nUser-Agent: bench\r\n\r\n"
    yield make(identity, 0, "head", head, x_peer="127.0.0.1:5000", x_key="ab" * 8)
    for at in range(0, len(request), READ_BYTES):
        last = {"x_z": True} if at + READ_BYTES >= len(request) else {}
        yield make(identity, 0, "chunk", request[at : at + READ_BYTES], ci=1 + at // READ_BYTES, **last)
    yield make(identity, 2, "forward", head, x_up="http://backend", x_addr="127.0.0.1:1", x_dial=0.0, x_new=False)
    yield make(identity, 3, "head", b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\n\r\n", sc=200, ttfb=1.0)
    for index, event in enumerate(events, 1):
        yield make(identity, 3, "chunk", event, ci=index, **({"x_z": True} if index == len(events) else {}))
    total = sum(map(len, events))
    yield make(identity, 1, "end", b"", se=True, tc=len(events), tb=total, x_req=len(request), x_end="complete", x_err="",
               x_own=[1, 2, 3], x_lost=0)  # fmt: skip


def plain(count: int) -> Iterator[bytes]:
    """Exchanges one after the other."""
    instance = Instance()
    for _ in range(count):
        yield from exchange(instance, b"application/json", [REQUEST])


def streams(count: int) -> Iterator[bytes]:
    """Streams, `CONCURRENT` at a time, their chunks taking turns."""
    instance = Instance()
    for _ in range(count // CONCURRENT):
        running = [exchange(instance, b"text/event-stream", [EVENT] * CHUNKS) for _ in range(CONCURRENT)]
        for turn in zip(*running, strict=True):
            yield from turn


def agent(count: int) -> Iterator[bytes]:
    """A session whose turns have 400 messages and more."""
    instance = Instance()
    said = [{"role": ("user", "assistant")[turn % 2], "content": f"{turn} " * 400} for turn in range(401 + 2 * count)]
    for turn in range(count):
        body = orjson.dumps({"model": "gpt-4o", "messages": said[: 401 + 2 * turn]})
        yield from exchange(instance, b"application/json", [b'{"choices":[{"message":{"content":"ok"}}]}'], body)


class Rate(NamedTuple):
    """Of one run."""

    records: int
    exchanges: int
    wall_s: float
    cpu_s: float
    index_bytes: int


def measure(records: Iterator[bytes], exchanges: int) -> Rate:
    """Index these."""
    with tempfile.TemporaryDirectory() as root:
        data = DataDir(Path(root)).create()
        with (data.segments / "w0-00000001.cbor").open("wb") as file:
            file.write(header("w0", 1, time.time()))
            count = sum(bool(file.write(one)) for one in records)
        follower = Follower(data)
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        follower.catch_up()
        wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
        rows = apsw.Connection(str(data.index)).execute("SELECT count(*) FROM trace WHERE end_reason = 'complete'").get
        assert rows == exchanges, rows
        return Rate(count, exchanges, wall_s, cpu_s, data.index.stat().st_size)


def loads(exchanges: int, turns: int, streamed: int) -> Iterator[tuple[str, Rate]]:
    """Each kind of traffic and its rate."""
    yield "plain 2 KB exchanges", measure(plain(exchanges), exchanges)
    yield "turns of 800 KB and more", measure(agent(turns), turns)
    yield f"{CHUNKS}-event streams", measure(streams(streamed), streamed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--streams", type=int, default=1_000)
    given = parser.parse_args()
    for what, rate in loads(given.exchanges, given.turns, given.streams):
        print(
            f"{what}: {rate.records} records, {rate.exchanges} exchanges: {rate.records / rate.cpu_s:,.0f} records/s, "
            f"{rate.exchanges / rate.cpu_s:,.0f} exchanges/s of CPU time ({rate.wall_s:.2f} s wall, {rate.cpu_s:.2f} s CPU), "
            f"index {rate.index_bytes / rate.exchanges:,.0f} bytes/exchange"
        )
