"""What was read and is not in the index yet: open exchanges, the ledger, and the changes of the next transaction.

Memory is bounded: of an exchange only its row is held and the last piece of its positions, and of the open ones only
the `OPEN_MAX` that were heard of last; another is taken up again from the index when it goes on. That is also what
happens after a restart, so there is nothing to load at the start.
"""

from collections.abc import Callable, Iterable
from typing import Final

from llmdump import ledger
from llmdump.admin import count_swallowed
from llmdump.ledger import About, Gap
from llmdump.positions import Piece, Runs
from llmdump.record import CLIENT_TO_PROXY, NO_EXCHANGE, Record
from llmdump.segment import Damage, Located
from llmdump_indexer.assembly import Exchange, begin
from llmdump_indexer.carry import Carried
from llmdump_indexer.index import Changes, DamageRow, Found, Index, LedgerRow, PositionRow, SegmentRow
from llmdump_indexer.tail import Step

OPEN_MAX: Final = 20_000
"""Open exchanges held in memory, about 1 KB each."""
LOST_AT_ONCE: Final = 1000
"""Open exchanges of a dead proxy that are ended in one transaction."""
RUNS_PER_PIECE: Final = 256
"""Where a piece of positions ends and another begins, so that a long stream does not rewrite all of its own each time."""

Reread = Callable[[list[Piece]], Iterable[Located]]


class _Held:
    """An exchange with its row's number and the piece of its positions that grows."""

    __slots__ = ("exchange", "number", "piece", "runs", "segment", "touched")

    def __init__(self, number: int, exchange: Exchange) -> None:
        self.number = number
        self.exchange = exchange
        self.piece = -1
        self.segment = -1
        self.runs = Runs()
        self.touched = False


class Absorb:
    """Takes steps of reading in, gives transactions out. Not for several threads."""

    def __init__(self, index: Index, reread: Reread, carried: Carried | None = None) -> None:
        """`reread` gives the stored records of an exchange again. Blocking (reads what the index holds)."""
        self._carried = carried
        self._index = index
        self._reread = reread
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
        self._segments.update((row.number, row) for row in rows)

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

    def pinned(self, records: Iterable[Record]) -> None:
        """Take in an exchange of which there is nothing but its pinned copy: it has a row, and no positions."""
        for record in records:
            self._ledger(record.instance).add(record.number)
            held = self._held.get(record.exchange) or self._take_up(record)
            self._touch(held)
            was_open = held.exchange.end_reason is None
            held.exchange.apply(record)
            self.open_exchanges += (held.exchange.end_reason is None) - was_open

    def take(self) -> tuple[Changes, list[Exchange]]:
        """The next transaction, and the exchanges that end with it. After it is written, call `forget`."""
        for held in (held for held in self._touched if held.segment >= 0):
            self._positions.append(PositionRow(held.number, held.piece, held.segment, held.runs.packed()))
        changes = Changes(
            traces=[(held.number, held.exchange) for held in self._touched],
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
            del self._held[held.exchange.id]
            if held.exchange.end_reason is None:
                self._held[held.exchange.id] = held  # to the end of the line
        for exchange in list(self._held)[: max(0, len(self._held) - OPEN_MAX)]:
            del self._held[exchange]
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
        self._touch(held)
        self._position(held, segment, item)
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
        held = _Held(self._new_number(record.exchange), begin(record)) if found is None else self._restore(found, record)
        self.open_exchanges += found is None
        self._held[record.exchange] = held
        return held

    def _new_number(self, exchange: str) -> int:
        if self._carried is not None:
            return self._carried.number_of(exchange)
        self._next_number += 1
        return self._next_number - 1

    def _restore(self, found: Found, record: Record) -> _Held:
        held = _restored(found)
        if record.kind == "chunk" and record.direction == CLIENT_TO_PROXY:
            self._search_again(held)
        return held

    def _search_again(self, held: _Held) -> None:
        """Bring the search in the request body to where it was."""
        try:
            for item in self._reread(self._index.pieces(held.number)):
                held.exchange.remember(item.record)
        except (OSError, ValueError):
            count_swallowed("request_not_read_again")

    def _position(self, held: _Held, segment: int, item: Located) -> None:
        if held.segment != segment or held.runs.count >= RUNS_PER_PIECE:
            if held.segment >= 0:
                self._positions.append(PositionRow(held.number, held.piece, held.segment, held.runs.packed()))
            held.piece, held.segment, held.runs = held.piece + 1, segment, Runs()
        held.runs.add(item.offset, item.size)


def _restored(found: Found) -> _Held:
    """An exchange as its row says, ready to go on."""
    held = _Held(found.number, found.exchange)
    if found.last_piece is not None:
        held.piece, held.segment = found.last_piece.piece, found.last_piece.segment
        held.runs = Runs(found.last_piece.runs)
    return held
