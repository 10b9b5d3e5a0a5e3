"""The recordings that `llmdump serve` gives out: found by the keys of their requests, each given once, in order.

An index of requests in a table of SQLite's own temporary file: memory is its page cache, however many there are. Bodies
are read when they are given. Several recordings of one request are given in turn, the oldest first; then the last one
again and again, or nothing more.

    recorded (number, id, method, path, sent, turns, bytes)   as many as can be given, in the order in which they began;
                                                              the path as clients sent it, and as it was sent on
    key      (hash, given, number)                            under which keys (see `alike`), and whether it was given
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from llmdump import heads, pins, positions, segment
from llmdump.data_dir import DataDir
from llmdump.positions import Piece
from llmdump.reading import from_records
from llmdump.reading.exchange import Request
from llmdump.reading.framing import EVENT_BYTES_MAX
from llmdump.reading.websocket import WebSocketDirection, is_deflate_agreed
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_api import alike, index
from llmdump_api.alike import Asked

CACHE_KIB: Final = 8 * 1024
NEAREST_MAX: Final = 16
"""So many recordings are compared with a request that fits none."""
PATHS_SHOWN_MAX: Final = 20
_TABLES: Final = """
CREATE TABLE recorded (number INTEGER PRIMARY KEY, id TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
                       sent TEXT NOT NULL, turns INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE INDEX recorded_by_path ON recorded (path, method, turns);
CREATE INDEX recorded_by_sent ON recorded (sent, method, turns);
CREATE TABLE key (hash BLOB NOT NULL, given INTEGER NOT NULL, number INTEGER NOT NULL,
                  PRIMARY KEY (hash, given, number)) STRICT, WITHOUT ROWID;
CREATE INDEX key_by_number ON key (number);
"""
_ROWS: Final = """
SELECT trace.id, trace.started_us, trace.status, trace.end_reason, trace.captured, trace.truncated_req,
       trace.truncated_resp, segment.name, position.runs, segment.gone
FROM trace LEFT JOIN position ON position.trace = trace.number LEFT JOIN segment ON segment.number = position.segment
ORDER BY trace.started_us, trace.id, position.piece
"""
_NEAREST: Final = """
SELECT id FROM recorded WHERE (path = ?1 OR sent = ?1) AND method = ?2
ORDER BY abs(turns - ?3), abs(bytes - ?4), number LIMIT ?5
"""
_ANY: Final = "SELECT id FROM recorded WHERE (path = ?1 OR sent = ?1) AND method = ?2 LIMIT 1"


class Found(NamedTuple):
    """A recording to be given."""

    id: str
    level: str
    """Of `alike.LEVELS`, at which it was found."""
    again: bool
    """All that were recorded have been given; this is the last of them once more."""


class Shelf:
    """Recordings by the keys of their requests. Not for several threads."""

    def __init__(self) -> None:
        self._db = apsw.Connection("")  # a temporary file of SQLite's own, gone when it is closed
        self._db.pragma("cache_size", -CACHE_KIB)
        self._db.pragma("journal_mode", "off")
        self._db.pragma("synchronous", 0)
        self._db.execute(_TABLES)
        self.left_out: Counter[str] = Counter()
        """Recordings that cannot be given, by the reason."""
        self.count = 0

    def add(self, exchange: str, request: Asked, sent: str) -> None:
        """One more, younger than all before it; `sent` is the path with which it was sent on."""
        self.count += 1
        row = (self.count, exchange, request.method, request.path, sent, len(request.turns), len(request.body))
        self._db.execute("INSERT INTO recorded VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        found = {key for path in {request.path, sent} for level in alike.LEVELS for key in alike.keys(request, level, path)}
        self._db.executemany("INSERT INTO key VALUES (?, 0, ?)", ((key, self.count) for key in found))

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Within this, `add` is fast."""
        with self._db:
            yield

    def take(self, request: Asked, paths: Sequence[str], levels: Sequence[str], *, repeats: bool) -> Found | None:
        """The next recording for a request, and note that it was given; None if none fits, or (not `repeats`) is left."""
        for level in levels:
            for key in (key for path in paths for key in alike.keys(request, level, path)):
                row = self._row("SELECT number FROM key WHERE hash = ? AND given = 0 ORDER BY number LIMIT 1", (key,))
                if row is not None:
                    return self._give(row[0], level)
                row = self._row("SELECT max(number) FROM key WHERE hash = ?", (key,))
                if row is not None and row[0] is not None:
                    return Found(self._id(row[0]), level, True) if repeats else None
        return None

    def _give(self, number: int, level: str) -> Found:
        self._db.execute("UPDATE key SET given = 1 WHERE number = ?", (number,))
        return Found(self._id(number), level, False)

    def _id(self, number: int) -> str:
        row = self._row("SELECT id FROM recorded WHERE number = ?", (number,))
        assert row is not None
        return str(row[0])

    def nearest(self, request: Asked, paths: Sequence[str]) -> list[str]:
        """Recordings at the same path, those of about as many turns and bytes first."""
        near: list[str] = []
        for path in paths:
            values = (path, request.method, len(request.turns), len(request.body), NEAREST_MAX)
            near += [exchange for (exchange,) in index.rows(self._db, _NEAREST, values)]
        return near[:NEAREST_MAX]

    def any_at(self, method: str, paths: Sequence[str]) -> str:
        """A recording at one of these paths, given or not; empty if there is none."""
        for path in paths:
            if row := self._row(_ANY, (path, method)):
                return str(row[0])
        return ""

    def places(self, most: int = PATHS_SHOWN_MAX) -> list[tuple[str, str, int]]:
        """Method, path and count of what there is, the most frequent first."""
        question = "SELECT method, path, count(*) FROM recorded GROUP BY path, method ORDER BY 3 DESC, path, method LIMIT ?"
        return [(method, path, count) for method, path, count in index.rows(self._db, question, (most,))]

    def close(self) -> None:
        """Forget all."""
        self._db.close()

    def _row(self, question: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return index.first(self._db, question, values)


def fill(shelf: Shelf, data: DataDir, secret_query: frozenset[str]) -> None:
    """Put all recordings of a data directory on a shelf. Blocking. Raises apsw.Error, OSError."""
    with (
        contextlib.closing(index.connect(data.index)) as db,
        contextlib.closing(_Files(data)) as files,
        shelf.adding(),
    ):
        for row in _rows(db):
            reason = _missing(row) or _put(shelf, row, files, secret_query)
            if reason:
                shelf.left_out[reason] += 1


class _Row(NamedTuple):
    id: str
    started_us: int
    status: int | None
    end_reason: str | None
    captured: str
    truncated_req: int
    truncated_resp: int
    pieces: list[Piece]
    gone: bool


def _rows(db: apsw.Connection) -> Iterator[_Row]:
    for _, group in itertools.groupby(db.execute(_ROWS), key=lambda found: found[0]):
        found = list(group)
        pieces = [Piece(row[7], row[8]) for row in found if row[7] is not None]
        yield _Row._make((*found[0][:7], pieces, any(row[9] for row in found)))


def _missing(row: _Row) -> str:
    """Why a recording cannot be given, by its row alone."""
    if row.end_reason is None:
        return "still under way"
    if row.status is None:
        return "no answer was recorded"
    request, _, response = row.captured.partition("/")
    if request != "all" or response != "all" or row.truncated_req or row.truncated_resp:
        return "not all of it was kept when it was recorded"
    return ""


def _put(shelf: Shelf, row: _Row, files: "_Files", secret_query: frozenset[str]) -> str:
    try:
        told, forwarded = asked_of(files.records(row), secret_query)
    except FileNotFoundError:
        return "its segment files were deleted"
    except ValueError:
        return "its segment files cannot be read"
    if told is None:
        return "the request was not recorded whole"
    if row.status == 101 and told.method != alike.WEBSOCKET:
        return "the connection was switched to another protocol"
    shelf.add(row.id, told, alike.path_of(forwarded) if forwarded else told.path)
    return ""


def asked_of(records: Iterable[Record], secret_query: frozenset[str]) -> tuple[Asked | None, str]:
    """What an exchange asked, of a WebSocket with its first message; and the target as in `request_of`."""
    records = iter(records)
    request, forwarded = request_of(records)
    if request is None:
        return None, forwarded
    first = _first_message(records) if alike.wants_websocket(request.fields) else None
    if first is not None:
        request = request._replace(method=alike.WEBSOCKET, body=first)
    return alike.asked(request, secret_query), forwarded


def _first_message(records: Iterator[Record]) -> bytes | None:
    """What a client said first; nothing if the backend spoke before it; None if there was no WebSocket."""
    client: WebSocketDirection | None = None
    for record in records:
        if record.kind == "head" and record.direction == BACKEND_TO_PROXY and record.meta.get("sc") == 101:
            extensions = heads.parse(record.data).all("sec-websocket-extensions")
            client = WebSocketDirection(EVENT_BYTES_MAX, inflates=is_deflate_agreed(extensions))
        elif record.kind == "pipe" and client is not None:
            if record.direction == BACKEND_TO_PROXY:
                return b""
            if messages := client.feed(record.data, 0):
                return messages[0].data
    return None if client is None else b""


def request_of(records: Iterable[Record]) -> tuple[Request | None, str]:
    """The request of an exchange, None if it is not there whole; and the target that it was sent on with, if it was.

    Reads no further than it must. Raises what `records` raises.
    """
    reading, forwarded, has_body, whole, started = from_records.FromRecords(0), "", False, False, False
    for record in records:
        if record.direction == CLIENT_TO_PROXY and record.kind == "head":
            if "x_bad" in record.meta:
                return None, ""
            started, has_body = True, announces_body(record.data)
        whole = whole or record.ends_body if record.direction == CLIENT_TO_PROXY else whole
        if record.kind == "forward":
            forwarded = heads.parse(record.data).start[1]
        elif record.direction == CLIENT_TO_PROXY:
            reading.take(record)
        over = record.kind in {"answer", "end"} or (record.direction == BACKEND_TO_PROXY and record.kind == "head")
        if (over or forwarded) and (whole or not has_body):
            break
    request = reading.finish(ended=False).request
    is_whole = started and (whole or not has_body) and request.body_whole
    return (request if is_whole else None), forwarded


def announces_body(head: bytes) -> bool:
    """Whether the head of a request says that a body follows."""
    parsed = heads.parse(head)
    return bool(parsed.first("transfer-encoding")) or parsed.first("content-length").strip("0") != ""


class _Files:
    """Records of exchanges in the order in which they began: the segment that was read last stays open."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._name = ""
        self._file: segment.SegmentFile | None = None

    def records(self, row: _Row) -> Iterator[Record]:
        if row.gone or not row.pieces:
            yield from pins.read(self._data, row.id)
            return
        for piece in row.pieces:
            file = self._open(piece.segment)
            for offset, size in positions.unpack(piece.runs):
                for item in positions.read_run(file.read, file.name.format, offset, offset + size):
                    if isinstance(item, segment.Located):
                        yield item.record

    def _open(self, name: str) -> segment.SegmentFile:
        if self._file is None or self._name != name:
            self.close()
            self._file, self._name = segment.SegmentFile(self._data.segments, name), name
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
