"""What the bench tells of its runs: medians and spread, pairs within a round, void runs, goals, and the page."""

import operator
from pathlib import Path

import pytest

from bench import cells, goals, page, questions, table
from bench.arms.every import ARMS
from bench.results import Results, Run, Spread, percentile
from bench.table import told

CELL = cells.PLAIN


def runs(arm: str, *values: float, cell: str = CELL, figure: str = "forwarding_us", void: str = "") -> list[Run]:
    """A round for each value."""
    return [Run(cell, arm, round_, {figure: value}, void) for round_, value in enumerate(values)]


def test_a_figure_is_the_median_with_the_least_and_the_most() -> None:
    results = Results(runs(cells.CBOR, 30.0, 10.0, 20.0))
    assert results.spread(CELL, cells.CBOR, "forwarding_us") == Spread(20.0, 10.0, 30.0)
    assert results.spread(CELL, cells.NGINX, "forwarding_us") is None


def test_a_ratio_is_taken_within_each_round() -> None:
    """Each round of a machine that is now slow, now quick, has the ratio 2; that of the medians would have it too, but
    not their spread."""
    results = Results([*runs(cells.CBOR, 20.0, 200.0), *runs(cells.NGINX, 10.0, 100.0)])
    paired = results.paired(operator.truediv, (CELL, cells.CBOR, "forwarding_us"), (CELL, cells.NGINX, "forwarding_us"))
    assert paired == Spread(2.0, 2.0, 2.0)


def test_a_void_run_counts_nowhere_and_is_told() -> None:
    results = Results(runs(cells.CBOR, 1.0, void="7 records missing: overflow"))
    assert results.spread(CELL, cells.CBOR, "forwarding_us") is None
    assert table.field(results, CELL, cells.CBOR, "forwarding_us") == "void"
    assert "1 void: 7 records missing: overflow" in questions.ledger(results)[-1]


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (None, "–"),
        (Spread(2.0, 2.0, 2.0), "2.00"),
        (Spread(12345.6, 999.0, 20000.0), "12,346 (999–20,000)"),
        (Spread(-0.5, -12.34, 0.123), "-0.50 (-12.3–0.12)"),
    ],
)
def test_numbers_have_three_digits_and_their_spread(spread: Spread | None, text: str) -> None:
    assert told(spread) == text


def test_what_did_not_run_has_no_row_and_no_column() -> None:
    lines = table.by_cell(Results(runs("a", 1.0, 3.0)), "forwarding_us", [CELL, "another"], ["a", "b"])
    assert lines == ["|  | a |", "| --- | ---: |", f"| {CELL} | 2.00 (1.00–3.00) |"]


def judged(results: Results, what: str, cores: int = 8) -> str:
    """The verdict on the one goal whose name begins so."""
    (goal,) = [goal for goal in goals.goals(results, cores) if goal.what.startswith(what)]
    return goal.judged()


def test_goals_are_judged_by_the_median() -> None:
    what = "proxy CPU per plain request"
    nginx = runs(cells.NGINX, 10.0, 10.0, 10.0)
    assert judged(Results([*nginx, *runs(cells.CBOR, 19.0, 20.0, 99.0)]), what) == "reached"
    assert judged(Results([*nginx, *runs(cells.CBOR, 19.0, 20.1, 99.0)]), what) == "**not reached**"
    assert judged(Results(nginx), what) == "no run of it counts"


def test_two_proxies_are_not_judged_where_cores_do_not_allow() -> None:
    assert judged(Results([]), "requests/s of two proxies", cores=2).startswith("not judged: 2 cores")


@pytest.mark.parametrize(("nginx_ms", "verdict"), [(0.1, "**not reached**"), (0.25, "reached")])
def test_added_latency_may_be_twice_what_nginx_adds(nginx_ms: float, verdict: str) -> None:
    figure = "latency_p50_ms"
    measured = {cells.DIRECT: 1.0, cells.NGINX: 1.0 + nginx_ms, cells.CBOR: 1.45}
    results = Results([run for arm, ms in measured.items() for run in runs(arm, ms, cell=cells.RATE, figure=figure)])
    assert judged(results, "added latency at 1,000 requests/s, p50") == verdict


def test_every_arm_of_every_cell_is_there() -> None:
    names = {arm.name for arm in ARMS}
    for cell in [*cells.full(), *cells.quick()]:
        assert set(cell.arms) <= names, cell.name


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    saved = Results(runs("a", 1.5, void="why"), ["2 cores"])
    saved.save(tmp_path / "figures.json")
    loaded = Results.load(tmp_path / "figures.json")
    assert (loaded.runs, loaded.conditions) == (saved.runs, saved.conditions)


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([4, 1, 3, 2], part) for part in (0.0, 0.5, 0.99, 1.0)] == [1, 3, 4, 4]


def test_only_what_stands_between_the_markers_is_written() -> None:
    before = f"# Performance\n\n{page.BEGIN}\nold\n{page.END}\n\nby hand\n"
    after = page.put_into(before, "new")
    assert after == f"# Performance\n\n{page.BEGIN}\n\nnew\n\n{page.END}\n\nby hand\n"
    assert page.put_into(after, "new") == after
    with pytest.raises(ValueError, match="once"):
        page.put_into("# Performance\n", "new")


def test_the_page_has_its_markers() -> None:
    page.put_into(page.PAGE.read_text(), "")
