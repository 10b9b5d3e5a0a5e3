"""Keeps the column `pinned` as the files in `<data>/pinned` say, and makes rows of those that have none.

Looked at when the directory has changed. A pinned exchange without a row may still be in a segment that has not been
read; so a row is made from its file only when there is nothing left to read.
"""

import time
from functools import partial
from typing import Final

from llmdump import pins
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump_indexer.absorb import Absorb
from llmdump_indexer.index import Index

# A directory's time has the grain of the kernel's tick, so a fresh one does not prove that nothing changed since.
_LISTING_TRUSTED_AFTER_S: Final = 1.0


class PinnedRows:
    """What is pinned, for one index that is open."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._listed_mtime_ns = -1
        self._looked = False
        self._without_row: set[str] = set()
        self.sizes: dict[str, int] = {}
        """Bytes of each pinned exchange."""

    def settle(self, index: Index, absorb: Absorb, *, idle: bool) -> bool:
        """Bring the index up to date; nothing may be pending. Whether there was anything to do. Raises apsw.Error, OSError."""
        changed = self._look()
        if not changed and not (self._without_row and idle):
            return False
        marked = index.pinned()
        wanted = set(self.sizes)
        self._without_row = index.mark_pinned(wanted - marked, marked - wanted)
        if idle:
            for exchange in sorted(self._without_row):
                self._make(exchange, absorb)
        return changed or absorb.pending

    def _look(self) -> bool:
        """Whether the directory may hold something else than the last time, or than the index says."""
        try:
            mtime_ns = self._data.pinned.stat().st_mtime_ns
        except FileNotFoundError:
            mtime_ns = 0
        if mtime_ns == self._listed_mtime_ns:
            return False
        fresh = time.time() - mtime_ns / 1e9 < _LISTING_TRUSTED_AFTER_S
        self._listed_mtime_ns = -1 if fresh else mtime_ns
        before, self.sizes = self.sizes, pins.find(self._data)
        first, self._looked = not self._looked, True
        return first or before != self.sizes or not fresh

    def _make(self, exchange: str, absorb: Absorb) -> None:
        try:
            absorb.pinned(partial(pins.read, self._data, exchange))
        except (OSError, ValueError):
            count_swallowed("pinned_not_read")
            self._without_row.discard(exchange)
