"""The segments that imports make: of a writer of their own, so that no running writer ever looks at them.

    <data>/segments/w1000-00000001.cbor    header with metadata x_import {file, sha256, form}; hello; records; [bye]; footer

All that one call imports is one proxy instance, numbered on from file to file, so that an exchange whose records stand in
several files is put together; each file is a segment. Segments are written aside (`.tmp`), synced, and renamed when all of
them are whole, oldest first. They are closed, with a footer, before anybody sees them.

What was imported before is not imported again: a file by the SHA-256 of its content, which its segment's header tells; an
exchange by its id, if the index has it, or a segment of an earlier import that the index has not read to its end yet.
"""

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import apsw
import cbor2

from llmdump import footer, indexed, positions, record, segment
from llmdump.data_dir import DataDir
from llmdump.importing.parts import Made, Part, UnusableError
from llmdump.positions import Piece, Runs
from llmdump.record import CLIENT_TO_PROXY, NO_EXCHANGE, Identity, Record
from llmdump.retention import Notes
from llmdump.segment import Name
from llmdump.version import __version__

WRITER: Final = "w1000"
"""No writer has this name: there are `presence.SLOTS_MAX` slots."""
FILE_CHARS_MAX: Final = 255
LOCK: Final = "import.lock"
"""In `run`: one import at a time."""
_HEADER_BYTES_MAX: Final = 4096
_BUSY_TIMEOUT_MS: Final = 2000


