"""When a segment is closed, and when closed ones are too many. Pure: sizes and times in, decisions out."""

from collections.abc import Sequence
from typing import NamedTuple

from llmdump.overrides import Overrides
from llmdump.settings import Settings


class Limits(NamedTuple):
    """The settings that bound files. 0 is no limit, but for `file_bytes`."""

    file_bytes: int
    age_s: float
    files: int
    total_bytes: int
    keep_s: float = 0.0
    """From the last record of a segment."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits these settings make."""
        return cls(
            settings.capture_max_bytes,
            settings.capture_rotate_interval_seconds,
            settings.capture_max_files,
            settings.capture_total_max_bytes,
            settings.capture_max_age_s,
        )

    def overridden(self, by: Overrides) -> "Limits":
        """These limits, but for what was changed over HTTP."""
        total, keep_s = by.capture_total_max_bytes, by.capture_max_age_s
        return self._replace(
            total_bytes=self.total_bytes if total is None else total, keep_s=self.keep_s if keep_s is None else keep_s
        )

    def fits(self, files: Sequence[int]) -> bool:
        """Whether a segment whose files would have these sizes keeps the limits, with nothing else kept."""
        within_total = not self.total_bytes or sum(files) <= self.total_bytes
        return within_total and all(size <= self.file_bytes for size in files)

    def closes_at(self, created_at: float) -> float | None:
        """When a segment that was begun at `created_at` is closed for its age."""
        return created_at + self.age_s if self.age_s else None

    def exceeded(self, closed: int, total_bytes: int) -> str | None:
        """Which limit so many closed segments, or so many bytes of all files, are beyond."""
        if self.files and closed > self.files:
            return "max_files"
        return "total_max_bytes" if self.total_bytes and total_bytes > self.total_bytes else None
