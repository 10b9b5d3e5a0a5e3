"""The lanes and the proxy's side of the protocol, without sockets: tables, transcripts, and a model of both sides."""

import itertools
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmdump.wire import BATCH_BYTES_MAX, WINDOW_BYTES, Ack, Batch, FromWriter, Have, Hello, ProtocolError, Resync, Retire
from llmdump_proxy.outbox import (
    HELLO_PAUSE_S,
    HELLO_PAUSE_S_MAX,
    NEVER_SENT_LIMIT,
    RESERVE_BYTES,
    Frame,
    Lane,
    Outbox,
    Packed,
    Session,
    State,
)

MIB = 1024 * 1024
STALL_S = 3.0
BUDGET = 3000


def nonces() -> object:
    """A source of nonces 1, 2, 3 …"""
    count = itertools.count(1)
    return lambda: next(count).to_bytes(8)


def nonce(number: int) -> bytes:
    return number.to_bytes(8)


def new_session(outbox: Outbox) -> Session:
    return Session(outbox, nonces(), STALL_S)  # type: ignore[arg-type]


def say_hello(session: Session, now: float) -> bytes:
    """The nonce of the HELLO that is due."""
    hello = session.hello(now)
    assert hello is not None
    session.said(hello, now)
    return hello.nonce


def in_session(outbox: Outbox, held: int = 0) -> Session:
    session = new_session(outbox)
    session.connected(0.0)
    session.receive(Have(say_hello(session, 0.0), held, "w0"), 0.0)
    return session


def send_all(session: Session, now: float = 0.0) -> list[Batch]:
    """All that goes now."""
    batches = []
    while (batch := session.batch()) is not None:
        batches.append(batch)
        session.sent(now)
    return batches


def add(outbox: Outbox, lane: Lane, *numbers: int, size: int = 10) -> None:
    for number in numbers:
        assert outbox.add(lane, number, number.to_bytes(8) + bytes(size - 8))


def numbers_of(batches: list[Batch]) -> list[int]:
    """The numbers of the records in batches, from the records themselves."""
    found = []
    for batch in batches:
        at = 0
        for length in batch.lengths:
            found.append(int.from_bytes(batch.body[at : at + 8]))
            at += length
        assert found[-len(batch.lengths)] == batch.first
        assert found[-1] == batch.last
    return found


# --- batches and window


def test_what_was_added_since_the_last_send_leaves_as_one_batch() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1, 2, 5)
    assert [(b.seq, b.first, b.last, list(b.lengths)) for b in send_all(session)] == [(1, 1, 5, [10, 10, 10])]
    add(outbox, session.lane, 6)
    assert [(b.seq, b.first, b.last) for b in send_all(session)] == [(2, 6, 6)]
    assert send_all(session) == []


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([BATCH_BYTES_MAX], [1]),
        ([BATCH_BYTES_MAX, 8], [1, 1]),
        ([8, BATCH_BYTES_MAX], [1, 1]),
        ([BATCH_BYTES_MAX // 2] * 3, [2, 1]),
        ([BATCH_BYTES_MAX + 1], [1]),
        ([8, BATCH_BYTES_MAX * 2, 8], [1, 1, 1]),
    ],
)
def test_a_batch_is_at_most_256_kib_or_one_record(sizes: list[int], batches: list[int]) -> None:
    outbox = Outbox(16 * MIB)
    session = in_session(outbox)
    for number, size in enumerate(sizes, 1):
        add(outbox, session.lane, number, size=size)
    assert [len(batch.lengths) for batch in send_all(session)] == batches


def test_no_more_than_a_window_is_under_way() -> None:
    outbox = Outbox(64 * MIB)
    session = in_session(outbox)
    add(outbox, session.lane, *range(1, 1001), size=10_000)
    sent = send_all(session)
    assert WINDOW_BYTES - BATCH_BYTES_MAX <= sum(len(batch.body) for batch in sent) <= WINDOW_BYTES
    session.receive(Ack(nonce(1), sent[0].last), 0.0)
    assert len(send_all(session)) == 1


