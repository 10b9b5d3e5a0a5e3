"""What the hot path of the proxy may cost, counted rather than timed: a guard that no other load on a machine disturbs.

    python bench/guard.py             the table, and exit status 1 if a limit is passed
    python bench/guard.py --time      instead, µs of CPU: with warm caches and no sockets, so the least that Python needs

Protocols, sessions, recorder and outbox are the real ones; only the two transports are stand-ins, because what a socket
brings at once is not the same twice. Counted are, for one plain request of 1 KB each way and for one chunk of an event
stream: calls of Python functions and of C functions (`sys.setprofile`), objects that stay behind for the cycle collector,
and the most memory held at once. Limits are today's figures, memory with a tenth of room: who needs more raises one here.
"""

import asyncio
import contextlib
import gc
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple, cast

from llmdump.settings import Settings
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.outbox import Lane, Outbox
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.transport import ClientProtocol, Pool, UpstreamProtocol

BODY = b'{"text":"' + b"x" * 1012 + b'"}'
EVENT = b'data: {"choices":[{"delta":{"content":"' + b"y" * 100 + b'"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
FIELDS = b"Host: bench\r\nUser-Agent: bench/1\r\nAccept: */*\r\nAuthorization: Bearer sk-bench-0123456789\r\n"
PLAIN = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, len(BODY), BODY)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNITS: Final = 32
TIMED: Final = 3200
ROUNDS: Final = 9


class Cost(NamedTuple):
    """Of one request or chunk."""

    calls: float
    c_calls: float
    left_objects: float
    """What only the cycle collector frees."""
    peak_bytes: int
    """The most memory held at once while UNITS of them pass."""


LIMITS: Final = {
    ("request", False): Cost(61, 39, 0, 200),
    ("request", True): Cost(101, 128, 0, 9400),
    ("chunk", False): Cost(9, 8, 0, 50),
    ("chunk", True): Cost(13, 21, 0, 900),
}


class Wire:
    """Takes what is written, as a transport."""

    def __init__(self, sock: socket.socket) -> None:
        self._extra = {"peername": ("127.0.0.1", 50000), "socket": sock}

    def write(self, data: bytes) -> None:
        """Sent at once."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, name: str) -> Any:
        """The other side."""
        return self._extra[name]


class Shelf:
    """An outbox whose writer acknowledges when it is told to."""

    why = "overflow"

    def __init__(self) -> None:
        self.outbox = Outbox(1 << 30)
        self.ship = self.outbox.add

    def lane(self, exchange: str) -> Lane:
        """There is one writer."""
        return self.outbox.lane(exchange)

    def acknowledge(self, number: int) -> None:
        """Everything is sent and held by the writer."""
        for lane in self.outbox.lanes:
            while lane.next():
                self.outbox.went(lane)
            self.outbox.release(lane, number)


class Rig:
    """One client and one backend connection through a proxy."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, stats: Stats, *, recording: bool) -> None:
        settings = Settings(upstream="http://127.0.0.1:9", capture_rules=() if recording else ("/*=none",))
        self._shelf = Shelf()
        self._recorder = Recorder("0" * 16, self._shelf)
        pool = Pool(settings, stats, loop)
        engine = Engine(settings, self._recorder, pool, stats, loop.time())
        wire = cast(asyncio.Transport, Wire(sock))
        route = engine.routes.find("/")
        assert route
        self._upstream = UpstreamProtocol(pool, route.origin)
        self._upstream.connection_made(wire)
        pool.leave(self._upstream, reusable=True, flush=True)
        self._heads = 1
        self._client = ClientProtocol(engine, set())
        self._client.connection_made(wire)

    def request(self) -> None:
        """A plain exchange."""
        self._client.data_received(PLAIN)
        self._upstream.data_received(ANSWER)

    def request_of_new_head(self) -> None:
        """A plain exchange whose head no plan is kept for."""
        self._heads += 1
        self._client.data_received(PLAIN.replace(b"bench/1", b"bench/%d" % self._heads))
        self._upstream.data_received(ANSWER)

    def begin_stream(self) -> None:
        """The head of an answer in chunks."""
        self._client.data_received(PLAIN)
        self._upstream.data_received(STREAM_HEAD)

    def chunk(self) -> None:
        """One event."""
        self._upstream.data_received(CHUNK)

    def acknowledge(self) -> None:
        """Records do not pile up."""
        self._shelf.acknowledge(self._recorder.made)


