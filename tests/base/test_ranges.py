"""Ranges against sets of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from llmdump import ranges
from llmdump.ranges import Ranges

NUMBERS = st.sets(st.integers(1, 40))
PAIRS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)))


def as_ranges(numbers: set[int]) -> Ranges:
    """The ranges of a set, made the plain way."""
    found: Ranges = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def as_set(found: Ranges) -> set[int]:
    return {number for first, last in found for number in range(first, last + 1)}


@given(PAIRS)
def test_merged_is_the_union(pairs: list[tuple[int, int]]) -> None:
    assert ranges.merged(pairs) == as_ranges(as_set(pairs))


@given(NUMBERS, NUMBERS)
def test_both_and_without_are_what_sets_give(left: set[int], right: set[int]) -> None:
    assert ranges.both(as_ranges(left), as_ranges(right)) == as_ranges(left & right)
    assert ranges.without(as_ranges(left), as_ranges(right)) == as_ranges(left - right)
    assert ranges.count(as_ranges(left)) == len(left)


def test_text_shows_the_first_and_how_many_more() -> None:
    assert ranges.text([(3, 7), (9, 9)], 2) == "3-7, 9"
    assert ranges.text([(3, 7), (9, 9), (11, 12)], 1) == "3-7, and 2 more ranges"
    assert ranges.text([], 3) == ""
