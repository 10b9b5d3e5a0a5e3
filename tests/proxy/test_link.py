"""Records to writers over real sockets: a writer scripted by the test, or one as a process that is killed and stopped."""

import array
import asyncio
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import uvloop
import zmq

from llmdump import admin, record, segment, wire
from llmdump.data_dir import DataDir
from llmdump.metrics import BY_NAME
from llmdump.presence import Presence
from llmdump.settings import Settings
from llmdump.wire import Ack, Batch, Bye, Have, Hello, Resync, Retire
from llmdump_proxy.link import COALESCE_S, TICK_S, Shipping
from llmdump_proxy.outbox import RESERVE_BYTES, Lane
from tests.patience import WAIT_S, Limit

INSTANCE = "0123456789abcdef"
MIB = 1024 * 1024
PEER = Path(__file__).parent / "wire_peer.py"


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on uvloop, as the proxy does."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path).create()


async def until(true: Callable[[], object], within_s: float = WAIT_S) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def shipping_to(
    data: DataDir, *endpoints: str, memory_bytes: int = 24 * MIB, on_overflow: Literal["spill", "drop"] = "drop"
) -> AsyncIterator[Shipping]:
    settings = Settings(writer_endpoints=endpoints, capture_memory_bytes=memory_bytes, on_overflow=on_overflow)
    shipping = Shipping(settings, data, INSTANCE, asyncio.get_running_loop())
    await shipping.start()
    try:
        yield shipping
    finally:
        await shipping.close()


def line(number: int, size: int = 200) -> bytes:
    return f"{number} ".encode().ljust(size - 1, b".") + b"\n"


def ship(shipping: Shipping, lane: Lane, *numbers: int) -> None:
    for number in numbers:
        assert shipping.ship(lane, number, line(number))


