"""`segments/deleted.jsonl`: what retention has deleted, and why, so that nobody takes it for lost. Read and written here.

    {"segment": "w0-00000001.cbor", "at": 1736524721.5, "reason": "total_max_bytes", "bytes": 104857600,
     "records": 200000, "instances": {"<instance>": [first, last, count]}, "indexed": true}

The writers, and whoever takes an import back, append a line a file, before the file goes: where it is still there, it
was not deleted (yet). Both files of a segment in two formats have the same numbers; as long as one is there, nothing is
gone. A line that a full disk cut short is followed by the whole one, or its deletion was never written down; it is
counted and says nothing.
"""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from llmdump import segment
from llmdump.certificate import Retired
from llmdump.values import integer, text

FILE: Final = "deleted.jsonl"
EMPTY: Final = "empty"
"""The reason of a segment that had no record; no cap deleted it."""
UNDONE: Final = "undone"
"""The reason of an import that was taken back; its rows are forgotten when the index is made anew."""
_READ_BYTES: Final = 4 * 1024 * 1024

Spans = dict[str, tuple[int, int, int]]
"""For each instance first number, last number, count."""


class Note(NamedTuple):
    """One segment that a writer was about to delete."""

    writer: str
    number: int
    at: float
    """Seconds since 1970."""
    reason: str
    """Which cap: `max_files`, `total_max_bytes`, `max_age`; or `EMPTY`, `UNDONE`."""
    spans: Spans

    @property
    def segment(self) -> str:
        """Its name without a format."""
        return f"{self.writer}-{self.number:08d}"

    def retired(self) -> Iterator[tuple[str, Retired]]:
        """What was deleted of each instance."""
        for instance, (first, last, count) in self.spans.items():
            yield instance, Retired(first, last, count, self.reason, self.segment, self.at)


class Notes:
    """The notes of a data directory, read on at each `read`. Some 500 bytes a segment are held. Not for several threads."""

    def __init__(self, directory: Path) -> None:
        """`directory` is that of the segments."""
        self._directory = directory
        self._begin()

    def _begin(self) -> None:
        self._notes: dict[tuple[str, int], Note] = {}
        self._offset = self._bad_lines = self._tail_bytes = 0

    @property
    def unreadable(self) -> int:
        """Lines that are no note, one that has no end yet among them."""
        return self._bad_lines + (self._tail_bytes > 0)

    def read(self) -> None:
        """Take in what was written since the last time. Blocking. Raises OSError."""
        try:
            with (self._directory / FILE).open("rb") as file:
                if file.seek(0, 2) < self._offset:  # another file
                    self._begin()
                file.seek(self._offset)
                rest = b""
                while content := file.read(_READ_BYTES):
                    *lines, rest = (rest + content).split(b"\n")
                    self._take(lines)
                self._tail_bytes = len(rest)
        except FileNotFoundError:
            return

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._offset += len(line) + 1
            found = parse(line) if line else None
            if found is not None:
                self._notes[found.writer, found.number] = found
            elif line:
                self._bad_lines += 1

    def last_number(self, writer: str) -> int:
        """The highest segment number of a writer that was noted, 0 if there is none."""
        return max((number for one, number in self._notes if one == writer), default=0)

    def deleted(self) -> list[Note]:
        """Those of segments that are not there any more, in any format. Blocking. Raises OSError."""
        there = {(name.writer, name.number) for name in segment.find(self._directory)} if self._notes else set()
        return [note for key, note in self._notes.items() if key not in there]


def line(segment: str, at: float, reason: str, size_bytes: int, spans: Spans, *, indexed: bool) -> bytes:
    """The line for a segment file that is about to be deleted; `at` is in seconds since 1970."""
    told = {
        "segment": segment, "at": at, "reason": reason, "bytes": size_bytes,
        "records": sum(count for _, _, count in spans.values()), "instances": spans, "indexed": indexed,
    }  # fmt: skip
    return orjson.dumps(told) + b"\n"


def append(directory: Path, lines: bytes) -> None:
    """Put lines at the end of the file, durable when this returns. Blocking. Raises OSError.

    In one write, for others append too, unless the kernel takes less at a time; a line that was cut short before gets an end.
    """
    fd = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        cut_short = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        rest = b"\n" + lines if cut_short else lines
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def parse(line: bytes) -> Note | None:
    """The note of a line; None if it is none."""
    try:
        found = orjson.loads(line)
        name = segment.parse_name(found["segment"])
        at, reason = float(found["at"]), text(found["reason"])
        spans = {str(instance): _span(span) for instance, span in found["instances"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return Note(name.writer, name.number, at, reason, spans) if name and reason and math.isfinite(at) else None


def _span(span: Any) -> tuple[int, int, int]:
    first, last, count = (integer(value, 0) for value in span)
    if not 0 < count <= last - first + 1:
        raise ValueError("no span of numbers")
    return first, last, count


def by_instance(notes: Iterable[Note]) -> dict[str, list[Retired]]:
    """What was deleted of each instance."""
    found: dict[str, list[Retired]] = {}
    for note in notes:
        for instance, retired in note.retired():
            found.setdefault(instance, []).append(retired)
    return found
