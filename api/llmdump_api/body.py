"""The raw body of one side of an exchange, read from the segments in bounded batches. Blocking; for a thread."""

from collections.abc import Iterable, Iterator
from typing import Final

from llmdump import heads
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_api.trace import split_answer

BATCH_BYTES: Final = 1024 * 1024
SIDES: Final = {"request": CLIENT_TO_PROXY, "response": BACKEND_TO_PROXY}


class Body:
    """Bytes as they crossed: without transfer framing, Content-Encoding kept; after an upgrade, what was piped."""

    def __init__(self, records: Iterable[Record], side: str) -> None:
        """`side` is `request` or `response`. Reads nothing yet."""
        self.content_type = ""
        """As recorded; known once the first batch was read."""
        self._parts = self._payloads(records, SIDES[side])

    def batch(self) -> bytes:
        """The next bytes, about `BATCH_BYTES`; none at the end. Raises FileNotFoundError, OSError, ValueError."""
        parts, size = [], 0
        while size < BATCH_BYTES and (part := next(self._parts, None)) is not None:
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _payloads(self, records: Iterable[Record], direction: int) -> Iterator[bytes]:
        for record in records:
            if record.kind == "answer" and direction == BACKEND_TO_PROXY:
                head, body = split_answer(record)
                self._head(head)
                yield body
            elif record.direction == direction and record.kind == "head":
                self._head(record.data)
            elif record.direction == direction and record.kind in {"chunk", "pipe"} and record.data:
                yield record.data

    def _head(self, head: bytes) -> None:
        value = heads.parse(head).first("content-type")
        self.content_type = "".join(character for character in value[:256] if " " <= character <= "~")
