"""The spill file: its frames on disk, real disks that refuse, and the way of records through it to real writers."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmdump import admin, presence, record, segment
from llmdump.data_dir import DataDir
from llmdump.settings import Settings
from llmdump_proxy.link import Shipping
from llmdump_proxy.outbox import RESERVE_BYTES, Frame, Lane, Packed
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.spill import FrameDamagedError, Room, Spill, SpillFullError, orphans
from tests.patience import WAIT_S, Limit
from tests.proxy.test_link import MIB, RealWriter, WriterProcess, line, on_loop, resident_bytes, until

INSTANCE = "00000000000000aa"
OTHER = "00000000000000bb"
ENDPOINT = "ipc:///x/writer-0.sock"
EXCHANGE = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path).create()


def packed(*numbers: int, size: int = 50) -> Packed:
    bodies = [line(number, size) for number in numbers]
    return Packed(numbers, [len(body) for body in bodies], b"".join(bodies))


def same(one: Packed, other: Packed) -> bool:
    return ([*one.numbers], [*one.lengths], one.body) == ([*other.numbers], [*other.lengths], other.body)


def room(limit_bytes: int = 64 * MIB) -> Room:
    return Room(limit_bytes, 0)


def files(data: DataDir, end: str = "") -> list[str]:
    return sorted(path.name for path in data.spill.glob(f"*{end}"))


# --- the file


def test_a_batch_is_read_as_it_was_written_with_its_holes(data: DataDir) -> None:
    spill = Spill(data.spill, INSTANCE, room())
    batches = [packed(3), packed(4, 5, 9, 1 << 31), packed(1 << 40, (1 << 40) + 7)]
    frames = [spill.write(0, ENDPOINT, batch) for batch in batches]
    assert [(frame.first, frame.last, frame.records) for frame in frames] == [
        (3, 3, 1), (4, 1 << 31, 4), (1 << 40, (1 << 40) + 7, 2),
    ]  # fmt: skip
    for frame, batch in zip(frames, batches, strict=True):
        assert same(spill.read(frame), batch)
        assert numbers_of(frame) == [*batch.numbers], "what is lost if it cannot be read"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in data.spill.iterdir())
    spill.close()


def test_a_dead_instances_file_is_found_by_one_with_its_lanes_apart(data: DataDir) -> None:
    dead = Spill(data.spill, INSTANCE, room())
    for lane, numbers in ((0, (1, 4)), (1, (2, 3)), (0, (7,))):
        dead.write(lane, f"ipc://w{lane}", packed(*numbers))
    assert not [*orphans(data.spill, room())], "its process lives"
    dead.close()
    used = room()
    (found,) = [*orphans(data.spill, used)]
    lanes = found.found()
    assert [(one.lane, one.endpoint, [frame.first for frame in one.frames]) for one in lanes] == [
        (0, "ipc://w0", [1, 7]), (1, "ipc://w1", [2]),
    ]  # fmt: skip
    assert not [*orphans(data.spill, room())], "another has it in hand"
    assert used.used_bytes == sum(path.stat().st_size for path in data.spill.glob("*.spill"))
    assert same(found.read(lanes[0].frames[1]), packed(7))
    found.free([frame for one in lanes for frame in one.frames])
    assert used.used_bytes == 0
    found.close()
    assert files(data) == []


def test_a_file_cut_at_any_byte_gives_the_whole_frames_before_the_cut(data: DataDir) -> None:
    spill = Spill(data.spill, INSTANCE, room())
    frames = [spill.write(0, ENDPOINT, packed(*numbers, size=12)) for numbers in ((1, 2), (3,), (5, 6))]
    spill.close()
    (path,) = data.spill.glob("*.spill")
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = [frame for frame in frames if frame.at + frame.file_bytes <= cut]
        lock = os.open(data.spill / f"{INSTANCE}.lock", os.O_RDWR | os.O_CREAT)
        found = Spill(data.spill, INSTANCE, room(), lock)
        assert [frame for one in found.found() for frame in one.frames] == whole
        assert (path.stat().st_size if whole else 0) == sum(frame.file_bytes for frame in whole)
        assert path.exists() == bool(whole)
        os.close(lock)


@pytest.mark.parametrize("rest", [b"", b" ", b"\0"])
def test_a_name_that_a_power_cut_left_in_part_names_nobody(data: DataDir, rest: bytes) -> None:
    """It was not synced, so nothing was sent; a lane for a writer that there is not would wait for good."""
    spill = Spill(data.spill, INSTANCE, room())
    spill.write(0, ENDPOINT, packed(1))
    spill.close()
    (path,) = data.spill.glob("*.writer")
    content = path.read_bytes()
    size = len(content.rstrip())
    found = {}
    for cut in range(size + 1):
        path.write_bytes(content[:cut] + rest * (len(content) - cut))
        lock = os.open(data.spill / f"{INSTANCE}.lock", os.O_RDWR | os.O_CREAT)
        (lane,) = Spill(data.spill, INSTANCE, room(), lock).found()
        found[cut] = lane.endpoint
        os.close(lock)
    whole = found.pop(size)
    assert set(found.values()) == {""}
    assert whole == (ENDPOINT if rest != b"\0" else "")


def test_a_segment_with_any_byte_changed_gives_all_frames_but_that_one(data: DataDir) -> None:
    """Also if it is the frame's head that says where the next one begins."""
    spill = Spill(data.spill, INSTANCE, room())
    frames = [spill.write(0, ENDPOINT, packed(*numbers, size=12)) for numbers in ((1, 2), (3, 7), (8,))]
    spill.close()
    (path,) = data.spill.glob("*.spill")
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
        lock = os.open(data.spill / f"{INSTANCE}.lock", os.O_RDWR | os.O_CREAT)
        dead = Spill(data.spill, INSTANCE, room(), lock)
        readable = []
        for frame in dead.found()[0].frames:
            with contextlib.suppress(FrameDamagedError):
                readable += dead.read(frame).numbers
        whole = [number for frame in frames if not frame.at <= at < frame.at + frame.file_bytes for number in numbers_of(frame)]
        assert readable == whole, at
        os.close(lock)


