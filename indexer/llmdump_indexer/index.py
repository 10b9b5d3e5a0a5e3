"""The SQLite file: opened, brought to the newest schema, read once, and written in transactions of one writer.

Rows, positions, ledger and how far each segment has been read change in the same transaction, so a process killed
anywhere finds an index that is exactly what reading the segments up to these offsets gives. `synchronous` is NORMAL:
after a power cut the last transactions may be missing as a whole, and the segments are read again from there.

The content of the file may be replaced while it is open, in a transaction of another connection (`rebuild`). What was to
be written then is of another index: nothing of it is.

The schema is `sql/0001_….sql` and those after it, applied in order; `user_version` counts them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import apsw.bestpractice
import orjson

from llmdump import assembly
from llmdump.assembly import Exchange
from llmdump.ledger import About, Gap, Runs
from llmdump.positions import Piece
from llmdump.tail import SegmentRow
from llmdump_indexer import statements, store
from llmdump_indexer.store import Store, TraceRow

# Readers hold no write lock; a checkpoint that meets one waits for its short query.
BUSY_TIMEOUT_MS: Final = 5000
WAL_KEPT_BYTES: Final = 64 * 1024 * 1024

# A longer time-out of our own; and logging that is the whole process's, where errors are raised anyway.
_NOT_OURS: Final = (apsw.bestpractice.connection_busy_timeout, apsw.bestpractice.library_logging)


_SAVE_INSTANCE: Final = statements.one("save_instance")
_SAVE_SEGMENT: Final = statements.one("save_segment")
_FIND_TRACE: Final = f"SELECT number, {', '.join(assembly.COLUMNS)} FROM trace WHERE id = ?"
_ADDS_SUMS: Final = {"0010_reading": True, "0011_tools": False}
"""The steps of the schema from which on sums are kept, or more of them; and whether sessions too."""
_EXPIRED: Final = (
    "SELECT number FROM trace WHERE ts_start < ? AND end_reason IS NOT NULL AND NOT pinned ORDER BY ts_start, id LIMIT ?"
)


class NewerIndexError(RuntimeError):
    """The index was made by a newer llmdump; the message says what to do."""


class ReplacedError(RuntimeError):
    """Another connection has written to the index: whatever was read from it may be wrong. Begin again."""


class PositionRow(NamedTuple):
    """One piece of an exchange's positions."""

    trace: int
    piece: int
    segment: int
    runs: bytes


class DamageRow(NamedTuple):
    """Bytes of a segment that are no record."""

    segment: int
    offset: int
    size: int


class LedgerRow(NamedTuple):
    """A run of an instance's numbers; `last` None: the run is part of another now."""

    instance: str
    first: int
    last: int | None


class Changes(NamedTuple):
    """What one transaction writes."""

    traces: list[TraceRow]
    positions: list[PositionRow]
    segments: list[SegmentRow]
    damages: list[DamageRow]
    ledger: list[LedgerRow]
    instances: list[About]
    gaps: list[Gap]


class Found(NamedTuple):
    """An exchange taken up again from its row, and its last piece of positions."""

    number: int
    exchange: Exchange
    last_piece: PositionRow | None