def test_a_record_larger_than_the_window_goes_alone() -> None:
    outbox = Outbox(64 * MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1, size=WINDOW_BYTES + 1)
    add(outbox, session.lane, 2)
    assert numbers_of(send_all(session)) == [1]
    session.receive(Ack(nonce(1), 1), 0.0)
    assert numbers_of(send_all(session)) == [2]


def test_records_that_wait_are_joined_into_full_batches() -> None:
    outbox = Outbox(MIB)
    add(outbox, outbox.lane("x"), *range(1, 1001), size=600)
    assert len(outbox.lane("x").records) < BATCH_BYTES_MAX / 600 + 1
    assert outbox.held_records == 1000
    assert [len(batch.lengths) for batch in send_all(in_session(outbox))] == [436, 436, 128]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (1, 2, 2, 4)])
def test_numbers_that_do_not_rise_are_our_own_bug(numbers: tuple[int, ...]) -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, *numbers)
    with pytest.raises(AssertionError, match="order of their numbers"):
        session.batch()


# --- the budget


def test_a_full_outbox_refuses_and_holds_no_byte_more() -> None:
    outbox = Outbox(1000)
    lane = outbox.lane("x")
    add(outbox, lane, 1, size=1000)
    assert not outbox.add(lane, 2, b"x")
    assert not outbox.add(lane, 3, b"x")
    assert (outbox.held_bytes, outbox.held_records, outbox.overflows, outbox.full) == (1000, 1, 1, True)


def test_the_reserve_is_for_those_who_ask_and_ends_too() -> None:
    outbox = Outbox(1000)
    lane = outbox.lane("x")
    add(outbox, lane, 1, size=1000)
    assert outbox.add(lane, 2, bytes(RESERVE_BYTES), True)
    assert not outbox.add(lane, 3, b"x", True)
    assert outbox.held_bytes == 1000 + RESERVE_BYTES


def test_there_is_room_again_when_a_quarter_is_free() -> None:
    outbox = Outbox(1000)
    session = in_session(outbox)
    add(outbox, session.lane, *range(1, 11), size=100)
    assert not outbox.add(session.lane, 11, b"x")
    send_all(session)
    session.receive(Ack(nonce(1), 2), 0.0)
    assert outbox.full
    session.receive(Ack(nonce(1), 3), 0.0)
    assert not outbox.full


def test_a_record_larger_than_the_budget_does_not_make_the_outbox_full() -> None:
    outbox = Outbox(1000)
    assert not outbox.add(outbox.lane("x"), 1, bytes(1001))
    assert not outbox.full
    assert outbox.overflows == 1


def test_with_a_file_what_is_stuck_before_it_never_fills_memory() -> None:
    """Neither what is under way, nor what was read back, nor both: else there would be drops beside an empty file."""
    outbox = Outbox(MIB, spills=True)
    session = in_session(outbox)
    places, stored = itertools.count(), dict[Frame, Packed]()
    number = held = 0
    for _ in range(3):
        for _ in range(200):
            number += 1
            add(outbox, session.lane, number, size=10_000)
            while packed := session.lane.to_write():
                frame = Frame(packed.numbers[0], packed.last, len(packed.numbers), len(packed.body), 1, next(places), 0)
                stored[frame] = packed
                outbox.wrote(session.lane, frame)
            while frame_to_read := outbox.to_read(session.lane):
                outbox.did_read(session.lane, stored[frame_to_read])
            for batch in send_all(session)[:1]:
                held = batch.last
        assert outbox.memory_bytes < 0.75 * MIB
        session.disconnected()
        session.connected(0.0)
        session.receive(Have(say_hello(session, 0.0), held, "w0"), 0.0)
    assert outbox.overflows == 0


