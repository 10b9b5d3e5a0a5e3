"""One segment file being appended to: the system calls, and what is left after one of them fails.

open     O_CREAT | O_EXCL | O_APPEND, 0600     at the first append; the directory is synced after the file
append   one write(2) for everything
sync     fdatasync(2)
abandon  after any error: cut back to what was durable, never written or synced for good again ("fsyncgate":
         after a failed fsync the kernel may call lost pages clean, so a second one proves nothing)
"""

import contextlib
import os
import time
from pathlib import Path

from llmdump.metrics import Histogram


class Appender:
    """A file that grows. All methods block and raise OSError; after an error only `abandon` may be called."""

    def __init__(self, path: Path, sync_time: Histogram) -> None:
        self.path = path
        self._sync_time = sync_time
        self._fd = -1
        self._name_synced = self._sync_failed = False

    def append(self, content: bytes | bytearray) -> None:
        """Write all of it."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        write_all(self._fd, content)

    def sync(self) -> None:
        """Return when what was appended is durable."""
        begin = time.perf_counter()
        self._sync_failed = True
        getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS has only fsync
        self._sync_time.observe(time.perf_counter() - begin)
        if not self._name_synced:
            sync_directory(self.path.parent)
            self._name_synced = True
        self._sync_failed = False

    def close(self) -> None:
        """Close the file as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self, keep_bytes: int) -> bool:
        """Cut the file back to what was acknowledged, as far as the disk lets, or remove it if that is nothing.

        Whether what is kept is durable, as far as anybody can know. Raises nothing.
        """
        if self._fd < 0:
            return True
        synced = False
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, keep_bytes)
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
            synced = not self._sync_failed
        with contextlib.suppress(OSError):
            self.close()
        if not keep_bytes:
            with contextlib.suppress(OSError):
                self.path.unlink()
        return synced


def write_all(fd: int, content: bytes | bytearray) -> None:
    """Write everything, with one system call unless the kernel takes less at a time. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def is_cut(path: Path, keep_bytes: int) -> bool:
    """Whether `abandon` left no more than this in the file. Blocking. Raises nothing."""
    try:
        return path.stat().st_size <= keep_bytes and bool(keep_bytes)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def cut(path: Path, keep_bytes: int) -> None:
    """Do what `abandon` could not. Blocking. Raises OSError; a file that is gone is cut."""
    try:
        if not keep_bytes:
            path.unlink()
            return
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.ftruncate(fd, keep_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable. Blocking. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