def numbers_of(frame: Frame) -> list[int]:
    return [number for first, last in frame.ranges for number in range(first, last + 1)]


def test_a_frame_with_any_byte_changed_is_not_read(data: DataDir) -> None:
    spill = Spill(data.spill, INSTANCE, room())
    frame = spill.write(0, ENDPOINT, packed(1, 2, size=12))
    (path,) = data.spill.glob("*.spill")
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
        with pytest.raises(FrameDamagedError):
            spill.read(frame)
    path.write_bytes(content[:-1])
    with pytest.raises(FrameDamagedError):
        spill.read(frame)
    spill.close()


def test_segments_are_deleted_when_none_of_their_frames_is_needed_and_the_limit_holds(data: DataDir) -> None:
    used = Room(MIB, 300_000)
    spill = Spill(data.spill, INSTANCE, used)
    frames: list[Frame] = []

    def fill(*, leaving: bool) -> None:
        with pytest.raises(SpillFullError):
            for _ in range(100):
                frames.append(spill.write(0, ENDPOINT, packed(len(frames) + 1, size=50_000), leaving=leaving))

    fill(leaving=False)
    assert MIB - 350_000 - 100 < used.used_bytes <= MIB - 300_000
    fill(leaving=True)
    assert MIB - 51_000 < used.used_bytes <= MIB
    assert used.used_bytes == sum(path.stat().st_size for path in data.spill.glob("*.spill"))
    segments = len(files(data, ".spill"))
    spill.free(frames[:10])
    assert len(files(data, ".spill")) < segments
    assert used.used_bytes == sum(path.stat().st_size for path in data.spill.glob("*.spill"))
    assert same(spill.read(frames[10]), packed(11, size=50_000))
    spill.free(frames[10:])
    spill.close()
    assert (used.used_bytes, files(data)) == (0, [])


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A disk of which a file gets no more than so many bytes (RLIMIT_FSIZE; EFBIG), after a short write."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_half_way_leaves_no_trace(data: DataDir) -> None:
    used = room()
    spill = Spill(data.spill, INSTANCE, used)
    first = spill.write(0, ENDPOINT, packed(1, size=5000))
    before = used.used_bytes
    with no_file_beyond(8192), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        spill.write(0, ENDPOINT, packed(2, size=5000))
    assert used.used_bytes == before == sum(path.stat().st_size for path in data.spill.glob("*.spill"))
    second = spill.write(0, ENDPOINT, packed(2, size=5000))
    assert same(spill.read(first), packed(1, size=5000))
    assert same(spill.read(second), packed(2, size=5000))
    spill.close()


