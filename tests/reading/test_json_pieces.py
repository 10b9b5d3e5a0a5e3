"""A JSON array in pieces: the elements that a JSON parser finds, each as soon as it is there."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.json_pieces import JsonPieces
from tests.reading.pieces import CUTS, each_byte, outcome

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{},: \n\u00e9', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='k"\\]', max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), CUTS)
def test_elements_are_those_of_the_array(array: list[Any], indent: int | None, cuts: list[int]) -> None:
    body = json.dumps(array, indent=indent).encode()
    events, problem = outcome(JsonPieces(100_000), body + b"\n", cuts)
    assert [json.loads(data) for data, _, _ in events] == array
    assert problem == ""


@given(st.lists(VALUES, max_size=4), st.integers(0, 100), CUTS)
def test_a_cut_array_gives_what_is_there(array: list[Any], keep: int, cuts: list[int]) -> None:
    body = json.dumps(array).encode()
    part = b"[" + body[1 : 1 + keep]
    if part == body:
        return
    events, problem = outcome(JsonPieces(100_000), part, cuts)
    assert problem == "cut"
    assert [json.loads(data) for data, _, _ in events[:-1]] == array[: max(len(events) - 1, 0)]


@given(st.binary(max_size=100).map(lambda tail: b"[" + tail), CUTS)
def test_any_bytes_in_any_pieces_are_the_same(body: bytes, cuts: list[int]) -> None:
    assert outcome(JsonPieces(20), body, cuts) == outcome(JsonPieces(20), body, [])


def test_an_element_is_given_with_its_bracket() -> None:
    array = JsonPieces(100)
    assert array.feed(b'[{"a":"}"', 1) == []
    assert [(event.data, event.at_us) for event in array.feed(b"}", 2)] == [(b'{"a":"}"}', 2)]
    assert [(event.data, event.at_us) for event in array.feed(b",\r\n{}]", 3)] == [(b",\r\n{}".lstrip(b",\r\n"), 3)]


@pytest.mark.parametrize("cuts", [[], [5], each_byte(b"x" * 200)])
def test_an_element_beyond_the_limit_is_cut_and_flagged(cuts: list[int]) -> None:
    body = b'[{"a":"' + b"x" * 90 + b'"},{"b":2}]'
    assert outcome(JsonPieces(10), body, cuts) == ([(b'{"a":"xxxx', "", "text"), (b'{"b":2}', "", "text")], "limit")


def test_what_follows_the_array_is_flagged() -> None:
    assert outcome(JsonPieces(10), b"[1]]", []) == ([(b"1", "", "text")], "damaged")


def test_depth_costs_nothing() -> None:
    events, problem = outcome(JsonPieces(10_000_000), b"[" + b"[" * 500_000 + b"]" * 500_000 + b"]", [])
    assert len(events) == 1
    assert problem == ""
