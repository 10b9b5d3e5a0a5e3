"""What is not acknowledged yet: records in lanes, one lane a writer, under one budget of bytes; and the proxy's side of
the protocol with one writer. `docs/wire.md` is the specification; no I/O and no clock here, `link` has both.

    Outbox ── the budget, the counts, which lane a new exchange gets
      └─ Lane ── records for one writer, numbers rising        add │ open list ─pack→ waiting ─went→ under way ─held→ gone
      └─ Session ── HELLO … HAVE, BATCH … ACK with that writer      └───────────────────── restart ◄──────┘

Records lie in the open list one by one only until they are sent or make a full batch; then they are one body of bytes
with their lengths, so that a stalled writer costs no objects. Before any writer was in session, all records wait in
one lane; the first writer that says HAVE gets it. A lane that was sent to a writer is that writer's for good.

With a spill file the queue goes on behind what waits. From half the budget on, full batches are put behind the file:

    open list ─pack→ tail ─to_write, wrote→ unread frames ─to_read, did_read→ waiting ─went→ under way ─held→ gone
                       └────────────── nothing is unread: no need for the file ──▲

`spilling` does the writing and reading; a frame's place in the file is its own again when all its records are held.
What is in its hands stays here, and in the budget, until it says that it is done.

Whoever edits this: `memory_bytes` and `unread_bytes` must stay the exact sums over all lanes; a record leaves a lane only by
`release` (or `lost`, if the file has lost it); and numbers rise from under way to the open list.
"""

import array
import bisect
import enum
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from llmdump import wire
from llmdump.positions import unpack
from llmdump.wire import BATCH_BYTES_MAX, WINDOW_BYTES, Ack, Batch, Have, Hello, ProtocolError, Resync, Retire

RESERVE_BYTES: Final = 512 * 1024
"""Room above the budget for ends, gaps and the bye, and, where clients wait instead, for what the read that filled the
budget brought: at most 256 KiB (uvloop)."""
ROOM_AGAIN: Final = 0.75
"""A full outbox has room again when it is emptied to this share: or it would be full again at the next record."""
SPILL_AT: Final = 0.5
"""From this share of the budget on, batches go to the file: the rest is for what is in the hands of a slow disk."""
WINDOW_SHARE: Final = 0.25
"""With a file, no more than this share of the budget is under way to one writer: it can only wait in memory."""
SPILL_BATCHES: Final = 16
"""A batch for the file is at most this part of the budget, so that a small budget still holds several."""
READ_AHEAD_BATCHES: Final = 8
"""Batches of a lane that may wait in memory before the next is read from the file: half a window."""
HELLO_PAUSE_S: Final = 0.5
HELLO_PAUSE_S_MAX: Final = 8.0
NEVER: Final = float("inf")
NEVER_SENT_LIMIT: Final = (1 << 64) - 1
"""`sent_to` of a lane of which it is not known what was sent: a writer may hold any number."""


class Packed:
    """Some records of a lane as one body of bytes: a batch, before it has a session."""

    __slots__ = ("body", "lengths", "numbers")

    def __init__(self, numbers: Sequence[int], lengths: Sequence[int], body: bytes) -> None:
        first, last = numbers[0], numbers[-1]
        whole = last - first + 1 == len(numbers)
        self.numbers = range(first, last + 1) if whole else array.array("Q", numbers)
        self.lengths = array.array("I", lengths)
        self.body = body

    @property
    def last(self) -> int:
        """The highest number."""
        return self.numbers[-1]

    def after(self, held: int) -> "Packed | None":
        """The records with a number above `held`, or None if there is none."""
        keep = bisect.bisect_right(self.numbers, held)
        if keep == len(self.numbers):
            return None
        return Packed(self.numbers[keep:], self.lengths[keep:], self.body[sum(self.lengths[:keep]) :])


class Frame(NamedTuple):
    """A batch in the spill file, and where it lies."""

    first: int
    last: int
    records: int
    size_bytes: int
    """Of the records."""
    segment: int
    at: int
    file_bytes: int
    runs: bytes = b""
    """Its numbers less `first`, packed as in `positions`; empty where that is all of them, or not known."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Its numbers; where they are not known, from the first to the last."""
        runs = unpack(self.runs) or [(0, self.last - self.first + 1)]
        return [(self.first + offset, self.first + offset + count - 1) for offset, count in runs]


