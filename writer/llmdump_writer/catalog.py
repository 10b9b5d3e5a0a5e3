"""The closed segments of one writer: their sizes, and the deletions that keep the caps.

The capture thread closes and deletes, the sealer replaces a plain file by a sealed one; the lock here keeps the two
apart, and a segment that was deleted meanwhile is not brought back by its seal. Oldest first, never the active one, and
no deletion is silent.
"""

import threading
from pathlib import Path

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.segment import Name
from llmdump_writer.appender import sync_directory
from llmdump_writer.rotation import Limits


class Catalog:
    """What is on disk beside the active segment. For several threads."""

    def __init__(self, directory: Path, limits: Limits, closed: dict[Name, int]) -> None:
        """`closed` are the files found at the start, with their sizes, oldest first."""
        self.directory = directory
        self.deleted: dict[str, int] = {}
        """Segment files deleted, by reason."""
        self.deleted_bytes = 0
        self._limits = limits
        self._lock = threading.Lock()
        self._closed: dict[int, dict[Name, int]] = {}
        self._active_bytes = 0
        self._making_bytes = 0
        for name, size in closed.items():
            self._closed.setdefault(name.number, {})[name] = size

    @property
    def total_bytes(self) -> int:
        """All segment files of this writer, and the one that the sealer is making."""
        with self._lock:
            return self._closed_bytes() + self._active_bytes + self._making_bytes

    def add(self, files: dict[Name, int]) -> None:
        """The active segment was closed."""
        with self._lock:
            for name, size in files.items():
                self._closed.setdefault(name.number, {})[name] = size
            self._active_bytes = 0
            self._keep_limits()

    def make_room(self, active_bytes: int) -> None:
        """The active segment is about to have this size: delete what the caps then do not allow. Blocking."""
        with self._lock:
            self._active_bytes = active_bytes
            self._keep_limits()

    # --- for the sealer

    def make_room_for_seal(self, name: Name, making_bytes: int) -> bool:
        """As `make_room` for the file that the sealer is making; whether the segment it is made from is still there."""
        with self._lock:
            self._making_bytes = making_bytes
            self._keep_limits()
            return self._has(name)

    def replace(self, name: Name, made: Path) -> bool:
        """The sealed file at `made` takes the place of the plain one; False if that is no longer wanted.

        At every moment there is the old file or the new one, or, after a crash in between, both. Blocking. Raises OSError.
        """
        with self._lock:
            self._making_bytes = 0
            if not self._has(name):
                made.unlink()
                return False
            sealed = name._replace(sealed=True)
            size = made.stat().st_size
            made.rename(self.directory / sealed.file)
            sync_directory(self.directory)
            (self.directory / name.file).unlink()
            del self._closed[name.number][name]
            self._closed[name.number][sealed] = size
            return True

    def abandon_seal(self) -> None:
        """There is no file in the making any more."""
        with self._lock:
            self._making_bytes = 0

    # --- under the lock

    def _has(self, name: Name) -> bool:
        return name in self._closed.get(name.number, ())

    def _closed_bytes(self) -> int:
        return sum(sum(files.values()) for files in self._closed.values())

    def _keep_limits(self) -> None:
        oldest_first = sorted(self._closed)
        sizes = [sum(self._closed[number].values()) for number in oldest_first]
        reasons = self._limits.surplus(sizes, self._active_bytes + self._making_bytes)
        for number, reason in zip(oldest_first, reasons, strict=False):
            self._delete(number, reason)

    def _delete(self, number: int, reason: str) -> None:
        for name, size in self._closed.pop(number).items():
            try:
                (self.directory / name.file).unlink(missing_ok=True)
            except OSError as err:
                count_swallowed("delete_segment")
                log.error("segment_not_deleted", file=name.file, error=err.strerror or err)
                self._closed.setdefault(number, {})[name] = size
                continue
            self.deleted[reason] = self.deleted.get(reason, 0) + 1
            self.deleted_bytes += size
            log.warning("segment_deleted", file=name.file, bytes=size, reason=reason)
