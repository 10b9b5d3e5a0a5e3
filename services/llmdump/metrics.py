"""Every metric of every process, in one table, with its meaning; and how values become a Prometheus page.

Names: OpenTelemetry GenAI's, flattened, for traffic; `llmdump_<part>_<what>_<unit>[_total]` for the recorder itself.
Labels come from closed sets, never a key, an id or a URL; `gen_ai_request_model` is capped where it is counted.

Hot code keeps plain integers and `Histogram`s; nothing of prometheus-client is touched before somebody scrapes.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One line of the table. `part` is the process that exports it, or `all`."""

    name: str
    kind: str
    part: str
    labels: tuple[str, ...]
    meaning: str


END_REASONS: Final = (
    "complete", "client_closed", "upstream_closed", "upstream_error", "bad_request", "timeout", "shutdown",
)  # fmt: skip

METRICS: Final = (
    Metric("llmdump_up", "gauge", "all", ("role", "version"), "1 while the process answers."),
    Metric("llmdump_start_time_seconds", "gauge", "all", (), "When the process started, seconds since 1970."),
    Metric("llmdump_resident_memory_bytes", "gauge", "all", (), "Resident memory of the process."),
    Metric("llmdump_cpu_seconds_total", "counter", "all", (), "User and system time of the process."),
    Metric("llmdump_swallowed_errors_total", "counter", "all", ("where",), "Errors that were dealt with where they arose."),
    # proxy
    Metric("llmdump_proxy_client_connections", "gauge", "proxy", (), "Open client connections."),
    Metric("llmdump_proxy_client_connections_refused_total", "counter", "proxy", (), "Connections refused: max_connections."),
    Metric("llmdump_proxy_upstream_connections", "gauge", "proxy", ("state",), "Backend connections, busy or idle."),
    Metric("llmdump_proxy_open_exchanges", "gauge", "proxy", (), "Exchanges that have begun and not ended."),
    Metric("llmdump_proxy_exchanges_total", "counter", "proxy", ("end_reason",), "Exchanges that have ended."),
    Metric("llmdump_proxy_exchanges_unrecorded_total", "counter", "proxy", (), "Exchanges a capture rule leaves out wholly."),
    Metric("llmdump_proxy_retiring", "gauge", "proxy", (), "1 while it accepts no more and finishes for the clients it has."),
    Metric("llmdump_proxy_bytes_total", "counter", "proxy", ("side",), "Bytes read from clients and from backends."),
    Metric("llmdump_proxy_own_overhead_seconds", "histogram", "proxy", ("what",),
           "Time from read to write within the proxy, per exchange: first response bytes, worst chunk, sum."),
    Metric("llmdump_proxy_upstream_connect_seconds", "histogram", "proxy", (), "Name look-up, TCP and TLS to a backend."),
    Metric("llmdump_records_made_total", "counter", "proxy", (), "Records numbered, whether sent or dropped."),
    Metric("llmdump_records_sent_total", "counter", "proxy", (), "Records handed to ZeroMQ for the first time."),
    Metric("llmdump_records_sent_bytes_total", "counter", "proxy", (), "Their bytes."),
    Metric("llmdump_records_resent_total", "counter", "proxy", (), "Records handed over again after a writer came back."),
    Metric("llmdump_records_acknowledged_total", "counter", "proxy", (), "Records a writer has called durable."),
    Metric("llmdump_records_dropped_total", "counter", "proxy", ("reason",), "Records lost on purpose, by reason."),
    Metric("llmdump_records_spilled_total", "counter", "proxy", (), "Records put into a spill file because memory was full."),
    Metric("llmdump_queue_depth_records", "gauge", "proxy", (), "Records held until they are acknowledged."),
    Metric("llmdump_queue_depth_bytes", "gauge", "proxy", (), "Their bytes, in memory and in the spill file."),
    Metric("llmdump_queue_memory_bytes", "gauge", "proxy", (), "Those in memory; the limit is capture_memory_bytes."),
    Metric("llmdump_spill_bytes", "gauge", "proxy", (), "Spill files in this proxy's hands; the limit is capture_spill_bytes."),
    Metric("llmdump_spill_orphaned_bytes", "gauge", "proxy", (), "Records of dead proxies in spill files, not acknowledged."),
    Metric("llmdump_queue_overflow_total", "counter", "proxy", (), "Times the queue was full."),
    Metric("llmdump_proxy_writers_connected", "gauge", "proxy", (), "Writers in session with this proxy."),
    # writer
    Metric("llmdump_records_written_total", "counter", "writer", (), "Records made durable."),
    Metric("llmdump_records_written_bytes_total", "counter", "writer", (), "Bytes appended to segment files."),
    Metric("llmdump_records_duplicate_total", "counter", "writer", (), "Records that came again and were already held."),
    Metric("llmdump_writer_lag_seconds", "gauge", "writer", (), "Age of the oldest record that waits for a flush."),
    Metric("llmdump_writer_flushes_total", "counter", "writer", ("trigger",), "Flushes, by what set them off."),
    Metric("llmdump_writer_fsync_seconds", "histogram", "writer", (), "Time of one fsync of a segment file."),
    Metric("llmdump_writer_write_errors_total", "counter", "writer", ("error",),
           "Failed writes and syncs, by errno name; min_free: not tried, for capture_min_free_bytes."),
    Metric("llmdump_records_unsynced_total", "counter", "writer", (),
           "Records that were acknowledged before a sync that then failed (fsync interval): they may be lost."),
    Metric("llmdump_writer_resyncs_total", "counter", "writer", (), "Sessions that had to begin again."),
    Metric("llmdump_writer_connections_refused_total", "counter", "writer", (),
           "Connections over tcp:// without an admitted CURVE key."),
    Metric("llmdump_writer_rotations_total", "counter", "writer", ("trigger",), "Segment files closed, by reason."),
    Metric("llmdump_writer_segments_sealed_total", "counter", "writer", (), "Segment files compressed."),
    Metric("llmdump_writer_segments_deleted_total", "counter", "writer", ("reason",), "Segment files deleted by a cap."),
    Metric("llmdump_writer_segments_deleted_bytes_total", "counter", "writer", (), "Their bytes."),
    Metric("llmdump_writer_segments_deleted_unindexed_total", "counter", "writer", (),
           "Segment files deleted before they were indexed, since nothing else was left."),
    Metric("llmdump_writer_torn_bytes_total", "counter", "writer", (), "Bytes of torn tails cut off after a crash."),
    Metric("llmdump_writer_storage_bytes", "gauge", "writer", (), "All segment files of this writer."),
    Metric("llmdump_writer_disk_free_bytes", "gauge", "writer", (), "Free room where segment files are, when last asked for."),
    # indexer
    Metric("llmdump_records_indexed_total", "counter", "indexer", (), "Records read from segment files."),
    Metric("llmdump_records_indexed_bytes_total", "counter", "indexer", (), "Bytes read from segment files."),
    Metric("llmdump_exchanges_indexed_total", "counter", "indexer", (), "Exchanges whose row is complete."),
    Metric("llmdump_indexer_open_exchanges", "gauge", "indexer", (), "Exchanges whose end has not been read yet."),
    Metric("llmdump_indexer_lag_bytes", "gauge", "indexer", (), "Bytes in segment files that are not indexed yet."),
    Metric("llmdump_indexer_damaged_total", "counter", "indexer", (), "Places in segment files that were not a record."),
    Metric("llmdump_indexer_damaged_bytes_total", "counter", "indexer", (), "Bytes skipped there."),
    Metric("llmdump_indexer_commit_seconds", "histogram", "indexer", (), "Time of one index transaction."),
    Metric("llmdump_indexer_rows_expired_total", "counter", "indexer", (), "Rows deleted for index_max_age_s."),
    Metric("llmdump_pinned_exchanges", "gauge", "indexer", (), "Exchanges that are pinned."),
    Metric("llmdump_pinned_bytes", "gauge", "indexer", (), "Their copies; the limit is pinned_max_bytes."),
    Metric("gen_ai_client_operation_duration_seconds", "histogram", "indexer",
           ("gen_ai_provider_name", "gen_ai_request_model", "error_type"), "Exchange from request head to end."),
    Metric("gen_ai_client_operation_time_to_first_chunk_seconds", "histogram", "indexer",
           ("gen_ai_provider_name", "gen_ai_request_model"), "From the request to the first byte of the response body."),
    # api
    Metric("llmdump_api_requests_total", "counter", "api", ("route", "status"), "Requests answered."),
    Metric("llmdump_api_request_seconds", "histogram", "api", ("route",), "Time of a request in the api."),
    Metric("llmdump_live_viewers", "gauge", "api", (), "Who watches /api/live, those included who may come back."),
    Metric("llmdump_live_lost_events_total", "counter", "api", (), "Events that slow viewers missed, and were told so."),
    Metric("llmdump_api_refused_total", "counter", "api", ("reason",),
           "Requests turned away: token, too_many (tokens that failed), scope, host, origin."),
    Metric("llmdump_ledger_missing_records", "gauge", "api", ("reason",), "Record numbers that no file brought, by reason."),
    Metric("llmdump_ledger_deleted_records", "gauge", "api", ("reason",),
           "Record numbers that retention deleted before they were indexed, by cap."),
    Metric("llmdump_ledger_unknown_ends", "gauge", "api", (), "Proxy instances that ended without a goodbye."),
    Metric("llmdump_api_processes", "gauge", "api", ("role",), "Living processes the api sees, by role."),
)  # fmt: skip