class Writer:
    """A ROUTER that says what the test tells it to. Calls run in a thread, so that the loop goes on."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.router.setsockopt(zmq.LINGER, 200)
        self.router.bind(endpoint)
        self.routing_id = b""
        self._heard: wire.FromProxy | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.router.close()
        self.context.term()

    async def hears(self, within_s: float = WAIT_S) -> wire.FromProxy:
        message = self._heard or await asyncio.to_thread(self._receive, int(within_s * 1000))
        self._heard = None
        assert message is not None, "the proxy said nothing"
        return message

    async def hears_nothing(self, within_s: float) -> None:
        assert await asyncio.to_thread(self._receive, int(within_s * 1000)) is None

    async def hears_batch(self) -> Batch:
        message = await self.hears()
        assert isinstance(message, Batch)
        return message

    async def hears_records(self, count: int) -> tuple[Batch, bytes]:
        """So many records, of one or more batches: the last batch, and all bytes."""
        body, seen = b"", 0
        while seen < count:
            batch = await self.hears_batch()
            body, seen = body + batch.body, seen + len(batch.lengths)
        return batch, body

    async def greets(self, held: int = 0, name: str = "w0") -> bytes:
        """HELLO and HAVE: the session's nonce. A proxy that was held up has said HELLO again before it hears the HAVE, and
        that counts no more then."""
        hello = await self.hears()
        assert isinstance(hello, Hello)
        while True:
            self.says(Have(hello.nonce, held, name))
            self._heard = await asyncio.to_thread(self._receive, 20)
            if not isinstance(self._heard, Hello):
                return hello.nonce
            hello = self._heard

    def says(self, message: wire.FromWriter) -> None:
        self.router.send_multipart([self.routing_id, *wire.encode(message)])

    def _receive(self, within_ms: int) -> wire.FromProxy | None:
        if not self.router.poll(within_ms):
            return None
        self.routing_id, *frames = self.router.recv_multipart()
        assert self.routing_id == INSTANCE.encode()
        return wire.from_proxy(frames)


class WriterProcess:
    """wire_peer.py, running."""

    def __init__(self, endpoint: str, path: Path, *options: str) -> None:
        command = [sys.executable, str(PEER), endpoint, str(path), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def __enter__(self) -> "WriterProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


# --- sending


@on_loop
async def test_what_one_turn_of_the_loop_brings_leaves_in_one_message(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1, 2, 3)
            batch = await writer.hears_batch()
            assert (batch.nonce, batch.seq, batch.first, batch.last) == (nonce, 1, 1, 3)
            assert batch.body == line(1) + line(2) + line(3)


@on_loop
async def test_records_that_follow_at_once_leave_together_soon_after(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            await writer.greets()
            await until(lambda: shipping.writers_connected)
            lane = shipping.lane("x")
            for number in range(1, 51):
                ship(shipping, lane, number)
                await asyncio.sleep(0)
            batch, body = await writer.hears_records(50)
            assert body == b"".join(line(number) for number in range(1, 51))
            assert batch.seq <= 10


@on_loop
async def test_an_ack_is_seen_at_once_while_we_only_send(data: DataDir) -> None:
    """A send may consume the edge that announces the answer; then only the slow tick would find it."""
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            loop, lane, numbers, late = asyncio.get_running_loop(), shipping.lane("x"), itertools.count(1), []
            for _ in range(40):
                ship(shipping, lane, next(numbers))
                first = await writer.hears_batch()
                await asyncio.sleep(2 * COALESCE_S)
                acknowledged, began = shipping.outbox.acknowledged, time.monotonic()
                # In one turn: other work, during which the ACK comes in, and then our send, before descriptors are polled.
                loop.call_soon(time.sleep, 0.005)
                ship(shipping, lane, next(numbers))
                writer.says(Ack(nonce, first.last))
                await until(lambda: shipping.outbox.acknowledged > acknowledged)  # noqa: B023
                late.append(time.monotonic() - began)
                writer.says(Ack(nonce, (await writer.hears_batch()).last))
                await until(lambda: not shipping.outbox.held_bytes)
            # Without a second look a third of them wait for the tick. A busy machine may hold up one or the other.
            assert sum(one > TICK_S / 2 for one in late) < 5, sorted(late)


# --- writers that die


@pytest.mark.parametrize("options", [(), ("--mute",), ("--flush-s", "60")], ids=["acked", "held-unsaid", "not-held"])
@on_loop
async def test_a_killed_writers_successor_has_every_record_once(data: DataDir, options: tuple[str, ...]) -> None:
    """Whether the killed one had stored them and said so, had stored them and not said so, or had not stored them."""
    endpoint, path = data.writer_endpoint(0), data.root / "stored"
    numbers = itertools.count(1)
    async with shipping_to(data, endpoint) as shipping:
        lane = shipping.lane("x")
        with WriterProcess(endpoint, path, *options) as first:
            await until(lambda: shipping.writers_connected)
            for _ in range(40):
                ship(shipping, lane, *itertools.islice(numbers, 10))
                await asyncio.sleep(0.002)
            await until(lambda: shipping.outbox.sent == 400)
            if "60" not in options:
                await until(lambda: path.stat().st_size > 0)
            first.signal(signal.SIGKILL)
        stored = path.read_bytes().count(b"\n")
        assert (stored > 0) == ("60" not in options)
        ship(shipping, lane, *itertools.islice(numbers, 100))
        with WriterProcess(endpoint, path):
            assert await shipping.drain(WAIT_S)
        assert path.read_bytes() == b"".join(line(number) for number in range(1, 501))
        assert shipping.outbox.acknowledged == 500
        assert shipping.outbox.resent == (0 if options == () and stored == 400 else 400 - stored)


@on_loop
async def test_writers_killed_again_and_again_under_load_store_every_record_once(data: DataDir) -> None:
    endpoint, path = data.writer_endpoint(0), data.root / "stored"
    async with shipping_to(data, endpoint) as shipping:
        lane, number, killed = shipping.lane("x"), 0, 0
        while killed < 5:
            with WriterProcess(endpoint, path):
                end = time.monotonic() + 0.15 + 0.05 * killed
                while time.monotonic() < end:
                    ship(shipping, lane, *range(number + 1, number + 21))
                    number += 20
                    await asyncio.sleep(0.001)
            killed += 1
        with WriterProcess(endpoint, path):
            assert await shipping.drain(WAIT_S)
        assert path.read_bytes() == b"".join(line(n) for n in range(1, number + 1))


@on_loop
async def test_nothing_is_queued_for_a_writer_that_is_not_there(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    async with shipping_to(data, endpoint) as shipping:
        ship(shipping, shipping.lane("x"), 1)
        with Writer(endpoint) as writer:
            nonce = await writer.greets()
            assert (await writer.hears_batch()).nonce == nonce
        await until(lambda: not shipping.writers_connected)
        ship(shipping, shipping.lane("x"), 2)
        await asyncio.sleep(2 * TICK_S)
        assert shipping.outbox.sent == 1
        with Writer(endpoint) as writer:
            nonce = await writer.greets()
            batch, body = await writer.hears_records(2)
            assert (batch.nonce, body) == (nonce, line(1) + line(2))


@on_loop
async def test_what_was_queued_for_a_dead_writer_does_not_reach_its_successor(data: DataDir) -> None:
    """The first it hears is HELLO, not megabytes of a session that it does not know."""
    endpoint = data.writer_endpoint(0)
    async with shipping_to(data, endpoint) as shipping:
        with WriterProcess(endpoint, data.root / "stored") as stopped:
            await until(lambda: shipping.writers_connected)
            stopped.signal(signal.SIGSTOP)
            for number in range(1, 31):
                assert shipping.ship(shipping.lane("x"), number, bytes(100_000))
            await until(lambda: shipping.outbox.sent == 30)
        await until(lambda: not shipping.writers_connected)
        with Writer(endpoint) as writer:
            assert isinstance(await writer.hears(), Hello)


@on_loop
async def test_a_restarted_writer_is_used_within_half_a_second(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    async with shipping_to(data, endpoint) as shipping:
        with Writer(endpoint) as writer:
            await writer.greets()
            await until(lambda: shipping.writers_connected)
        await until(lambda: not shipping.writers_connected)
        with Writer(endpoint) as writer:
            limit = Limit(0.5)
            await writer.greets()
            assert limit.is_kept


class RealWriter:
    """The writer of this project, as a process on the same data directory."""

    def __init__(self, data: DataDir) -> None:
        options = ["--data-dir", str(data.root), "--writer-admin-listen", "127.0.0.1:0"]
        command = [sys.executable, "-m", "llmdump_writer.main", *options]
        # Its lines go to a file: a pipe that nobody reads would stop it.
        with (data.root / "writer.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=data.root)

    def kill(self) -> None:
        """`kill -9`, if it still lives; it must not have died by itself."""
        assert self.process.poll() is None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(WAIT_S)


def stored_numbers(data: DataDir) -> list[int]:
    """The numbers of all records in all segments, in the order of the files; nothing in them may be damaged."""
    numbers = []
    for name in segment.find(data.segments):
        with segment.SegmentFile(data.segments, name.segment) as file:
            content = file.read(0, file.size)
        for found in segment.scan(content[segment.skip_header(content) :], closed=True):
            assert isinstance(found, segment.Located)
            if found.record.instance == INSTANCE:
                numbers.append(found.record.number)
    return numbers


@on_loop
async def test_real_writers_killed_under_load_store_every_record_once(data: DataDir) -> None:
    identity = record.Identity(INSTANCE, "01890000-0000-7000-8000-000000000000")
    number, kills = 0, 5
    async with shipping_to(data) as shipping:
        lane = shipping.lane("x")
        for kill in range(kills):
            writer = RealWriter(data)
            try:
                # From a connection on it is busy; it is killed at another moment of its work each time.
                await until(lambda: shipping.writers_connected)
                held, end = shipping.outbox.acknowledged, time.monotonic() + 0.1 + 0.07 * kill
                while time.monotonic() < end or shipping.outbox.acknowledged == held:
                    for _ in range(20):
                        number += 1
                        whole = record.encode_chunk(time.time(), 3, number, b"data: x\n\n" * 20, identity, number, False)
                        assert shipping.ship(lane, number, whole)
                    await asyncio.sleep(0.001)
            finally:
                writer.kill()
            await until(lambda: not shipping.writers_connected)
        writer = RealWriter(data)
        try:
            assert await shipping.drain(WAIT_S)
        finally:
            code = writer.stop()
        assert code == 0
        assert stored_numbers(data) == [*range(1, number + 1)]
        assert shipping.outbox.acknowledged == number
        assert shipping.outbox.resent > 0


# --- sessions that go wrong


@on_loop
async def test_resync_brings_what_is_not_acknowledged_again(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1, 2, 3)
            await writer.hears_batch()
            writer.says(Ack(nonce, 1))
            writer.says(Resync(nonce))
            again = await writer.greets(held=1)
            batch = await writer.hears_batch()
            assert again != nonce
            assert (batch.nonce, batch.seq, batch.body) == (again, 1, line(2) + line(3))


@on_loop
async def test_a_lost_ack_is_made_good_by_the_next(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1)
            await writer.hears_batch()
            ship(shipping, shipping.lane("x"), 2)
            await writer.hears_batch()
            writer.says(Ack(nonce, 2))
            assert await shipping.drain(WAIT_S)
            assert shipping.outbox.resent == 0


@on_loop
async def test_a_writer_that_never_acknowledges_is_asked_again(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1)
            await writer.hears_batch()
            limit = Limit(5.0)
            await writer.greets(held=1)
            assert limit.passed_s > 2.5 and limit.is_kept
            assert await shipping.drain(WAIT_S)


@on_loop
async def test_hello_is_said_again_to_a_writer_that_is_silent(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            first, second = await writer.hears(), await writer.hears()
            assert isinstance(first, Hello)
            assert isinstance(second, Hello)
            assert first.nonce != second.nonce
            writer.says(Have(first.nonce, 0, "w0"))
            await writer.greets()
            await until(lambda: shipping.writers_connected)


@on_loop
async def test_a_writer_that_breaks_the_protocol_is_counted_and_costs_no_record(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            before = admin.swallowed.get("writer_protocol", 0)
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            writer.router.send_multipart([writer.routing_id, b"LLMD1?", b"what"])
            writer.router.send_multipart([writer.routing_id, b"LLMD2A" + nonce + bytes(8)])
            await until(lambda: admin.swallowed.get("writer_protocol", 0) == before + 2)
            ship(shipping, shipping.lane("x"), 1)
            await writer.hears_batch()
            writer.says(Ack(nonce, 7))
            await until(lambda: admin.swallowed.get("writer_protocol", 0) == before + 3)
            assert shipping.writers_connected == 0
            assert shipping.outbox.held_records == 1


# --- a writer that stands still


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@on_loop
async def test_a_stopped_writer_costs_the_budget_and_no_byte_more(data: DataDir) -> None:
    endpoint, path, budget = data.writer_endpoint(0), data.root / "stored", 16 * MIB
    with WriterProcess(endpoint, path) as writer:
        async with shipping_to(data, endpoint, memory_bytes=budget) as shipping:
            await until(lambda: shipping.writers_connected)
            writer.signal(signal.SIGSTOP)
            resident_before, rooms = resident_bytes(), 0

            def on_room() -> None:
                nonlocal rooms
                rooms += 1

            shipping.on_room = on_room
            lane, taken, refused = shipping.lane("x"), array.array("Q", bytes(8 * 200_000)), 0
            count = 0
            for number in range(1, 200_001):
                if shipping.ship(lane, number, line(number)):
                    taken[count] = number
                    count += 1
                else:
                    refused += 1
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert refused == 200_000 - count > 100_000
            assert budget - 1000 < shipping.outbox.held_bytes <= budget
            assert resident_bytes() - resident_before < budget + wire.WINDOW_BYTES + 4 * MIB
            assert not shipping.room()
            assert shipping.outbox.overflows == 1
            assert shipping.ship(lane, 200_001, line(200_001), reserve=True)
            assert shipping.outbox.held_bytes <= budget + RESERVE_BYTES
            assert rooms == 0
            writer.signal(signal.SIGCONT)
            await until(lambda: rooms)
            assert shipping.room()
            assert await shipping.drain(WAIT_S)
            assert rooms == 1
        assert path.read_bytes() == b"".join(line(number) for number in [*taken[:count], 200_001])


@on_loop
async def test_no_more_than_a_window_is_sent_to_a_writer_that_acknowledges_nothing(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            lane = shipping.lane("x")
            for number in range(1, 101):
                assert shipping.ship(lane, number, bytes(100_000))
            await until(lambda: shipping.outbox.sent_bytes > wire.WINDOW_BYTES - wire.BATCH_BYTES_MAX)
            await asyncio.sleep(2 * TICK_S)
            assert shipping.outbox.sent_bytes <= wire.WINDOW_BYTES
            batch, _ = await writer.hears_records(shipping.outbox.sent)
            writer.says(Ack(nonce, batch.last))
            await until(lambda: shipping.outbox.sent > batch.last)


# --- several writers, and none


@on_loop
async def test_an_exchange_is_whole_in_one_of_two_writers(data: DataDir) -> None:
    endpoints = [data.writer_endpoint(slot) for slot in (0, 1)]
    with Writer(endpoints[0]) as first, Writer(endpoints[1]) as second:
        async with shipping_to(data, *endpoints) as shipping:
            nonces = [await first.greets(), await second.greets(name="w1")]
            await until(lambda: shipping.writers_connected == 2)
            lanes = {exchange: shipping.lane(f"exchange {exchange}") for exchange in range(20)}
            for number in range(1, 201):
                assert shipping.ship(lanes[number % 20], number, line(number % 20))
            await until(lambda: shipping.outbox.sent == 200)
            seen: list[set[bytes]] = []
            for writer, nonce in zip((first, second), nonces, strict=True):
                lane_of = {id(lanes[e]): 0 for e in range(20)}
                assert len(lane_of) == 2
                batch = await writer.hears_batch()
                writer.says(Ack(nonce, batch.last))
                seen.append(set(batch.body.splitlines()))
            assert await shipping.drain(WAIT_S)
            assert len(seen[0]) + len(seen[1]) == 20
            assert not seen[0] & seen[1]


@on_loop
async def test_new_exchanges_leave_a_writer_that_retires_and_its_records_wait_for_it(data: DataDir) -> None:
    endpoints = [data.writer_endpoint(slot) for slot in (0, 1)]
    with Writer(endpoints[0]) as first, Writer(endpoints[1]) as second:
        async with shipping_to(data, *endpoints) as shipping:
            await first.greets()
            await until(lambda: shipping.writers_connected == 1)
            lane = shipping.lane("x")
            ship(shipping, lane, 1)
            await first.hears_batch()
            nonce = await second.greets()
            await until(lambda: shipping.writers_connected == 2)
            first.says(Retire())
            await until(lambda: shipping.writers_connected == 1)
            ship(shipping, lane, 2)
            assert all(shipping.lane(f"{n}") is not lane for n in range(20))
            ship(shipping, shipping.lane("y"), 3)
            batch = await second.hears_batch()
            assert batch.body == line(3)
            second.says(Ack(nonce, 3))
            await until(lambda: shipping.outbox.held_records == 2)
            first.router.close()
            with Writer(endpoints[0]) as back:
                await back.greets(held=1)
                assert (await back.hears_batch()).body == line(2)


@on_loop
async def test_records_wait_for_the_first_writer_that_appears_in_the_data_directory(data: DataDir) -> None:
    async with shipping_to(data) as shipping:
        ship(shipping, shipping.lane("x"), 1, 2)
        assert not await shipping.drain(0.05)
        card = await asyncio.to_thread(Presence.claim, data.run, "writer")
        try:
            endpoint = data.writer_endpoint(card.card.slot)
            with Writer(endpoint) as writer:
                card.update(listen=endpoint, state="running")
                nonce = await writer.greets()
                batch = await writer.hears_batch()
                assert batch.body == line(1) + line(2)
                writer.says(Ack(nonce, 2))
                assert await shipping.drain(WAIT_S)
        finally:
            card.release()


# --- the end


@on_loop
async def test_leaving_sends_what_is_there_and_says_bye(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1)
        assert (await writer.hears_batch()).body == line(1)
        assert isinstance(await writer.hears(), Bye)


@on_loop
async def test_leaving_takes_no_time_when_no_writer_is_there(data: DataDir) -> None:
    async with shipping_to(data, data.writer_endpoint(0)) as shipping:
        ship(shipping, shipping.lane("x"), 1)
        limit = Limit(0.5)
    assert limit.is_kept


@on_loop
async def test_drain_is_true_at_once_when_nothing_is_held(data: DataDir) -> None:
    async with shipping_to(data) as shipping:
        assert await shipping.drain(0.01)


@on_loop
async def test_the_metrics_are_in_the_table_and_count_what_happened(data: DataDir) -> None:
    endpoint = data.writer_endpoint(0)
    with Writer(endpoint) as writer:
        async with shipping_to(data, endpoint) as shipping:
            nonce = await writer.greets()
            await until(lambda: shipping.writers_connected)
            ship(shipping, shipping.lane("x"), 1, 2)
            await writer.hears_batch()
            writer.says(Ack(nonce, 1))
            await until(lambda: shipping.outbox.acknowledged)
            found = {sample.name: sample.value for sample in shipping.samples()}
    assert all(BY_NAME[name].part == "proxy" for name in found)
    assert found == {
        "llmdump_records_sent_total": 2,
        "llmdump_records_sent_bytes_total": 400,
        "llmdump_records_resent_total": 0,
        "llmdump_records_acknowledged_total": 1,
        "llmdump_queue_depth_records": 1,
        "llmdump_queue_depth_bytes": 200,
        "llmdump_queue_overflow_total": 0,
        "llmdump_queue_memory_bytes": 200,
        "llmdump_records_spilled_total": 0,
        "llmdump_records_dropped_total": 0,
        "llmdump_spill_bytes": 0,
        "llmdump_spill_orphaned_bytes": 0,
        "llmdump_proxy_writers_connected": 1,
    }
