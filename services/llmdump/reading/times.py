"""When things came: first and last token, and the gaps between.

A token is an event with generated text, reasoning or a piece of a tool call's arguments: not a role, a ping or a
notice of progress. Times are µs since the exchange's first record. One event may hold several tokens, and gaps are
those between events. What came in one piece has one time.
"""

import math
from array import array
from itertools import pairwise
from typing import Any, Final

STAMPS_MAX: Final = 1 << 18
"""Tokens whose times are kept (2 MiB); of longer streams the gaps are those of the beginning."""


class Times:
    """The times of one answer."""

    def __init__(self) -> None:
        self._stamps = array("q")
        self._last_us = 0

    def token(self, at_us: int) -> None:
        """An event with something generated in it was whole at this time."""
        if len(self._stamps) < STAMPS_MAX:
            self._stamps.append(at_us)
        self._last_us = at_us

    def told(self, output: int | None) -> dict[str, Any]:
        """The figures; null where there are none. `output` is how many tokens were generated in these events."""
        stamps = self._stamps
        gaps = sorted(max(later - earlier, 0) for earlier, later in pairwise(stamps))
        return {
            "ttft_us": stamps[0] if stamps else None,
            "last_token_us": self._last_us if stamps else None,
            "gap_p50_us": _percentile(gaps, 0.50),
            "gap_p99_us": _percentile(gaps, 0.99),
            "gap_worst_us": gaps[-1] if gaps else None,
            "output_tokens_per_second": self._pace(output),
        }

    def _pace(self, output: int | None) -> float | None:
        """Tokens after the first per second after the first."""
        span_us = self._last_us - self._stamps[0] if self._stamps else 0
        return (output - 1) * 1e6 / span_us if output and output > 1 and span_us > 0 else None


def _percentile(ordered: list[int], share: float) -> int | None:
    """The nearest rank's value."""
    return ordered[math.ceil(len(ordered) * share) - 1] if ordered else None