BY_NAME: Final = {metric.name: metric for metric in METRICS}

SHORT_S: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.25, 1.0)
"""Bucket bounds for our own times, seconds."""
LONG_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bucket bounds of gen_ai.client.operation.duration (OpenTelemetry GenAI conventions), seconds."""


class Histogram:
    """Counts of observations below rising bounds; `observe` costs a fraction of a microsecond and takes no lock."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value, in the unit of the bounds."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


class Sample(NamedTuple):
    """One value of one metric at the moment of a scrape; `labels` in the table's order."""

    name: str
    value: float | Histogram
    labels: tuple[str, ...] = ()


class Page(Collector):
    """A process's metrics page. `samples` is called at each scrape and yields what there is to tell."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[Family]:
        """The samples grouped into families. Raises KeyError for a name the table does not have."""
        families: dict[str, Family] = {}
        for sample in self._samples():
            metric = BY_NAME[sample.name]
            family = families.setdefault(metric.name, _family(metric))
            _add(family, metric, sample)
        yield from families.values()

    def render(self) -> bytes:
        """The page in Prometheus text format. Milliseconds; not for a hot path."""
        return generate_latest(self._registry)


def by_label(name: str, values: Mapping[str, float | Histogram]) -> Iterator[Sample]:
    """One sample for each value of a metric with a single label."""
    return (Sample(name, value, (label,)) for label, value in values.items())


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


def _add(family: Family, metric: Metric, sample: Sample) -> None:
    if len(sample.labels) != len(metric.labels):
        raise ValueError(f"{metric.name} has labels {metric.labels}, the sample {sample.labels}")
    if isinstance(sample.value, Histogram):
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(sample.labels, buckets=_cumulative(sample.value), sum_value=sample.value.total)
    else:
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(sample.labels, sample.value)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    running = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        running += count
        buckets.append((bound, running))
    return buckets
