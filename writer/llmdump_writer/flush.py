"""When what waits is written. Pure: times and counts in, a decision out."""

from typing import Final, NamedTuple

from llmdump.settings import Settings
from llmdump.wire import WINDOW_BYTES

INSTANCE_BYTES_MAX: Final = WINDOW_BYTES // 2
"""A proxy sends no more than its window before it is acknowledged, so nobody may wait for more (docs/wire.md, rule 5)."""


class Waiting(NamedTuple):
    """What waits for a flush. Bytes are those of the records as they came, whatever the format of the files."""

    entries: int
    size_bytes: int
    largest_share_bytes: int
    """Of the instance with the most bytes."""
    since: float
    """When the oldest came."""


class FlushRule(NamedTuple):
    """The settings that say when to flush."""

    interval_s: float
    entries: int
    buffer_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "FlushRule":
        """The rule these settings make."""
        return cls(
            settings.capture_flush_interval, settings.capture_max_entries_per_flush, settings.capture_buffer_size
        )  # fmt: skip

    def trigger(self, waiting: Waiting, now: float) -> str | None:
        """Why to flush now: `entries`, `bytes`, `window`, `interval`; None for not yet."""
        if not waiting.entries:
            return None
        if waiting.entries >= self.entries:
            return "entries"
        if waiting.size_bytes >= self.buffer_bytes:
            return "bytes"
        if waiting.largest_share_bytes >= INSTANCE_BYTES_MAX:
            return "window"
        return "interval" if now >= waiting.since + self.interval_s else None

    def wait_s(self, waiting: Waiting, now: float) -> float | None:
        """Time to the flush that will be due by interval; None where nothing waits."""
        return max(0.0, waiting.since + self.interval_s - now) if waiting.entries else None
