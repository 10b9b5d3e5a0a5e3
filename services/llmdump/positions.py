"""Where the records of an exchange stand: runs of bytes within a segment, packed for the index, and read back.

A run is (offset, size) in the plain file and holds whole records, nothing else; records that touch are one run. Packed,
each run is two unsigned LEB128 numbers (7 bits a byte, lowest first, bit 7 says that more follow): the distance from
the end of the run before it (for the first: from 0), and the size. Runs rise.

    (0, 300) (1000, 20)      00  ac 02  bc 05  14
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from llmdump import window
from llmdump.record import RECORD_BYTES_MAX
from llmdump.segment import Damage, Located, SegmentFile

WINDOW_BYTES: Final = 1024 * 1024
# A record of the largest size as a JSONL line, base64 and all.
WINDOW_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX


class Runs:
    """Runs being packed. `add` costs a comparison where the record touches the run before it."""

    __slots__ = ("_end", "_open_at", "_packed", "_size", "count")

    def __init__(self, packed: bytes = b"") -> None:
        """Goes on after what was packed before. Raises ValueError."""
        self._packed = bytearray()
        self._end = 0  # of the runs in `_packed`: where the distance of the open run counts from
        self._open_at = self._size = 0
        self.count = 0
        """Runs so far."""
        for offset, size in unpack(packed):
            self.add(offset, size)

    def add(self, offset: int, size: int) -> None:
        """The next record. Raises ValueError if it does not come after the one before."""
        if self._size and offset == self._open_at + self._size:
            self._size += size
            return
        self._close()
        if offset < self._end:
            raise ValueError(f"a run at {offset} cannot follow one that ends at {self._end}")
        self._open_at, self._size = offset, size
        self.count += 1

    def packed(self) -> bytes:
        """All runs so far."""
        packed = self._packed.copy()
        if self._size:
            _leb128(packed, self._open_at - self._end)
            _leb128(packed, self._size)
        return bytes(packed)

    def _close(self) -> None:
        if self._size:
            _leb128(self._packed, self._open_at - self._end)
            _leb128(self._packed, self._size)
            self._end = self._open_at + self._size


def unpack(packed: bytes) -> list[tuple[int, int]]:
    """The runs, each (offset, size). Raises ValueError if these are not packed runs."""
    numbers: list[int] = []
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    if shift or len(numbers) % 2:
        raise ValueError("packed runs are cut short")
    runs, end = [], 0
    for distance, size in zip(numbers[::2], numbers[1::2], strict=True):
        runs.append((end + distance, size))
        end += distance + size
    return runs


def _leb128(packed: bytearray, value: int) -> None:
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)


class Piece(NamedTuple):
    """Some of the records of an exchange: those in one segment, or a part of them."""

    segment: str
    runs: bytes


def read(directory: Path, pieces: Iterable[Piece]) -> Iterator[Located]:
    """The records of an exchange, in order; those that are damaged are left out.

    Blocking; holds one window of the segment and one open file. Raises FileNotFoundError where a segment is gone, and
    OSError or ValueError where one cannot be read.
    """
    for piece in pieces:
        with SegmentFile(directory, piece.segment) as file:
            for offset, size in unpack(piece.runs):
                for item in read_run(file.read, file.name.format, offset, offset + size):
                    if isinstance(item, Located):
                        yield item


def read_run(
    read: Callable[[int, int], bytes],
    format: str,  # noqa: A002
    at: int,
    end: int,
) -> Iterator[Located | Damage]:
    """What is in the bytes from `at` to `end`, whole records, of what `read` reads at (offset, size). Blocking."""
    window_bytes = WINDOW_BYTES
    while at < end:
        content = read(at, min(window_bytes, end - at))
        begin = at
        for item in window.scan(format, content, at, closed=at + len(content) >= end):
            at = item.offset + item.size
            yield item
        if at == begin:
            if not content or window_bytes > WINDOW_BYTES_MAX:
                return
            window_bytes *= 4
