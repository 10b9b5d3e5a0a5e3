"""What an index holds that no file brings again, carried over into one that is made anew.

    index.sqlite ── a copy of this moment ──▶ index.sqlite.rebuild.old ──▶ index.sqlite.rebuild

Carried over are the rows of exchanges with records in segments that are gone, whole, with their positions and whatever
else hangs on a row; rows of which there are no positions at all; the segments' numbers; what was damaged in those that
are gone; and the ledger. A carried row that goes on in a segment that is there has its old records behind it
already. Rows of an import that was taken back are not carried. All other rows are made again from the segments, and keep
their numbers, so that an index without a fault comes out the same row for row. How to tell carried rows: they have a
position in a segment with `gone` = 1, or no position.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

import apsw

from llmdump import ranges
from llmdump.record import Record
from llmdump_indexer import store
from llmdump_indexer.index import Index, tables_of_rows

_ROWS: Final = (
    "SELECT trace FROM {old}.position JOIN {old}.segment ON segment.number = position.segment WHERE segment.gone "
    "UNION SELECT number FROM {old}.trace WHERE number NOT IN (SELECT trace FROM {old}.position)"
)
_GOING_ON: Final = (
    "SELECT id, last_record FROM trace WHERE number IN (SELECT trace FROM position JOIN segment "
    "ON segment.number = position.segment WHERE NOT segment.gone)"
)


class Carried:
    """An old index's copy, and what it gives to the new one. Not for several threads. Close it, or use it in a `with`."""

    def __init__(self, live: Path, copy: Path, there: set[str], undone: Collection[str] = ()) -> None:
        """`there` are the names of segments that can be read, `undone` of imports that were taken back: rows of these are
        not carried. Blocking. Raises apsw.Error."""
        self._db = apsw.Connection(str(copy))
        self._path = copy
        self._last_records: dict[str, int] = {}
        try:
            self._take(live)
            gone = [(name,) for (name,) in self._db.execute("SELECT name FROM segment") if name not in there]
            with self._db:
                self._forget(undone)
                self._db.execute("UPDATE segment SET gone = 0")
                self._db.executemany("UPDATE segment SET gone = 1 WHERE name = ?", gone)
            self._next_number = int(self._db.execute("SELECT coalesce(max(number), 0) FROM trace").get) + 1
            self.rows = int(self._db.execute(f"SELECT count(*) FROM ({_ROWS.format(old='main')})").get)
            """How many rows cannot be made again."""
        except BaseException:
            self._db.close()
            raise
        self.anything = bool(gone or self.rows)
        """Whether there is anything that no segment brings again."""

    def _take(self, live: Path) -> None:
        old = apsw.Connection(str(live), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(old), self._db.backup("main", old, "main") as backup:
            backup.step(-1)

    def _forget(self, undone: Collection[str]) -> None:
        self._db.execute("CREATE TEMP TABLE undone (trace INTEGER PRIMARY KEY)")
        self._db.executemany(
            "INSERT OR IGNORE INTO undone SELECT trace FROM position JOIN segment ON segment.number = position.segment "
            "WHERE segment.name = ?",
            ((name,) for name in undone),
        )
        for table in tables_of_rows(self._db):
            self._db.execute(f"DELETE FROM main.{table} WHERE trace IN (SELECT trace FROM temp.undone)")
        self._db.execute("DELETE FROM trace WHERE number IN (SELECT trace FROM temp.undone)")

    def into(self, made: Path) -> None:
        """Give the new index what it begins with. Blocking. Raises apsw.Error."""
        with Index(made):
            pass  # its tables
        with contextlib.closing(apsw.Connection(str(made))) as new:
            new.execute("ATTACH ? AS old", (str(self._path),))
            with new:
                new.execute(
                    "INSERT INTO segment (number, name, offset, closed, gone) "
                    "SELECT number, name, iif(gone, offset, 0), gone AND closed, gone FROM old.segment"
                )
                new.execute(f"CREATE TEMP TABLE carried AS {_ROWS.format(old='old')}")
                _copy(new, "trace", "number IN (SELECT trace FROM temp.carried)")
                for table in tables_of_rows(new):
                    _copy(new, table, "trace IN (SELECT trace FROM temp.carried)")
                _copy(new, "damage", "segment IN (SELECT number FROM old.segment WHERE gone)")
                _copy(new, "ledger_instance", "1")
                _copy(new, "ledger_gap", "1")
                store.count_written(new, sessions=True)
            self._last_records = dict(new.execute(_GOING_ON))

    def number_of(self, exchange: str) -> int:
        """The number of a row that is new to the new index: the one it had, else one above all."""
        found = self._db.execute("SELECT number FROM trace WHERE id = ?", (exchange,)).fetchone()
        if found is None:
            self._next_number += 1
            return self._next_number - 1
        return int(found[0])

    def has(self, record: Record) -> bool:
        """Whether a record is behind its carried row already."""
        return bool(self._last_records) and record.number <= self._last_records.get(record.exchange, 0)

    def finish(self, made: Path) -> None:
        """The new index has read all there is: add the numbers of what was not there. Blocking. Raises apsw.Error."""
        with contextlib.closing(apsw.Connection(str(made))) as new, new:
            for (instance,) in self._db.execute("SELECT DISTINCT instance FROM ledger"):
                runs = ranges.merged([*_runs(self._db, instance), *_runs(new, instance)])
                new.execute("DELETE FROM ledger WHERE instance = ?", (instance,))
                new.executemany("INSERT INTO ledger VALUES (?, ?, ?)", ((instance, *run) for run in runs))

    def close(self) -> None:
        """Close the copy; who made its name removes it."""
        self._db.close()


def _copy(db: apsw.Connection, table: str, where: str) -> None:
    """Rows of a table from the old index, as far as both have the columns."""
    names = [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
    old = {row[1] for row in db.execute(f"PRAGMA old.table_info({table})")}
    columns = ", ".join(name for name in names if name in old)
    if columns:
        db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM old.{table} WHERE {where}")


def _runs(db: apsw.Connection, instance: str) -> ranges.Ranges:
    rows = db.execute("SELECT first, last FROM ledger WHERE instance = ? ORDER BY first", (instance,))
    return [(int(first), int(last)) for first, last in rows]