class Lane:
    """The records for one writer that are not acknowledged, in order. Filled by `Outbox.add`."""

    __slots__ = (
        "_held", "_in_hand", "_read", "_reading", "_sent_to", "_tail", "_under_way", "_unread", "_waiting",
        "_window_bytes", "freed", "numbers", "open_bytes", "records", "under_way_bytes", "unnamed",
    )  # fmt: skip

    def __init__(self, frames: Sequence[Frame] = (), sent_to: int = 0, window_bytes: int = WINDOW_BYTES) -> None:
        """`frames` are in the spill file already; `sent_to`: up to here a writer may claim to hold records."""
        self.records: list[bytes] = []
        """Added since the last `pack`, with their `numbers` and `open_bytes`."""
        self.numbers: list[int] = []
        self.open_bytes = 0
        self.under_way_bytes = 0
        """Sent in this session and not acknowledged."""
        self.freed: list[Frame] = []
        """Frames whose place in the file is not needed any more. Whoever frees it empties the list."""
        self.unnamed = False
        """The file does not say whose lane it is, or may not: nothing is sent until it does."""
        self._tail: deque[Packed] = deque()
        self._in_hand: Packed | None = None  # of the tail: being written
        self._unread: deque[Frame] = deque(frames)
        self._reading: Frame | None = None
        self._read: deque[Frame] = deque()  # in the file and in memory, and not all held
        self._waiting: deque[Packed] = deque()
        self._under_way: deque[Packed] = deque()
        self._window_bytes = window_bytes
        self._sent_to = sent_to
        self._held = 0

    def pack(self, *, to_file: bool = False) -> None:
        """Make the open records one body. Numbers must have been added in rising order: AssertionError."""
        numbers, records = self.numbers, self.records
        if len(records) == 1:
            packed = Packed(numbers, (self.open_bytes,), records[0])
        else:
            assert sorted(set(numbers)) == numbers, "records must be added in the order of their numbers"
            packed = Packed(numbers, array.array("I", map(len, records)), b"".join(records))
        assert packed.numbers[0] > self._packed_to(), "records must be added in the order of their numbers"
        (self._tail if to_file or self._tail or self._on_file else self._waiting).append(packed)
        self.records, self.numbers, self.open_bytes = [], [], 0

    def next(self) -> Packed | None:
        """What to send next, or None: nothing waits, or it may not go yet. The same again until `went`."""
        if self.unnamed or (not self._waiting and not self._refill()):
            return None
        packed = self._waiting[0]
        return packed if self.under_way_bytes + len(packed.body) <= self._window() else None

    def went(self) -> tuple[int, bool]:
        """What `next` gave was sent: how many records, and whether for the first time."""
        packed = self._waiting.popleft()
        self._under_way.append(packed)
        self.under_way_bytes += len(packed.body)
        new = packed.last > self._sent_to
        self._sent_to = max(self._sent_to, packed.last)
        return len(packed.numbers), new

    def release(self, held: int) -> tuple[int, int, int]:
        """Forget the records up to number `held`: how many, their bytes in memory, and those that were not read."""
        self._held = max(self._held, held)
        count = size = unread = 0
        while self._unread and self._unread[0].last <= held:
            frame = self._unread.popleft()
            self.freed.append(frame)
            count, unread = count + frame.records, unread + frame.size_bytes
        self._free()
        for queue in (self._under_way, self._waiting):
            while queue and queue[0].numbers[0] <= held:
                packed = queue.popleft()
                rest = packed.after(held)
                if rest:
                    queue.appendleft(rest)
                gone_bytes = len(packed.body) - (len(rest.body) if rest else 0)
                count += len(packed.numbers) - (len(rest.numbers) if rest else 0)
                size += gone_bytes
                if queue is self._under_way:
                    self.under_way_bytes -= gone_bytes
        return count, size, unread

    def restart(self) -> None:
        """Nothing is under way any more; what was is the first to be sent, in full batches."""
        self._waiting.extendleft(reversed([_joined(group) for group in _groups(self._under_way)]))
        self._under_way.clear()
        self.under_way_bytes = 0

    def to_write(self) -> Packed | None:
        """What to write into the file next, or None: nothing waits for it, or something is being written."""
        if self._in_hand or not self._tail:
            return None
        self._in_hand = self._tail[0]
        return self._in_hand

    def wrote(self, frame: Frame) -> int:
        """What `to_write` gave is in the file: the bytes of memory that this frees. None, if it was sent meanwhile: then the
        frame stays until all of it is held, as one that was read."""
        if not self._tail or self._tail[0] is not self._in_hand:
            self._in_hand = None
            self._read.append(frame)
            self._free()
            return 0
        self._tail.popleft()
        self._in_hand = None
        self._unread.append(frame)
        return frame.size_bytes

    def not_written(self) -> None:
        """It is not in the file; `to_write` gives it again."""
        self._in_hand = None

    def to_read(self, room_bytes: float) -> Frame | None:
        """What to read from the file next, or None: enough is in memory. With nothing to send, a frame may be larger than
        `room_bytes`: else a disk that cannot be written would keep a lane from being read."""
        if self._reading or not self._unread or len(self._waiting) >= READ_AHEAD_BATCHES:
            return None
        if self._unread[0].size_bytes > room_bytes and (self._waiting or self._under_way):
            return None
        self._reading = self._unread.popleft()
        return self._reading

    def did_read(self, packed: Packed) -> tuple[Frame, int]:
        """What `to_read` gave was this: the frame, and the bytes of it that now wait."""
        frame = self._end_reading()
        self._read.append(frame)
        # A stop that was cut short may have put the same records into two frames.
        rest = packed.after(max(self._held, self._waiting_to()))
        if rest:
            self._waiting.append(rest)
        self._free()
        return frame, len(rest.body) if rest else 0

    def not_read(self) -> Frame:
        """It could not be read now; `to_read` gives it again."""
        frame = self._end_reading()
        self._unread.appendleft(frame)
        return frame

    def lost(self) -> Frame:
        """It cannot be read, and never will be."""
        frame = self._end_reading()
        self.freed.append(frame)
        return frame

    def left(self) -> list[Packed]:
        """All that only memory has, in order: for the file, when the process ends. Nothing may be in its hands."""
        if self.records:
            self.pack()
        front = [packed for packed in (*self._under_way, *self._waiting) if not self._was_read(packed)]
        return [*front, *self._tail]

    def may_hold(self, held: int) -> bool:
        """Whether a writer can hold everything up to `held` of this lane: not if a record up to there was never sent."""
        return held <= self._sent_to or held < next(self._never_sent(), held + 1)

    @property
    def last(self) -> int:
        """The highest number this lane was given; 0 for none."""
        return max(self._sent_to, self.numbers[-1] if self.numbers else self._packed_to())

    @property
    def count(self) -> int:
        """Records held. Takes a time that grows with the batches: for metrics."""
        memory = sum(len(packed.numbers) for packed in (*self._under_way, *self._waiting, *self._tail))
        return len(self.records) + memory + sum(frame.records for frame in self._on_file)

    @property
    def count_on_file(self) -> int:
        """Records held that are in the file."""
        return sum(frame.records for frame in (*self._read, *self._on_file))

    @property
    def is_spilling(self) -> bool:
        """Whether there is anything for `to_write`, `to_read`, or whoever frees what was `freed` or names the file."""
        return bool(self._tail or self._unread or self.freed or self.unnamed)

    @property
    def _on_file(self) -> list[Frame]:
        """What is in the file and not in memory, in order."""
        return [self._reading, *self._unread] if self._reading else [*self._unread]

    def _refill(self) -> bool:
        """Whether anything waits to be sent now, from behind what waited."""
        if self._unread or self._reading:
            return False
        if self._tail:
            self._waiting.append(self._tail.popleft())
            return True
        if not self.records or self.under_way_bytes + self.open_bytes > self._window():
            return False
        self.pack()
        return True

    def _end_reading(self) -> Frame:
        frame, self._reading = self._reading, None
        assert frame is not None, "nothing is being read"
        return frame

    def _was_read(self, packed: Packed) -> bool:
        """Whether frames that are still in the file hold all of it."""
        firsts = [frame.first for frame in self._read]
        before = (bisect.bisect_right(firsts, number) for number in packed.numbers)
        return all(at and number <= self._read[at - 1].last for number, at in zip(packed.numbers, before, strict=True))

    def _free(self) -> None:
        while self._read and self._read[0].last <= self._held:
            self.freed.append(self._read.popleft())

    def _window(self) -> int:
        """A single batch may always go, however large."""
        return self._window_bytes if self.under_way_bytes else 1 << 62

    def _packed_to(self) -> int:
        if self._tail:
            return self._tail[-1].last
        return self._unread[-1].last if self._unread else self._reading.last if self._reading else self._waiting_to()

    def _waiting_to(self) -> int:
        for queue in (self._waiting, self._under_way):
            if queue:
                return queue[-1].last
        return self._held

    def _never_sent(self) -> Iterator[int]:
        """Numbers from the first that was never sent; of a frame only its first."""
        packed = (number for batch in self._waiting if batch.last > self._sent_to for number in batch.numbers)
        frames = (frame.first for frame in self._on_file)
        tail = (number for batch in self._tail for number in batch.numbers)
        return itertools.chain(packed, frames, tail, self.numbers)


