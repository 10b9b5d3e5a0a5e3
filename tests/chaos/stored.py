"""What is stored, read from the segment files alone, as the messages that crossed the wire."""

from collections.abc import Iterable
from pathlib import Path

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, NO_EXCHANGE, Record
from tests.e2e import files


class Exchange:
    """One exchange, as far as its records are there."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.numbers: list[int] = []
        self.heads: dict[int, bytes] = {}
        self.chunks: dict[int, list[Record]] = {CLIENT_TO_PROXY: [], BACKEND_TO_PROXY: []}
        self.end: Record | None = None

    def add(self, record: Record) -> None:
        """The next record in the order of the files."""
        self.numbers.append(record.number)
        if record.kind == "head":
            self.heads[record.direction] = record.data
        elif record.kind == "chunk":
            self.chunks[record.direction].append(record)
        elif record.kind == "end":
            self.end = record

    @property
    def request_head(self) -> bytes:
        """As the client sent it; empty if it is not there."""
        return self.heads.get(CLIENT_TO_PROXY, b"")

    @property
    def response_head(self) -> bytes:
        """As the backend sent it."""
        return self.heads.get(BACKEND_TO_PROXY, b"")

    @property
    def lost(self) -> int:
        """Records of this exchange that were dropped, as its end says."""
        return int(self.end.meta["x_lost"]) if self.end else 0

    @property
    def reason(self) -> str:
        """How it ended; empty without an end."""
        return str(self.end.meta["x_end"]) if self.end else ""

    def wire(self, direction: int) -> bytes:
        """A body with its transfer framing, as far as its chunks go on without a hole."""
        chunked = b"transfer-encoding: chunked" in self.heads.get(direction, b"").lower()
        found = [_wire(chunk, chunked=chunked) for index, chunk in self._in_a_row(direction)]
        return b"".join(found)

    def body(self, direction: int) -> bytes:
        """A body without transfer framing, as far as its chunks go on without a hole."""
        return b"".join(chunk.data for _, chunk in self._in_a_row(direction))

    def has_holes(self, direction: int) -> bool:
        """Whether a chunk is missing before the last that is there."""
        return len(self._in_a_row(direction)) < len(self.chunks[direction])

    def _in_a_row(self, direction: int) -> list[tuple[int, Record]]:
        whole = []
        for index, chunk in enumerate(sorted(self.chunks[direction], key=lambda chunk: chunk.number), 1):
            if chunk.meta["ci"] != index:
                break
            whole.append((index, chunk))
        return whole


def _wire(chunk: Record, *, chunked: bool) -> bytes:
    framing = chunk.meta.get("x_f")
    if framing is None:
        return b"%x\r\n%b\r\n" % (len(chunk.data), chunk.data) if chunked else chunk.data
    parts, at = [], 0
    for part in framing:
        if isinstance(part, int):
            parts.append(chunk.data[at : at + part])
            at += part
        else:
            parts.append(part)
    return b"".join(parts)


class Stored:
    """All of a data directory's segment files."""

    def __init__(self, directory: Path) -> None:
        """Reads them. Fails on anything in a file that is not a record."""
        self.numbers: dict[str, list[int]] = {}
        """Of each instance, in the order of the files."""
        self.told: dict[str, list[tuple[int, int, str]]] = {}
        """What gap records say."""
        self.last: dict[str, int] = {}
        """What goodbyes say."""
        self.exchanges: dict[str, Exchange] = {}
        for _, record in files.records(directory):
            self._add(record)

    def _add(self, record: Record) -> None:
        self.numbers.setdefault(record.instance, []).append(record.number)
        if record.exchange != NO_EXCHANGE:
            self.exchanges.setdefault(record.exchange, Exchange(record.instance)).add(record)
        elif record.kind == "gap":
            gaps = [(first, last, record.meta["x_why"]) for first, last in record.meta["x_gap"]]
            self.told.setdefault(record.instance, []).extend(gaps)
        elif record.kind == "bye":
            self.last[record.instance] = record.meta["x_last"]

    @property
    def records(self) -> int:
        """How many."""
        return sum(map(len, self.numbers.values()))

    def by_request(self) -> dict[bytes, list[Exchange]]:
        """The exchanges whose request head is there, by that."""
        found: dict[bytes, list[Exchange]] = {}
        for one in self.exchanges.values():
            if one.request_head:
                found.setdefault(one.request_head, []).append(one)
        return found

    def missing(self, instance: str) -> list[int]:
        """The numbers that are not there, up to the goodbye or else the highest that is."""
        there = set(self.numbers[instance])
        return [number for number in range(1, self.last.get(instance, max(there)) + 1) if number not in there]


def numbers(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """All numbers of ranges from first to last, rising."""
    return sorted(number for first, last in ranges for number in range(first, last + 1))
