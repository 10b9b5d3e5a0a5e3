"""How far the newest segment of a writer may be read: up to what the writer will not take back.

Between the write of a batch and its sync, readers see bytes that are nobody's yet. If the sync fails the writer cuts them
off, and the same records come again, elsewhere. So the writer says how far its newest segment is durable (as docs/wire.md
has it), before it acknowledges; and readers go no further. The mark is a struct that is overwritten in place, integers
big-endian:

    <data>/run/w0.durable

     0   4  "LMD1"
     4  16  boot       of the machine on which it was written
    20   8  segment    number of the newest segment
    28   8  cbor       bytes of its CBOR file
    36   8  jsonl      bytes of its JSONL file
    44   4  CRC32C     of what is before

Rules for whoever edits this:

- Every acknowledged record is within the mark: a mark that cannot be written is a write that failed.
- A segment is marked, with no bytes, before its file is made. So what the mark does not name is whole, and read to its end.
- It is never synced: after a power cut it may be old. Then all is read that is there, as from files of another machine.
- A writer that leaves with all its files in order removes its mark, one that died leaves it. What then lies behind it was never
  acknowledged; the writer that starts next decides about it and begins a new segment.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import google_crc32c

from llmdump.segment import Name, SegmentFile

_MAGIC: Final = b"LMD1"
_MARK: Final = struct.Struct(">4s16sQQQ")
_CRC: Final = struct.Struct(">I")
_MARK_BYTES: Final = _MARK.size + _CRC.size
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# A mark that is read while it is overwritten may be neither the old nor the new one.
_TRIES: Final = 8
_NO_LIMIT: Final = (1 << 63) - 1


class Mark:
    """The mark of one writer, kept open. Not for several threads."""

    def __init__(self, segments: Path, writer: str) -> None:
        self._path = _path(segments, writer)
        self._fd = -1

    def set(self, number: int, sizes: Mapping[str, int]) -> None:
        """From now on the newest segment is this, and of its files so many bytes are durable. Blocking. Raises OSError."""
        mark = _MARK.pack(_MAGIC, _boot(), number, sizes.get("cbor", 0), sizes.get("jsonl", 0))
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        content = mark + _CRC.pack(google_crc32c.value(mark))
        if os.pwrite(self._fd, content, 0) != len(content):
            raise OSError(errno.EIO, f"a mark was written in part: {self._path}")

    def remove(self) -> None:
        """All segments may be read to their ends. Blocking. Raises OSError."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._path.unlink(missing_ok=True)


def readable_bytes(segments: Path, file: SegmentFile) -> int:
    """The size of a segment in the directory `segments` as far as it may be read. Blocking. Raises OSError."""
    if file.sealed:
        return file.size
    allowed = limit(segments, file.name)  # before the size: a file that the mark has left behind is whole
    return min(allowed, file.size)


def limit(segments: Path, name: Name) -> int:
    """How many bytes of a segment that is not sealed may be read at most. Blocking. Raises OSError."""
    path = _path(segments, name.writer)
    for _ in range(_TRIES):
        try:
            content = _content(path)
        except FileNotFoundError:
            return _NO_LIMIT
        if len(content) == _MARK_BYTES and _CRC.unpack_from(content, _MARK.size)[0] == google_crc32c.value(
            content[: _MARK.size]
        ):
            magic, boot, number, *sizes = _MARK.unpack_from(content)
            if (magic, boot, number) != (_MAGIC, _boot(), name.number):
                return _NO_LIMIT
            return int(sizes[name.format == "jsonl"])
    return _NO_LIMIT


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, _MARK_BYTES, 0)
    finally:
        os.close(fd)


def _path(segments: Path, writer: str) -> Path:
    return segments.with_name("run") / f"{writer}.durable"


@cache
def _boot() -> bytes:
    """Which run of the kernel this is; the same for all where that cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", "")).ljust(16, b"\0")[:16]
    return bytes(16)
