"""What was read and is not in the index yet: open exchanges, the ledger, and the changes of the next transaction.

Memory is bounded: of an exchange its row is held and the last piece of its positions, and of the open ones only those of
the `OPEN_MAX` that were heard of last; another is taken up again from the index when it goes on. That is also what
happens after a restart, so there is nothing to load at the start.

When an exchange has ended, all of its records are read by `understand`: those of small ones are kept until then, within
`KEPT_BYTES_MAX` for all, those of others are read again from the segments. Either way they come in the order of their
numbers, so that what is understood is the same.
"""

from collections.abc import Callable, Iterable
from heapq import merge
from typing import Final

from llmdump import ledger
from llmdump.admin import count_swallowed
from llmdump.assembly import Exchange, begin
from llmdump.ledger import About, Gap
from llmdump.positions import Piece, Runs, unpack
from llmdump.record import CLIENT_TO_PROXY, NO_EXCHANGE, Record
from llmdump.segment import Damage, Located
from llmdump.tail import SegmentRow, Step
from llmdump_indexer.carry import Carried
from llmdump_indexer.index import Changes, DamageRow, Found, Index, LedgerRow, PositionRow
from llmdump_indexer.read import Read
from llmdump_indexer.store import TraceRow

OPEN_MAX: Final = 20_000
"""Open exchanges held in memory, about 1 KB each."""
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of records of open exchanges, so that they need not be read again."""
KEPT_OF_ONE_BYTES_MAX: Final = 1024 * 1024
SORTED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of one exchange, read again into memory as a whole, to be put in order. Of a longer one the writers' parts are merged."""
LOST_AT_ONCE: Final = 1000
"""Open exchanges of a dead proxy that are ended in one transaction."""
RUNS_PER_PIECE: Final = 256
"""Where a piece of positions ends and another begins, so that a long stream does not rewrite all of its own each time."""

Reread = Callable[[list[Piece]], Iterable[Located]]
Reader = Callable[[Iterable[Record], Exchange], Read]
_RECORD_BYTES: Final = 600
"""What a record takes in memory beside its data."""


class _Held:
    """An exchange with its row's number and the piece of its positions that grows."""

    __slots__ = (
        "copy", "exchange", "forgetful", "kept_bytes", "number", "piece", "records", "runs", "segment", "touched", "unsaved",
    )  # fmt: skip

    def __init__(self, number: int, exchange: Exchange) -> None:
        self.number = number
        self.exchange = exchange
        self.piece = -1
        self.segment = -1
        self.runs = Runs()
        self.unsaved: list[PositionRow] = []  # pieces before this one that the index does not have yet
        self.records: list[Record] | None = None  # all of them, if they are kept
        self.kept_bytes = 0
        self.copy: Callable[[], Iterable[Record]] | None = None  # that of a pinned exchange without positions
        self.touched = False
        self.forgetful = False  # taken up from the index: the search in the request body is not where it was


