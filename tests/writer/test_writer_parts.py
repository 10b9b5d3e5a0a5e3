"""The writer's decisions, without sockets, disks or clocks: sessions, flush rule, limits, sizes, batches."""

import random
from collections.abc import Sequence

import pytest

from llmdump import footer, record
from llmdump.keys import refusal
from llmdump.lines import Converter
from llmdump.settings import Settings
from llmdump.wire import WINDOW_BYTES, Batch, ProtocolError
from llmdump_writer import batch
from llmdump_writer.flush import FlushRule, Waiting
from llmdump_writer.rotation import Limits
from llmdump_writer.sessions import Instance, Sessions, Verdict
from tests.writer.writer_rig import chunk

INSTANCE = "00000000000000aa"
TAKE, LEAVE, RESYNC = Verdict.TAKE, Verdict.LEAVE, Verdict.RESYNC


@pytest.mark.parametrize(
    "transcript",
    [
        [("a", 1, 0.0, TAKE), ("a", 2, 0.0, TAKE), ("a", 3, 0.0, TAKE)],
        [("a", 2, 0.0, RESYNC), ("a", 1, 0.0, LEAVE), ("a", 2, 5.0, LEAVE)],
        [("a", 1, 0.0, TAKE), ("a", 1, 0.0, RESYNC), ("a", 2, 0.0, LEAVE)],
        [("a", 0, 0.0, RESYNC)],
        [("x", 1, 0.0, RESYNC), ("x", 2, 0.5, LEAVE), ("x", 3, 1.0, RESYNC), ("a", 1, 1.0, TAKE)],
    ],
)
def test_a_batch_is_taken_only_in_its_session_and_in_order(transcript: list[tuple[str, int, float, Verdict]]) -> None:
    instance = Instance()
    instance.open(b"a")
    assert [instance.judge(nonce.encode(), seq, now) for nonce, seq, now, _ in transcript] == [one[3] for one in transcript]


def test_batches_of_an_earlier_session_get_no_answer() -> None:
    instance = Instance()
    instance.open(b"a")
    instance.judge(b"a", 1, 0.0)
    instance.open(b"b")
    assert instance.judge(b"a", 2, 10.0) is LEAVE
    assert instance.judge(b"b", 1, 10.0) is TAKE
    instance.open(b"b")  # a nonce seen before begins anew all the same
    assert instance.judge(b"b", 1, 10.0) is TAKE


def test_giving_up_ends_all_sessions_and_takes_back_what_was_not_durable() -> None:
    known = Sessions({"a": 5, "b": 7})
    known.get("a").open(b"1")
    known.get("a").taken = 9
    known.get("c").open(b"2")
    assert known.give_up() == [("a", b"1"), ("c", b"2")]
    assert (known.get("a").taken, known.get("a").held, known.get("b").held) == (5, 5, 7)
    assert known.in_session() == [] and known.give_up() == []


def test_the_oldest_instance_without_a_session_is_forgotten_first() -> None:
    known = Sessions({"a": 1, "b": 2, "c": 3}, instances_max=3)
    known.get("a").open(b"1")
    known.get("d")
    assert [known.get("a").held, known.get("c").held] == [1, 3]
    assert known.get("b").held == 0


RULE = FlushRule(interval_s=0.5, entries=10, buffer_bytes=1000)


@pytest.mark.parametrize(
    ("waiting", "now", "trigger", "wait_s"),
    [
        (Waiting(0, 0, 0, 0.0), 99.0, None, None),
        (Waiting(1, 10, 10, 1.0), 1.0, None, 0.5),
        (Waiting(1, 10, 10, 1.0), 1.4375, None, 0.0625),
        (Waiting(1, 10, 10, 1.0), 1.5, "interval", 0.0),
        (Waiting(9, 999, 999, 1.0), 1.25, None, 0.25),
        (Waiting(10, 10, 10, 1.0), 1.0, "entries", 0.5),
        (Waiting(1, 1000, 1000, 1.0), 1.0, "bytes", 0.5),
    ],
)
def test_the_flush_rule(waiting: Waiting, now: float, trigger: str | None, wait_s: float | None) -> None:
    assert RULE.trigger(waiting, now) == trigger
    assert RULE.wait_s(waiting, now) == wait_s


