"""What is run: which load, with which arms. A subset of the product of sizes, kinds and connections.

Plain JSON at full speed: 1, 10 and 100 KB at 32 connections, 1 KB at 1, 32, 256 and 1,000. At a constant rate: 1 KB at 1,000/s
for those that can and at 100/s for all; 100 and 400 KB at 50/s, for at full speed the disk is the limit of what records them.
Streams: 200 events every 20 ms at 32 and 300 connections, bursts at 32; 5,000 streams with slower events, since 250,000
events a second would measure the load. Slow arms are only in cells that they end in time.
"""

from typing import NamedTuple

DIRECT, NGINX, OFF, CBOR, JSONL, TWO, MITM, TAP = (
    "direct",
    "nginx",
    "llmdump, not recording",
    "llmdump cbor",
    "llmdump jsonl",
    "llmdump cbor, 2 proxies",
    "mitmdump",
    "claude-tap",
)
KIB = 1024


class Saturation(NamedTuple):
    """As many plain requests as an arm takes."""

    name: str
    arms: tuple[str, ...]
    request_bytes: int
    connections: int
    duration_s: int
    is_sealed: bool = False
    """Whether what was kept is sealed afterwards, to know its size."""


class Rate(NamedTuple):
    """Plain requests at a constant rate."""

    name: str
    arms: tuple[str, ...]
    rate_per_s: int
    count: int
    connections: int = 64
    request_bytes: int = KIB
    is_sealed: bool = False


class Streams(NamedTuple):
    """Streams of events."""

    name: str
    arms: tuple[str, ...]
    connections: int
    events: int
    gap_s: float
    spread_s: float
    """In which the first streams begin."""
    streams_each: int = 1
    request_bytes: int = KIB
    is_sealed: bool = False


Cell = Saturation | Rate | Streams

RATE = "plain 1 KB, 1,000/s"
PLAIN = "plain 1 KB, 32 connections"
STREAMS = "300 streams, event every 20 ms"
MANY = "5,000 streams, event every 2 s"
WRITER = "writer alone"
INDEXER = "indexer alone"
AGENTS = "agent sessions"
BEHIND = "behind the wire"


def full() -> list[Cell]:
    """All of it."""
    ways = (DIRECT, NGINX, OFF, CBOR)
    return [
        Saturation(PLAIN, (*ways, JSONL, TWO, MITM, TAP), KIB, 32, 1),
        Saturation("plain 1 KB, 1 connection", ways, KIB, 1, 1),
        Saturation("plain 1 KB, 256 connections", ways, KIB, 256, 1),
        Saturation("plain 1 KB, 1,000 connections", ways, KIB, 1000, 2),
        Saturation("plain 10 KB, 32 connections", ways, 10 * KIB, 32, 1),
        Saturation("plain 100 KB, 32 connections", ways, 100 * KIB, 32, 1),
        Rate(RATE, (*ways, JSONL), 1000, 4000),
        Rate("plain 1 KB, 100/s", (DIRECT, NGINX, CBOR, MITM, TAP), 100, 300),
        Rate("plain 100 KB, 50/s", (*ways, JSONL), 50, 150, request_bytes=100 * KIB, is_sealed=True),
        Rate("plain 400 KB, 50/s", ways, 50, 150, request_bytes=400 * KIB),
        Streams(STREAMS, (*ways, JSONL), 300, 200, 0.02, 2.0, is_sealed=True),
        Streams("32 streams, event every 20 ms", (DIRECT, NGINX, OFF, CBOR, MITM), 32, 200, 0.02, 0.5),
        Streams("32 streams, burst", (*ways, MITM, TAP), 32, 200, 0.0, 0.1, streams_each=5),
        Streams(MANY, ways, 5000, 5, 2.0, 5.0),
    ]


def quick() -> list[Cell]:
    """One round of it shows in minutes where things stand; its figures are no result."""
    ways = (DIRECT, NGINX, OFF, CBOR)
    return [
        Saturation(PLAIN, (*ways, JSONL, TWO, MITM, TAP), KIB, 32, 1),
        Saturation("plain 100 KB, 32 connections", ways, 100 * KIB, 32, 1),
        Rate(RATE, ways, 1000, 2000),
        Streams(STREAMS, ways, 300, 100, 0.02, 1.0),
        Streams("32 streams, burst", ways, 32, 200, 0.0, 0.1),
        Streams(MANY, (NGINX, OFF, CBOR), 5000, 3, 2.0, 4.0),
    ]
