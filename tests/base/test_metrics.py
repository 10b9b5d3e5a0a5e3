"""Metrics: one table, and pages that Prometheus reads."""

import bisect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmdump.metrics import BY_NAME, END_REASONS, LONG_S, METRICS, SHORT_S, Histogram, Metric, Page, Sample, by_label

ROOT = Path(__file__).parents[2]
PARTS = {"all": "services", "proxy": "proxy", "writer": "writer", "indexer": "indexer", "api": "api"}


def sources(folder: str) -> str:
    return "".join(path.read_text() for path in (ROOT / folder).rglob("*.py"))


def page(*samples: Sample) -> dict[str, dict[tuple[str, ...], float]]:
    """The values on a page, by sample name and label values, as Prometheus' own parser reads them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(Page(lambda: samples).render().decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def test_names_are_of_one_kind_and_one_form() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"(llmdump|gen_ai)_[a-z_]+[a-z]", metric.name), metric.name
        assert metric.kind in {"counter", "gauge", "histogram"}
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.part in PARTS
        assert metric.meaning[0].isupper() or metric.meaning[0].isdigit()
        assert metric.meaning.endswith("."), metric.name


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_of_the_table_can_be_on_a_page(metric: Metric) -> None:
    histogram = Histogram(SHORT_S)
    histogram.observe(0.002)
    labels = tuple(f"value {at}" for at in range(len(metric.labels)))
    found = page(Sample(metric.name, histogram if metric.kind == "histogram" else 42, labels))
    by_name = tuple(value for _, value in sorted(zip(metric.labels, labels, strict=True)))
    if metric.kind == "histogram":
        assert found[f"{metric.name}_count"] == {by_name: 1}
        assert found[f"{metric.name}_sum"] == {by_name: 0.002}
    else:
        assert found == {metric.name: {by_name: 42}}


def test_every_name_that_is_exported_is_in_the_table_and_of_that_part() -> None:
    for part, folder in PARTS.items():
        for name in re.findall(r'(?:Sample|by_label)\(\s*"(\w+)"', sources(folder)):
            assert name in BY_NAME, f"{folder} exports {name}"
            assert BY_NAME[name].part in {part, "all"}, name


def test_every_metric_of_the_table_is_exported_by_its_part() -> None:
    for metric in METRICS:
        assert f'"{metric.name}"' in sources(PARTS[metric.part]).replace(_table(), ""), metric


def _table() -> str:
    text = (ROOT / "services/llmdump/metrics.py").read_text()
    return text[text.index("METRICS: Final") : text.index("BY_NAME")]


def test_a_name_or_labels_that_the_table_does_not_have_are_refused() -> None:
    with pytest.raises(KeyError):
        page(Sample("llmdump_made_up_total", 1))
    with pytest.raises(ValueError, match="has labels"):
        page(Sample("llmdump_proxy_exchanges_total", 1))
    with pytest.raises(ValueError, match="has labels"):
        page(Sample("llmdump_up", 1, ("one",)))


def test_samples_of_one_metric_are_one_family() -> None:
    values = dict.fromkeys(END_REASONS, 0.0) | {"complete": 3.0}
    found = page(*by_label("llmdump_proxy_exchanges_total", values))
    assert found == {"llmdump_proxy_exchanges_total": {(reason,): value for reason, value in values.items()}}
    text = Page(lambda: by_label("llmdump_proxy_exchanges_total", values)).render()
    assert text.count(b"# TYPE") == text.count(b"# HELP") == 1


def test_a_page_is_made_anew_at_each_scrape() -> None:
    value = 0

    def samples() -> Iterator[Sample]:
        nonlocal value
        value += 1
        yield Sample("llmdump_records_made_total", value)

    made = Page(samples)
    pages = [made.render() for _ in range(3)]
    assert [int(float(text.split()[-1])) - value + 2 for text in pages] == [0, 1, 2]


@pytest.mark.parametrize("bounds", [SHORT_S, LONG_S])
@given(values=st.lists(st.floats(0, 200, allow_nan=False), max_size=30))
def test_a_histogram_counts_what_is_at_most_each_bound(bounds: tuple[float, ...], values: list[float]) -> None:
    assert list(bounds) == sorted(set(bounds))
    histogram = Histogram(bounds)
    for value in (*values, *bounds):
        histogram.observe(value)
    seen = sorted([*values, *bounds])
    found = page(Sample("llmdump_writer_fsync_seconds", histogram))
    buckets = found["llmdump_writer_fsync_seconds_bucket"]
    assert {float(bound): count for (bound,), count in buckets.items()} == {
        **{bound: bisect.bisect_right(seen, bound) for bound in bounds},
        float("inf"): len(seen),
    }
    assert found["llmdump_writer_fsync_seconds_count"][()] == len(seen)
    assert found["llmdump_writer_fsync_seconds_sum"][()] == pytest.approx(sum(seen))


def test_labels_may_hold_anything() -> None:
    value = 'a "quoted" \\ line\nand more'
    found = page(Sample("llmdump_swallowed_errors_total", 1, (value,)))
    assert found["llmdump_swallowed_errors_total"] == {(value,): 1}
