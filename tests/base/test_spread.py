"""Histograms: bins of bounded width, sums that do not depend on order, bytes that come back."""

import random
import statistics

import pytest

from llmdump import spread


def test_bins_rise_without_gap_and_are_narrow() -> None:
    values = [*range(5000), *(int(1.07**power) for power in range(130, 480))]
    assert all(
        spread.bin_of(later) - spread.bin_of(one) in {0, 1} for one, later in zip(range(5000), range(1, 5000), strict=False)
    )
    for value in values:
        middle = spread.MIDDLES[spread.bin_of(value)]
        assert abs(middle - value) <= value / 32 + 1e-9


def test_what_is_beyond_the_limits_is_counted_at_them() -> None:
    assert spread.bin_of(-5) == 0
    assert spread.bin_of(2**60) == spread.bin_of(spread.VALUE_MAX) == len(spread.MIDDLES) - 1


def test_percentiles_are_those_of_the_values_within_three_percent() -> None:
    chance = random.Random(3)
    values = sorted(int(chance.lognormvariate(10, 1.5)) for _ in range(5000))
    bins: spread.Bins = {}
    spread.add(bins, ((spread.bin_of(value), 1) for value in values))
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = spread.percentiles(spread.flat(bins), (0.5, 0.95, 0.99))
    for percentile, exact in zip(found, (cuts[49], cuts[94], cuts[98]), strict=True):
        assert percentile == pytest.approx(exact, rel=0.05)


def test_of_one_value_every_percentile_is_that_value() -> None:
    assert spread.percentiles([20, 1], (0.0, 0.5, 1.0)) == [20, 20, 20]


def test_what_is_packed_comes_back_and_what_is_taken_away_is_gone() -> None:
    bins: spread.Bins = {}
    spread.add(bins, [(700, 3), (2, 1), (700, 2)])
    assert spread.unpack(spread.pack(bins)) == [2, 1, 700, 5]
    spread.add(bins, [(2, -1), (700, -5)])
    assert (bins, spread.pack(bins), spread.unpack(b"")) == ({}, b"", [])


@pytest.mark.parametrize("packed", [b"\x91", b"\xff", b"\x91\xa1x", b"\x93\x01\x02\x03"])
def test_other_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError):
        list(spread.pairs(spread.unpack(packed)))
