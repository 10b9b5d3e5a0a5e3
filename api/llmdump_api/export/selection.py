"""Which exchanges an export is of, and their records: by the index, an exchange at a time. Blocking.

    parameters ─▶ Asked ─▶ Selection: pages of rows (find, search) ─▶ Exchange: row, records from segments or pinned copy

An exchange of which little was recorded is held while it is written; of a large one the records are read again each time
they are asked for, so memory is that of one record and a window of its segment, whatever its size.

Rows come newest first, as in the list, and each has its cursor. Forms that are read from their beginning (captures) want
the oldest first: then the selected ids, and nothing else, go through a temporary database on disk.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import apsw

from llmdump import pins, positions, segment
from llmdump.data_dir import DataDir
from llmdump.positions import Piece
from llmdump.record import Record
from llmdump.retention import Notes
from llmdump_api import filtering, find, index, params, query, search
from llmdump_api.index import IndexUnreadableError
from llmdump_api.params import BadParamError, Cursor
from llmdump_api.query import Query

HELD_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the records of one exchange, on disk, to be held while it is written."""
PAGE_ROWS: Final = 200
_CHILD: Final = "SELECT 1 FROM trace INDEXED BY trace_by_session WHERE session_root_id = ? AND parent_id = ? LIMIT 1"
_SWITCH: Final = {"1": True, "true": True, "0": False, "false": False}
_OWN: Final = ("format", "limit", "turns", "skip_missing", "all", "bytes_all")
PARAMETERS: Final = (*(name for name in query.PARAMETERS if name != "limit"), *_OWN)


class ExportError(RuntimeError):
    """The export cannot go on; the message says why and what to do."""


class Asked(NamedTuple):
    """What is to be exported."""

    query: Query
    form: str
    limit: int | None
    skip_missing: bool
    """Leave out exchanges whose files are not there, also if retention did not delete them."""
    last_turns: bool
    """Only exchanges that no other continues."""
    any_rows: bool
    any_bytes: bool
    """No limit for a zip."""


def parse(given: Mapping[str, str], forms: Mapping[str, Any], form: str, now_ms: int) -> Asked:
    """What parameters ask for; `form` where they do not say. Raises BadParamError."""
    params.check(given, PARAMETERS)
    listed = {name: value for name, value in given.items() if name not in _OWN}
    asked = query.parse(listed)
    if "filter" in listed:
        asked.conditions.extend(filtering.conditions(listed["filter"], now_ms))
    form = given.get("format", form)
    if form not in forms:
        raise BadParamError("format", f"allowed are {', '.join(forms)}")
    if given.get("turns", "all") not in {"all", "last"}:
        raise BadParamError("turns", "allowed is all, or last")
    skip_missing, *large = (_switch(given, name) for name in ("skip_missing", "all", "bytes_all"))
    return Asked(asked, form, _limit(given), skip_missing, given.get("turns") == "last", *large)


def _limit(given: Mapping[str, str]) -> int | None:
    value = given.get("limit")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:18]) <= params.EXPORTED_MAX:
        raise BadParamError("limit", f"allowed is 1 to {params.EXPORTED_MAX}")
    return int(value)


def _switch(given: Mapping[str, str], name: str) -> bool:
    if given.get(name, "0") not in _SWITCH:
        raise BadParamError(name, "allowed is 1, true, 0 or false")
    return _SWITCH[given.get(name, "0")]


class Exchange:
    """One exchange whose records can be read."""

    def __init__(self, archive: "Archive", row: tuple[Any, ...], pieces: list[Piece], started_us: int) -> None:
        """`pieces` empty: there is only a pinned copy."""
        self.row = query.row_object(row)
        """As the list has it."""
        self.ts_start_ms: int = row[query.COLUMNS.index("ts_start")]
        self.ts_end_ms: int | None = row[query.COLUMNS.index("ts_end")]
        self.started_us = started_us
        self._archive = archive
        self._pieces = pieces
        size = sum(size for piece in pieces for _, size in positions.unpack(piece.runs))
        self._held = list(self._read()) if pieces and size <= HELD_BYTES_MAX else None

    @property
    def cursor(self) -> Cursor:
        """The place behind it."""
        return Cursor(self.ts_start_ms, self.row["id"])

    def records(self) -> Iterator[Record]:
        """Its records in order, as often as they are asked for. Raises OSError, ValueError."""
        return iter(self._held) if self._held is not None else self._read()

    def _read(self) -> Iterator[Record]:
        if not self._pieces:
            return pins.read(self._archive.data, self.row["id"])
        return (item.record for item in positions.read(self._archive.data.segments, self._pieces))


