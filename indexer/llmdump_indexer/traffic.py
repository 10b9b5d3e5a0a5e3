"""What the traffic was like, for Prometheus: durations by provider, model and error, with a cap on distinct models."""

from collections.abc import Iterator
from typing import Final

from llmdump.assembly import Exchange
from llmdump.metrics import LONG_S, Histogram, Sample

MODELS_MAX: Final = 100
"""Distinct models that get a label of their own; clients choose the name, so without a cap a label set has none."""
OTHER: Final = "other"
# End reasons, error codes and statuses: a closed set in practice, but a status is three digits of a backend's choice.
ERRORS_MAX: Final = 100


class Traffic:
    """Histograms of the exchanges that ended since the process began."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._errors: set[str] = set()
        self._durations: dict[tuple[str, str, str], Histogram] = {}
        self._first_chunks: dict[tuple[str, str], Histogram] = {}

    def ended(self, exchange: Exchange) -> None:
        """Count an exchange that is over."""
        provider = exchange.backend or ""
        model = _capped(self._models, exchange.model or "", MODELS_MAX)
        error = _capped(self._errors, exchange.failure, ERRORS_MAX)
        if exchange.duration_us is not None:
            key = (provider, model, error)
            self._durations.setdefault(key, Histogram(LONG_S)).observe(exchange.duration_us / 1e6)
        if exchange.first_byte_us is not None:
            self._first_chunks.setdefault((provider, model), Histogram(LONG_S)).observe(exchange.first_byte_us / 1e6)

    def samples(self) -> Iterator[Sample]:
        """For the metrics page; may be called from another thread than `ended`."""
        for key, histogram in list(self._durations.items()):
            yield Sample("gen_ai_client_operation_duration_seconds", histogram, key)
        for pair, histogram in list(self._first_chunks.items()):
            yield Sample("gen_ai_client_operation_time_to_first_chunk_seconds", histogram, pair)


def _capped(seen: set[str], value: str, most: int) -> str:
    if value and value not in seen:
        if len(seen) >= most:
            return OTHER
        seen.add(value)
    return value