def measure(unit: str, *, recording: bool, stats: Stats | None = None) -> Cost:
    """What one `request` or `chunk` costs now."""
    with contextlib.closing(asyncio.new_event_loop()) as loop, socket.socket() as sock:
        rig = Rig(loop, sock, stats or Stats(), recording=recording)
        if unit == "chunk":
            rig.begin_stream()
        act = rig.chunk if unit == "chunk" else rig.request
        repeat(act, rig)  # caches are filled
        calls, c_calls = counted(act, rig)
        return Cost(calls, c_calls, objects_left(act, rig), peak_bytes(act, rig))


def repeat(act: Callable[[], None], rig: Rig) -> None:
    """UNITS times."""
    for _ in range(UNITS):
        act()
    rig.acknowledge()


def counted(act: Callable[[], None], rig: Rig) -> tuple[float, float]:
    """Calls of Python functions and of C functions."""
    counts = {"call": 0, "c_call": 0, "return": 0, "c_return": 0, "c_exception": 0}

    def count(frame: FrameType, event: str, argument: object) -> None:
        counts[event] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for _ in range(UNITS):
            act()
    finally:
        sys.setprofile(before)
    rig.acknowledge()
    # The last C call is that of setprofile itself.
    return counts["call"] / UNITS, (counts["c_call"] - 1) / UNITS


def objects_left(act: Callable[[], None], rig: Rig) -> float:
    """What collecting finds afterwards."""
    gc.collect()
    gc.disable()
    try:
        repeat(act, rig)
        return gc.collect() / UNITS
    finally:
        gc.enable()


def peak_bytes(act: Callable[[], None], rig: Rig) -> int:
    """With the records of UNITS until they are acknowledged, each beyond that."""
    tracemalloc.start()
    try:
        repeat(act, rig)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        repeat(act, rig)
        return (tracemalloc.get_traced_memory()[1] - before) // UNITS
    finally:
        tracemalloc.stop()


def cpu_us(unit: str, *, recording: bool) -> float:
    """CPU of one unit, the least of ROUNDS; records are acknowledged after each UNITS of them."""
    with contextlib.closing(asyncio.new_event_loop()) as loop, socket.socket() as sock:
        rig = Rig(loop, sock, Stats(), recording=recording)
        if unit == "chunk":
            rig.begin_stream()
        act = {"request": rig.request, "new head": rig.request_of_new_head, "chunk": rig.chunk}[unit]
        took_ns = []
        for _ in range(ROUNDS):
            began_ns = time.process_time_ns()
            for _ in range(TIMED // UNITS):
                repeat(act, rig)
            took_ns.append(time.process_time_ns() - began_ns)
        return min(took_ns) / TIMED / 1000


def print_times() -> None:
    """The table of `--time`."""
    for unit in ("request", "new head", "chunk"):
        off, on = (cpu_us(unit, recording=recording) for recording in (False, True))
        print(f"{unit:9} forwarding {off:5.1f} µs   recording {on - off:5.1f} µs")


def exceeded(cost: Cost, limit: Cost) -> list[str]:
    """The figures that have grown beyond their limit, each in words."""
    named = zip(Cost._fields, cost, limit, strict=True)
    return [f"{name}: {now:g}, at most {most:g}" for name, now, most in named if now > most]


def main() -> None:
    """Print the table."""
    if sys.argv[1:] == ["--time"]:
        print_times()
        return
    failed = False
    for (unit, recording), limit in LIMITS.items():
        cost = measure(unit, recording=recording)
        failed |= bool(exceeded(cost, limit))
        told = "; ".join(f"{name} {now:g} of {most:g}" for name, now, most in zip(Cost._fields, cost, limit, strict=True))
        print(f"{unit:8} {'recorded' if recording else 'not recorded':13} {told}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