@contextlib.contextmanager
def alone(data: DataDir) -> Iterator[None]:
    """Nobody else imports, or takes an import back, in this block. Blocking: waits for those who do. Raises OSError."""
    lock = os.open(data.run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class ImportFailedError(RuntimeError):
    """Nothing was imported; the message says why and what to do."""


class Known:
    """What the archive holds already."""

    def __init__(self, data: DataDir) -> None:
        """Blocking: reads what the index has not read of earlier imports. Raises OSError, apsw.Error."""
        self._db: apsw.Connection | None = None
        self._seen = apsw.Connection("")  # a temporary file that nobody else sees
        self._seen.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID; BEGIN")
        self.files = {found[1]: found[0] for found in imported(data)}
        """Names of the segments of earlier imports, by the hash of their file."""
        read: set[str] = set()
        if data.index.exists():
            self._db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
            self._db.set_busy_timeout(_BUSY_TIMEOUT_MS)
            if self._db.pragma("user_version"):
                read = {one.name for one in indexed.segments(self._db) if one.closed}
            else:
                self._close_index()
        for name in self.files.values():
            if name not in read:
                self._seen.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((id_,) for id_ in _ids(data, name)))

    def take(self, exchange: str) -> bool:
        """Whether there is no exchange with this id yet; from now on there is. Raises apsw.Error."""
        self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (exchange,))
        if not self._seen.changes():
            return False
        return self._db is None or not bool(self._db.execute("SELECT 1 FROM trace WHERE id = ?", (exchange,)).get)

    def close(self) -> None:
        """Let go of the index."""
        self._seen.close()
        self._close_index()

    def _close_index(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None


def imported(data: DataDir) -> Iterator[tuple[str, str]]:
    """Segments of earlier imports, and the hash of the file that each was made of. Blocking."""
    for name in segment.find(data.segments):
        if name.writer != WRITER or name.format != "cbor":
            continue
        with (
            contextlib.suppress(ValueError, cbor2.CBORDecodeError, OSError),
            segment.SegmentFile(data.segments, name.segment) as file,
        ):
            header = cbor2.loads(file.read(0, segment.skip_header(file.read(0, _HEADER_BYTES_MAX))))
            yield name.segment, str(header["metadata"]["x_import"]["sha256"])


def records(data: DataDir, name: str) -> Iterator[Record]:
    """All records of a segment. Blocking. Raises OSError, ValueError."""
    with segment.SegmentFile(data.segments, name) as file:
        runs, begin = Runs(), segment.skip_header(file.read(0, _HEADER_BYTES_MAX))
        runs.add(begin, file.size - begin)
    return (item.record for item in positions.read(data.segments, [Piece(name, runs.packed())]))


def _ids(data: DataDir, name: str) -> Iterator[str]:
    return (one.exchange for one in records(data, name) if one.exchange != NO_EXCHANGE)


class Importing:
    """One call of the import. Use it in a `with`; nothing is there before `finish`."""

    def __init__(self, data: DataDir, min_free_bytes: int) -> None:
        self.data = data
        self.known: Known
        self.files: list[str] = []
        """The segments that were made."""
        self._min_free_bytes = min_free_bytes
        self._instance = os.urandom(8).hex()
        self._number = 0
        self._next_segment = 1
        self._made: list[_Segment] = []
        self._open: set[str] = set()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "Importing":
        """Blocking: one import at a time. Raises OSError, apsw.Error."""
        self._held.enter_context(alone(self.data))
        for left in self.data.segments.glob(f"{WRITER}-*.tmp"):
            left.unlink()
        notes = Notes(self.data.segments)
        notes.read()
        numbers = [name.number for name in segment.find(self.data.segments) if name.writer == WRITER]
        self._next_segment = max([notes.last_number(WRITER), *numbers], default=0) + 1
        self.known = Known(self.data)
        return self

    def __exit__(self, *_: object) -> None:
        self.known.close()
        for one in self._made:
            one.abandon()
        self._held.close()

    def begin(self, file: str, sha256: str, form: str) -> None:
        """The records of a file follow. Raises OSError."""
        if self._made:
            self._made[-1].pause()
        about = {"file": "".join(filter(str.isprintable, file))[:FILE_CHARS_MAX], "sha256": sha256, "form": form}
        self._made.append(_Segment(self.data, self._next_segment + len(self._made), about, self._instance, self._number))
        if not self._number:
            told = {"version": __version__, "pid": os.getpid(), "host": socket.gethostname(), "listen": "import"}
            self._put(NO_EXCHANGE, {}, Part(time.time(), CLIENT_TO_PROXY, "hello", b"", {"x_about": told}))

    def take_back(self) -> None:
        """The file that was begun last is not imported."""
        last = self._made.pop()
        self._number = last.first_number
        last.abandon()

    @property
    def is_empty(self) -> bool:
        """Nothing was taken from the file that was begun last."""
        last = self._made[-1]
        return last.records == (1 if last.first_number == 0 else 0)

    def exchange(self, made: Made, id_: str) -> bool:
        """Write an exchange; False if it is there already. Raises OSError, apsw.Error, ImportFailedError, UnusableError."""
        try:
            for part in made.parts:
                record.entries(part.meta)
        except (ValueError, cbor2.CBOREncodeError) as err:
            raise UnusableError(f"no record can hold this: {err}") from err
        if not self.known.take(id_):
            return False
        for part in made.parts:
            self._put(id_, made.common, part)
        return True

    def record(self, one: Record) -> bool:
        """Write a record as it is, but for its number; False if its exchange is there already."""
        if one.exchange not in self._open and not self.known.take(one.exchange):
            return False
        (self._open.discard if one.kind == "end" else self._open.add)(one.exchange)
        self._put(one.exchange, {}, Part(one.ts, one.direction, one.kind, one.data, one.meta))
        return True

    def finish(self) -> None:
        """Make all of it seen, durably. Raises OSError."""
        if not self._made:
            return
        self._made[-1].resume()
        last = {"x_last": self._number + 1}
        self._put(NO_EXCHANGE, {}, Part(time.time(), CLIENT_TO_PROXY, "bye", b"", last))
        for one in self._made:
            one.close()
        for one in self._made:
            one.publish()
            self.files.append(one.name.segment)
        _sync(self.data.segments)
        self._made = []

    def _put(self, exchange: str, common: dict[str, Any], part: Part) -> None:
        self._number += 1
        extra, count = record.entries(part.meta)
        identity = Identity(self._instance, exchange, common)
        kind = record.kind_entry(part.kind)
        self._made[-1].add(
            record.encode(part.ts, part.direction, self._number, part.data, identity, kind, extra, count), self._min_free_bytes
        )


class _Segment:
    """One segment being made."""

    def __init__(self, data: DataDir, number: int, about: dict[str, str], instance: str, before: int) -> None:
        self.name = Name(WRITER, number, "cbor")
        self.first_number = before
        """The number of the instance before its first record here."""
        self.records = 0
        self._directory = data.segments
        self._instance = instance
        self._path = data.segments / f"{self.name.segment}.tmp"
        self._unchecked_bytes = 0
        self._file: BinaryIO | None = os.fdopen(
            os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", 1024 * 1024
        )
        metadata = {"config_file": None, "x_format": segment.FORMAT, "x_writer": WRITER, "x_segment": number, "x_import": about}
        front = {"magic": segment.V2_MAGIC, "version": segment.V2_VERSION, "created_at": time.time()}
        self._file.write(cbor2.dumps({**front, "session_id": f"{WRITER}-{number:08d}", "metadata": metadata}))

    def add(self, content: bytes, min_free_bytes: int) -> None:
        """The next record. Raises OSError, ImportFailedError."""
        self._unchecked_bytes += len(content)
        if self._unchecked_bytes > 16 * 1024 * 1024 or not self.records:
            self._unchecked_bytes = 0
            if shutil.disk_usage(self._directory).free < min_free_bytes:
                raise ImportFailedError(f"less than capture_min_free_bytes, {min_free_bytes}, would be free on the disk")
        self._write(content)

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        placed = bytearray(content)
        record.patch_seq(placed, 0, self.records)
        self._file.write(placed)
        self.records += 1

    def pause(self) -> None:
        """Another segment follows; but this one may turn out to be the last. Raises OSError."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def resume(self) -> None:
        """Go on with it. Raises OSError."""
        if self._file is None:
            self._file = self._path.open("ab", 1024 * 1024)

    def close(self) -> None:
        """Write the footer, and sync. Raises OSError."""
        self.resume()
        count = self.records
        spans = {self._instance: (self.first_number + 1, self.first_number + count, count)}
        self._write(footer.encode(time.time(), count, spans))
        assert self._file is not None
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Rename it into its place. Raises OSError."""
        self._path.rename(self._directory / self.name.file)

    def abandon(self) -> None:
        """Remove it."""
        self.pause()
        self._path.unlink(missing_ok=True)


def exchange_id(told: str, ts: float, sha256: str, ordinal: int) -> str:
    """The id that a file tells, else a UUIDv7 of this time that is the same at each import of the same file."""
    if told:
        return told
    random = hashlib.sha256(f"{sha256}:{ordinal}".encode()).digest()
    ms = min(max(int(ts * 1000), 0), (1 << 48) - 1) if math.isfinite(ts) else 0
    value = ms << 80 | int.from_bytes(random[:10])
    return str(uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
