"""Bytes cut into pieces, as a network does it: what a parser makes of them must not depend on where."""

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

CUTS = st.lists(st.integers(0, 4000), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data, cut at these places; one of them empty here and there."""
    places = sorted({min(cut, len(data)) for cut in cuts})
    yield from (data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True))


def each_byte(data: bytes) -> list[int]:
    """The cuts of a body whose every byte comes by itself."""
    return list(range(len(data)))


def outcome(parser: Any, data: bytes, cuts: list[int]) -> tuple[list[tuple[bytes, str, str]], str]:
    """The events apart from their times, and the problem."""
    events = [event for piece in pieces(data, cuts) for event in parser.feed(piece, 7)] + parser.finish(7)
    return [(event.data, event.name, event.kind) for event in events], parser.problem