def test_nobody_waits_for_more_than_a_proxy_may_send() -> None:
    rule = FlushRule(30.0, 1 << 30, 1 << 40)
    assert rule.trigger(Waiting(5, WINDOW_BYTES, WINDOW_BYTES // 2 - 1, 0.0), 0.0) is None
    assert rule.trigger(Waiting(5, WINDOW_BYTES, WINDOW_BYTES // 2, 0.0), 0.0) == "window"


@pytest.mark.parametrize(
    ("limits", "closed", "total", "reason"),
    [
        (Limits(1, 0, 0, 0), 9, 100, None),
        (Limits(1, 0, 3, 0), 3, 100, None),
        (Limits(1, 0, 3, 0), 4, 100, "max_files"),
        (Limits(1, 0, 0, 20), 2, 20, None),
        (Limits(1, 0, 0, 20), 2, 21, "total_max_bytes"),
        (Limits(1, 0, 3, 20), 4, 28, "max_files"),
    ],
)
def test_a_limit_is_exceeded_by_one_more_than_it_allows(limits: Limits, closed: int, total: int, reason: str | None) -> None:
    assert limits.exceeded(closed, total) == reason


@pytest.mark.parametrize(
    ("files", "total", "fits"),
    [
        ([100], 0, True),
        ([101], 0, False),
        ([100, 100], 0, True),
        ([100, 101], 0, False),
        ([60, 41], 100, False),
        ([60, 40], 100, True),
    ],
)
def test_a_segment_fits_while_each_file_and_all_together_keep_the_limits(files: list[int], total: int, fits: bool) -> None:
    assert Limits(100, 0, 0, total).fits(files) is fits


def test_age_zero_is_never() -> None:
    assert Limits(1, 0, 0, 0).closes_at(5.0) is None
    assert Limits(1, 60, 0, 0).closes_at(5.0) == 65.0


@pytest.mark.parametrize("instances", [0, 1, 3, 200])
def test_the_room_kept_for_a_footer_is_enough(instances: int) -> None:
    most = 2**64 - 1
    spans = {f"{n:016x}": (most, most, most) for n in range(instances)}
    body = footer.encode(1736524721.039145, most, spans)
    assert footer.spans(record.decode(body)) == spans
    converter = Converter()
    converter._sequence = 10**15
    line = b"".join(converter.lines(record.decode(body)))
    assert len(body) <= footer.room("cbor", instances)
    assert len(line) <= footer.room("jsonl", instances)


def test_a_footer_without_spans_is_damage() -> None:
    other = record.decode(chunk(1, b"", INSTANCE))
    with pytest.raises(record.DamageError, match="x_instances"):
        footer.spans(other)


def batch_of(records: list[bytes], first: int, last: int) -> Batch:
    """A batch that announces these numbers."""
    return Batch(b"12345678", 1, first, last, [len(one) for one in records], b"".join(records))


def test_a_good_batch_gives_its_numbers() -> None:
    records = [chunk(number, bytes(number), INSTANCE) for number in (1, 2, 5)]
    assert batch.numbers(batch_of(records, 1, 5), INSTANCE.encode()) == [1, 2, 5]


def test_no_flipped_bit_in_a_batch_passes() -> None:
    records = [chunk(number, b"body", INSTANCE) for number in (1, 2)]
    body = b"".join(records)
    rng = random.Random(7)
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << rng.randrange(8)
        announced = Batch(b"12345678", 1, 1, 2, [len(one) for one in records], bytes(damaged))
        if 23 <= at % len(records[0]) < 31:
            assert batch.numbers(announced, INSTANCE.encode()) == [1, 2]  # seq is the writer's own
            continue
        with pytest.raises(ProtocolError):
            batch.numbers(announced, INSTANCE.encode())


@pytest.mark.parametrize(
    ("numbers", "first", "last"), [((1, 2), 1, 3), ((2, 3), 1, 3), ((1, 1), 1, 1), ((2, 1), 2, 1), ((1, 3, 2), 1, 2)]
)
def test_numbers_that_do_not_rise_or_were_not_announced_are_refused(numbers: Sequence[int], first: int, last: int) -> None:
    records = [chunk(number, b"", INSTANCE) for number in numbers]
    with pytest.raises(ProtocolError, match="batch"):
        batch.numbers(batch_of(records, first, last), INSTANCE.encode())


def test_hostile_lengths_are_refused_and_never_read_beyond() -> None:
    body = chunk(1, b"x" * 100, INSTANCE) * 2
    rng = random.Random(8)
    for _ in range(2000):
        cut = sorted(rng.sample(range(1, len(body)), 3))
        lengths = [end - begin for begin, end in zip([0, *cut], [*cut, len(body)], strict=True)]
        with pytest.raises(ProtocolError):
            batch.numbers(Batch(b"12345678", 1, 1, 4, lengths, body), INSTANCE.encode())


@pytest.mark.parametrize(
    ("endpoint", "refused"),
    [
        ("ipc:///tmp/x", False),
        ("tcp://127.0.0.1:5", False),
        ("tcp://[::1]:5", False),
        ("tcp://localhost:5", False),
        ("tcp://0.0.0.0:5", True),
        ("tcp://*:5", True),
        ("tcp://eth0:5", True),
        ("tcp://127.0.0.1.evil.example:5", True),
        ("tcp://192.168.1.1:5", True),
    ],
)
def test_tcp_without_keys_is_for_loopback(endpoint: str, refused: bool) -> None:
    assert bool(refusal(endpoint, curve=False)) is refused
    assert refusal(endpoint, curve=True) is None


def test_the_rules_come_from_the_settings() -> None:
    settings = Settings(
        capture_flush_interval=2.0,
        capture_max_entries_per_flush=3,
        capture_buffer_size=4,
        capture_max_bytes=5000,
        capture_rotate_interval_seconds=6,
        capture_max_files=7,
        capture_total_max_bytes=8,
        capture_max_age_s=9.0,
    )
    assert FlushRule.of(settings) == (2.0, 3, 4)
    assert Limits.of(settings) == (5000, 6, 7, 8, 9.0)