# --- through the file to a writer


def shipping_for(data: DataDir, *endpoints: str, instance: str = "0123456789abcdef", **settings: Any) -> Shipping:
    made = Settings(writer_endpoints=endpoints, **{"capture_memory_bytes": 16 * MIB, **settings})
    return Shipping(made, data, instance, asyncio.get_running_loop())


def chunk(number: int, data: bytes, instance: str = "0123456789abcdef") -> bytes:
    return record.encode_chunk(1.5e9 + number, 3, number, data, record.Identity(instance, EXCHANGE), number, False)


async def ship_all(shipping: Shipping, first: int, last: int, recorder: Recorder | None = None) -> list[int]:
    """Which of these lines were taken. No faster than a disk that works: how fast that is now is not what is tested."""
    lane, taken = shipping.lane("x"), []

    def take(lane: Lane, number: int, line: bytes) -> bool:
        return shipping.ship(lane, number, line) or (recorder is not None and recorder.refused(lane, number, line))

    for number in range(first, last + 1):
        if take(lane, number, line(number)):
            taken.append(number)
        if number % 50 == 0:
            await asyncio.sleep(0.0005)
            await until(lambda: shipping.spill_failing or shipping.outbox.memory_bytes < 0.8 * MIB)
    return taken


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@on_loop
async def test_500_mb_for_a_stopped_writer_stay_within_the_memory_budget_and_all_arrive_once(data: DataDir) -> None:
    endpoint, path, budget, count = data.writer_endpoint(0), data.root / "stored", 16 * MIB, 5000
    with WriterProcess(endpoint, path) as writer:
        shipping = shipping_for(data, endpoint)
        await shipping.start()
        await until(lambda: shipping.writers_connected)
        writer.signal(signal.SIGSTOP)
        before, worst_resident, worst_memory, lane = resident_bytes(), 0, 0, shipping.lane("x")
        for number in range(1, count + 1):
            assert shipping.ship(lane, number, line(number, 100_000))
            worst_memory = max(worst_memory, shipping.outbox.memory_bytes)
            if number % 10 == 0:
                worst_resident = max(worst_resident, resident_bytes())
                # As fast as the disk: what is tested is memory.
                await until(lambda: shipping.outbox.memory_bytes < budget * 0.8)
        assert worst_memory <= budget
        assert worst_resident - before < budget + 16 * MIB
        assert shipping.outbox.held_bytes == count * 100_000
        assert shipping.outbox.unread_bytes > count * 100_000 - budget
        writer.signal(signal.SIGCONT)
        assert await shipping.drain(60)
        assert resident_bytes() - before < budget + 16 * MIB
        await until(lambda: not files(data, ".spill"))
        await shipping.close()
    with path.open("rb") as stored:
        for number in range(1, count + 1):
            assert stored.readline() == line(number, 100_000)
        assert stored.read() == b""
    assert files(data) == []


