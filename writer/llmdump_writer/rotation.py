"""When a segment is closed, and which closed ones are deleted. Pure: sizes and times in, decisions out."""

from collections.abc import Sequence
from typing import NamedTuple

from llmdump.settings import Settings


class Limits(NamedTuple):
    """The settings that bound files. 0 is no limit, but for `file_bytes`."""

    file_bytes: int
    age_s: float
    files: int
    total_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits these settings make."""
        return cls(
            settings.capture_max_bytes,
            settings.capture_rotate_interval_seconds,
            settings.capture_max_files,
            settings.capture_total_max_bytes,
        )

    def fits(self, files: Sequence[int]) -> bool:
        """Whether a segment whose files would have these sizes keeps the limits, with nothing else kept."""
        within_total = not self.total_bytes or sum(files) <= self.total_bytes
        return within_total and all(size <= self.file_bytes for size in files)

    def closes_at(self, created_at: float) -> float | None:
        """When a segment that was begun at `created_at` is closed for its age."""
        return created_at + self.age_s if self.age_s else None

    def surplus(self, closed: Sequence[int], others_bytes: int) -> list[str]:
        """For each closed segment to delete, oldest first, the reason. `closed` are sizes, oldest first.

        `others_bytes` is what counts and stays: the active segment with what will be written to it, files in the making.
        """
        reasons = []
        count, total = len(closed), sum(closed) + others_bytes
        for size in closed:
            if self.files and count > self.files:
                reasons.append("max_files")
            elif self.total_bytes and total > self.total_bytes:
                reasons.append("total_max_bytes")
            else:
                break
            count, total = count - 1, total - size
        return reasons
