"""NDJSON: a line is an event."""

from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.ndjson import Ndjson
from tests.reading.pieces import CUTS, each_byte, outcome

LINES = st.lists(st.sampled_from([b'{"a":1}', b"", b" ", b'{"b":"\xc3\xa9"}', b"x" * 30, b"\xff"]), max_size=10)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), CUTS)
def test_lines_that_are_not_blank_are_events(lines: list[bytes], end: bytes, cuts: list[int]) -> None:
    expected = [(line, "", "text") for line in lines if line.strip()]
    assert outcome(Ndjson(100), end.join(lines), cuts) == (expected, "")
    assert outcome(Ndjson(100), end.join(lines) + end, cuts) == (expected, "")


@given(st.integers(0, 40), CUTS)
def test_a_line_beyond_the_limit_is_cut_and_flagged(size: int, cuts: list[int]) -> None:
    expected = [(b"{" * min(size + 1, 20), "", "text"), (b"{}", "", "text")]
    assert outcome(Ndjson(20), b"{" * (size + 1) + b"\n{}\n", cuts) == (expected, "limit" if size >= 20 else "")


def test_a_line_is_given_with_its_end() -> None:
    ndjson = Ndjson(100)
    assert ndjson.feed(b'{"a":', 1) == []
    assert [(event.data, event.at_us) for event in ndjson.feed(b"1}\n{", 2)] == [(b'{"a":1}', 2)]
    assert [(event.data, event.at_us) for event in ndjson.finish(3)] == [(b"{", 3)]
    assert outcome(Ndjson(9), b"{}\n{}", each_byte(b"{}\n{}"))[0] == [(b"{}", "", "text")] * 2
