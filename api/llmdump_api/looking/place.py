"""The archive that a command is about: a data directory with an index, or a temporary one for files without. Blocking."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from llmdump import pins, positions
from llmdump.data_dir import DataDir
from llmdump.indexed import SCHEMA
from llmdump.positions import Piece
from llmdump.record import Record
from llmdump_api import archive
from llmdump_api.index import POSITIONS, connect, rows


class Place(NamedTuple):
    """An archive and a connection to its index, which reads."""

    data: DataDir
    db: apsw.Connection


@contextlib.contextmanager
def opened(places: Sequence[Path]) -> Iterator[Place]:
    """The archive of what was named. Raises archive.ArchiveError, apsw.Error, OSError."""
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(archive.opened(places))
        db = stack.enter_context(contextlib.closing(connect(data.index)))
        db.pragma("mmap_size", 0)  # a list to its end would have the whole index in the process's memory
        _check(db, data, places)
        yield Place(data, db)


def _check(db: apsw.Connection, data: DataDir, places: Sequence[Path]) -> None:
    version = db.pragma("user_version")
    if version != SCHEMA:
        raise archive.ArchiveError(f"{data.index} has schema {version}, not {SCHEMA}: `llmdump rebuild` makes it anew")
    if data.root not in [path.absolute() for path in places] and db.execute("SELECT 1 FROM trace LIMIT 1").get is None:
        names = " ".join(map(str, places))
        raise archive.ArchiveError(f"no exchange is in {names}; `llmdump inspect {names}` tells what is")


def records(place: Place, exchange: str) -> Iterator[Record]:
    """The records of an exchange in order, of its segments, else of the pinned copy.

    Raises FileNotFoundError, OSError, ValueError."""
    found = rows(place.db, POSITIONS, (exchange,))
    pieces = [Piece(name, runs) for name, runs, gone, _ in found if not gone]
    if pieces and len(pieces) == len(found):
        with contextlib.suppress(FileNotFoundError):
            yield from (item.record for item in positions.read(place.data.segments, pieces))
            return
    try:
        yield from pins.read(place.data, exchange)
    except FileNotFoundError:
        raise FileNotFoundError(f"the segment files that held {exchange} were deleted; only its row is left") from None
