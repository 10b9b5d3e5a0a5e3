"""Segments of either format, read through a window: content that may be cut anywhere, not only where a batch ends."""

from collections.abc import Iterator

from llmdump import jsonl, segment
from llmdump.segment import Damage, Located


def scan(format: str, content: bytes, base: int, *, closed: bool, resync: bool = False) -> Iterator[Located | Damage]:  # noqa: A002
    """The records in `content`, which begins at offset `base` of a segment, just at a record; ends where one may be cut.

    `closed`: the segment ends where `content` does, what is cut is damage. `resync`: take for damage what looks cut, if
    whole records follow: for a tail that has looked cut for longer than anybody needs to write. Does no I/O.
    """
    if format == "jsonl":
        yield from jsonl.scan(content, base, closed=closed)
    else:
        yield from segment.scan(content, base, closed=closed, resync=resync)
