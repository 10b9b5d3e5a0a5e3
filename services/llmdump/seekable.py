"""Sealed segment files: zstd frames and a seek table, so that any range is read without the rest.

The layout is zstd's own seekable format (facebook/zstd, contrib/seekable_format), which every zstd tool decompresses
as one stream: independent frames, then one skippable frame holding the table:

    5e 2a 4d 18  <u32 length>                       skippable frame, little-endian throughout
      per frame: <u32 compressed> <u32 plain>       sizes in bytes
      <u32 frames> <u8 0> b1 ea 92 8f               footer: count, descriptor (no checksums), magic

Frames are large and made with a long window, because agents send their whole history again with each turn: a turn must
find the one before it. On interleaved 60-turn sessions 256 KiB frames left 39 % of the bytes, 32 MiB frames 2.3 %, at
the price of up to some 55 ms to read something from a frame that is not the last one read: a frame is decompressed from its
beginning, but only as far as is asked for.

The records' own checksums guard the content, so the table carries none.
"""

import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd as zstd  # noqa: PLC0414 - exported: `zstd` is the one of this Python version
else:
    from backports import zstd as zstd  # noqa: PLC0414 - exported: `zstd` is the one of this Python version

FRAME_BYTES: Final = 32 * 1024 * 1024
"""Plain bytes of a frame that we write; the last ones are shorter."""
FRAME_BYTES_MAX: Final = 128 * 1024 * 1024
"""Plain bytes of a frame that we read: what a table may make us allocate."""
FRAMES_MAX: Final = 1 << 20

_STEP_BYTES: Final = 1024 * 1024
"""At least so much is decompressed at a time."""
_LEVEL: Final = 3
_WINDOW_LOG: Final = 25  # 32 MiB, so a window spans a whole frame
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: _LEVEL,
    zstd.CompressionParameter.enable_long_distance_matching: 1,
    zstd.CompressionParameter.window_log: _WINDOW_LOG,
}
_SKIPPABLE: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<II")
_FOOTER: Final = struct.Struct("<IBI")
_SKIPPABLE_MAGIC: Final = 0x184D2A5E
_FOOTER_MAGIC: Final = 0x8F92EAB1


def compress_frame(plain: bytes) -> bytes:
    """One whole frame with these bytes. Holds no lock while it works: 2 to 60 ms for a full frame."""
    return zstd.compress(plain, options=_OPTIONS)


def decompress_frame(frame: bytes, plain_bytes: int) -> bytes:
    """What exactly one frame holds, which must be `plain_bytes` long; never allocates more. Raises ValueError."""
    return _Frame(frame, plain_bytes).read(0, plain_bytes)


class _Frame:
    """One frame that is being decompressed, as far as somebody asked."""

    def __init__(self, compressed: bytes, plain_bytes: int) -> None:
        self._more = compressed
        self._size = plain_bytes
        self._plain = bytearray()
        self._decompressor = zstd.ZstdDecompressor()

    def read(self, begin: int, end: int) -> bytes:
        """The plain bytes from `begin` to `end`, which may be beyond its end. Raises ValueError for a damaged frame."""
        end = min(end, self._size)
        try:
            while len(self._plain) < end:
                self._go_on(max(end - len(self._plain), _STEP_BYTES))
        except zstd.ZstdError as err:
            raise ValueError(f"damaged zstd frame: {err}") from err
        return bytes(memoryview(self._plain)[begin:end])

    def _go_on(self, at_most: int) -> None:
        left = self._size - len(self._plain)
        more = self._decompressor.decompress(self._more, max_length=min(at_most, left))
        self._more = b""
        self._plain += more
        # A frame that fills `max_length` exactly may not have been told yet that it is over.
        over = self._decompressor.eof
        rest = self._decompressor.decompress(b"", max_length=1) if len(more) == left and not over else b""
        over = over or self._decompressor.eof
        if rest or over != (len(self._plain) == self._size) or self._decompressor.unused_data or not (more or over):
            raise ValueError(f"damaged zstd frame: it does not hold the {self._size} bytes that the table says")


