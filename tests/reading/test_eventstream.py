"""AWS event streams: messages with right checksums, and what is around damaged ones."""

import random
import struct
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading import eventstream
from llmdump.reading.eventstream import EventStream
from tests.reading.pieces import CUTS, each_byte, outcome


def header(name: str, value: str) -> bytes:
    """A string header."""
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()


def message(payload: bytes, headers: bytes = header(":event-type", "chunk") + header(":message-type", "event")) -> bytes:
    """A whole message."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return head + struct.pack(">I", zlib.crc32(head))


FAILURE = message(
    b'{"message":"slow down"}', header(":message-type", "exception") + header(":exception-type", "throttlingException")
)


@given(st.lists(st.binary(max_size=40), max_size=6), CUTS)
def test_messages_in_any_pieces(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(message, payloads))
    assert outcome(EventStream(1000), stream, cuts) == ([(payload, "chunk", "text") for payload in payloads], "")


def test_an_exception_frame_is_an_event_of_that_kind() -> None:
    expected = [(b"1", "chunk", "text"), (b'{"message":"slow down"}', "throttlingException", "exception")]
    assert outcome(EventStream(1000), message(b"1") + FAILURE, []) == (expected, "")


def test_an_error_frame_is_named_by_its_code() -> None:
    headers = header(":error-code", "InternalError") + header(":message-type", "error")
    assert outcome(EventStream(1000), message(b"", headers), [])[0] == [(b"", "InternalError", "exception")]


def test_headers_of_every_type_are_passed_over() -> None:
    sizes = {0: b"", 1: b"", 2: b"x", 3: b"xx", 4: b"x" * 4, 5: b"x" * 8, 6: b"\0\x03xxx", 8: b"x" * 8, 9: b"x" * 16}
    others = b"".join(b"\x01h" + bytes([kind]) + value for kind, value in sizes.items())
    assert outcome(EventStream(1000), message(b"1", others + header(":event-type", "e")), [])[0] == [(b"1", "e", "text")]
    unknown = b"\x01h\x0a" + header(":event-type", "e")
    assert outcome(EventStream(1000), message(b"1", unknown), [])[0] == [(b"1", "", "text")]


@given(st.integers(0, 10_000), st.integers(1, 255), CUTS)
def test_one_damaged_byte_loses_one_message_and_is_told(place: int, flip: int, cuts: list[int]) -> None:
    stream = bytearray(message(b"first") + message(b"second") + message(b"third"))
    place %= len(stream)
    stream[place] ^= flip
    events, problem = outcome(EventStream(1000), bytes(stream), cuts)
    assert problem == "damaged"
    assert len(events) == 2
    assert {data for data, _, _ in events} < {b"first", b"second", b"third"}


@given(st.binary(min_size=12, max_size=100), CUTS)
def test_garbage_between_messages_is_passed_over(garbage: bytes, cuts: list[int]) -> None:
    stream = message(b"1") + garbage + message(b"2")
    expected = [(b"1", "chunk", "text"), (b"2", "chunk", "text")]
    assert outcome(EventStream(1000), stream, cuts) == (expected, "damaged")


def test_a_cut_message_is_told() -> None:
    stream = message(b"1") + message(b"2")[:-1]
    assert outcome(EventStream(1000), stream, each_byte(stream)) == ([(b"1", "chunk", "text")], "cut")


@pytest.mark.parametrize("size", [100, 1000, 5000])
@pytest.mark.parametrize("cuts", [[], [70], [3, 2000], each_byte(b"x" * 6000)])
def test_a_message_beyond_the_limit_is_cut_and_the_next_one_is_whole(size: int, cuts: list[int]) -> None:
    stream = message(b"x" * size) + message(b"next")
    events, problem = outcome(EventStream(90), stream, cuts)
    (cut, name, _), following = events
    assert name == "chunk"
    assert cut == b"x" * len(cut)
    assert 0 < len(cut) < 90
    assert following == (b"next", "chunk", "text")
    assert problem == "limit"


def test_what_is_beyond_the_limit_is_not_taken_for_a_message() -> None:
    stream = message(b"x" * 200 + message(b"hidden") + b"x" * 200) + message(b"next")
    events, _ = outcome(EventStream(90), stream, [150])
    assert [data for data, _, _ in events[1:]] == [b"next"]


def test_endless_garbage_is_not_searched_for_ever() -> None:
    stream, begun = EventStream(1000), time.monotonic()
    garbage = random.Random(1).randbytes(100_000)
    for _ in range(200):
        assert stream.feed(garbage, 1) == []
    assert time.monotonic() - begun < 10
    assert stream.problem == "damaged"
    assert stream._searched_bytes <= eventstream.SEARCHED_BYTES_MAX + 12