def _groups(batches: Sequence[Packed] | deque[Packed]) -> list[list[Packed]]:
    """Neighbours that fit into one batch together."""
    groups: list[list[Packed]] = []
    size = 0
    for packed in batches:
        size += len(packed.body)
        if not groups or size > BATCH_BYTES_MAX:
            groups.append([])
            size = len(packed.body)
        groups[-1].append(packed)
    return groups


def _joined(group: list[Packed]) -> Packed:
    if len(group) == 1:
        return group[0]
    return Packed(
        [*itertools.chain.from_iterable(packed.numbers for packed in group)],
        [*itertools.chain.from_iterable(packed.lengths for packed in group)],
        b"".join([packed.body for packed in group]),
    )


class Outbox:
    """All lanes under one budget. The counts are plain integers for whoever scrapes them."""

    __slots__ = (
        "_limit_bytes", "_pack_bytes", "_spare", "_spill_at_bytes", "_wake", "_window_bytes", "acknowledged", "awake", "full",
        "in_session", "lanes", "lost", "memory_bytes", "overflows", "resent", "sent", "sent_bytes", "spilled",
        "unread_bytes", "was_full",
    )  # fmt: skip

    def __init__(
        self, limit_bytes: int, lane: Lane | None = None, *, spills: bool = False, wake: Callable[[], None] | None = None
    ) -> None:
        """`limit_bytes` of records in memory. `lane`: of another instance that has died, with what its file holds.
        `spills`: somebody writes what is for the file, and reads it back. `wake` is called by `add`
        unless `awake`, which it sets."""
        self._limit_bytes = limit_bytes
        self._spill_at_bytes: float = limit_bytes * SPILL_AT if spills else NEVER
        self._pack_bytes = min(BATCH_BYTES_MAX, limit_bytes // SPILL_BATCHES) if spills else BATCH_BYTES_MAX
        self._window_bytes = min(WINDOW_BYTES, int(limit_bytes * WINDOW_SHARE)) if spills else WINDOW_BYTES
        self._spare: Lane | None = lane or Lane(
            window_bytes=self._window_bytes
        )  # where records wait before any writer was in session
        self.lanes = [self._spare]
        self.in_session: list[Lane] = []
        """The lanes whose writer takes records now."""
        self.memory_bytes = 0
        """Records taken, not acknowledged, and here or in the hands of who writes and reads the file."""
        self.unread_bytes = sum(frame.size_bytes for frame in self._spare._on_file)
        """Records not acknowledged that are in the file only."""
        self._wake = wake
        self.awake = wake is None
        """Somebody knows that there is something to send. Who has looked, and may sleep again, sets it back."""
        self.full = False
        """A record was refused, and there is no room again yet."""
        self.was_full = False
        """The last record that was refused found it full. Who waits for room sets it back."""
        self.sent = self.sent_bytes = self.resent = self.acknowledged = self.overflows = self.spilled = self.lost = 0

    def add(self, lane: Lane, number: int, record: bytes, reserve: bool = False) -> bool:
        """Take a record; numbers rise within a lane. False: no room, nothing was taken.

        `reserve` may use RESERVE_BYTES above the budget. A record larger than the whole budget is refused without
        `full` being set: waiting would not help.
        """
        if not self.awake and self._wake:
            self._wake()
        size = len(record)
        memory_bytes = self.memory_bytes + size
        if memory_bytes > self._limit_bytes and not (reserve and memory_bytes <= self._limit_bytes + RESERVE_BYTES):
            self._refuse(size)
            return False
        if lane.open_bytes + size > self._pack_bytes and lane.records:
            lane.pack(to_file=memory_bytes > self._spill_at_bytes)
        self.memory_bytes = memory_bytes
        lane.records.append(record)
        lane.numbers.append(number)
        lane.open_bytes += size
        return True

    def lane(self, exchange: str) -> Lane:
        """The lane for a new exchange: of a writer in session, else of any there was."""
        lanes = self.in_session or self.lanes
        return lanes[0] if len(lanes) == 1 else lanes[zlib.crc32(exchange.encode()) % len(lanes)]

    def lane_for_writer(self) -> Lane:
        """The lane of a writer that had none: with the records that waited for a first writer, or a new one."""
        lane = self._spare or Lane(window_bytes=self._window_bytes)
        if lane is not self._spare:
            self.lanes.append(lane)
        self._spare = None
        return lane

    @property
    def lane_without_writer(self) -> Lane | None:
        """The lane that `lane_for_writer` would give, if it exists already."""
        return self._spare

    def release(self, lane: Lane, held: int) -> bool:
        """Forget what a writer holds. Whether that was anything."""
        count, size, unread = lane.release(held)
        self.unread_bytes -= unread
        self.acknowledged += count
        self._freed(size)
        return count > 0

    def wrote(self, lane: Lane, frame: Frame) -> None:
        """What `lane.to_write` gave is in the file."""
        size = lane.wrote(frame)
        self.unread_bytes += size
        self.spilled += frame.records
        self._freed(size)

    def to_read(self, lane: Lane) -> Frame | None:
        """The next frame to read for this lane, in memory from now on; then say `did_read`, `not_read` or `lose`."""
        frame = lane.to_read(min(self._limit_bytes, self._spill_at_bytes) - self.memory_bytes)
        if frame:
            self.memory_bytes += frame.size_bytes
            self.unread_bytes -= frame.size_bytes
        return frame

    def did_read(self, lane: Lane, packed: Packed) -> None:
        """What `to_read` gave was this."""
        frame, kept_bytes = lane.did_read(packed)
        self._freed(frame.size_bytes - kept_bytes)

    def not_read(self, lane: Lane) -> None:
        """It could not be read now."""
        frame = lane.not_read()
        self.unread_bytes += frame.size_bytes
        self._freed(frame.size_bytes)

    def lose(self, lane: Lane) -> Frame:
        """It cannot be read at all: what is lost."""
        frame = lane.lost()
        self.lost += frame.records
        self._freed(frame.size_bytes)
        return frame

    def went(self, lane: Lane) -> None:
        """Count what `lane.next` gave as sent."""
        before = lane.under_way_bytes
        count, new = lane.went()
        if new:
            self.sent += count
            self.sent_bytes += lane.under_way_bytes - before
        else:
            self.resent += count

    @property
    def held_bytes(self) -> int:
        """Records taken and not acknowledged, in memory or in the file."""
        return self.memory_bytes + self.unread_bytes

    @property
    def held_records(self) -> int:
        """Records taken and not acknowledged. For metrics."""
        return sum(lane.count for lane in self.lanes)

    @property
    def last(self) -> int:
        """The highest number that was taken."""
        return max(lane.last for lane in self.lanes)

    @property
    def records_on_file(self) -> int:
        """Records held that the file has too, or alone. For the log at the end."""
        return sum(lane.count_on_file for lane in self.lanes)

    @property
    def room_is_too_small(self) -> bool:
        """After a refusal: the record alone is larger than the budget."""
        return not self.full

    def _freed(self, size: int) -> None:
        self.memory_bytes -= size
        if self.full and self.memory_bytes <= self._limit_bytes * ROOM_AGAIN:
            self.full = False

    def _refuse(self, size: int) -> None:
        self.overflows += not self.full
        self.was_full = self.full = self.full or size <= self._limit_bytes


class State(enum.Enum):
    """Where a session is."""

    AWAY = "no connection"
    GREETING = "HELLO is due, or was said"
    OPEN = "the writer said HAVE"


class Session:
    """The protocol with one writer, from the proxy's side. Times are seconds of one monotonic clock."""

    def __init__(self, outbox: Outbox, draw_nonce: Callable[[], bytes], stall_s: float) -> None:
        """`stall_s`: so long may records be under way without any being acknowledged."""
        self.state = State.AWAY
        self.lane: Lane | None = None
        """None before the first HAVE of this writer."""
        self.writer = ""
        """What it calls itself."""
        self._outbox = outbox
        self._draw_nonce = draw_nonce
        self._stall_s = stall_s
        self._nonce = b""
        self._seq = 0
        self._hello_at = NEVER
        self._pause_s = HELLO_PAUSE_S
        self._progress_at = 0.0
        self._progressed = False

    def connected(self, now: float) -> None:
        """A connection stands: HELLO is due."""
        self._pause_s = HELLO_PAUSE_S
        self._end(now)

    def disconnected(self) -> None:
        """The connection is lost."""
        self._end(NEVER)
        self.state = State.AWAY

    def hello(self, now: float) -> Hello | None:
        """The HELLO that is due now; call `said` once it is sent."""
        if self.state is State.OPEN and self._is_stalled(now):
            self._end(now)
        if self.state is State.GREETING and now >= self._hello_at:
            return Hello(self._draw_nonce())
        return None

    def said(self, hello: Hello, now: float) -> None:
        """HELLO was sent."""
        self._nonce, self._seq, self._progressed = hello.nonce, 0, False
        self._wait(now)

    def batch(self) -> Batch | None:
        """The batch to send now; call `sent` once it is."""
        packed = self.lane.next() if self.lane and self.state is State.OPEN else None
        if packed is None:
            return None
        return Batch(self._nonce, self._seq + 1, packed.numbers[0], packed.last, packed.lengths, packed.body)

    def sent(self, now: float) -> None:
        """What `batch` gave was sent."""
        assert self.lane is not None
        if not self.lane.under_way_bytes:
            self._progress_at = now
        self._seq += 1
        self._outbox.went(self.lane)

    def receive(self, message: wire.FromWriter, now: float) -> None:
        """The writer said something. Raises ProtocolError, the session then over, if it claims what cannot be."""
        match message:
            case Ack(nonce, held) | Have(nonce, held, _) if nonce == self._nonce and self.state is State.OPEN:
                self._release(held, now)
            case Have(nonce, held, writer) if nonce == self._nonce:
                self._open(held, writer, now)
            case Resync(nonce) if nonce == self._nonce:
                self._resync(now)
            case Retire() if self.state is not State.AWAY:
                self._end(now + HELLO_PAUSE_S_MAX)

    def _open(self, held: int, writer: str, now: float) -> None:
        self._check(self.lane or self._outbox.lane_without_writer, held, now)
        self.lane = self.lane or self._outbox.lane_for_writer()
        self.state, self.writer, self._hello_at = State.OPEN, writer, NEVER
        self._outbox.in_session.append(self.lane)
        self._release(held, now)

    def _release(self, held: int, now: float) -> None:
        self._check(self.lane, held, now)
        if self.lane and self._outbox.release(self.lane, held):
            self._progressed, self._progress_at, self._pause_s = True, now, HELLO_PAUSE_S

    def _check(self, lane: Lane | None, held: int, now: float) -> None:
        if held <= self._outbox.last and (lane is None or lane.may_hold(held)):
            return
        self._nonce = b""
        self._end(now)
        self._wait(now)
        raise ProtocolError(f"a writer says it holds record {held}, which it was never sent: is its data directory mixed up?")

    def _resync(self, now: float) -> None:
        progressed = self._progressed
        self._end(now)
        if not progressed:
            self._wait(now)

    def _end(self, hello_at: float) -> None:
        """No session; HELLO is due at `hello_at`."""
        if self.state is State.OPEN and self.lane:
            self._outbox.in_session.remove(self.lane)
            self.lane.restart()
        self.state, self._nonce, self._hello_at = State.GREETING, b"", hello_at

    def _wait(self, now: float) -> None:
        self._hello_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, HELLO_PAUSE_S_MAX)

    def _is_stalled(self, now: float) -> bool:
        return self.lane is not None and self.lane.under_way_bytes > 0 and now - self._progress_at >= self._stall_s
