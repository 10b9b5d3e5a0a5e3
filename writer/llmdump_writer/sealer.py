"""Closed segments are compressed, one after the other, in a thread of their own.

    read a frame of the plain file ─▶ compress ─▶ read it back ─▶ append to <segment>.zst.tmp
    … the footer is a frame of its own, so that a starting writer reads what a segment holds without the rest
    seek table ─▶ fsync ─▶ rename to <segment>.zst ─▶ sync the directory ─▶ unlink the plain file

A crash at any point leaves the plain file or the sealed one, whole; what else it leaves, `recovery` removes. A disk that
refuses is tried again later; the plain file serves as well.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from llmdump import log, record, seekable
from llmdump.admin import count_swallowed
from llmdump.segment import Name
from llmdump_writer.appender import write_all
from llmdump_writer.catalog import Catalog

RETRY_S: Final = 10.0
_FOOTER_TAIL_BYTES: Final = 64 * 1024


class Sealer:
    """The thread that seals. `seal` is for any thread."""

    def __init__(self, catalog: Catalog) -> None:
        self.sealed = 0
        """Segment files sealed."""
        self._catalog = catalog
        self._queue: queue.SimpleQueue[Name | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sealer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def seal(self, names: Iterable[Name]) -> None:
        """Seal these closed segments, when their turn comes."""
        for name in names:
            self._queue.put(name)

    def stop(self, within_s: float) -> None:
        """Leave off; what is not sealed is at the next start. Blocking for the frame in hand, at most `within_s`."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        while (name := self._queue.get()) is not None and not self._stopping.is_set():
            if not self.attempt(name):
                self._queue.put(name)
                self._stopping.wait(RETRY_S)

    def attempt(self, name: Name) -> bool:
        """Seal a segment now; False if it should be tried again later. For the thread that seals."""
        try:
            self._seal(name)
        except (OSError, ValueError, MemoryError) as err:
            count_swallowed("seal")
            log.warning("segment_not_sealed", file=name.file, error=err)
            return False
        finally:
            self._catalog.abandon_seal()
        return True

    def _seal(self, name: Name) -> None:
        made = self._catalog.directory / f"{name.segment}.zst.tmp"
        try:
            if self._make(name, made) and self._catalog.replace(name, made):
                self.sealed += 1
        finally:
            with contextlib.suppress(FileNotFoundError):
                made.unlink()

    def _make(self, name: Name, made: Path) -> bool:
        """Write the sealed form to `made`; False if it is not wanted any more."""
        sizes: list[tuple[int, int]] = []
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for plain in _frames(self._catalog.directory / name.file):
                frame = _checked_frame(plain)
                sizes.append((len(frame), len(plain)))
                total = sum(compressed for compressed, _ in sizes)
                if self._stopping.is_set() or not self._catalog.make_room_for_seal(name, total):
                    return False
                write_all(fd, frame)
            table = seekable.seek_table(sizes)
            if not self._catalog.make_room_for_seal(name, sum(compressed for compressed, _ in sizes) + len(table)):
                return False
            write_all(fd, table)
            written_ns = (self._catalog.directory / name.file).stat().st_mtime_ns
            os.utime(fd, ns=(written_ns, written_ns))  # its age counts from its last record
            os.fsync(fd)
        finally:
            os.close(fd)
        return bool(sizes)


def _checked_frame(plain: bytes) -> bytes:
    """A frame that was seen to give back its content: the plain file is about to go."""
    frame = seekable.compress_frame(plain)
    if seekable.decompress_frame(frame, len(plain)) != plain:
        raise ValueError("compressed data does not read back")
    return frame


def _frames(path: Path) -> Iterator[bytes]:
    """The content of a plain file in frames: full ones, the rest, the footer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # deleted by a cap; `replace` sees that too
    try:
        size = os.fstat(fd).st_size
        for at in range(0, footer_at := _footer_at(fd, size), seekable.FRAME_BYTES):
            yield os.pread(fd, min(seekable.FRAME_BYTES, footer_at - at), at)
        if footer_at < size:
            yield os.pread(fd, size - footer_at, footer_at)
    finally:
        os.close(fd)


def _footer_at(fd: int, size: int) -> int:
    """About where the footer begins: the start of the last record or line that the end of the file shows, else its end."""
    begin = max(0, size - _FOOTER_TAIL_BYTES)
    tail = os.pread(fd, size - begin, begin)
    at = max(tail.rfind(record.MAGIC), tail.rfind(b"\n", 0, max(0, len(tail) - 1)) + 1)
    return begin + at if at > 0 else size