def test_a_dead_instances_frames_that_overlap_are_sent_once_and_without_what_is_held() -> None:
    """A stop may have written what a frame of the file has too; and the writer may hold a part of either."""
    batches = {
        Frame(numbers[0], numbers[-1], len(numbers), 10 * len(numbers), 1, at, 0): Packed(
            numbers, [10] * len(numbers), b"".join(number.to_bytes(8) + b"xx" for number in numbers)
        )
        for at, numbers in enumerate(([1, 2, 4, 5, 7], [4, 5, 7], [8, 9]))
    }
    outbox = Outbox(MIB, Lane(sorted(batches), sent_to=NEVER_SENT_LIMIT))
    session = in_session(outbox, held=2)
    while frame := outbox.to_read(session.lane):
        outbox.did_read(session.lane, batches[frame])
    assert numbers_of(send_all(session)) == [4, 5, 7, 8, 9]
    assert outbox.held_bytes == 50
    session.receive(Ack(nonce(1), 9), 0.0)
    assert (outbox.held_bytes, sorted(session.lane.freed)) == (0, sorted(batches))


def test_what_was_sent_while_it_was_written_stays_in_the_file_until_it_is_held() -> None:
    """It was in the file: a proxy that is killed now must not lose it. What was sent behind it has only memory."""
    outbox = Outbox(1000, spills=True)
    session = in_session(outbox)
    lane = session.lane
    for number in range(1, 41):
        add(outbox, lane, number, size=20)
    packed = lane.to_write()
    assert packed is not None
    sent = send_all(session)
    while not sent or sent[-1].last < packed.last:
        session.receive(Ack(nonce(1), sent[0].last), 0.0)
        sent = [*sent[1:], *send_all(session)]
    frame = Frame(packed.numbers[0], packed.last, len(packed.numbers), len(packed.body), 1, 0, 0)
    outbox.wrote(lane, frame)
    session.receive(Ack(nonce(1), packed.last - 1), 0.0)
    assert (lane.freed, lane.count_on_file) == ([], frame.records)
    left = [number for one in lane.left() for number in one.numbers]
    assert packed.last + 1 in left
    assert not {*left} & {*packed.numbers}
    session.receive(Ack(nonce(1), packed.last), 0.0)
    assert lane.freed == [frame]


# --- acknowledging and resending


@pytest.mark.parametrize("held", range(8))
def test_what_is_acknowledged_is_forgotten_to_the_record(held: int) -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    for group in ((1, 2), (4, 6, 7)):
        add(outbox, session.lane, *group)
        send_all(session)
    session.receive(Ack(nonce(1), held), 0.0)
    kept = [number for number in (1, 2, 4, 6, 7) if number > held]
    assert (outbox.held_bytes, outbox.held_records) == (10 * len(kept), len(kept))
    assert outbox.acknowledged == 5 - len(kept)
    session.receive(Resync(nonce(1)), 0.0)
    session.receive(Have(say_hello(session, 1.0), 0, "w0"), 1.0)
    assert numbers_of(send_all(session)) == kept


def test_after_resync_all_that_is_not_held_comes_again_in_order_from_seq_1() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    for number in range(1, 8):
        add(outbox, session.lane, number)
        send_all(session)
    session.receive(Resync(nonce(1)), 0.0)
    add(outbox, session.lane, 8)
    assert send_all(session) == []
    session.receive(Have(say_hello(session, 1.0), 3, "w0"), 1.0)
    batches = send_all(session)
    assert [(batch.seq, batch.first, batch.last) for batch in batches] == [(1, 4, 7), (2, 8, 8)]
    assert (outbox.sent, outbox.resent, outbox.acknowledged, outbox.sent_bytes) == (8, 4, 3, 80)


def test_several_batches_come_again_in_order_and_are_counted_once_as_sent() -> None:
    outbox = Outbox(16 * MIB)
    session = in_session(outbox)
    add(outbox, session.lane, *range(1, 101), size=20_000)
    send_all(session)
    session.receive(Resync(nonce(1)), 0.0)
    session.receive(Have(say_hello(session, 1.0), 0, "w0"), 1.0)
    again = session.batch()
    assert again is not None
    session.sent(1.0)
    session.receive(Resync(nonce(2)), 1.0)
    session.receive(Have(say_hello(session, 9.0), 0, "w0"), 9.0)
    batches = send_all(session)
    assert len(batches) == 8
    assert numbers_of(batches) == [*range(1, 101)]
    assert (outbox.sent, outbox.resent) == (100, again.last + 100)


