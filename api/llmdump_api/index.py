"""The index, read only, from a few threads. It may not be there yet, and it may be replaced at any time.

Each thread has its own connection. Before a question is put, the file at the path is compared with the one that is
open: another inode is another index. A question is answered from one snapshot.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from llmdump import indexed
from llmdump.indexed import SCHEMA, Ledger, Segment
from llmdump.positions import Piece

THREADS: Final = 4
BUSY_TIMEOUT_MS: Final = 2000
CACHE_KIB: Final = 16 * 1024
"""Of pages, for each thread; what is not in it is read from the kernel's."""
MMAP_BYTES: Final = 8 * 1024**3
"""Of the file, at most, that is read without copying."""

POSITIONS: Final = (
    "SELECT segment.name, position.runs, segment.gone, trace.started_us FROM trace "
    "JOIN position ON position.trace = trace.number JOIN segment ON segment.number = position.segment "
    "WHERE trace.id = ? ORDER BY position.piece"
)

Answer = TypeVar("Answer")
Rows = list[tuple[Any, ...]]


class IndexUnreadableError(RuntimeError):
    """The index is there and cannot be read; the message says why."""


class Stored(NamedTuple):
    """Where an exchange's records stand, and the segments among them that were deleted."""

    pieces: list[Piece]
    gone: list[str]
    started_us: int
    """What times within it count from, µs since 1970."""


def connect(path: Path) -> apsw.Connection:
    """A connection that reads. Raises apsw.Error."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    db.pragma("cache_size", -CACHE_KIB)
    db.pragma("mmap_size", MMAP_BYTES)
    return db


def is_ours(db: apsw.Connection, name: str) -> bool:
    """False for an index whose tables are not made yet. Raises IndexUnreadableError for another schema."""
    version = db.pragma("user_version")
    if version not in {0, SCHEMA}:
        raise IndexUnreadableError(
            f"{name} has schema {version}, this api reads {SCHEMA}: restart the indexer and the api with the "
            "same version of llmdump"
        )
    return bool(version)


def rows(db: apsw.Connection, statement: str, values: Any = ()) -> Rows:
    """All that a statement gives. Raises apsw.Error."""
    return db.execute(statement, values).fetchall()


def first(db: apsw.Connection, statement: str, values: Any = ()) -> tuple[Any, ...] | None:
    """The first that a statement gives, if there is any. Raises apsw.Error."""
    return db.execute(statement, values).fetchone()


class Index:
    """Questions to the index. Close it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="index")
        self._own = threading.local()

    async def rows(self, statement: str, values: tuple[Any, ...]) -> Rows:
        """What a statement gives; nothing while there is no index. Raises IndexUnreadableError."""
        return await self.ask(lambda db: rows(db, statement, values), [])

    async def stored(self, exchange: str) -> Stored:
        """Where the records of an exchange stand. Raises IndexUnreadableError."""
        found = await self.rows(POSITIONS, (exchange,))
        pieces = [Piece(name, runs) for name, runs, gone, _ in found if not gone]
        return Stored(pieces, sorted({name for name, _, gone, _ in found if gone}), found[0][3] if found else 0)

    async def ledgers(self) -> tuple[dict[str, Ledger], list[Segment]]:
        """What there is of each proxy instance, and all segments. Raises IndexUnreadableError."""
        return await self.ask(lambda db: (indexed.ledgers(db), indexed.segments(db)), ({}, []))

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Do other blocking work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Wait for questions under way and stop the threads; their connections close with them."""
        self._threads.shutdown()

    async def ask(self, question: Callable[[apsw.Connection], Answer], without: Answer) -> Answer:
        """What a question gives, from one snapshot; `without` while there is no index. Raises IndexUnreadableError."""

        def work() -> Answer:
            try:
                db = self._connection()
                return without if db is None else _snapshot(db, question)
            except apsw.CantOpenError:
                return without  # it went between the look and the opening
            except apsw.Error as err:
                self._forget()
                raise IndexUnreadableError(f"cannot read {self._path.name}: {err}") from err

        return await self.run(work)

    def _connection(self) -> apsw.Connection | None:
        """This thread's connection to the index that is at the path now."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            self._forget()
            return None
        if getattr(self._own, "inode", None) != inode:
            self._forget()
            self._own.db, self._own.inode = connect(self._path), inode
        return self._own.db if is_ours(self._own.db, self._path.name) else None

    def _forget(self) -> None:
        db = getattr(self._own, "db", None)
        if db is not None:
            db.close()
        self._own.db = self._own.inode = None


def _snapshot(db: apsw.Connection, question: Callable[[apsw.Connection], Answer]) -> Answer:
    answer: list[Answer] = []
    with db:
        answer.append(question(db))
    return answer[0]
