"""Pinned exchanges: copies of their records that retention does not know of, each in a file of its own.

    <data>/pinned/<exchange>.cbor

is a CBOR segment of one exchange (see `segment`): the header, with `session_id` the exchange and `x_pinned_at` in its
`metadata`, then its records with their numbers. It can be moved, copied and read alone. To pin is to write it, aside, synced
and renamed; to unpin is to remove it. The index follows from these files, in `pinned`, and so do the rows of exchanges
of which nothing else is left.

Only one process pins at a time (`.lock`), so that the cap holds and what a kill left half-written is removed by the next.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import cbor2

from llmdump import positions, record, segment
from llmdump.data_dir import DataDir
from llmdump.positions import Piece
from llmdump.record import DamageError, Identity, Record
from llmdump.segment import Damage, Located

BUSY_TIMEOUT_MS: Final = 2000
_HEADER_BYTES_MAX: Final = 4096
_FILE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.cbor")
_POSITIONS: Final = (
    "SELECT segment.name, position.runs FROM position JOIN segment ON segment.number = position.segment "
    "WHERE position.trace = ? ORDER BY position.piece"
)


class PinError(RuntimeError):
    """It cannot be pinned; the message says why and what to do, `code` in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        """`not_found`, `still_open`, `gone` or `no_room`."""


class Room(NamedTuple):
    """What pinned files may take; 0 is no limit."""

    max_bytes: int
    min_free_bytes: int


class Pinned(NamedTuple):
    """A pinned exchange."""

    exchange: str
    file: Path
    bytes: int
    records: int
    new: bool
    """False: it was pinned already, and is as it was."""


def path_of(data: DataDir, exchange: str) -> Path:
    """Where the copy of an exchange is, or would be. Raises ValueError for what is no id."""
    name = f"{exchange}.cbor"
    if not _FILE.fullmatch(name):
        raise ValueError(f"{exchange!r} is not the id of an exchange")
    return data.pinned / name


def find(data: DataDir) -> dict[str, int]:
    """All pinned exchanges, with the sizes of their files in bytes. Blocking."""
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(data.pinned):
            name = _FILE.fullmatch(entry.name)
            with contextlib.suppress(FileNotFoundError):
                if name:
                    found[name[1]] = entry.stat().st_size
    return found


def pin(data: DataDir, exchange: str, room: Room) -> Pinned:
    """Copy the records of an exchange, durably. Blocking. Raises PinError, ValueError for no id, OSError, apsw.Error."""
    path = path_of(data, exchange)
    data.pinned.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(data):
        if path.exists():
            return Pinned(exchange, path, path.stat().st_size, sum(1 for _ in read(data, exchange)), new=False)
        pieces = _pieces(data, exchange)
        _check_room(data, sum(size for piece in pieces for _, size in positions.unpack(piece.runs)), room)
        made = data.pinned / f"{exchange}.tmp"
        try:
            records = _write(made, exchange, (item.record for item in positions.read(data.segments, pieces)))
            _check_room(data, 0, room)
            made.rename(path)
            _sync(data.pinned)
        except FileNotFoundError as err:
            raise _gone() from err
        finally:
            made.unlink(missing_ok=True)
    return Pinned(exchange, path, path.stat().st_size, records, new=True)


def unpin(data: DataDir, exchange: str) -> bool:
    """Remove the copy of an exchange; False if there is none. Blocking. Raises ValueError for what is no id, OSError."""
    path = path_of(data, exchange)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(data.pinned)
    return True


def read(data: DataDir, exchange: str) -> Iterator[Record]:
    """The records of a pinned exchange, in order; those that are damaged are left out.

    Blocking. Raises FileNotFoundError if it is not pinned, ValueError for what is no id, OSError.
    """
    return (item.record for item in scan(path_of(data, exchange)) if isinstance(item, Located))


def scan(path: Path) -> Iterator[Located | Damage]:
    """All that is in a pinned file. Blocking; holds a window of it. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        try:
            begin = segment.skip_header(os.pread(fd, _HEADER_BYTES_MAX, 0))
        except DamageError:
            begin = 0
        yield from positions.read_run(lambda at, count: os.pread(fd, count, at), "cbor", begin, size)


# --- writing


@contextlib.contextmanager
def _alone(data: DataDir) -> Iterator[None]:
    fd = os.open(data.pinned / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in data.pinned.glob("*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(fd)


def _pieces(data: DataDir, exchange: str) -> list[Piece]:
    """Where the records of an exchange stand that has ended and is there. Raises PinError, apsw.Error."""
    if not data.index.exists():
        raise PinError("not_found", "there is no index yet: start `llmdump-indexer`")
    with contextlib.closing(apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)) as db, db:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        row = db.execute("SELECT number, end_reason FROM trace WHERE id = ?", (exchange,)).fetchone()
        pieces = [Piece(*found) for found in db.execute(_POSITIONS, (row[0],))] if row else []
    if row is None:
        raise PinError("not_found", "no exchange has this id")
    if row[1] is None:
        raise PinError("still_open", "this exchange has not ended yet; pin it when it has")
    if not pieces:
        raise _gone()
    return pieces


def _gone() -> PinError:
    return PinError("gone", "the segment files that held this exchange were deleted")


def _check_room(data: DataDir, more_bytes: int, room: Room) -> None:
    """`more_bytes` beside what is there, with what is being made. Raises PinError."""
    sizes = [path.stat().st_size for path in data.pinned.iterdir()]
    if room.max_bytes and sum(sizes) + more_bytes > room.max_bytes:
        raise PinError("no_room", f"pinned exchanges may take pinned_max_bytes, {room.max_bytes}: unpin some, or raise it")
    if room.min_free_bytes and shutil.disk_usage(data.pinned).free - more_bytes < room.min_free_bytes:
        raise PinError("no_room", f"less than capture_min_free_bytes, {room.min_free_bytes}, would be free on the disk")


def _write(made: Path, exchange: str, records: Iterable[Record]) -> int:
    """The file, durable but for its name; how many records."""
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=1024 * 1024) as file:
        file.write(_header(exchange))
        seq = -1
        for seq, one in enumerate(records):
            content = bytearray(_encode(one))
            record.patch_seq(content, 0, seq)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return seq + 1


def _header(exchange: str) -> bytes:
    now = time.time()
    return cbor2.dumps(
        {
            "magic": segment.V2_MAGIC,
            "version": segment.V2_VERSION,
            "created_at": now,
            "session_id": exchange,
            "metadata": {"config_file": None, "x_format": segment.FORMAT, "x_pinned_at": now},
        }
    )


def _encode(one: Record) -> bytes:
    extra, count = record.entries(one.meta)
    kind = record.kind_entry(one.kind)
    identity = Identity(one.instance, one.exchange)
    return record.encode(one.ts, one.direction, one.number, one.data, identity, kind, extra, count)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
