"""The live tail: exchanges as they open, stream and end, for all who watch. One reading of the segments for all of them.

    segment files ─ Tail, a thread ─▶ batch of records ─▶ exchanges ─▶ events ─▶ each viewer's buffer
                                                             ▲                        │ what came before
    index ─ open exchanges at the start, rows at the end ────┘                        ▼
                                                                      segments, read again by position

It runs while somebody watches, and begins where the index stands, so that all that is open is known from its first byte.
Where the index is not there, or too far behind, it begins with each writer's newest segment: what began before is not told.

Records are told once they are durable (see `durable`), so what was told is not taken back; that costs the writer's
`capture_flush_interval`. Whoever reads slowly misses something and is told so; nobody waits for anybody.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import orjson

from llmdump import assembly, log, positions, segment
from llmdump.admin import count_swallowed
from llmdump.ledger import Runs
from llmdump.metrics import Sample
from llmdump.positions import Piece
from llmdump.record import CLIENT_TO_PROXY, NO_EXCHANGE, Record
from llmdump.segment import Located
from llmdump.tail import SegmentRow, Step, Tail
from llmdump_api import index, query
from llmdump_api.index import Index, IndexUnreadableError
from llmdump_api.live_asked import Asked
from llmdump_api.live_exchange import PAYLOADS, LiveExchange, chunks
from llmdump_api.live_viewer import TAKEN_AT_ONCE_BYTES, CatchUp, Event, Told, Viewer, lost

POLL_S: Final = 0.02
VIEWERS_MAX: Final = 64
KEPT_S: Final = 15.0
"""How long a viewer whose connection broke may come back and go on."""
EXCHANGES_MAX: Final = 20_000
"""Open ones that are known; beyond, the one that was silent longest is forgotten."""
BEHIND_BYTES_MAX: Final = 128 * 1024 * 1024
"""That the index has not read yet: with more, the tail begins without it."""
ROWS_EVERY_S: Final = 0.1
ROW_WITHIN_S: Final = 10.0
"""How long the index is waited for when an exchange has ended."""
ROWS_AT_ONCE: Final = 500
LOOK_FOR_LOST_EVERY_S: Final = 2.0
AGAIN_AFTER_S: Final = 1.0
BEGUN_WITHIN_S: Final = 20.0
TICK_S: Final = 1.0
NEW_WITHIN_S: Final = 0.5
"""How long an exchange is waited for that is asked for by its id and not there yet."""

_END_REASON: Final = query.COLUMNS.index("end_reason")
_EXCHANGES: Final = f"SELECT {', '.join(f'trace.{name}' for name in assembly.COLUMNS)}, trace.number FROM trace "
_OPEN: Final = _EXCHANGES + f"WHERE end_reason IS NULL ORDER BY trace.number DESC LIMIT {EXCHANGES_MAX}"
_ONE: Final = _EXCHANGES + "WHERE id = ?"
_PIECES: Final = "SELECT name, runs FROM position JOIN segment ON segment.number = segment WHERE trace = ? ORDER BY piece"
_ENDED: Final = (
    f"SELECT {', '.join(query.COLUMNS)} FROM trace WHERE id IN (SELECT value FROM json_each(?)) AND end_reason IS NOT NULL"
)


class LiveError(RuntimeError):
    """Nobody more can watch now; the message says why."""


class _Stand(NamedTuple):
    """Where the index stands."""

    segments: list[SegmentRow]
    open: list[LiveExchange]


class Live:
    """The tail and its viewers; all in one event loop, but for the reading. Close it."""

    def __init__(self, segments: Path, index: Index) -> None:
        self._segments = segments
        self._index = index
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live")
        self._tasks: list[asyncio.Task[None]] = []
        self._caught_up = asyncio.Event()
        self._closing = False
        self._joining = 0
        self._viewers: dict[str, Viewer] = {}
        self._exchanges: dict[str, LiveExchange] = {}  # the one that was silent longest first
        self._ended: dict[str, float] = {}  # until when their rows are waited for
        self._numbers: dict[str, Runs] = {}
        self._batch = 0
        self._lost_events = 0  # of viewers that are no longer there
        self._look_for_lost_at = 0.0

    # --- who watches

    async def join(self, asked: Asked) -> Viewer | None:
        """A new viewer, None if there is no exchange as it asks for. Raises LiveError, IndexUnreadableError."""
        self._make_room()
        self._joining += 1
        try:
            await self._begun()
            viewer = Viewer(asked)
            past = None if asked.exchange is None else await self._past(asked.exchange)
            found = self._exchanges.get(asked.exchange or "", past)
            if asked.exchange is not None and found is None:
                return None
            viewer.begin(self._exchanges.values() if found is None else [found])
            if past is not None and found is past:
                viewer.offer([Event(past, "row" if past.row else "over")])
            self._viewers[viewer.name] = viewer
            return viewer
        finally:
            self._joining -= 1

    def _make_room(self) -> None:
        left = sorted((one.left_at, one.name) for one in self._viewers.values() if one.left_at is not None)
        if len(self._viewers) + self._joining >= VIEWERS_MAX:
            if not left:
                raise LiveError(f"{VIEWERS_MAX} watch already; wait until one has gone")
            self.drop(self._viewers[left[0][1]])

    def resume(self, name: str, asked: Asked) -> Viewer | None:
        """The viewer of this name, if it is still kept and asked the same; it goes on."""
        viewer = self._viewers.get(name)
        return viewer if viewer is not None and viewer.asked.is_same(asked) else None

    def leave(self, viewer: Viewer) -> None:
        """Its connection broke; it may come back within `KEPT_S`."""
        viewer.left_at = time.monotonic()

    def drop(self, viewer: Viewer) -> None:
        """It will not come back."""
        if self._viewers.pop(viewer.name, None) and viewer.left_at is None:
            self._lost_events += viewer.lost_events

    async def batches(self, viewer: Viewer, own: int) -> AsyncGenerator[list[Told], None]:
        """What a viewer is told, as it comes; an empty list after `TICK_S` of nothing. Ends when nothing more will come.

        `own` is what `Viewer.connect` gave: of several connections of one viewer only the newest goes on.
        """
        while not self._closing and viewer.connections == own:
            upcoming = viewer.next
            if isinstance(upcoming, CatchUp):
                async for batch in self._earlier(viewer, upcoming, own):
                    yield batch
            elif upcoming is not None:
                yield viewer.take()
            elif viewer.over:
                return
            else:
                await viewer.wait(TICK_S)
                if viewer.next is None:
                    yield []

    async def _earlier(self, viewer: Viewer, asked: CatchUp, own: int) -> AsyncGenerator[list[Told], None]:
        """The chunks of a catch-up; it is done with when they are told."""
        told = _earlier(self._segments, asked, viewer.asked.directions)
        try:
            while batch := await self._index.run(partial(_some, told)):
                if self._closing or viewer.connections != own:
                    return
                asked.after = batch[-1][0]
                yield [Told("chunk", data) for _, data in batch]
        except (OSError, ValueError):
            count_swallowed("live_not_read")
            yield [lost(None, "unreadable", [asked.exchange.id])]
        if viewer.connections == own:
            viewer.caught_up()

    async def close(self, *_: object) -> None:
        """Let go of all viewers and stop, when an application shuts down."""
        self._closing = True
        for viewer in self._viewers.values():
            viewer.finish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown()

    def samples(self) -> Iterator[Sample]:
        """For the metrics page."""
        yield Sample("llmdump_live_viewers", len(self._viewers))
        yield Sample(
            "llmdump_live_lost_events_total", self._lost_events + sum(one.lost_events for one in self._viewers.values())
        )

    # --- the tail

    async def _begun(self) -> None:
        """The tail runs, and knows all that is open."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._settle())]
        try:
            await asyncio.wait_for(self._caught_up.wait(), BEGUN_WITHIN_S)
        except TimeoutError as err:
            raise LiveError(f"the newest segments were not read within {BEGUN_WITHIN_S:g} s; try again") from err

    async def _follow(self) -> None:
        """Read on while somebody watches."""
        try:
            await self._read_on()
        except Exception as err:
            count_swallowed("live_failed")
            log.error("live_failed", error=f"{type(err).__name__}: {err}")
            for viewer in self._viewers.values():
                viewer.finish()
        self._stop()

    async def _read_on(self) -> None:
        tail: Tail | None = None
        try:
            while self._viewers or self._joining:
                self._drop_those_that_left()
                try:
                    tail = tail or await self._begin()
                    step = await self._read(partial(_next, tail))
                except (OSError, IndexUnreadableError) as err:
                    count_swallowed("live_not_read")
                    log.warning("live_not_read", reason=f"{type(err).__name__}: {err}")
                    await asyncio.sleep(AGAIN_AFTER_S)
                    continue
                if step is not None:
                    self._take(step)
                    continue
                self._caught_up.set()
                await asyncio.sleep(POLL_S)
        finally:
            if tail is not None:
                self._thread.submit(tail.close)  # which may be reading still

    def _stop(self) -> None:
        self._caught_up.clear()
        self._tasks.pop().cancel()
        self._tasks.clear()
        for known in (self._exchanges, self._ended, self._numbers):
            known.clear()

    async def _read(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _drop_those_that_left(self) -> None:
        now = time.monotonic()
        for viewer in [one for one in self._viewers.values() if one.left_at is not None and now - one.left_at > KEPT_S]:
            self.drop(viewer)

    async def _begin(self) -> Tail:
        stand = await self._index.ask(_stand, _Stand([], []))
        tail, known = await self._read(partial(_open, self._segments, stand))
        self._exchanges = {one.id: one for one in reversed(known)}
        return tail  # type: ignore[no-any-return]

    def _take(self, step: Step) -> None:
        """A batch of records: first all of them, then what they mean to viewers."""
        self._batch += 1
        found = (self._event(step.segment.name, item) for item in step.items if isinstance(item, Located))
        self._offer([event for event in found if event is not None])

    def _offer(self, events: list[Event]) -> None:
        for viewer in self._viewers.values():
            viewer.offer(events)

    def _event(self, name: str, item: Located) -> Event | None:
        record = item.record
        if record.kind == "footer" or not self._is_new(record) or record.exchange == NO_EXCHANGE:
            return None
        known = self._exchanges.pop(record.exchange, None) or self._open(record)
        if known is None:
            return None
        self._exchanges[known.id] = known
        offset = known.take(name, item, self._batch)
        if record.kind in PAYLOADS:
            return Event(known, "chunk", record, offset)
        if record.kind != "end":
            return Event(known, "known")
        self._ended[known.id] = time.monotonic() + ROW_WITHIN_S
        return Event(known, "end")

    def _is_new(self, record: Record) -> bool:
        runs = self._numbers.get(record.instance)
        if runs is None:
            runs = self._numbers[record.instance] = Runs()
        return runs.add(record.number)

    def _open(self, record: Record) -> LiveExchange | None:
        """An exchange that begins; None for one whose beginning was not seen."""
        if record.kind != "head" or record.direction != CLIENT_TO_PROXY:
            return None
        if len(self._exchanges) >= EXCHANGES_MAX:
            oldest = self._exchanges.pop(next(iter(self._exchanges)))
            self._ended.pop(oldest.id, None)
            self._offer([Event(oldest, "over")])
        return LiveExchange(assembly.begin(record))

    # --- rows

    async def _settle(self) -> None:
        """Tell the row of each exchange that has ended, once the index has it."""
        while True:
            await asyncio.sleep(ROWS_EVERY_S)
            wanted = [*itertools.islice(self._ended, ROWS_AT_ONCE), *self._perhaps_lost()]
            try:
                rows = await self._index.rows(_ENDED, (orjson.dumps(wanted).decode(),)) if wanted else []
            except IndexUnreadableError:
                count_swallowed("live_rows_not_read")
                continue
            self._offer([event for row in rows for event in self._with_row(row)])
            self._forget_those_without()

    def _perhaps_lost(self) -> list[str]:
        """Now and then the silent ones: their proxy may have died, then only the index says that they are over."""
        now = time.monotonic()
        if now < self._look_for_lost_at:
            return []
        self._look_for_lost_at = now + LOOK_FOR_LOST_EVERY_S
        return [one for one in itertools.islice(self._exchanges, ROWS_AT_ONCE) if one not in self._ended]

    def _with_row(self, row: tuple[Any, ...]) -> list[Event]:
        known, was_ended = self._exchanges.get(row[0]), row[0] in self._ended
        if known is None or not (was_ended or row[_END_REASON] == assembly.LOST):
            return []
        known.row = row
        known.version += 1
        known.exchange.end_reason = row[_END_REASON]
        del self._exchanges[known.id]
        self._ended.pop(known.id, None)
        return [Event(known, "row")] if was_ended else [Event(known, "end"), Event(known, "row")]

    def _forget_those_without(self) -> None:
        now = time.monotonic()
        late = [one for one, until in itertools.islice(self._ended.items(), ROWS_AT_ONCE) if until < now]
        for one in late:
            del self._ended[one]
        self._offer([Event(self._exchanges.pop(one), "over") for one in late if one in self._exchanges])

    async def _past(self, exchange: str) -> LiveExchange | None:
        """An exchange that the tail does not know, as the index has it; None once it does, or where there is none."""
        until = time.monotonic() + NEW_WITHIN_S
        nothing: list[LiveExchange] = []
        while exchange not in self._exchanges:
            found = await self._index.ask(lambda db: _restored(db, _ONE, (exchange,)), nothing)
            if found and found[0].exchange.end_reason is not None:
                rows = await self._index.rows(_ENDED, (orjson.dumps([exchange]).decode(),))
                found[0].row = rows[0] if rows else None
                return found[0]
            if time.monotonic() > until:  # open, and from before what the tail has read; or not there
                return found[0] if found else None
            await asyncio.sleep(POLL_S)
        return None


def _next(tail: Tail) -> Step | None:
    """Blocking."""
    tail.look()
    return tail.step()


def _stand(db: apsw.Connection) -> _Stand:
    rows = index.rows(db, "SELECT number, name, offset, closed, gone FROM segment ORDER BY number")
    segments = [SegmentRow(number, name, offset, bool(closed), bool(gone)) for number, name, offset, closed, gone in rows]
    return _Stand(segments, _restored(db, _OPEN))


def _restored(db: apsw.Connection, statement: str, values: tuple[Any, ...] = ()) -> list[LiveExchange]:
    """Exchanges from their rows, and where their records stand. Raises apsw.Error."""
    found = []
    for *columns, number in index.rows(db, statement, values):
        pieces = [Piece(*row) for row in index.rows(db, _PIECES, (number,))]
        found.append(LiveExchange(assembly.restored(columns), pieces))
    return found


def _open(segments: Path, stand: _Stand) -> tuple[Tail, list[LiveExchange]]:
    """The tail from where the index stands, and what is open there. Blocking. Raises OSError."""
    tail = Tail(segments, stand.segments)
    tail.look()
    if tail.lag_bytes() > BEHIND_BYTES_MAX:
        tail.close()
        return Tail(segments, _older(segments)), []
    for known in stand.open:
        with contextlib.suppress(OSError, ValueError, StopIteration):  # then its client is not known before its row is
            known.asked_by(next(positions.read(segments, known.pieces())).record)
    return tail, stand.open


def _older(segments: Path) -> list[SegmentRow]:
    """All segments but the newest of each writer, as if they were read."""
    names = segment.find(segments)
    newest = {name.writer: name.number for name in names}
    older = [name for name in names if name.number < newest[name.writer]]
    return [SegmentRow(number, name.segment, 0, closed=True, gone=False) for number, name in enumerate(older, 1)]


def _earlier(segments: Path, asked: CatchUp, directions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Chunks of an exchange from the segments, the number of each one's record and JSON. Blocking."""
    records = (item.record for item in positions.read(segments, asked.exchange.pieces()))
    wanted = itertools.takewhile(lambda record: record.number < asked.before, records)
    return (told for told in chunks(asked.exchange.exchange, wanted, directions) if told[0] > asked.after)


def _some(told: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The next of them. Blocking."""
    some: list[tuple[int, bytes]] = []
    size = 0
    while size < TAKEN_AT_ONCE_BYTES and (one := next(told, None)) is not None:
        some.append(one)
        size += len(one[1])
    return some