@on_loop
async def test_real_writers_killed_under_load_with_spill_in_use_store_every_record_once(data: DataDir) -> None:
    shipping = shipping_for(data, capture_memory_bytes=2 * MIB)
    await shipping.start()
    lane, number, payload = shipping.lane("x"), 0, bytes(2000)

    async def load(records: int) -> None:
        nonlocal number
        for _ in range(records):
            number += 1
            assert shipping.ship(lane, number, chunk(number, payload))
            if number % 20 == 0:
                await asyncio.sleep(0.001)
                await until(lambda: shipping.outbox.memory_bytes < 1.5 * MIB)

    for kill in range(4):
        await load(1500)
        writer = RealWriter(data)
        try:
            await until(lambda: shipping.writers_connected)
            await load(300 * kill)
            held = shipping.outbox.acknowledged
            await until(lambda: shipping.outbox.acknowledged > held)  # noqa: B023
        finally:
            writer.kill()
    await load(1500)
    assert shipping.outbox.spilled > 1000
    writer = RealWriter(data)
    try:
        assert await shipping.drain(WAIT_S)
        await shipping.close()
    finally:
        assert writer.stop() == 0
    assert numbers_stored(data) == {"0123456789abcdef": [*range(1, number + 1)]}
    assert files(data) == []


def numbers_stored(data: DataDir) -> dict[str, list[int]]:
    """The numbers of all records in all segments by instance, in the order of the files."""
    found: dict[str, list[int]] = {}
    for name in segment.find(data.segments):
        with segment.SegmentFile(data.segments, name.segment) as file:
            content = file.read(0, file.size)
        for one in segment.scan(content[segment.skip_header(content) :], closed=True):
            assert isinstance(one, segment.Located)
            if one.record.kind != "footer":
                found.setdefault(one.record.instance, []).append(one.record.number)
    return found


@on_loop
async def test_over_both_budgets_the_drops_that_are_counted_are_the_records_that_are_missing(data: DataDir) -> None:
    endpoint, path = data.writer_endpoint(0), data.root / "stored"
    shipping = shipping_for(data, endpoint, capture_memory_bytes=MIB, capture_spill_bytes=2 * MIB)
    recorder = Recorder("0123456789abcdef", shipping)
    await shipping.start()
    taken = await ship_all(shipping, 1, 30_000, recorder)
    assert MIB + MIB // 2 < shipping.outbox.held_bytes <= 3 * MIB
    assert shipping.why == "overflow"
    assert recorder.lost["overflow"] == recorder.dropped == 30_000 - len(taken)
    assert sum(file.stat().st_size for file in data.spill.glob("*.spill")) <= 2 * MIB
    assert 5000 < len(taken) < 20_000
    with WriterProcess(endpoint, path):
        await until(shipping.room)
        later = await ship_all(shipping, 30_001, 30_500)
        assert len(later) == 500
        assert await shipping.drain(WAIT_S)
    await shipping.close()
    assert path.read_bytes() == b"".join(line(number) for number in [*taken, *later])


@on_loop
async def test_a_disk_that_refuses_costs_drops_with_that_reason_and_is_used_again(data: DataDir) -> None:
    endpoint, path = data.writer_endpoint(0), data.root / "stored"
    shipping = shipping_for(data, endpoint, capture_memory_bytes=MIB)
    await shipping.start()
    with no_file_beyond(0):
        taken = await ship_all(shipping, 1, 8000)
        assert len(taken) < 8000
        assert shipping.outbox.memory_bytes <= MIB
        assert shipping.why == "spill_error"
        assert admin.swallowed["spill_write"] > 0
    assert files(data, ".spill") == []
    await until(lambda: shipping.outbox.spilled and shipping.room())
    taken += await ship_all(shipping, 8001, 10_000)
    assert taken[-2000:] == [*range(8001, 10_001)]
    with WriterProcess(endpoint, path):
        assert await shipping.drain(WAIT_S)
    await shipping.close()
    assert path.read_bytes() == b"".join(line(number) for number in taken)


