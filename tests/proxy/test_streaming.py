"""Streaming: nothing is held back. What is read is written within the same call, and events arrive as without us."""

import asyncio
import itertools
import statistics
import time

import pytest

from llmdump.record import entries
from llmdump.settings import Settings
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.ports import Served, Transport, Upstream
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.routes import Origin
from llmdump_proxy.session import Session
from tests.proxy.harness import MemoryShelf, backend, read_request, running, scenario

EVENTS = 50
EVERY_S = 0.02


class Wire:
    """A transport that keeps what it is told, in one transcript with the records."""

    def __init__(self, name: str, told: list[tuple[str, bytes]]) -> None:
        self.name = name
        self.told = told

    def write(self, data: bytes) -> None:
        self.told.append((self.name, data))

    def write_eof(self) -> None:
        self.told.append((self.name, b"<eof>"))

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.told.append((self.name, b"<close>"))

    abort = close

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.told.append((self.name, b"<pause>"))

    def resume_reading(self) -> None:
        self.told.append((self.name, b"<resume>"))


class Connection:
    """A backend connection that is there at once; also the way to it."""

    facts = entries({"x_up": "http://b", "x_addr": "b:80"})[0]
    dial_ms = 0.0
    uses = 0

    def __init__(self, transport: Wire) -> None:
        self.transport: Transport = transport

    def attach(self, served: Served) -> None:
        pass

    def take(self, origin: Origin) -> Upstream:
        return self

    def leave(self, upstream: Upstream, *, reusable: bool, flush: bool) -> None:
        pass

    def dial(self, served: Served, origin: Origin) -> None:
        raise AssertionError("there is a connection")

    def has_died(self, client: Transport) -> bool:
        return False

    def reset(self, client: Transport) -> None:
        client.close()


class TellingShelf(MemoryShelf):
    """Notes each record in the transcript too."""

    why = "overflow"

    def __init__(self, told: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.told = told

    def ship(self, lane: None, number: int, record: bytes, reserve: bool = False) -> bool:
        self.told.append(("record", b""))
        return True


@pytest.fixture
def told() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture
def session(told: list[tuple[str, bytes]]) -> Session:
    recorder = Recorder("0123456789abcdef", TellingShelf(told))
    connection = Connection(Wire("backend", told))
    engine = Engine(Settings(upstream="http://b"), recorder, connection, Stats(), 0.0)  # type: ignore[arg-type]
    return Session(engine, Wire("client", told), "c:1")


REQUEST_HEAD = b"POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
RESPONSE_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_read_is_written_on_within_the_call_and_before_it_is_recorded(
    session: Session, told: list[tuple[str, bytes]]
) -> None:
    """Whatever the bytes are: a whole chunk, a part of one, or a part of its framing."""
    for data in (REQUEST_HEAD, b"5\r\nhello\r\n", b"5\r", b"\nhe", b"llo", b"\r\n0\r\n\r\n"):
        told.clear()
        session.client_data(data)
        assert told[0] == ("backend", data)
        assert ("record", b"") in told[1:]
    for data in (RESPONSE_HEAD, b"6\r\ndata: \r\n", b"4", b"\r\nabcd", b"\r\n", b"0\r\n\r\n"):
        told.clear()
        session.upstream_data(data)
        assert told[0] == ("client", data)
        assert ("record", b"") in told[1:]


def test_a_pipe_is_written_on_within_the_call(session: Session, told: list[tuple[str, bytes]]) -> None:
    session.client_data(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    session.upstream_data(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    for to, read in (("client", session.upstream_data), ("backend", session.client_data)):
        told.clear()
        read(b"frame")
        assert told == [(to, b"frame"), ("record", b"")]


def test_each_side_is_paused_exactly_while_the_other_is_full(session: Session, told: list[tuple[str, bytes]]) -> None:
    session.client_data(REQUEST_HEAD)
    told.clear()
    session.upstream_full()
    session.capture_full()
    session.upstream_drained()
    session.capture_drained()
    assert told == [("client", b"<pause>"), ("backend", b"<pause>"), ("client", b"<resume>"), ("backend", b"<resume>")]


async def arrival_delays_s(port: int) -> list[float]:
    """How long after it was written each event of one stream arrives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    delays = []
    for _ in range(EVENTS):
        line = await reader.readuntil(b"\n\n\r\n")
        delays.append(time.perf_counter() - float(line.split(b"data: ")[1]))
    writer.close()
    return delays


@scenario
async def test_events_arrive_as_soon_as_without_the_proxy() -> None:
    sent: list[float] = []

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(RESPONSE_HEAD)
        before = time.perf_counter()
        for _ in range(EVENTS):
            await asyncio.sleep(EVERY_S)
            now = time.perf_counter()
            sent.append(now - before)
            before = now
            event = b"data: %.9f\n\n" % now
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await reader.read()

    async with backend(stream) as where, running(where) as rig:
        direct_port = int(where.rpartition(":")[2])
        direct, through = await asyncio.gather(arrival_delays_s(direct_port), arrival_delays_s(rig.port))
        added_ms = (statistics.median(through) - statistics.median(direct)) * 1000
        print(f"median delay added to an event: {added_ms:.3f} ms (direct {statistics.median(direct) * 1000:.3f} ms)")
        assert added_ms < 5
        times = [record.ts for record in rig.of_kind("chunk", 3)][-EVENTS:]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert statistics.median(gaps) == pytest.approx(statistics.median(sent), abs=0.005), "each event has its own time"
