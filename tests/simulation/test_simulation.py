"""Some seeds of the simulation in each test run; with --long, thousands, other ones each time.

A failure names its seed; `python -m tests.simulation --seed N` runs it alone, with its history.
"""

import os
import time

import pytest

from tests.simulation.mutants import MUTANTS, RARELY_FOUND, seeds_until_found
from tests.simulation.simulation import quiet, run

SEEDS = 200
PARTS = 4
LONG_SEEDS = 6000
SOON_FOUND = ("acknowledged before it is synced", "the directory is not synced", "no gap records")
MUTANT_SEEDS = 1500


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Mechanisms are taken out one at a time: all in the long form, some in the short one."""
    if "mutant" in metafunc.fixturenames:
        found = [name for name in MUTANTS if name not in RARELY_FOUND]
        metafunc.parametrize("mutant", found if metafunc.config.getoption("long", default=False) else SOON_FOUND)


def _seeds(config: pytest.Config) -> range:
    """SIMULATION_SEEDS and SIMULATION_FIRST in the environment say otherwise."""
    is_long = config.getoption("long", default=False)
    first = time.time_ns() % 1_000_000_007 if is_long else 0
    first = int(os.environ.get("SIMULATION_FIRST", first))
    return range(first, first + int(os.environ.get("SIMULATION_SEEDS", LONG_SEEDS if is_long else SEEDS)))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_what_was_promised_is_there_and_the_rest_is_told(part: int, request: pytest.FixtureRequest) -> None:
    seeds = _seeds(request.config)
    failed = []
    with quiet():
        for seed in seeds[part::PARTS]:
            failure = run(seed).world.failure
            if failure is not None:
                failed.append(f"python -m tests.simulation --seed {seed}: {failure!r}")
    assert not failed, "\n".join(failed)


def test_a_seed_gives_the_same_history_again() -> None:
    with quiet():
        for seed in range(5):
            one, other = run(seed), run(seed)
            assert one.world.log == other.world.log
            assert (one.world.steps, one.truth.acknowledged) == (other.world.steps, other.truth.acknowledged)
            assert one.truth.acknowledged > 0


@pytest.mark.timeout(900)
def test_a_mechanism_that_is_taken_out_is_missed(mutant: str) -> None:
    count, failure = seeds_until_found(mutant, MUTANT_SEEDS)
    assert count is not None, f"{MUTANT_SEEDS} seeds passed without it"
    print(f"{mutant}: {count} seeds: {failure}")