class Archive:
    """One data directory with its index, read alone. Close it."""

    def __init__(self, data: DataDir) -> None:
        """Raises IndexUnreadableError."""
        self.data = data
        try:
            self.db = index.connect(data.index)
            self._inode = data.index.stat().st_ino
            ours = index.is_ours(self.db, data.index.name)
        except (apsw.CantOpenError, FileNotFoundError):
            ours = False
        except apsw.Error as err:
            raise IndexUnreadableError(f"cannot read {data.index}: {err}") from err
        if not ours:
            raise IndexUnreadableError(
                f"there is no index at {data.index}: start llmdump-indexer, or run `llmdump rebuild --data-dir {data.root}`"
            )
        self._deleted: set[str] | None = None

    def close(self) -> None:
        """Close the index."""
        self.db.close()

    @property
    def is_current(self) -> bool:
        """Whether the index that is read is the one that is there."""
        try:
            return self.data.index.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def pages(self, asked: Query) -> Iterator[list[tuple[Any, ...]]]:
        """Rows, newest first; each page from one snapshot."""
        match = None if asked.words is None else search.expression(asked.words)
        asked = asked._replace(limit=PAGE_ROWS)
        while True:
            with self.db:
                if match is None:
                    found = find.page(self.db, asked)
                    page, cursor = found.rows, found.next_cursor
                else:
                    hits = search.page(self.db, asked, match)
                    page, cursor = [hit.row for hit in hits.hits], hits.next_cursor
            yield page
            if cursor is None:
                return
            asked = asked._replace(cursor=cursor)

    def row(self, exchange: str) -> tuple[Any, ...] | None:
        """The row of an exchange."""
        return index.first(self.db, *query.sql_one(exchange))

    def is_continued(self, row: tuple[Any, ...]) -> bool:
        """Whether another exchange goes on from this one."""
        return bool(index.first(self.db, _CHILD, (row[query.COLUMNS.index("session_root_id")], row[0])))

    def open(self, row: tuple[Any, ...], *, skip_missing: bool) -> Exchange | None:
        """The exchange of a row; None if what was recorded of it is gone. Raises ExportError, OSError, ValueError."""
        found = index.rows(self.db, index.POSITIONS, (row[0],))
        pieces = [Piece(name, runs) for name, runs, _, _ in found]
        started_us = found[0][3] if found else 1000 * row[query.COLUMNS.index("ts_start")]
        missing = {one.segment for one in pieces if not segment.is_there(self.data.segments, one.segment)}
        if pieces and not missing:
            with contextlib.suppress(FileNotFoundError):  # deleted between the look and the opening
                return Exchange(self, row, pieces, started_us)
            missing = {one.segment for one in pieces}
        if pins.path_of(self.data, row[0]).exists():
            return Exchange(self, row, [], started_us)
        if skip_missing or not (unknown := missing - self._deleted_segments(missing)):
            return None
        raise ExportError(
            f"{', '.join(sorted(unknown))} is not there, and retention did not delete it; exchange {row[0]} cannot be read "
            "(skip_missing leaves such exchanges out)"
        )

    def _deleted_segments(self, among: set[str]) -> set[str]:
        """Those of which retention says that it deleted them."""
        if self._deleted is None or not among <= self._deleted:
            notes = Notes(self.data.segments)
            notes.read()
            stems = {note.segment.partition(".")[0] for note in notes.deleted()}
            self._deleted = {name for name in among if name.partition(".")[0] in stems} | (self._deleted or set())
        return self._deleted & among


