"""The ledger: numbers merge into runs in any order, and the changes told are enough to rebuild them."""

from hypothesis import given
from hypothesis import strategies as st

from llmdump.ledger import Runs


def merged(numbers: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans())))
def test_any_order_gives_the_same_runs_and_doubles_are_told(numbers: list[tuple[int, bool]]) -> None:
    runs, seen, stored = Runs(), set[int](), dict[int, int]()
    for number, commit in numbers:
        assert runs.add(number) == (number not in seen)
        seen.add(number)
        if commit:
            store(stored, runs)
    store(stored, runs)
    assert runs.runs() == merged(seen)
    assert sorted(stored.items()) == merged(seen)
    assert Runs(sorted(stored.items())).runs() == merged(seen)


def store(stored: dict[int, int], runs: Runs) -> None:
    for first, last in runs.take_changes():
        if last is None:
            stored.pop(first, None)
        else:
            stored[first] = last


def test_nothing_changed_nothing_told() -> None:
    runs = Runs([(1, 5)])
    assert runs.take_changes() == []
    assert not runs.add(3)
    assert runs.take_changes() == []
    assert runs.add(6)
    assert runs.take_changes() == [(1, 6)]