@pytest.mark.parametrize("message", [Ack(nonce(9), 1), Have(nonce(9), 1, "w0"), Resync(nonce(9))])
def test_a_message_of_another_session_changes_nothing(message: FromWriter) -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1)
    send_all(session)
    session.receive(message, 0.0)
    assert (outbox.held_records, session.state) == (1, State.OPEN)


def test_an_ack_of_an_earlier_session_is_left() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1)
    send_all(session)
    session.disconnected()
    session.connected(1.0)
    for message in (Ack(nonce(1), 1), Have(nonce(1), 1, "w0"), Resync(nonce(1))):
        session.receive(message, 1.0)
    say_hello(session, 1.0)
    session.receive(Ack(nonce(1), 1), 1.0)
    assert (outbox.held_records, session.state) == (1, State.GREETING)


@pytest.mark.parametrize("held", [2, 3, 99])
def test_a_writer_that_claims_what_it_was_never_sent_gets_no_session(held: int) -> None:
    outbox = Outbox(MIB)
    add(outbox, outbox.lane("x"), 2)
    session = new_session(outbox)
    session.connected(0.0)
    first = say_hello(session, 0.0)
    with pytest.raises(ProtocolError, match="never sent"):
        session.receive(Have(first, held, "w0"), 0.0)
    assert (session.state, session.batch(), outbox.held_records, outbox.in_session) == (State.GREETING, None, 1, [])
    assert session.hello(0.1) is None
    assert session.hello(9.0) is not None


def test_an_ack_of_what_was_never_sent_ends_the_session_and_forgets_nothing() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1)
    send_all(session)
    add(outbox, session.lane, 2)
    with pytest.raises(ProtocolError):
        session.receive(Ack(nonce(1), 2), 0.0)
    assert (outbox.held_records, outbox.in_session) == (2, [])


# --- when HELLO is said


def hello_times(session: Session, until: float) -> list[float]:
    times = []
    for tick in range(int(until * 10) + 1):
        if hello := session.hello(tick / 10):
            session.said(hello, tick / 10)
            times.append(tick / 10)
    return times


def test_hello_is_repeated_with_growing_pauses_until_have() -> None:
    session = new_session(Outbox(MIB))
    assert hello_times(session, 1) == []
    session.connected(0.0)
    assert hello_times(session, 30) == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 23.5]


def test_a_new_connection_begins_with_hello_at_once_and_a_short_pause() -> None:
    session = new_session(Outbox(MIB))
    session.connected(0.0)
    hello_times(session, 20)
    session.disconnected()
    assert session.hello(20.0) is None
    session.connected(20.0)
    say_hello(session, 20.0)
    assert session.hello(20.0 + HELLO_PAUSE_S) is not None


def test_resync_after_progress_is_answered_at_once_and_without_it_after_a_pause() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1, 2)
    send_all(session)
    session.receive(Ack(nonce(1), 1), 0.0)
    session.receive(Resync(nonce(1)), 0.0)
    session.receive(Have(say_hello(session, 0.0), 1, "w0"), 0.0)
    send_all(session)
    session.receive(Resync(nonce(2)), 0.0)
    assert session.hello(0.1) is None
    assert session.hello(2.0) is not None


def test_silence_while_records_are_under_way_ends_in_hello() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    assert session.hello(100.0) is None
    add(outbox, session.lane, 1)
    send_all(session, 100.0)
    assert session.hello(100.0 + STALL_S - 0.1) is None
    assert session.hello(100.0 + STALL_S) is not None


def test_sending_on_does_not_postpone_the_end_of_the_silence() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    for number in range(1, 31):
        add(outbox, session.lane, number)
        send_all(session, number / 10)
        assert session.hello(number / 10) is None
    assert session.hello(0.1 + STALL_S) is not None


def test_each_ack_lets_the_silence_begin_anew() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1)
    send_all(session, 0.0)
    add(outbox, session.lane, 2)
    send_all(session, 2.0)
    session.receive(Ack(nonce(1), 1), 2.5)
    assert session.hello(5.0) is None
    assert session.hello(5.5) is not None