@on_loop
async def test_a_disk_that_does_not_answer_slows_nothing(data: DataDir) -> None:
    """The file is a pipe that nobody reads: the thread hangs in its write."""
    shipping = shipping_for(data, data.writer_endpoint(0), capture_memory_bytes=MIB)
    await shipping.start()
    fifo = data.spill / "0123456789abcdef-0.writer"
    os.mkfifo(fifo)
    took_s, lane = [], shipping.lane("x")
    for number in range(1, 8001):
        began = time.perf_counter()
        shipping.ship(lane, number, line(number))
        if number % 50 == 0:
            await asyncio.sleep(0)
        took_s.append(time.perf_counter() - began)
    assert shipping.why == "spill_slow"
    assert shipping.outbox.memory_bytes <= MIB
    assert sorted(took_s)[-10] < 0.2, "a busy machine may stand still now and then"
    limit = Limit(2.0)
    assert (await shipping.keep(0.3))[0] == 0
    await shipping.close()
    assert limit.is_kept
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))


@on_loop
async def test_a_writer_that_comes_while_records_are_kept_for_the_next_proxy_is_sent_none_of_them(data: DataDir) -> None:
    """Their file names nobody. What a writer holds of such a lane could never be sent again."""
    endpoint = data.writer_endpoint(0)
    shipping = shipping_for(data, endpoint, on_overflow="block")
    await shipping.start()
    assert await ship_all(shipping, 1, 5)
    fifo = data.spill / "0123456789abcdef-0.writer"
    os.mkfifo(fifo)  # nobody reads it: the thread hangs
    keeping = asyncio.create_task(shipping.keep(WAIT_S))
    with WriterProcess(endpoint, data.root / "stored"):
        await until(lambda: shipping.writers_connected, WAIT_S)
        assert shipping.outbox.sent == 0
        assert not keeping.done()
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        assert (await keeping)[0] == 0
        await shipping.close()


@on_loop
async def test_until_the_file_names_its_writer_nothing_is_sent_and_nothing_is_given_up(data: DataDir) -> None:
    """A proxy killed after it sent some of a lane that has no name would leave a file that no writer takes."""
    endpoint, path = data.writer_endpoint(0), data.root / "stored"
    shipping = shipping_for(data, endpoint, capture_memory_bytes=MIB)
    await shipping.start()
    taken = await ship_all(shipping, 1, 8000)
    await until(lambda: shipping.outbox.memory_bytes < MIB * 0.75)
    name = data.spill / "0123456789abcdef-0.writer"
    assert name.read_bytes().strip() == b""
    name.rename(data.spill / "away")
    name.mkdir()
    before = admin.swallowed.get("spill_name_writer", 0)
    with WriterProcess(endpoint, path):
        await until(
            lambda: admin.swallowed.get("spill_name_writer", 0) >= before + 6, WAIT_S
        )  # so often a frame is tried to read
        assert (shipping.writers_connected, shipping.outbox.sent, shipping.outbox.lost) == (1, 0, 0)
        name.rmdir()
        assert await shipping.drain(WAIT_S)
    assert shipping.outbox.lost == 0
    await shipping.close()
    assert path.read_bytes() == b"".join(line(number) for number in taken)


@on_loop
async def test_a_damaged_frame_costs_its_records_and_no_other(data: DataDir) -> None:
    endpoint, path, told = data.writer_endpoint(0), data.root / "stored", list[Frame]()
    shipping = shipping_for(data, endpoint, capture_memory_bytes=MIB)
    shipping.on_lost = told.append
    await shipping.start()
    taken = await ship_all(shipping, 1, 10_000)
    await until(lambda: shipping.outbox.memory_bytes < MIB * 0.75)
    first = sorted(data.spill.glob("*.spill"))[0]
    with first.open("r+b") as file:
        file.seek(40_000)
        file.write(b"damage")
    with WriterProcess(endpoint, path):
        assert await shipping.drain(WAIT_S)
    await shipping.close()
    (frame,) = told
    kept = [number for number in taken if not frame.first <= number <= frame.last]
    assert path.read_bytes() == b"".join(line(number) for number in kept)
    assert shipping.outbox.lost == frame.records == len(taken) - len(kept)


