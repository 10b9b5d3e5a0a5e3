"""How near the disk is to full: below `capture_min_free_bytes` nothing is written, as if it were full already.

The kernel is asked (statvfs) once a second at most while there is room: in between, half of the room seen last may be
written unasked; the other half is for whoever else fills the disk. Sealing is not asked: it ends with more room.
"""

import errno
import os
import time
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 1.0


class LowDiskError(OSError):
    """Writing would leave less room than the user wants to keep."""


class Watermark:
    """The room on one file system. For one thread; `free_bytes` for any."""

    def __init__(self, directory: Path, min_free_bytes: int) -> None:
        """`min_free_bytes` 0: never ask."""
        self.free_bytes: int | None = None
        """What ordinary users may still write, as seen last; None as long as nobody asked."""
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._unasked_bytes = 0
        self._look_at = 0.0

    def check(self, more_bytes: int) -> None:
        """Raises LowDiskError if so many bytes more are too many. Mostly a comparison, else a system call."""
        self._unasked_bytes -= more_bytes
        if self._unasked_bytes < 0 or time.monotonic() >= self._look_at:
            self.look(more_bytes)

    def look(self, more_bytes: int) -> None:
        """As `check`, with a look in any case. Raises OSError too."""
        if not self._min_free_bytes:
            return
        found = os.statvfs(self._directory)
        self.free_bytes = found.f_bavail * found.f_frsize
        room = self.free_bytes - self._min_free_bytes - more_bytes
        if room < 0:
            self._look_at = 0.0
            reason = f"{self.free_bytes} bytes are free and capture_min_free_bytes is {self._min_free_bytes}: free some"
            raise LowDiskError(errno.ENOSPC, reason)
        self._unasked_bytes = room // 2
        self._look_at = time.monotonic() + LOOK_EVERY_S