def test_a_writer_that_retires_is_sent_nothing_until_it_is_back() -> None:
    outbox = Outbox(MIB)
    session = in_session(outbox)
    add(outbox, session.lane, 1)
    send_all(session)
    session.receive(Retire(), 0.0)
    assert (session.batch(), outbox.in_session, session.hello(HELLO_PAUSE_S_MAX - 0.1)) == (None, [], None)
    session.disconnected()
    session.receive(Retire(), 0.0)
    assert session.hello(100.0) is None
    session.connected(101.0)
    session.receive(Have(say_hello(session, 101.0), 0, "w0"), 101.0)
    assert numbers_of(send_all(session)) == [1]


# --- lanes


def test_records_from_before_the_first_writer_go_whole_to_the_first() -> None:
    outbox = Outbox(MIB)
    waiting = outbox.lane("a")
    assert waiting is outbox.lane("b")
    add(outbox, waiting, 1, 2)
    first, second = in_session(outbox), in_session(outbox)
    assert first.lane is waiting
    assert second.lane is not waiting
    assert numbers_of(send_all(first)) == [1, 2]
    assert send_all(second) == []


def test_new_exchanges_are_spread_over_the_writers_in_session() -> None:
    outbox = Outbox(MIB)
    first, second = in_session(outbox), in_session(outbox)
    lanes = [outbox.lane(f"exchange {n}") for n in range(100)]
    assert 30 < lanes.count(first.lane) < 70
    assert lanes == [outbox.lane(f"exchange {n}") for n in range(100)]
    first.receive(Retire(), 0.0)
    assert {id(outbox.lane(f"exchange {n}")) for n in range(100)} == {id(second.lane)}
    second.disconnected()
    assert {id(outbox.lane(f"exchange {n}")) for n in range(100)} == {id(first.lane), id(second.lane)}


# --- against a model of the writer


