"""The index made anew beside the one in use, and swapped in.

    segments ── Follower, as ever ──▶ index.sqlite.rebuild ── one transaction ──▶ index.sqlite

The swap copies all pages into the file in use, through SQLite's own backup, in one transaction of its WAL. So whoever
reads goes on with the old content or the new one, never a mixture; no file is renamed or removed under anybody, and a
kill at any point leaves the old content or the new one. An indexer that runs meanwhile sees that another connection has
written (`index.ReplacedError`), and goes on from what the new content says it has read.

What no segment brings again is carried over from the index in use (see `carry`): rows may outlive their bodies.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import click

from llmdump import interrupt, process, segment
from llmdump.data_dir import DataDir
from llmdump.reading import prices
from llmdump.reading.prices import PriceTable
from llmdump.retention import UNDONE, Notes
from llmdump_indexer import index
from llmdump_indexer.carry import Carried
from llmdump_indexer.follow import Follower

# Longer than any commit of a running indexer.
BUSY_TIMEOUT_MS: Final = 10_000
_LOOK_EVERY_S: Final = 0.1


class RebuildError(RuntimeError):
    """It cannot be done; the message says why, and what to do."""


def rebuild(data: DataDir, *, forget_deleted: bool, table: PriceTable | None = None, bar: bool = False) -> dict[str, Any]:
    """Make the index anew; what it holds then. Blocking. Raises RebuildError, apsw.Error, OSError."""
    with index.only_writer(data.run / "rebuild.lock") as alone:
        if not alone:
            raise RebuildError("another rebuild is under way")
        begin, made = time.monotonic(), data.index.with_name(data.index.name + ".rebuild")
        _remove(made)
        try:
            carried = _carried(data, made)
            of_deleted = carried.rows if carried else 0
            if forget_deleted and carried:
                carried.close()
                carried = None
            follower = _make(made, data, carried, table, bar)
            swap(made, data)
            rows = _rows(made)
        finally:
            _remove(made)
    return {
        "exchanges": rows,
        "records": follower.records,
        "bytes": follower.bytes,
        "damaged_places": follower.damaged,
        "rows_carried": 0 if forget_deleted else of_deleted,
        "rows_forgotten": of_deleted if forget_deleted else 0,
        "took_s": round(time.monotonic() - begin, 3),
    }


def _make(made: Path, data: DataDir, carried: Carried | None, table: PriceTable | None, bar: bool) -> Follower:
    """The new index at `made`."""
    follower = Follower(data, lost_after_s=0.0, path=made, carried=carried, table=table)
    if carried is None:
        _catch_up(follower, data, bar)
        return follower
    try:
        carried.into(made)
        _catch_up(follower, data, bar)
        carried.finish(made)
    finally:
        carried.close()
    return follower


def _carried(data: DataDir, made: Path) -> Carried | None:
    """What the index in use has and no segment brings again; None if there is nothing, or it cannot be read."""
    if not data.index.exists():
        return None
    there = {name.segment for name in segment.find(data.segments)}
    notes = Notes(data.segments)
    notes.read()
    undone = [f"{note.segment}.cbor" for note in notes.deleted() if note.reason == UNDONE]
    try:
        carried = Carried(data.index, made.with_name(made.name + ".old"), there, undone)
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError):
        return None
    if carried.anything:
        return carried
    carried.close()
    return None


def swap(made: Path, data: DataDir) -> None:
    """Give the index in use the content of the one at `made`. Raises apsw.Error, RebuildError."""
    try:
        _copy(made, data.index)
    except (apsw.CorruptError, apsw.NotADBError) as err:
        with index.only_writer(data.run / "index.lock") as alone:
            if not alone:
                raise RebuildError(f"the index in use is broken ({err}); the running indexer makes it anew by itself") from err
            index.set_aside(data.index)
            _copy(made, data.index)


def _copy(made: Path, live: Path) -> None:
    with contextlib.closing(apsw.Connection(str(live))) as old, contextlib.closing(apsw.Connection(str(made))) as new:
        old.set_busy_timeout(BUSY_TIMEOUT_MS)
        old.pragma("journal_mode", "wal")
        with old.backup("main", new, "main") as backup:
            backup.step(-1)
        with contextlib.suppress(apsw.BusyError):  # a reader holds it: the indexer's next checkpoint will do
            old.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _catch_up(follower: Follower, data: DataDir, bar: bool) -> None:
    """Read all there is, with a bar on stderr if wanted."""
    if not bar:
        follower.catch_up()
        return
    errors: list[BaseException] = []

    def work() -> None:
        try:
            follower.catch_up()
        except BaseException as err:  # raised again where it is waited for
            errors.append(err)

    thread, shown = threading.Thread(target=work, daemon=True), 0
    thread.start()
    with click.progressbar(length=_bytes(data), label="Indexing", file=sys.stderr) as progress:
        while thread.is_alive():
            thread.join(_LOOK_EVERY_S)
            now = follower.bytes
            progress.update(now - shown)
            shown = now
    for error in errors:
        raise error


def _bytes(data: DataDir) -> int:
    total = 0
    for name in segment.find(data.segments):
        with contextlib.suppress(OSError, ValueError), segment.SegmentFile(data.segments, name.segment) as file:
            total += file.size
    return total


def _rows(made: Path) -> int:
    with contextlib.closing(apsw.Connection(str(made))) as db:
        return int(db.execute("SELECT count(*) FROM trace").get)


def _remove(made: Path) -> None:
    for path in _files(made):
        path.unlink(missing_ok=True)


def _files(made: Path) -> Iterator[Path]:
    return (made.with_name(made.name + suffix) for suffix in ("", "-wal", "-shm", ".old", ".old-wal", ".old-shm"))


def text(found: dict[str, Any]) -> str:
    """For people."""
    lost = f"; {found['rows_forgotten']:,} rows of deleted segments are forgotten" if found["rows_forgotten"] else ""
    kept = f"; {found['rows_carried']:,} rows of deleted segments are carried over" if found["rows_carried"] else ""
    return (
        f"the index holds {found['exchanges']:,} exchanges of {found['records']:,} records "
        f"({found['bytes']:,} bytes), made in {found['took_s']:.1f} s{lost}{kept}"
    )


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--forget-deleted", is_flag=True)
@click.option("--json", "wants_json", is_flag=True)
@click.option("--price-file", default="")
@interrupt.quietly()
def main(root: Path, forget_deleted: bool, wants_json: bool, price_file: str) -> None:
    """What `llmdump rebuild` becomes."""
    data = DataDir(root)
    if not data.segments.is_dir():
        process.fail(f"there is no {data.segments}: is this the data directory?", process.EXIT_SETTINGS)
    try:
        bar = sys.stderr.isatty()
        table = prices.load(price_file)
        found = rebuild(data.create(), forget_deleted=forget_deleted, table=table, bar=bar)
    except (RebuildError, prices.PriceFileError, apsw.Error, OSError) as err:
        process.fail(f"{data.index} is as it was: {err}")
    click.echo(json.dumps(found, indent=2) if wants_json else text(found))


if __name__ == "__main__":
    main()
