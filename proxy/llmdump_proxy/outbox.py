"""What is not acknowledged yet: records in lanes, one lane a writer, under one budget of bytes; and the proxy's side of
the protocol with one writer. `docs/wire.md` is the specification; no I/O and no clock here, `link` has both.

    Outbox ── the budget, the counts, which lane a new exchange gets
      └─ Lane ── records for one writer, numbers rising        add │ open list ─pack→ waiting ─went→ under way ─held→ gone
      └─ Session ── HELLO … HAVE, BATCH … ACK with that writer      └───────────────────── restart ◄──────┘

Records lie in the open list one by one only until they are sent or make a full batch; then they are one body of bytes
with their lengths, so that a stalled writer costs no objects. Before any writer was in session, all records wait in
one lane; the first writer that says HAVE gets it. A lane that was sent to a writer is that writer's for good.

Whoever edits this: `held_bytes` must stay the exact sum over all lanes, and a record leaves a lane only by `release`.
"""

import array
import bisect
import enum
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from llmdump import wire
from llmdump.wire import BATCH_BYTES_MAX, WINDOW_BYTES, Ack, Batch, Have, Hello, ProtocolError, Resync, Retire

RESERVE_BYTES: Final = 512 * 1024
"""Room above the budget for ends, gaps and the bye, and, where clients wait instead, for what the read that filled the
budget brought: at most 256 KiB (uvloop)."""
ROOM_AGAIN: Final = 0.75
"""A full outbox has room again when it is emptied to this share: or it would be full again at the next record."""
HELLO_PAUSE_S: Final = 0.5
HELLO_PAUSE_S_MAX: Final = 8.0
NEVER: Final = float("inf")


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


class Lane:
    """The records for one writer that are not acknowledged, in order. Filled by `Outbox.add`."""

    __slots__ = ("_sent_to", "_under_way", "_waiting", "numbers", "open_bytes", "records", "under_way_bytes")

    def __init__(self) -> None:
        self.records: list[bytes] = []
        """Added since the last `pack`, with their `numbers` and `open_bytes`."""
        self.numbers: list[int] = []
        self.open_bytes = 0
        self.under_way_bytes = 0
        """Sent in this session and not acknowledged."""
        self._waiting: deque[Packed] = deque()
        self._under_way: deque[Packed] = deque()
        self._sent_to = 0

    def pack(self) -> None:
        """Make the open records one body. Numbers must have been added in rising order: AssertionError."""
        numbers, records = self.numbers, self.records
        if len(records) == 1:
            packed = Packed(numbers, (self.open_bytes,), records[0])
        else:
            assert sorted(set(numbers)) == numbers, "records must be added in the order of their numbers"
            packed = Packed(numbers, array.array("I", map(len, records)), b"".join(records))
        assert packed.numbers[0] > self._packed_to(), "records must be added in the order of their numbers"
        self._waiting.append(packed)
        self.records, self.numbers, self.open_bytes = [], [], 0

    def next(self) -> Packed | None:
        """What to send next, or None: nothing waits, or the window is full. The same again until `went`."""
        if not self._waiting:
            if not self.records or self.under_way_bytes + self.open_bytes > self._window():
                return None
            self.pack()
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

    def release(self, held: int) -> tuple[int, int]:
        """Forget the records up to number `held`: how many, and their bytes."""
        count = size = 0
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
        return count, size

    def restart(self) -> None:
        """Nothing is under way any more; what was is the first to be sent, in full batches."""
        self._waiting.extendleft(reversed([_joined(group) for group in _groups(self._under_way)]))
        self._under_way.clear()
        self.under_way_bytes = 0

    def may_hold(self, held: int) -> bool:
        """Whether a writer can hold everything up to `held` of this lane: not if a record up to there was never sent."""
        return held <= self._sent_to or held < next(self._never_sent(), held + 1)

    @property
    def last(self) -> int:
        """The highest number this lane was given; 0 for none."""
        return self.numbers[-1] if self.numbers else self._packed_to()

    @property
    def count(self) -> int:
        """Records held. Takes a time that grows with the batches: for metrics."""
        return len(self.records) + sum(len(packed.numbers) for packed in (*self._under_way, *self._waiting))

    def _window(self) -> int:
        """A single batch may always go, however large."""
        return WINDOW_BYTES if self.under_way_bytes else 1 << 62

    def _packed_to(self) -> int:
        for queue in (self._waiting, self._under_way):
            if queue:
                return queue[-1].last
        return self._sent_to

    def _never_sent(self) -> Iterator[int]:
        packed = (number for batch in self._waiting if batch.last > self._sent_to for number in batch.numbers)
        return itertools.chain(packed, self.numbers)


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
        "_limit_bytes", "_spare", "acknowledged", "full", "held_bytes", "in_session", "lanes", "overflows", "resent", "sent",
        "sent_bytes",
    )  # fmt: skip

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._spare: Lane | None = Lane()  # where records wait before any writer was in session
        self.lanes = [self._spare]
        self.in_session: list[Lane] = []
        """The lanes whose writer takes records now."""
        self.held_bytes = 0
        """Records taken and not acknowledged."""
        self.full = False
        """A record was refused, and there is no room again yet."""
        self.sent = self.sent_bytes = self.resent = self.acknowledged = self.overflows = 0

    def add(self, lane: Lane, number: int, record: bytes, reserve: bool = False) -> bool:
        """Take a record; numbers rise within a lane. False: no room, nothing was taken.

        `reserve` may use RESERVE_BYTES above the budget. A record larger than the whole budget is refused without
        `full` being set: waiting would not help.
        """
        size = len(record)
        held_bytes = self.held_bytes + size
        if held_bytes > self._limit_bytes and not (reserve and held_bytes <= self._limit_bytes + RESERVE_BYTES):
            self._refuse(size)
            return False
        if lane.open_bytes + size > BATCH_BYTES_MAX and lane.records:
            lane.pack()
        self.held_bytes = held_bytes
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
        lane = self._spare or Lane()
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
        count, size = lane.release(held)
        self.held_bytes -= size
        self.acknowledged += count
        if self.full and self.held_bytes <= self._limit_bytes * ROOM_AGAIN:
            self.full = False
        return count > 0

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
    def held_records(self) -> int:
        """Records taken and not acknowledged. For metrics."""
        return sum(lane.count for lane in self.lanes)

    @property
    def last(self) -> int:
        """The highest number that was taken."""
        return max(lane.last for lane in self.lanes)

    def _refuse(self, size: int) -> None:
        self.overflows += not self.full
        self.full = self.full or size <= self._limit_bytes


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