# --- after the process


@on_loop
async def test_what_is_not_acknowledged_at_the_end_is_sent_by_the_next_proxy(data: DataDir) -> None:
    """Also what a writer has already, but had not said: it is not stored twice."""
    first = shipping_for(data, instance=INSTANCE, on_overflow="block")
    await first.start()
    writer = RealWriter(data)
    await until(lambda: first.writers_connected)
    lane = first.lane("x")
    for number in range(1, 101):
        assert first.ship(lane, number, chunk(number, b"before", INSTANCE))
    assert await first.drain(WAIT_S)
    writer.kill()
    await until(lambda: not first.writers_connected)
    for number in range(101, 5001):
        assert first.ship(lane, number, chunk(number, bytes(300), INSTANCE))
    assert not await first.drain(0.05)
    assert await first.keep(WAIT_S) == (4900, 0)
    await first.close()
    await let_successor_send(data)
    assert numbers_stored(data) == {INSTANCE: [*range(1, 5001)]}


def proxy_process(data: DataDir) -> subprocess.Popen[bytes]:
    """The proxy of this project, forwarding to nowhere."""
    options = ["--data-dir", str(data.root), "--proxy-listen", "127.0.0.1:0", "--proxy-admin-listen", "127.0.0.1:0"]
    command = [sys.executable, "-c", "from llmdump_proxy.main import main; main()", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, cwd=data.root)


