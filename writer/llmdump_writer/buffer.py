"""One segment in memory: the bytes that its files are to get next, and what is known of it as a whole. Pure.

A segment is one file, or with `capture_format: both` two of the same number. Nothing is created before there is
something to write: the header goes out in one write with the first records.
"""

import time
from collections.abc import Sequence
from typing import Final

from llmdump import footer, record, segment
from llmdump.footer import Spans
from llmdump.lines import Converter
from llmdump.segment import FORMAT
from llmdump_writer.flush import Waiting

FORMATS: Final = {"cbor": ("cbor",), "jsonl": ("jsonl",), "both": ("jsonl", "cbor")}
"""The files of a segment in the order they are written: what stands in the exact one stands in both."""


class Buffer:
    """A segment from its beginning to its footer. `written` after each flush moves what waited into `sizes`."""

    def __init__(self, writer: str, number: int, capture_format: str, converter: Converter, created_at: float) -> None:
        """`created_at` is in seconds since 1970."""
        self.number = number
        self.names = {one: segment.Name(writer, number, one) for one in FORMATS[capture_format]}
        self.sizes = dict.fromkeys(self.names, 0)
        """Bytes that the files have, of what was acknowledged."""
        self.waiting = {one: bytearray() for one in self.names}
        """Bytes that the files are to get next; not empty while the header has not been written."""
        self.records = 0
        """Records of the segment, waiting ones included: the next one's `seq`."""
        self.spans: Spans = {}
        self.stored: Spans = {}
        """As `spans`, without the waiting records."""
        self.synced: Spans = {}
        """As `stored` at the last sync; kept only where syncs come later than writes."""
        self.exchanges: set[str] = set()
        """Of the waiting records, where lines are made."""
        self._converter = converter
        self._entries = self._bytes = 0
        self._shares: dict[str, int] = {}
        self._since = 0.0
        self._begin(writer, number, created_at)

    def _begin(self, writer: str, number: int, created_at: float) -> None:
        if "cbor" in self.waiting:
            self.waiting["cbor"] += segment.header(writer, number, created_at)
        if "jsonl" in self.waiting:
            formats = "both" if "cbor" in self.waiting else "jsonl"
            about = {"x_format": FORMAT, "x_formats": formats, "x_writer": writer, "x_segment": number}
            self.waiting["jsonl"] += self._converter.begin_file(created_at, about)

    @property
    def state(self) -> Waiting:
        """What waits, for the flush rule."""
        return Waiting(self._entries, self._bytes, max(self._shares.values(), default=0), self._since)

    @property
    def waiting_since(self) -> float | None:
        """When the oldest waiting record came; None if none waits. For other threads too."""
        return self._since if self._entries else None

    @property
    def last_waiting(self) -> dict[str, int]:
        """The highest waiting number of each instance that has some."""
        return {name: self.spans[name][1] for name in self._shares}

    def sizes_with(self, more: dict[str, int]) -> list[int]:
        """The files' sizes, if these bytes were added for one more instance and the segment then closed."""
        instances = len(self.spans) + 1
        return [self.sizes[one] + len(self.waiting[one]) + more.get(one, 0) + footer.room(one, instances) for one in self.names]

    def add(
        self,
        instance: str,
        numbers: Sequence[int],
        lengths: Sequence[int],
        body: bytes,
        now: float,
        lines: bytes = b"",
        exchange: str = "",
    ) -> None:
        """Records of one instance, numbers rising above those before; where there are lines, one record with its lines."""
        if "cbor" in self.waiting:
            self._add_cbor(lengths, body)
        if "jsonl" in self.waiting:
            self.waiting["jsonl"] += lines
            self.exchanges.add(exchange)
        if not self._entries:
            self._since = now
        self.records += len(numbers)
        self._entries += len(numbers)
        self._bytes += len(body)
        self._shares[instance] = self._shares.get(instance, 0) + len(body)
        first, _, count = self.spans.get(instance, (numbers[0], 0, 0))
        self.spans[instance] = (first, numbers[-1], count + len(numbers))

    def _add_cbor(self, lengths: Sequence[int], body: bytes) -> None:
        waiting = self.waiting["cbor"]
        at = len(waiting)
        waiting += body
        for seq, size in enumerate(lengths, self.records):
            record.patch_seq(waiting, at, seq)
            at += size

    def written(self) -> None:
        """What waited is in the files."""
        self.stored |= {name: self.spans[name] for name in self._shares}
        for one, waiting in self.waiting.items():
            self.sizes[one] += len(waiting)
            self.waiting[one] = bytearray()
        self._entries = self._bytes = 0
        self._shares.clear()
        self.exchanges.clear()

    @property
    def unsynced(self) -> Spans:
        """For each instance that has some: above which number records are stored and not synced, the last, and how many."""
        before = {name: self.synced.get(name, (0, first - 1, 0)) for name, (first, _, _) in self.stored.items()}
        return {
            name: (before[name][1], last, count - before[name][2])
            for name, (_, last, count) in self.stored.items()
            if count > before[name][2]
        }

    def end(self) -> None:
        """Put the footer into what waits: the segment is closed with the next write."""
        body = bytearray(footer.encode(time.time(), self.records, self.spans))
        lines = b"".join(self._converter.lines(record.decode(bytes(body)))) if "jsonl" in self.waiting else b""
        record.patch_seq(body, 0, self.records)
        for one, footer_bytes in (("cbor", body), ("jsonl", lines)):
            if one in self.waiting:
                self.waiting[one] += footer_bytes
