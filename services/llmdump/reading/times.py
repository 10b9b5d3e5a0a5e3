"""When things came: first byte, first and last token, and the gaps between.

A token is an event with generated text, reasoning or a piece of a tool call's arguments: not a role, a ping or a
notice of progress. Times are µs since the exchange's first record. One event may hold several tokens, and gaps are
those between events.
"""

from array import array
from typing import Any, Final

GAPS_MAX: Final = 1 << 18
"""Gaps kept for percentiles (1 MiB); of longer streams those of the beginning count, but the worst gap is that of all."""
GAP_US_MAX: Final = 2**32 - 1


class Times:
    """The times of one answer."""

    def __init__(self) -> None:
        self.first_us: int | None = None
        self.last_us = 0
        self.tokens = 0
        self._gaps = array("I")
        self._worst_us = 0

    def token(self, at_us: int) -> None:
        """An event with something generated in it was whole at this time."""
        if self.first_us is None:
            self.first_us = self.last_us = at_us
            self.tokens = 1
            return
        gap = min(max(at_us - self.last_us, 0), GAP_US_MAX)
        self.last_us = max(at_us, self.last_us)
        self.tokens += 1
        self._worst_us = max(self._worst_us, gap)
        if len(self._gaps) < GAPS_MAX:
            self._gaps.append(gap)

    def told(self, output: int | None) -> dict[str, Any]:
        """The figures; null where there are none. `output` is how many tokens were generated in these events."""
        known = self.first_us is not None
        gaps = sorted(self._gaps)
        return {
            "ttft_us": self.first_us,
            "last_token_us": self.last_us if known else None,
            "gap_p50_us": _percentile(gaps, 0.50),
            "gap_p99_us": _percentile(gaps, 0.99),
            "gap_worst_us": self._worst_us if gaps else None,
            "output_tokens_per_second": self._pace(output),
        }

    def _pace(self, output: int | None) -> float | None:
        """Tokens after the first per second after the first."""
        span_us = self.last_us - (self.first_us or 0)
        return (output - 1) * 1e6 / span_us if output and output > 1 and self.tokens > 1 and span_us > 0 else None


def _percentile(ordered: list[int], share: float) -> int | None:
    """The nearest rank's value."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else None