def stop(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """SIGTERM: the exit code and the log."""
    process.terminate()
    _, log = process.communicate(timeout=WAIT_S)
    return process.returncode, log.decode()


@on_loop
async def test_a_proxy_that_is_stopped_without_a_writer_loses_nothing_and_says_so(data: DataDir) -> None:
    alone = proxy_process(data)
    await until(lambda: presence.living(data.run, "proxy") and presence.living(data.run, "proxy")[0].state == "running")
    instance = presence.living(data.run, "proxy")[0].instance
    limit = Limit(4.0)
    code, log = await asyncio.to_thread(stop, alone)
    assert limit.is_kept
    assert (code, "records_spilled records=2" in log, "given_up" in log) == (0, True, False)
    next_one, writer = proxy_process(data), RealWriter(data)
    try:
        await until(lambda: not files(data), WAIT_S)
    finally:
        code, log = await asyncio.to_thread(stop, next_one)
        assert writer.stop() == 0
    assert (code, "records_spilled" in log) == (0, False)
    assert numbers_stored(data)[instance] == [1, 2]


async def let_successor_send(data: DataDir) -> None:
    """A proxy and a writer, until no spill file is left."""
    next_one = shipping_for(data, instance=OTHER)
    await next_one.start()
    writer = RealWriter(data)
    try:
        await until(lambda: not files(data), WAIT_S)
        await next_one.close()
    finally:
        assert writer.stop() == 0


DIES = """
import asyncio, sys
import uvloop
from pathlib import Path
from llmdump.data_dir import DataDir
from tests.proxy.test_spill import chunk, shipping_for
async def main():
    shipping = shipping_for(DataDir(Path(sys.argv[1])), instance=sys.argv[2], capture_memory_bytes=1 << 20)
    await shipping.start()
    lane, number, told = shipping.lane("x"), 0, False
    while True:
        number += 1
        shipping.ship(lane, number, chunk(number, bytes(300), sys.argv[2]))
        if number % 20 == 0:
            await asyncio.sleep(0.0005)
        if not told and shipping.outbox.spilled > 4_000:
            told = True
            print("spilled", flush=True)
uvloop.run(main())
"""


@on_loop
async def test_what_a_killed_proxy_has_spilled_is_sent_by_the_next_one_once(data: DataDir) -> None:
    command = [sys.executable, "-c", DIES, str(data.root), INSTANCE]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert await process.stdout.readline() == b"spilled\n"
    process.kill()
    await process.wait()
    spilled = [number for frame in await asyncio.to_thread(frames_of_dead, data) for number in frame]
    assert len(spilled) > 4_000
    await let_successor_send(data)
    stored = numbers_stored(data)[INSTANCE]
    assert stored == spilled


def frames_of_dead(data: DataDir) -> list[list[int]]:
    (dead,) = [*orphans(data.spill, room())]
    frames = [[*dead.read(frame).numbers] for one in dead.found() for frame in one.frames]
    dead.close()
    return frames


@on_loop
async def test_orphans_of_two_writers_each_go_to_their_own(data: DataDir) -> None:
    endpoints = [data.writer_endpoint(slot) for slot in (0, 1)]
    dead = Spill(data.spill, INSTANCE, room())
    dead.write(0, endpoints[1], packed(1, 3))
    dead.write(1, endpoints[0], packed(2))
    dead.close()
    paths = [data.root / "stored-0", data.root / "stored-1"]
    shipping = shipping_for(data, *endpoints, instance=OTHER)
    await shipping.start()
    with WriterProcess(endpoints[1], paths[1]):
        await until(lambda: paths[1].exists() and paths[1].read_bytes().count(b"\n") >= 2, WAIT_S)
        assert files(data, "-1-00000002.spill"), "its writer is not there"
        with WriterProcess(endpoints[0], paths[0]):
            await until(lambda: not files(data), WAIT_S)
    await shipping.close()
    assert paths[1].read_bytes() == line(1, 50) + line(3, 50)
    assert paths[0].read_bytes() == line(2, 50)


@on_loop
async def test_orphans_of_a_moved_data_directory_are_sent(tmp_path: Path) -> None:
    before = DataDir(tmp_path / "before").create()
    dead = Spill(before.spill, INSTANCE, room())
    dead.write(0, before.writer_endpoint(0), packed(1, 3))
    dead.write(1, "tcp://127.0.0.1:5555", packed(2))
    dead.close()
    data = DataDir((tmp_path / "before").rename(tmp_path / "after")).create()
    (moved,) = [*orphans(data.spill, room())]
    assert [one.endpoint for one in moved.found()] == [data.writer_endpoint(0), "tcp://127.0.0.1:5555"]
    moved.close()
    shipping, path = shipping_for(data, data.writer_endpoint(0), instance=OTHER), data.root / "stored"
    await shipping.start()
    with WriterProcess(data.writer_endpoint(0), path):
        await until(lambda: not files(data, "-0-00000001.spill"), WAIT_S)
    await shipping.close()
    assert path.read_bytes() == line(1, 50) + line(3, 50)


@on_loop
async def test_an_orphan_that_never_had_a_writer_does_not_go_where_another_lane_of_it_is(data: DataDir) -> None:
    """That writer holds higher numbers of the same instance, and would take these for records it has."""
    endpoints = [data.writer_endpoint(slot) for slot in (0, 1)]
    dead = Spill(data.spill, INSTANCE, room())
    dead.write(0, "", packed(1, 3))
    dead.write(1, endpoints[0], packed(2, 5))
    dead.close()
    paths = [data.root / "stored-0", data.root / "stored-1"]
    shipping = shipping_for(data, *endpoints, instance=OTHER)
    await shipping.start()
    with WriterProcess(endpoints[0], paths[0]):
        await until(lambda: paths[0].exists() and paths[0].read_bytes().count(b"\n") >= 2, WAIT_S)
        with WriterProcess(endpoints[1], paths[1]):
            await until(lambda: not files(data), WAIT_S)
    await shipping.close()
    assert paths[0].read_bytes() == line(2, 50) + line(5, 50)
    assert paths[1].read_bytes() == line(1, 50) + line(3, 50)


def test_reserve_is_what_the_memory_budget_can_hold_at_most() -> None:
    assert Room(100 * MIB, 16 * MIB + RESERVE_BYTES).running_bytes == 84 * MIB - RESERVE_BYTES
    assert Room(2 * MIB, 16 * MIB).running_bytes == MIB
