"""Our own records, out of segments in both formats, pinned copies and wire exports: taken over as they are. Blocking."""

from collections.abc import Iterator
from typing import BinaryIO, Final

from llmdump import positions, segment
from llmdump.importing.parts import Item, Problem
from llmdump.record import NO_EXCHANGE
from llmdump.segment import Damage

_HEADER_BYTES_MAX: Final = 4096
KINDS: Final = frozenset({"head", "chunk", "forward", "interim", "answer", "pipe", "end"})


def read(file: BinaryIO, form: str) -> Iterator[Item]:
    """The records of exchanges, and what is damaged. Raises OSError, ValueError."""
    size = file.seek(0, 2)
    begin = segment.skip_header(_at(file, 0, _HEADER_BYTES_MAX)) if form == "segment" else 0
    scan = "cbor" if form == "segment" else "jsonl"
    for item in positions.read_run(lambda at, count: _at(file, at, count), scan, begin, size):
        if isinstance(item, Damage):
            yield Problem(f"offset {item.offset}", f"{item.size} bytes are no record")
        elif item.record.exchange != NO_EXCHANGE and item.record.kind in KINDS:
            yield item.record


def _at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