class Absorb:
    """Takes steps of reading in, gives transactions out. Not for several threads."""

    def __init__(self, index: Index, reread: Reread, read: Reader, carried: Carried | None = None) -> None:
        """`reread` gives the stored records of an exchange again, `read` understands them. Blocking (asks the index)."""
        self._carried = carried
        self._index = index
        self._reread = reread
        self._read = read
        self._names = {row.number: row.name for row in index.segments()}
        self._kept_bytes = 0
        self._held: dict[str, _Held] = {}
        self._next_number = index.traces() + 1
        self._ledgers: dict[str, ledger.Runs] = {}
        self._touched: list[_Held] = []
        self._positions: list[PositionRow] = []
        self._segments: dict[int, SegmentRow] = {}
        self._damages: list[DamageRow] = []
        self._instances: list[About] = []
        self._gaps: list[Gap] = []
        self.open_exchanges = index.open_exchanges()
        """Rows without an end."""
        self.records = 0
        """Records taken in since the start."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._segments or self._touched)

    def segments(self, rows: Iterable[SegmentRow]) -> None:
        """Segments that are new, gone or back."""
        for row in rows:
            self._segments[row.number] = row
            self._names[row.number] = row.name

    def step(self, step: Step) -> None:
        """What a step of reading gave. Raises apsw.Error, and OSError where an exchange must be taken up again."""
        number = step.segment.number
        for item in step.items:
            if isinstance(item, Damage):
                self._damages.append(DamageRow(number, item.offset, item.size))
            else:
                self._record(number, item)
        self._segments[number] = step.segment

    def lose(self, instance: str) -> None:
        """End exchanges of an instance that died, `LOST_AT_ONCE` at most; nothing else may be pending. Raises apsw.Error."""
        for exchange in self._index.open_of(instance, LOST_AT_ONCE):
            held = self._held.get(exchange)
            if held is None:
                found = self._index.find(exchange)
                assert found is not None, "find would have raised ReplacedError if anybody else had written"
                held = self._held[exchange] = _restored(found)
            self._touch(held)
            held.exchange.lose()
            self.open_exchanges -= 1

    def pinned(self, read: Callable[[], Iterable[Record]]) -> None:
        """Take in an exchange of which there is nothing but its pinned copy, which `read` gives: a row without positions."""
        for record in read():
            self._ledger(record.instance).add(record.number)
            held = self._held.get(record.exchange) or self._take_up(record)
            self._touch(held)
            held.copy = read
            was_open = held.exchange.end_reason is None
            held.exchange.apply(record)
            self.open_exchanges += (held.exchange.end_reason is None) - was_open

    def take(self) -> tuple[Changes, list[Exchange]]:
        """The next transaction, and the exchanges that end with it. After it is written, call `forget`."""
        for held in (held for held in self._touched if held.segment >= 0):
            self._positions.append(PositionRow(held.number, held.piece, held.segment, held.runs.packed()))
        changes = Changes(
            traces=[TraceRow(held.number, held.exchange, self._understood(held)) for held in self._touched],
            positions=self._positions,
            segments=list(self._segments.values()),
            damages=self._damages,
            ledger=[
                LedgerRow(instance, first, last)
                for instance, runs in self._ledgers.items()
                for first, last in runs.take_changes()
            ],
            instances=self._instances,
            gaps=self._gaps,
        )
        return changes, [held.exchange for held in self._touched if held.exchange.end_reason is not None]

    def forget(self) -> None:
        """The transaction is written: let go of what has ended, and of the open exchanges that are too many."""
        for held in self._touched:
            held.touched = False
            held.unsaved = []
            del self._held[held.exchange.id]
            if held.exchange.end_reason is None:
                self._held[held.exchange.id] = held  # to the end of the line
            else:
                self._let_go(held)
        for exchange in list(self._held)[: max(0, len(self._held) - OPEN_MAX)]:
            self._let_go(self._held.pop(exchange))
        self._touched, self._positions, self._damages, self._instances, self._gaps = [], [], [], [], []
        self._segments = {}

    def _record(self, segment: int, item: Located) -> None:
        record = item.record
        if record.kind == "footer":
            return
        self.records += 1
        if not self._ledger(record.instance).add(record.number):
            count_swallowed("duplicate_record")
            return
        if record.exchange == NO_EXCHANGE:
            self._instance(record)
            return
        if self._carried is not None and self._carried.has(record):
            return
        held = self._held.get(record.exchange) or self._take_up(record)
        if held.forgetful and record.kind == "chunk" and record.direction == CLIENT_TO_PROXY:
            self._search_again(held)
        self._touch(held)
        self._position(held, segment, item)
        self._keep(held, record)
        was_open = held.exchange.end_reason is None
        held.exchange.apply(record)
        self.open_exchanges += (held.exchange.end_reason is None) - was_open

    def _touch(self, held: _Held) -> None:
        if not held.touched:
            held.touched = True
            self._touched.append(held)

    def _ledger(self, instance: str) -> ledger.Runs:
        runs = self._ledgers.get(instance)
        if runs is None:
            runs = self._ledgers[instance] = self._index.ledger(instance)
        return runs

    def _instance(self, record: Record) -> None:
        if record.kind == "gap":
            self._gaps.extend(ledger.gaps(record))
        elif (told := ledger.about(record)) is not None:
            self._instances.append(told)

    def _take_up(self, record: Record) -> _Held:
        """The exchange of a record that is not in memory: in the index, or new."""
        found = self._index.find(record.exchange)
        held = _Held(self._new_number(record.exchange), begin(record)) if found is None else _restored(found)
        self.open_exchanges += found is None
        if found is None:
            held.records = []
        self._held[record.exchange] = held
        return held

    def _new_number(self, exchange: str) -> int:
        if self._carried is not None:
            return self._carried.number_of(exchange)
        self._next_number += 1
        return self._next_number - 1

    def _search_again(self, held: _Held) -> None:
        """Bring the search in the request body to where it was."""
        held.forgetful = False
        try:
            for item in self._reread(self._pieces(held)):
                held.exchange.remember(item.record)
        except (OSError, ValueError):
            count_swallowed("request_not_read_again")

    def _position(self, held: _Held, segment: int, item: Located) -> None:
        if held.segment != segment or held.runs.count >= RUNS_PER_PIECE:
            if held.segment >= 0:
                held.unsaved.append(PositionRow(held.number, held.piece, held.segment, held.runs.packed()))
                self._positions.append(held.unsaved[-1])
            held.piece, held.segment, held.runs = held.piece + 1, segment, Runs()
        held.runs.add(item.offset, item.size)

    # --- reading what has ended

    def _keep(self, held: _Held, record: Record) -> None:
        if held.records is None:
            return
        size = len(record.data) + _RECORD_BYTES
        if held.kept_bytes + size > KEPT_OF_ONE_BYTES_MAX or self._kept_bytes + size > KEPT_BYTES_MAX:
            self._let_go(held)
            return
        held.records.append(record)
        held.kept_bytes += size
        self._kept_bytes += size

    def _let_go(self, held: _Held) -> None:
        self._kept_bytes -= held.kept_bytes
        held.records, held.kept_bytes = None, 0

    def _understood(self, held: _Held) -> Read | None:
        """What the records of an exchange tell, if it has ended; None if not, or if they are no longer there."""
        if held.exchange.end_reason is None:
            return None
        try:
            return self._read(self._records(held), held.exchange)
        except (OSError, ValueError):
            count_swallowed("exchange_not_read")
            return None

    def _records(self, held: _Held) -> Iterable[Record]:
        """All records of an exchange by their numbers. Raises OSError and ValueError."""
        if held.copy is not None:
            return held.copy()
        if held.records is not None:
            return sorted(held.records, key=_number)
        pieces = self._pieces(held)
        if sum(size for piece in pieces for _, size in unpack(piece.runs)) <= SORTED_BYTES_MAX:
            return sorted((item.record for item in self._reread(pieces)), key=_number)
        by_writer: dict[str, list[Piece]] = {}
        for piece in pieces:
            by_writer.setdefault(piece.segment.partition("-")[0], []).append(piece)
        return merge(*((item.record for item in self._reread(own)) for own in by_writer.values()), key=_number)

    def _pieces(self, held: _Held) -> list[Piece]:
        """Where all records of an exchange stand, those that the index does not know yet too."""
        unsaved = [*held.unsaved, PositionRow(held.number, held.piece, held.segment, held.runs.packed())]
        saved = self._index.pieces(held.number, unsaved[0].piece)
        return [*saved, *(Piece(self._names[row.segment], row.runs) for row in unsaved)]


def _number(record: Record) -> int:
    return record.number


def _restored(found: Found) -> _Held:
    """An exchange as its row says, ready to go on."""
    held = _Held(found.number, found.exchange)
    held.forgetful = True
    if found.last_piece is not None:
        held.piece, held.segment = found.last_piece.piece, found.last_piece.segment
        held.runs = Runs(found.last_piece.runs)
    return held
