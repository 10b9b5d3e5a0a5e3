"""One segment file being appended to: the system calls, and what is left after one of them fails.

open     O_CREAT | O_EXCL | O_APPEND, 0600     at the first append; the directory is synced after the file
append   one write(2) for everything, then fdatasync(2)
abandon  after any error: cut back to what was durable, never written or synced for good again ("fsyncgate":
         after a failed fsync the kernel may call lost pages clean, so a second one proves nothing)
"""

import contextlib
import os
import time
from pathlib import Path

from llmdump.metrics import Histogram

_data_sync = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync


class Appender:
    """A file that grows. All methods block and raise OSError; after an error only `abandon` may be called."""

    def __init__(self, path: Path, *, sync: bool, sync_time: Histogram) -> None:
        self.path = path
        self._sync = sync
        self._sync_time = sync_time
        self._fd = -1

    def append(self, content: bytes | bytearray) -> None:
        """Write all of it, and return when it is durable."""
        created = self._fd < 0
        if created:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        write_all(self._fd, content)
        if self._sync:
            begin = time.perf_counter()
            _data_sync(self._fd)
            self._sync_time.observe(time.perf_counter() - begin)
            if created:
                sync_directory(self.path.parent)

    def close(self) -> None:
        """Close the file as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self, keep_bytes: int) -> None:
        """Cut the file back to what was durable, as far as the disk lets, or remove it if that is nothing. Raises nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, keep_bytes)
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        with contextlib.suppress(OSError):
            self.close()
        if not keep_bytes:
            with contextlib.suppress(OSError):
                self.path.unlink()


def write_all(fd: int, content: bytes | bytearray) -> None:
    """Write everything, with one system call unless the kernel takes less at a time. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable. Blocking. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
