"""The closed segments of one writer: their sizes, and the deletions that keep the caps.

The capture thread closes and deletes, the sealer replaces a plain file by a sealed one; the lock here keeps the two
apart, and a segment that was deleted meanwhile is not brought back by its seal. Never the active one is deleted.

Who goes first: sealed and indexed, then indexed, then the rest, each oldest first. What is too old goes in any case. No
deletion is silent: a line in `deleted.jsonl`, a log line, a metric; and where the index did not have it yet, an error.
"""

import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump.footer import Spans
from llmdump.overrides import Watched
from llmdump.segment import Name
from llmdump_writer.appender import sync_directory
from llmdump_writer.deletions import Deletions
from llmdump_writer.indexed import indexed_segments
from llmdump_writer.rotation import Limits

LOOK_EVERY_S: Final = 1.0
"""At what is too old, and at limits that may have been changed."""


class Closed(NamedTuple):
    """A segment that is not added to any more."""

    files: dict[Name, int]
    """Their sizes."""
    written_at: float
    """When its last record was written, seconds since 1970."""
    spans: Spans


class Catalog:
    """What is on disk beside the active segment. For several threads."""

    def __init__(self, data: DataDir, limits: Limits, closed: dict[int, Closed]) -> None:
        """`closed` are the segments found at the start by number. Deletes at once what the caps do not allow. Blocking."""
        self.directory = data.segments
        self.deleted: dict[str, int] = {}
        """Segment files deleted, by reason."""
        self.deleted_bytes = self.deleted_unindexed = 0
        self._index = data.index
        self._set_limits = limits
        self._overrides = Watched(data.overrides)
        self._overrides.changed()
        self.limits = limits.overridden(self._overrides.overrides)
        """Those in force."""
        self._deletions = Deletions(data.segments)
        self._lock = threading.Lock()
        self._closed = dict(closed)
        self._active_bytes = self._making_bytes = 0
        self._look_at = 0.0
        self.make_room(0)

    @property
    def total_bytes(self) -> int:
        """All segment files of this writer, and the one that the sealer is making."""
        with self._lock:
            return self._total_bytes()

    def add(self, number: int, closed: Closed) -> None:
        """The active segment was closed. Blocking."""
        with self._lock:
            if closed.files:
                self._closed[number] = closed
            self._active_bytes = 0
            self._keep_caps()

    def make_room(self, active_bytes: int) -> None:
        """The active segment is about to have this size: delete what the caps then do not allow. Blocking."""
        with self._lock:
            self._active_bytes = active_bytes
            self._keep_caps()
            self._deletions.write()

    def take_spare_bytes(self, wanted: int) -> int:
        """How much of what is wanted the cap leaves, without deleting anything; counted until the next `make_room`."""
        with self._lock:
            self._active_bytes = 0
            spare = max(0, self.limits.total_bytes - self._total_bytes()) if self.limits.total_bytes else wanted
            self._active_bytes = min(wanted, spare)
            return self._active_bytes

    def note_empty(self, name: Name) -> None:
        """Nothing is kept of this segment, and a reader may know it. Blocking."""
        with self._lock:
            self._deletions.note_empty(name.segment)

    def look(self) -> None:
        """Take limits that were changed, and delete what is too old. Cheap enough to be called at every turn. Blocking."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        if self._overrides.changed():
            self._take_overrides()
        if self.limits.keep_s:
            self._delete_old()

    def _take_overrides(self) -> None:
        self.limits = self._set_limits.overridden(self._overrides.overrides)
        log.info("limits_changed", total_max_bytes=self.limits.total_bytes, max_age_s=self.limits.keep_s)
        with self._lock:
            self._keep_caps()
            self._deletions.write()

    def _delete_old(self) -> None:
        oldest = time.time() - self.limits.keep_s
        with self._lock:
            overdue = [number for number in sorted(self._closed) if self._closed[number].written_at < oldest]
            indexed = indexed_segments(self._index) if overdue else frozenset()
            for number in overdue:
                self._delete(number, "max_age", indexed)

    # --- for the sealer

    def make_room_for_seal(self, name: Name, making_bytes: int) -> bool:
        """As `make_room` for the file that the sealer is making; whether the segment it is made from is still there."""
        with self._lock:
            self._making_bytes = making_bytes
            self._keep_caps()
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
            files = self._closed[name.number].files
            del files[name]
            files[sealed] = size
            return True

    def abandon_seal(self) -> None:
        """There is no file in the making any more."""
        with self._lock:
            self._making_bytes = 0

    # --- with the lock held

    def _has(self, name: Name) -> bool:
        return name.number in self._closed and name in self._closed[name.number].files

    def _total_bytes(self) -> int:
        return sum(sum(one.files.values()) for one in self._closed.values()) + self._active_bytes + self._making_bytes

    def _keep_caps(self) -> None:
        count, total = len(self._closed), self._total_bytes()
        if not self.limits.exceeded(count, total):
            return
        indexed = indexed_segments(self._index)
        for number in sorted(self._closed, key=lambda number: (self._rank(number, indexed), number)):
            reason = self.limits.exceeded(count, total)
            if not reason:
                return
            count, total = count - 1, total - sum(self._closed[number].files.values())
            self._delete(number, reason, indexed)

    def _rank(self, number: int, indexed: frozenset[str]) -> int:
        """Who goes first. A segment in two formats is indexed from one of them."""
        names = self._closed[number].files
        if not any(name.segment in indexed for name in names):
            return 2
        return 0 if all(name.sealed for name in names) else 1

    def _delete(self, number: int, reason: str, indexed: frozenset[str]) -> None:
        known = self._rank(number, indexed) < 2
        one = self._closed.pop(number)
        for name, size in one.files.items():
            self._deletions.note(name.segment, time.time(), reason, size, one.spans, indexed=known)
            try:
                (self.directory / name.file).unlink(missing_ok=True)
            except OSError as err:
                count_swallowed("delete_segment")
                log.error("segment_not_deleted", file=name.file, error=err.strerror or err)
                self._closed.setdefault(number, one._replace(files={})).files[name] = size
                continue
            self._deleted(name, size, reason, known)

    def _deleted(self, name: Name, size: int, reason: str, known: bool) -> None:
        self.deleted[reason] = self.deleted.get(reason, 0) + 1
        self.deleted_bytes += size
        self.deleted_unindexed += not known
        if known:
            log.warning("segment_deleted", file=name.file, bytes=size, reason=reason, indexed="yes")
        else:
            log.error("segment_deleted", file=name.file, bytes=size, reason=reason, indexed="no")
