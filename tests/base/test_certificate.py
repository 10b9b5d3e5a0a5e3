"""What the certificate says, as a table of cases, and against a model that has sets of numbers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump import certificate
from llmdump.certificate import DAMAGED, DELETED, Facts, Hole, Missing, judge, window
from llmdump.ledger import Gap
from tests.base.test_ranges import as_ranges, as_set

ONE = "00" * 8


def facts(present: list[tuple[int, int]], made: int, **more: Any) -> Facts:
    return Facts(ONE, present, made, **more)


CASES: list[tuple[str, Facts, list[Missing], int, int | None]] = [
    ("whole, with a goodbye", facts([(1, 9)], 9, ended=True), [], 0, None),
    ("one cut out", facts([(1, 4), (6, 9)], 9, ended=True), [Missing(5, 5, "unknown")], 0, None),
    ("the first ones", facts([(3, 9)], 9, ended=True), [Missing(1, 2, "unknown")], 0, None),
    ("died", facts([(1, 9)], 9), [], 0, 9),
    ("died, of the last ones there is only a trace", facts([(1, 7)], 9), [Missing(8, 9, "unknown")], 0, 9),
    ("lives", facts([(1, 9)], 9, living=True, settled=9), [], 0, None),
    ("lives, one writer behind", facts([(1, 4), (6, 9)], 9, living=True, settled=4), [], 1, None),
    ("lives, all writers beyond", facts([(1, 4), (6, 9)], 9, living=True, settled=6), [Missing(5, 5, "unknown")], 0, None),
    (
        "told, in part",
        facts([(1, 2), (9, 9)], 9, told=[Gap(ONE, 4, 6, "overflow")], ended=True),
        [Missing(3, 3, "unknown"), Missing(4, 6, "overflow"), Missing(7, 8, "unknown")],
        0,
        None,
    ),
    (
        "told, and come all the same",
        facts([(1, 9)], 9, told=[Gap(ONE, 4, 6, "overflow")], ended=True),
        [],
        0,
        None,
    ),
    (
        "told without a reason",
        facts([(1, 1), (3, 3)], 3, told=[Gap(ONE, 2, 2, "")], ended=True),
        [Missing(2, 2, "unknown")],
        0,
        None,
    ),
    (
        "a damaged place and a file that is gone, and one that neither explains",
        facts(
            [(3, 4), (6, 7), (9, 9)],
            9,
            holes=[Hole(DAMAGED, "f at 7", 4, 6), Hole(DELETED, "g", 0, 3)],
            ended=True,
        ),
        [Missing(1, 2, DELETED, "g"), Missing(5, 5, DAMAGED, "f at 7"), Missing(8, 8, "unknown")],
        0,
        None,
    ),
    (
        "a file at the end is gone",
        facts([(1, 4)], 9, holes=[Hole(DELETED, "g", 4, None)], ended=True),
        [Missing(5, 9, DELETED, "g")],
        0,
        None,
    ),
    ("nothing but a trace", facts([], 3, ended=True), [Missing(1, 3, "unknown")], 0, None),
]


@pytest.mark.parametrize(
    ("given", "missing", "under_way", "unknown_after"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_number_is_there_or_missing_with_its_reason(
    given: Facts, missing: list[Missing], under_way: int, unknown_after: int | None
) -> None:
    found = judge(given)
    assert (found.missing, found.under_way, found.unknown_after) == (missing, under_way, unknown_after)
    assert found.complete == (not missing and unknown_after is None)
    assert found.made == found.present + found.under_way + found.lost


SPANS = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair) + 1))


@given(
    present=st.sets(st.integers(1, 30)),
    made=st.integers(0, 30),
    told=st.lists(SPANS, max_size=3),
    holes=st.lists(SPANS, max_size=3),
    living=st.booleans(),
    ended=st.booleans(),
    settled=st.integers(0, 30),
    within=st.none() | SPANS,
)
def test_what_is_said_is_what_a_model_with_sets_says(
    present: set[int],
    made: int,
    told: list[tuple[int, int]],
    holes: list[tuple[int, int]],
    living: bool,
    ended: bool,
    settled: int,
    within: tuple[int, int] | None,
) -> None:
    made = max([made, *present])
    gaps = [Gap(ONE, first + 1, last, "overflow") for first, last in told]
    places = [Hole(DAMAGED, f"place {index}", after, before) for index, (after, before) in enumerate(holes)]
    found = judge(Facts(ONE, as_ranges(present), made, gaps, places, ended, living, settled), within)
    asked = set(range(1, made + 1)) if within is None else set(range(within[0], within[1] + 1))

    def reason(number: int) -> str:
        if any(gap.first <= number <= gap.last for gap in gaps):
            return "overflow"
        if living and settled < number <= made:
            return "under way"
        return next((place.where for place in places if place.after < number < (place.before or 99)), "unknown")

    expected = {number: reason(number) for number in asked - present}
    said = {number: one.where or one.reason for one in found.missing for number in range(one.first, one.last + 1)}
    assert said == {number: why for number, why in expected.items() if why != "under way"}
    assert found.under_way == sum(why == "under way" for why in expected.values())
    assert (found.made, found.present) == (len(asked), len(asked & present))
    assert (found.unknown_after is not None) == (not living and not ended)


@pytest.mark.parametrize(
    ("first", "last", "present", "made", "numbers"),
    [
        (3, 6, [(1, 9)], 9, (3, 6)),
        (3, 6, [(1, 1), (3, 6), (9, 9)], 9, (2, 8)),
        (10, 5, [(1, 5), (10, 12)], 12, (6, 9)),
        (6, 5, [(1, 12)], 12, (6, 5)),
        (None, 9, [(1, 9)], 9, (10, 9)),
        (None, 7, [(1, 7)], 9, (8, 9)),
        (4, None, [(4, 9)], 9, (1, 3)),
        (1, None, [(1, 9)], 9, (1, 0)),
    ],
    ids=[
        "within", "missing on both sides", "all of it missing", "nothing made then", "over before", "over before, end missing",
        "begun after, beginning missing", "begun after",
    ],
)  # fmt: skip
def test_a_window_takes_in_what_is_missing_beside_it(
    first: int | None, last: int | None, present: list[tuple[int, int]], made: int, numbers: tuple[int, int]
) -> None:
    assert window(first, last, facts(present, made)) == numbers


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=20).map(sorted),
    st.sets(st.integers(1, 20)),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_a_window_never_leaves_out_what_was_made_within(times: list[float], lost: set[int], since: float, until: float) -> None:
    since, until = sorted((since, until))
    there = {number: ts for number, ts in enumerate(times, 1) if number not in lost}
    begin, end = window(
        min((number for number, ts in there.items() if ts >= since), default=None),
        max((number for number, ts in there.items() if ts < until), default=None),
        facts(as_ranges(set(there)), len(times)),
    )
    made_within = {number for number, ts in enumerate(times, 1) if since <= ts < until}
    assert made_within <= as_set([(begin, end)])
    assert as_set([(begin, end)]) & set(there) <= made_within


def test_a_died_instance_counts_where_its_last_record_lies() -> None:
    assert judge(facts([(1, 9)], 9), (1, 3), ends_within=False).complete
    assert certificate.state(facts([(1, 9)], 9)) == "died"