def seek_table(sizes: Iterable[tuple[int, int]]) -> bytes:
    """The skippable frame that ends a file with frames of these (compressed, plain) sizes."""
    entries = b"".join(_ENTRY.pack(*size) for size in sizes)
    footer = _FOOTER.pack(len(entries) // _ENTRY.size, 0, _FOOTER_MAGIC)
    return _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(entries) + len(footer)) + entries + footer


class SealedFile:
    """A sealed file, read by offsets of its plain content. Not for several threads at once."""

    size: int
    """Bytes of the plain content."""

    def __init__(self, path: Path) -> None:
        """Open and check the table. Blocking, one small read. Raises FileNotFoundError, OSError, and ValueError for a
        file that is damaged or something else."""
        self._path = path
        self._file = path.open("rb", buffering=0)
        try:
            sizes = _read_table(self._file.fileno())
        except ValueError as err:
            self._file.close()
            raise ValueError(f"{path}: {err}") from err
        self._compressed_at = [0, *accumulate(compressed for compressed, _ in sizes)]
        self._plain_at = [0, *accumulate(plain for _, plain in sizes)]
        self.size = self._plain_at[-1]
        self._kept: tuple[int, _Frame | None] = (-1, None)

    @property
    def frame_offsets(self) -> Sequence[int]:
        """Where in the plain content each frame begins, and last where the content ends."""
        return self._plain_at

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the plain content, fewer at its end.

        Blocking: decompresses each frame that is touched up to there, and the one touched last not again. Raises ValueError
        for a damaged frame, if the damage is not behind what is asked for, and for a negative offset or size, OSError.
        """
        if offset < 0 or size < 0:
            raise ValueError(f"cannot read {size} bytes from {offset}")
        end = min(offset + size, self.size)
        parts = []
        while offset < end:
            index = bisect_right(self._plain_at, offset) - 1
            begin = self._plain_at[index]
            try:
                part = self._frame(index).read(offset - begin, end - begin)
            except ValueError as err:
                self._kept = (-1, None)
                raise ValueError(f"{self._path}, frame {index} at {self._compressed_at[index]}: {err}") from err
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _frame(self, index: int) -> _Frame:
        kept, frame = self._kept
        if frame is None or kept != index:
            self._kept = (-1, None)  # so that one frame is held at a time
            at, end = self._compressed_at[index : index + 2]
            frame = _Frame(os.pread(self._file.fileno(), end - at, at), self._plain_at[index + 1] - self._plain_at[index])
            self._kept = (index, frame)
        return frame

    def close(self) -> None:
        """Close the file."""
        self._kept = (-1, None)
        self._file.close()


def _read_table(fd: int) -> list[tuple[int, int]]:
    """The (compressed, plain) sizes of all frames, checked against the file's size. Raises ValueError."""
    file_bytes = os.fstat(fd).st_size
    footer = os.pread(fd, _FOOTER.size, max(0, file_bytes - _FOOTER.size))
    if len(footer) < _FOOTER.size:
        raise ValueError("not a sealed segment: too short for a seek table")
    frames, descriptor, magic = _FOOTER.unpack(footer)
    if magic != _FOOTER_MAGIC:
        raise ValueError("not a sealed segment, or cut short: it does not end with a seek table")
    if descriptor:
        raise ValueError(f"seek table with descriptor {descriptor:#x}: llmdump reads tables without checksums only")
    content_bytes = frames * _ENTRY.size + _FOOTER.size
    table_at = file_bytes - content_bytes - _SKIPPABLE.size
    if frames > FRAMES_MAX or table_at < 0:
        raise ValueError(f"damaged seek table: {frames} frames do not fit into this file")
    table = os.pread(fd, file_bytes - table_at, table_at)
    if _SKIPPABLE.unpack_from(table) != (_SKIPPABLE_MAGIC, content_bytes):
        raise ValueError("damaged seek table: its frame does not begin where the count says")
    sizes = list(_ENTRY.iter_unpack(table[_SKIPPABLE.size : -_FOOTER.size]))
    if sum(compressed for compressed, _ in sizes) != table_at:
        raise ValueError("damaged seek table: the frames' sizes do not add up to where the table begins")
    if any(not 0 < plain <= FRAME_BYTES_MAX for _, plain in sizes):
        raise ValueError(f"damaged seek table: a frame of more than {FRAME_BYTES_MAX} bytes, or of none")
    return sizes