class Index:
    """The index, open for writing. One process at a time; not for several threads. Use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Open or create, and bring to the newest schema. Blocking. Raises apsw.Error, NewerIndexError."""
        self.path = path
        self._db = apsw.Connection(str(path))
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._inode = path.stat().st_ino
        self._version = self._db.pragma("data_version")

    def _prepare(self) -> None:
        self._db.set_busy_timeout(BUSY_TIMEOUT_MS)
        for practice in apsw.bestpractice.recommended:
            if practice not in _NOT_OURS:
                practice(self._db)
        self._db.pragma("synchronous", "NORMAL")
        self._db.pragma("journal_size_limit", WAL_KEPT_BYTES)
        self._migrate()

    def _migrate(self) -> None:
        steps = statements.migrations()
        at = self._db.pragma("user_version")
        if at > len(steps):
            raise NewerIndexError(
                f"{self.path} has schema {at}, this llmdump knows {len(steps)}: use the newer llmdump, or delete the file "
                "to have it made anew from the segments"
            )
        if at == len(steps):
            return
        with self._db:  # all of them or none: readers know the newest schema only
            for name, step in steps[at:]:
                self._db.execute(step).get  # noqa: B018 - every statement of the step runs only when all is fetched
                if name in _ADDS_SUMS:
                    store.count_written(self._db, sessions=_ADDS_SUMS[name])
            self._db.pragma("user_version", len(steps))

    def still_there(self) -> bool:
        """Whether the file at the path is the one that is open, and has nothing in it that others wrote."""
        try:
            return self.path.stat().st_ino == self._inode and bool(self._db.pragma("data_version") == self._version)
        except FileNotFoundError:
            return False

    def segments(self) -> list[SegmentRow]:
        """All segments that the index knows."""
        rows = self._db.execute("SELECT number, name, offset, closed, gone FROM segment ORDER BY number")
        return [SegmentRow(number, name, offset, bool(closed), bool(gone)) for number, name, offset, closed, gone in rows]

    def ledger(self, instance: str) -> Runs:
        """The numbers of an instance that have been read."""
        runs = Runs(self._db.execute("SELECT first, last FROM ledger WHERE instance = ? ORDER BY first", (instance,)))
        self._check()
        return runs

    def traces(self) -> int:
        """The highest number of a row, 0 if there is none."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) FROM trace").get)

    def open_exchanges(self) -> int:
        """How many rows have no end yet."""
        return int(self._db.execute("SELECT count(*) FROM trace WHERE end_reason IS NULL").get)

    def open_instances(self) -> list[str]:
        """The instances with rows that have no end yet."""
        return [instance for (instance,) in self._db.execute("SELECT DISTINCT instance FROM trace WHERE end_reason IS NULL")]

    def open_of(self, instance: str, most: int) -> list[str]:
        """Exchanges of an instance whose rows have no end yet, the oldest first, `most` at most."""
        rows = self._db.execute(
            "SELECT id FROM trace WHERE end_reason IS NULL AND instance = ? ORDER BY number LIMIT ?", (instance, most)
        ).fetchall()
        self._check()
        return [str(exchange) for (exchange,) in rows]

    def find(self, exchange: str) -> Found | None:
        """The exchange of this id as its row says, if there is one. Raises ReplacedError."""
        row = self._db.execute(_FIND_TRACE, (exchange,)).fetchone()
        if row is None:
            self._check()
            return None
        number, *values = row
        piece = self._db.execute(
            "SELECT trace, piece, segment, runs FROM position WHERE trace = ? ORDER BY piece DESC LIMIT 1", (number,)
        ).fetchone()
        self._check()
        return Found(number, assembly.restored(values), PositionRow(*piece) if piece else None)

    def pinned(self) -> set[str]:
        """The exchanges whose rows say that they are pinned. Raises ReplacedError."""
        found = {str(exchange) for (exchange,) in self._db.execute("SELECT id FROM trace WHERE pinned")}
        self._check()
        return found

    def mark_pinned(self, pinned: Iterable[str], unpinned: Iterable[str]) -> set[str]:
        """Write down which rows are pinned, or no longer; which of `pinned` have no row. Raises apsw.Error, ReplacedError."""
        without = set()
        with self._db as db:
            for exchange in pinned:
                db.execute("UPDATE trace SET pinned = 1 WHERE id = ?", (exchange,))
                if not db.changes():
                    without.add(exchange)
            db.executemany("UPDATE trace SET pinned = 0 WHERE id = ?", ((exchange,) for exchange in unpinned))
            self._check()
        return without

    def expire(self, before_ms: int, most: int) -> int:
        """Delete rows of exchanges that began before `before_ms`, the oldest first; how many. Open and pinned ones stay.

        The ledger stays as it is: what has been read has been read. Raises apsw.Error, ReplacedError.
        """
        with self._db as db:
            numbers: list[Any] = db.execute(_EXPIRED, (before_ms, most)).fetchall()
            if numbers:
                rows = Store(db)
                rows.uncount(number for (number,) in numbers)
                for table in tables_of_rows(db):
                    db.executemany(f"DELETE FROM {table} WHERE trace = ?", numbers)
                db.executemany("DELETE FROM trace WHERE number = ?", numbers)
                rows.finish()
            self._check()
        return len(numbers)

    def pieces(self, number: int, below: int) -> list[Piece]:
        """Where the records of a row stand, in order, those before the piece of this number."""
        rows = self._db.execute(
            "SELECT name, runs FROM position JOIN segment ON segment.number = segment "
            "WHERE trace = ? AND piece < ? ORDER BY piece",
            (number, below),
        )
        return [Piece(*row) for row in rows]

    def save(self, changes: Changes) -> None:
        """Write all of it, or nothing. Blocking. Raises apsw.Error, ReplacedError."""
        with self._db as db:
            db.executemany(_SAVE_SEGMENT, changes.segments)
            rows = Store(db)
            for row in changes.traces:
                rows.write(row)
            rows.finish()
            db.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?)", changes.positions)
            db.executemany("INSERT OR REPLACE INTO damage VALUES (?, ?, ?)", changes.damages)
            db.executemany("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", _present(changes.ledger))
            db.executemany("DELETE FROM ledger WHERE instance = ? AND first = ?", _absorbed(changes.ledger))
            db.executemany(_SAVE_INSTANCE, (_instance(about) for about in changes.instances))
            db.executemany("INSERT OR REPLACE INTO ledger_gap VALUES (?, ?, ?, ?)", changes.gaps)
            self._check()  # within the transaction: what others wrote, they wrote before it began

    def _check(self) -> None:
        """Called after a question: what it gave is of the index that was opened. Raises ReplacedError."""
        if self._db.pragma("data_version") != self._version:  # it never changes with what this connection writes
            raise ReplacedError(f"{self.path} was written by another process")

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(apsw.Error):
            self._db.pragma("optimize")
        self._db.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tables_of_rows(db: apsw.Connection) -> list[str]:
    """The tables that hold something for rows of `trace`: by their column of that name."""
    statement = (
        "SELECT tables.name FROM sqlite_schema AS tables JOIN pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND columns.name = 'trace'"
    )
    return [str(name) for (name,) in db.execute(statement).fetchall()]


def _present(rows: Iterable[LedgerRow]) -> Iterator[LedgerRow]:
    return (row for row in rows if row.last is not None)


def _absorbed(rows: Iterable[LedgerRow]) -> Iterator[tuple[str, int]]:
    return ((row.instance, row.first) for row in rows if row.last is None)


def _instance(about: About) -> tuple[Any, ...]:
    told = None if about.about is None else orjson.dumps(about.about, default=str).decode()
    return about.instance, about.hello_us, told, about.bye_us, about.bye_last


@contextlib.contextmanager
def only_writer(lock: Path) -> Iterator[bool]:
    """Whether this process may write the index: it holds a lock, free again when it dies, however it dies."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def set_aside(path: Path) -> Path:
    """Move a broken index out of the way, keeping the last one for whoever wants to look; where it is now."""
    aside = path.with_name(path.name + ".damaged")
    os.replace(path, aside)  # noqa: PTH105 - replaces an older one
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
