"""Segments of either format read through a window: content that may be cut anywhere, not only where a batch ends.

`segment.scan` takes what is cut short for damage if a whole record stands within it. In a window that ends in the
middle of a record this may well be: bodies hold whatever clients send, a capture file for example. So here whatever may
still become a record when more is read is left for the next window.
"""

from collections.abc import Iterator

from llmdump import jsonl, record, segment
from llmdump.record import DamageError
from llmdump.segment import Damage, Located


def scan(format: str, content: bytes, base: int, *, closed: bool, resync: bool = False) -> Iterator[Located | Damage]:  # noqa: A002
    """The records in `content`, which begins at offset `base` of a segment, just at a record; ends where one may be cut.

    `closed`: the segment ends where `content` does, what is cut is damage. `resync`: take for damage what looks cut, if
    whole records follow: for a tail that has looked cut for longer than anybody needs to write. Does no I/O.
    """
    if format == "jsonl":
        yield from jsonl.scan(content, base, closed=closed)
        return
    for item in segment.scan(content, base, closed=closed):
        if isinstance(item, Damage) and not (closed or resync) and _may_be_cut(content, item.offset - base):
            return
        yield item


def _may_be_cut(content: bytes, at: int) -> bool:
    try:
        size = record.measure(content, at)
    except DamageError:
        return False
    return size == 0 or at + size > len(content)
