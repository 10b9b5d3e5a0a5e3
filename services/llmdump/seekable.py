"""Sealed segment files: zstd frames and a seek table, so that any range is read without the rest.

The layout is zstd's own seekable format (facebook/zstd, contrib/seekable_format), which every zstd tool decompresses
as one stream: independent frames, then one skippable frame holding the table:

    5e 2a 4d 18  <u32 length>                       skippable frame, little-endian throughout
      per frame: <u32 compressed> <u32 plain>       sizes in bytes
      <u32 frames> <u8 0> b1 ea 92 8f               footer: count, descriptor (no checksums), magic

Frames are large and made with a long window, because agents send their whole history again with each turn: a turn must
find the one before it. On interleaved 60-turn sessions 256 KiB frames left 39 % of the bytes, 32 MiB frames 2.3 %, at
the price of some 20 ms to read anything from a frame that is not the last one read.

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
    decompressor = zstd.ZstdDecompressor()
    try:
        plain = decompressor.decompress(frame, max_length=plain_bytes)
        # A frame that fills `max_length` exactly may not have been told yet that it is over.
        rest = b"" if decompressor.eof else decompressor.decompress(b"", max_length=1)
    except zstd.ZstdError as err:
        raise ValueError(f"damaged zstd frame: {err}") from err
    if len(plain) != plain_bytes or rest or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"damaged zstd frame: it does not hold the {plain_bytes} bytes that the table says")
    return plain


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
        self._kept: tuple[int, bytes] = (-1, b"")

    @property
    def frame_offsets(self) -> Sequence[int]:
        """Where in the plain content each frame begins, and last where the content ends."""
        return self._plain_at

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the plain content, fewer at its end.

        Blocking: decompresses each frame that is touched, except the one read last. Raises ValueError for a damaged
        frame and for a negative offset or size, OSError.
        """
        if offset < 0 or size < 0:
            raise ValueError(f"cannot read {size} bytes from {offset}")
        end = min(offset + size, self.size)
        parts = []
        while offset < end:
            index = bisect_right(self._plain_at, offset) - 1
            begin = self._plain_at[index]
            part = self._frame(index)[offset - begin : end - begin]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _frame(self, index: int) -> bytes:
        if self._kept[0] != index:
            self._kept = (-1, b"")  # so that one frame is held at a time
            at, end = self._compressed_at[index : index + 2]
            frame = os.pread(self._file.fileno(), end - at, at)
            try:
                plain = decompress_frame(frame, self._plain_at[index + 1] - self._plain_at[index])
            except ValueError as err:
                raise ValueError(f"{self._path}, frame {index} at {at}: {err}") from err
            self._kept = (index, plain)
        return self._kept[1]

    def close(self) -> None:
        """Close the file."""
        self._kept = (-1, b"")
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
