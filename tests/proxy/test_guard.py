"""The hot path makes no more calls, leaves no more objects and holds no more memory than `bench/guard.py` allows it."""

import gc

import pytest

from bench.guard import LIMITS, Cost, exceeded, measure
from llmdump_proxy.engine import Stats


class Busier(Stats):
    """Makes one call more for each exchange, leaves a cycle, and keeps memory."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[object] = []

    def began(self, *, recorded: bool) -> None:
        super().began(recorded=recorded)
        cycle: list[object] = []
        cycle.append(cycle)
        self.kept.append(bytes(4096))


def measured(unit: str, *, recording: bool, stats: Stats | None = None) -> Cost:
    """Without a collection while calls are counted: who is told of those (Hypothesis is) makes calls too."""
    gc.collect()
    gc.disable()
    try:
        return measure(unit, recording=recording, stats=stats)
    finally:
        gc.enable()


@pytest.mark.parametrize(("unit", "recording"), LIMITS)
def test_the_hot_path_costs_no_more_than_its_limit(unit: str, recording: bool) -> None:
    cost = measured(unit, recording=recording)
    assert not exceeded(cost, LIMITS[unit, recording])


@pytest.mark.parametrize("recording", [False, True])
def test_one_call_more_is_found_and_so_are_garbage_and_memory(recording: bool) -> None:
    before, after = measured("request", recording=recording), measured("request", recording=recording, stats=Busier())
    assert after.calls == before.calls + 1
    assert after.left_objects == before.left_objects + 1
    assert [text.split(":")[0] for text in exceeded(after, before)] == list(Cost._fields)