@dataclass
class Told:
    """What an export can say of itself at its end."""

    exchanges: int = 0
    gone: int = 0
    """Exchanges left out, for what was recorded of them was deleted."""
    unfit: dict[str, int] = field(default_factory=dict)
    """Exchanges that the form cannot hold, by reason."""
    last_cursor: Cursor | None = None
    """Behind the last exchange of the list that was looked at."""
    more: bool = False
    """`limit` left some out."""

    def leave_out(self, reason: str) -> None:
        """The exchange that was given last is not in the export."""
        self.exchanges -= 1
        self.unfit[reason] = self.unfit.get(reason, 0) + 1

    def shown(self) -> dict[str, Any]:
        """As answers have it."""
        next_cursor = params.encode_cursor(*self.last_cursor) if self.more and self.last_cursor else None
        unfit = {"unfit": self.unfit} if self.unfit else {}
        return {"exchanges": self.exchanges, "gone": self.gone, **unfit, "next_cursor": next_cursor}


class Selection:
    """The exchanges that are asked for."""

    def __init__(self, archives: list[Archive], asked: Asked) -> None:
        self.asked = asked
        self.told = Told()
        self._archives = archives

    def newest_first(self) -> Iterator[Exchange]:
        """Each exchange, in the order of the list. Raises ExportError, apsw.Error, OSError, ValueError."""
        for archive, row in self.rows():
            yield from self._opened(archive, row)

    def oldest_first(self) -> Iterator[Exchange]:
        """The same in the order in which they began."""
        with contextlib.closing(Sorted()) as chosen:
            for archive, row in self.rows():
                chosen.add("", archive, row)
            for _, archive, id_ in chosen.all(self._archives):
                yield from self.by_id(archive, id_)

    def by_id(self, archive: Archive, id_: str) -> Iterator[Exchange]:
        """The exchange of an id, if it is still there."""
        row = archive.row(id_)
        if row is not None:
            yield from self._opened(archive, row)

    def rows(self) -> Iterator[tuple[Archive, tuple[Any, ...]]]:
        """The rows that are selected, newest first of each archive; notes where the list ended."""
        every = ((archive, row) for archive in self._archives for page in archive.pages(self.asked.query) for row in page)
        if self.asked.last_turns:
            every = ((archive, row) for archive, row in every if not archive.is_continued(row))
        for archive, row in itertools.islice(every, self.asked.limit):
            self.told.last_cursor = Cursor(row[query.COLUMNS.index("ts_start")], row[0])
            yield archive, row
        self.told.more = next(every, None) is not None

    def _opened(self, archive: Archive, row: tuple[Any, ...]) -> Iterator[Exchange]:
        exchange = archive.open(row, skip_missing=self.asked.skip_missing)
        if exchange is None:
            self.told.gone += 1
            return
        self.told.exchanges += 1
        yield exchange

    @property
    def archives(self) -> list[Archive]:
        """Where they are from."""
        return self._archives


class Sorted:
    """Ids of exchanges by group and time, on disk. Close it."""

    def __init__(self) -> None:
        self._db = apsw.Connection("")  # a temporary file that nobody else sees
        self._db.execute("CREATE TABLE chosen (part TEXT, ts INTEGER, id TEXT, root TEXT)")
        self._db.execute("BEGIN")

    def add(self, group: str, archive: Archive, row: tuple[Any, ...]) -> None:
        """One more."""
        values = (group, row[query.COLUMNS.index("ts_start")], row[0], str(archive.data.root))
        self._db.execute("INSERT INTO chosen VALUES (?, ?, ?, ?)", values)

    def all(self, archives: list[Archive]) -> Iterator[tuple[str, Archive, str]]:
        """Group, archive and id, in order."""
        by_root = {str(archive.data.root): archive for archive in archives}
        for group, root, id_ in self._db.execute("SELECT part, root, id FROM chosen ORDER BY part, ts, id"):
            yield group, by_root[root], id_

    def counts(self) -> dict[str, int]:
        """How many each group has."""
        return dict(self._db.execute("SELECT part, count(*) FROM chosen GROUP BY part"))

    def close(self) -> None:
        """Remove it."""
        self._db.close()