class BothSides(RuleBasedStateMachine):
    """A session against a writer that follows docs/wire.md, over a link that may lose anything, and a writer that dies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places = itertools.count()
        self.outbox = Outbox(BUDGET, spills=True)
        self.file: dict[Frame, Packed] = {}
        self.in_hand: Packed | None = None
        self.reading: Frame | None = None
        self.session = new_session(self.outbox)
        self.session.connected(self.now)
        self.lane = self.outbox.lane("x")
        self.added: dict[int, bytes] = {}
        self.number = 0
        self.up: deque[Hello | Batch] = deque()
        self.down: deque[FromWriter] = deque()
        self.durable: list[int] = []
        self.taken: list[int] = []
        self.nonce = b""
        self.seq = 0
        self.sent_in_session: set[int] = set()

    @rule(size=st.integers(8, 400), skip=st.integers(1, 3))
    def add(self, size: int, skip: int) -> None:
        self.number += skip
        record = self.number.to_bytes(8) + bytes(size - 8)
        before = self.outbox.memory_bytes
        if self.outbox.add(self.lane, self.number, record):
            self.added[self.number] = record
        else:
            assert before + size > BUDGET

    @rule()
    def disk_begins_to_write(self) -> None:
        if packed := self.lane.to_write():
            assert self.in_hand is None
            self.in_hand = packed

    @precondition(lambda self: self.in_hand)
    @rule(works=st.booleans())
    def disk_has_written(self, works: bool) -> None:
        packed, self.in_hand = self.in_hand, None
        assert packed is not None
        if works:
            numbers = packed.numbers
            frame = Frame(numbers[0], packed.last, len(numbers), len(packed.body), 1, next(self.places), len(packed.body))
            self.file[frame] = packed
            self.outbox.wrote(self.lane, frame)
        else:
            self.lane.not_written()

    @rule()
    def disk_begins_to_read(self) -> None:
        if frame := self.outbox.to_read(self.lane):
            assert self.reading is None
            self.reading = frame

    @precondition(lambda self: self.reading)
    @rule(works=st.booleans())
    def disk_has_read(self, works: bool) -> None:
        frame, self.reading = self.reading, None
        assert frame is not None
        if works:
            self.outbox.did_read(self.lane, self.file[frame])
        else:
            self.outbox.not_read(self.lane)

    @rule()
    def disk_frees(self) -> None:
        for frame in self.lane.freed:
            del self.file[frame]
        self.lane.freed = []

    @precondition(lambda self: not self.reading)
    @rule()
    def proxy_would_stop_now(self) -> None:
        """What it would put into the file, and the file, is all that is not acknowledged."""
        left = [number for packed in self.lane.left() for number in packed.numbers]
        on_file = [number for frame in self.file if frame not in self.lane.freed for number in self.file[frame].numbers]
        assert {*left, *on_file} >= set(list(self.added)[self.outbox.acknowledged :])

    @rule()
    def proxy_sends(self) -> None:
        if hello := self.session.hello(self.now):
            self.session.said(hello, self.now)
            self.up.append(hello)
            self.sent_in_session.clear()
        if batch := self.session.batch():
            self.session.sent(self.now)
            self.up.append(batch)
            numbers = numbers_of([batch])
            assert not self.sent_in_session.intersection(numbers), "nothing is sent twice within a session"
            self.sent_in_session.update(numbers)

    @precondition(lambda self: self.up)
    @rule()
    def writer_reads(self) -> None:
        message = self.up.popleft()
        if isinstance(message, Hello):
            self.flush()
            self.nonce, self.seq = message.nonce, 0
            self.down.append(Have(message.nonce, self.durable[-1] if self.durable else 0, "w0"))
        elif message.nonce == self.nonce and message.seq == self.seq + 1:
            self.seq += 1
            self.taken += numbers_of([message])
        elif message.nonce == self.nonce or not self.nonce:
            self.nonce = b"over"
            self.down.append(Resync(message.nonce))

    @rule()
    def flush(self) -> None:
        if self.taken:
            self.durable += self.taken
            self.taken = []
            self.down.append(Ack(self.nonce, self.durable[-1]))

    @precondition(lambda self: self.down)
    @rule()
    def proxy_reads(self) -> None:
        self.session.receive(self.down.popleft(), self.now)

    @precondition(lambda self: self.down)
    @rule()
    def an_answer_is_lost(self) -> None:
        self.down.popleft()

    @precondition(lambda self: self.up)
    @rule()
    def a_batch_is_lost(self) -> None:
        self.up.popleft()

    @rule(wrote=st.integers(0, 50))
    def writer_dies_and_returns(self, wrote: int) -> None:
        self.durable += self.taken[:wrote]
        self.taken, self.nonce, self.seq = [], b"", 0
        self.up.clear()
        self.session.disconnected()
        self.session.connected(self.now)

    @rule()
    def writer_gives_up(self) -> None:
        self.taken = []
        self.down.append(Resync(self.nonce))
        self.nonce = b"over"

    @rule(seconds=st.sampled_from((0.1, 1.0, 4.0, 10.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def stored_once_and_in_order(self) -> None:
        stored = self.durable + self.taken
        assert stored == sorted(set(stored))
        assert set(stored) <= set(self.added)

    @invariant()
    def what_is_not_durable_is_still_held(self) -> None:
        forgotten = self.outbox.acknowledged
        assert list(self.added)[:forgotten] == self.durable[:forgotten]
        assert self.outbox.held_bytes == sum(len(record) for record in list(self.added.values())[forgotten:])
        assert self.outbox.held_records == len(self.added) - forgotten
        assert self.outbox.memory_bytes <= BUDGET + 400

    def teardown(self) -> None:
        """Left alone, everything arrives."""
        for _ in range(2000):
            if not self.outbox.held_bytes:
                break
            self.now += 1.0
            self.disk_begins_to_read()
            if self.reading:
                self.disk_has_read(works=True)
            self.proxy_sends()
            while self.up:
                self.writer_reads()
            self.flush()
            while self.down:
                self.proxy_reads()
        assert self.durable == list(self.added)
        if self.in_hand:
            self.disk_has_written(works=True)
        self.disk_frees()
        assert not self.file, "the place of what is acknowledged is given back"


BothSides.TestCase.settings = settings(
    max_examples=120, stateful_step_count=80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBothSides = BothSides.TestCase
