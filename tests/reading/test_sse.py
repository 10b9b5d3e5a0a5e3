"""Server-sent events: the standard's grammar, however the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.sse import NAME_BYTES_MAX, Sse
from tests.reading.pieces import CUTS, each_byte, outcome

LINES = st.sampled_from(
    [b"", b"", b"data: {}", b"data:x", b"data", b"data:  two", b"data: a:b", b"event: ping", b"event:", b"id: 1", b"retry: 5",
     b": comment", b"unknown: x", b" data: x", b"data: \xc3\xa9", b"\xff", b"datax: y"]
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=14).map(lambda lines: b"".join(line + end for line, end in lines))


def by_the_standard(stream: bytes) -> list[tuple[bytes, str, str]]:
    """WHATWG HTML 9.2.6, word for word, on the whole stream; and the unfinished last event."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events, data, name = [], b"", b""
    for line in [*lines, b""]:
        if not line:
            if data:
                events.append((data[:-1], name.decode(errors="replace"), "text"))
            data, name = b"", b""
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return events


@given(STREAMS, CUTS)
def test_any_stream_in_any_pieces_is_what_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    assert outcome(Sse(1000), stream, cuts) == (by_the_standard(stream), "")
    assert outcome(Sse(1000), b"\xef\xbb\xbf" + stream, cuts) == (by_the_standard(stream), "")


@given(st.binary(max_size=300), CUTS)
def test_any_bytes_are_read_without_complaint(stream: bytes, cuts: list[int]) -> None:
    assert outcome(Sse(1000), stream, cuts) == (by_the_standard(stream), "")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_end_of_line_ends_a_line(end: bytes) -> None:
    stream = end.join(
        [b": hello", b"id: 1", b"retry: 5", b"event: ping", b"data: {}", b"", b"data: line1", b"data: line2", b"", b""]
    )
    expected = [(b"{}", "ping", "text"), (b"line1\nline2", "", "text")]
    assert outcome(Sse(100), stream, []) == (expected, "")
    assert outcome(Sse(100), stream, each_byte(stream)) == (expected, "")


def test_an_event_is_given_with_its_empty_line_not_later() -> None:
    sse = Sse(100)
    assert sse.feed(b"data: 1\n", 1) == []
    assert [(event.data, event.at_us) for event in sse.feed(b"\n", 2)] == [(b"1", 2)]
    assert [(event.data, event.at_us) for event in sse.feed(b"data: 2\r\n\r", 3)] == [(b"2", 3)]
    assert sse.feed(b"\n", 4) == []
    assert sse.finish(5) == []


def test_an_unfinished_last_event_is_given() -> None:
    assert outcome(Sse(100), b"data: 1\n\nevent: e\ndata: 2", []) == ([(b"1", "", "text"), (b"2", "e", "text")], "")


@given(st.integers(0, 60), CUTS)
def test_an_event_beyond_the_limit_is_cut_and_flagged_and_the_next_one_is_whole(size: int, cuts: list[int]) -> None:
    stream = b"event: e\ndata: " + b"x" * size + b"\n\ndata: next\n\n"
    expected = [(b"x" * min(size, 20), "e", "text"), (b"next", "", "text")]
    assert outcome(Sse(20), stream, cuts) == (expected, "limit" if size > 20 else "")


@given(st.integers(1, 12), CUTS)
def test_the_data_lines_of_an_event_count_together(count: int, cuts: list[int]) -> None:
    whole = b"\n".join([b"abc"] * count)
    expected = [(whole[:19], "", "text")]
    assert outcome(Sse(19), b"data: abc\n" * count + b"\n", cuts) == (expected, "limit" if len(whole) > 19 else "")


def test_a_long_name_is_cut() -> None:
    stream = b"event: " + b"n" * 500 + b"\ndata: x\n\n"
    for cuts in ([], [100], each_byte(stream)):
        assert outcome(Sse(1000), stream, cuts) == ([(b"x", "n" * NAME_BYTES_MAX, "text")], "")


def test_a_million_lines_of_one_event_hold_no_more_than_the_limit() -> None:
    sse = Sse(1000)
    for _ in range(1000):
        assert sse.feed(b"data:\n" * 1000, 1) == []
    (event,) = sse.feed(b"\n", 2)
    assert len(event.data) <= 1000
