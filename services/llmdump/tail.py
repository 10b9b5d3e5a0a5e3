"""All segments of all writers, read on from where somebody stands, a bounded step at a time. Polls; blocking.

The indexer reads so, from where the index stands; and the api, for those who watch.

Which file: a writer's segments in rising order, each to its end before the next. Where both formats of a number are
there, cbor is read and jsonl passed over, unless the jsonl has been begun already.

Whether a segment grows: only the newest of its writer does, and a sealed one or one with a footer never. The files are
listed before a segment is looked at, so all that a writer put into it before it began the next is seen. One that grows
is read as far as its writer has made it durable (see `durable`). What is cut short at the end of a segment that grows is
not there yet; in one that does not grow it is damage.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from llmdump import durable, segment, window
from llmdump.admin import count_swallowed
from llmdump.positions import WINDOW_BYTES, WINDOW_BYTES_MAX
from llmdump.record import DamageError
from llmdump.segment import Damage, Located, Name, SegmentFile

# A writer writes a batch at once. A tail that looks cut for longer than this, with whole records after it, is damage.
CUT_FOR_S_MAX: Final = 5.0
# A directory's time has the grain of the kernel's tick, so a fresh one does not prove that nothing changed since.
_LISTING_TRUSTED_AFTER_S: Final = 1.0


class SegmentRow(NamedTuple):
    """A segment as somebody has read it; of the index, this is a row."""

    number: int
    name: str
    offset: int
    closed: bool
    """Read to its end."""
    gone: bool


class Step(NamedTuple):
    """What one step of reading gave."""

    segment: SegmentRow
    items: list[Located | Damage]
    bytes: int
    """Bytes of the segment that are done with."""


class _Source:
    """One segment that is being read, or will be."""

    def __init__(self, name: Name, row: SegmentRow) -> None:
        self.name = name
        self.row = row
        self.file: SegmentFile | None = None
        self.window_bytes = WINDOW_BYTES
        self.cut_since: float | None = None

    def open(self, directory: Path) -> SegmentFile:
        if self.file is None:
            self.file = SegmentFile(directory, self.name.segment)
        return self.file

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class Tail:
    """The segments of one directory. Close it, or use it in a `with`."""

    def __init__(self, directory: Path, known: Iterable[SegmentRow], clock: Callable[[], float] = time.monotonic) -> None:
        """`known` are the segments as they were read before. Raises nothing; the directory may be missing for now."""
        self._directory = directory
        self._clock = clock
        self._rows = {row.name: row for row in known}
        self._sources: dict[str, list[_Source]] = {}
        self._newest: dict[str, int] = {}
        self._listed_mtime_ns = -1
        self._turn = 0
        self.problem = ""
        """Which segment could not be read at the last step, and why."""

    def look(self) -> list[SegmentRow]:
        """See which files are there now. The segments that are new, have gone, or are back."""
        if self._unchanged():
            return []
        names = {name.segment: name for name in self._find()} if self._directory.is_dir() else {}
        changed = [self._add(name) for name in self._to_read(names.values()) if name.segment not in self._rows]
        changed += [row for row in map(self._presence(names), list(self._rows.values())) if row is not None]
        self._plan(names)
        return changed

    def step(self) -> Step | None:
        """Read on in one segment, each writer in its turn; None if there is nothing to read in any.

        A segment that cannot be read now is a `problem`, and tried again with the next step.
        """
        self.problem = ""
        writers = sorted(writer for writer, sources in self._sources.items() if sources)
        for index in range(len(writers)):
            writer = writers[(self._turn + index) % len(writers)]
            found = self._step_writer(self._sources[writer])
            if found is not None:
                self._turn = (self._turn + index + 1) % len(writers)
                return found
        return None

    def lag_bytes(self) -> int:
        """Bytes in segments that have not been read. Looks at every unread file."""
        lag = 0
        for source in (source for sources in self._sources.values() for source in sources):
            try:
                file = source.open(self._directory)
                lag += max(0, durable.readable_bytes(self._directory, file) - source.row.offset)
            except (OSError, ValueError):
                continue  # it has just gone, or cannot be read: a step will tell
            if source is not self._sources[source.name.writer][0]:
                source.close()
        return lag

    def close(self) -> None:
        """Close all files."""
        for sources in self._sources.values():
            for source in sources:
                source.close()

    def __enter__(self) -> "Tail":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- which files

    def _unchanged(self) -> bool:
        try:
            mtime_ns = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            mtime_ns = 0
        fresh = time.time() - mtime_ns / 1e9 < _LISTING_TRUSTED_AFTER_S
        unchanged = mtime_ns == self._listed_mtime_ns
        self._listed_mtime_ns = -1 if fresh else mtime_ns
        return unchanged

    def _find(self) -> Iterable[Name]:
        """What is there. A segment of which nothing is durable may vanish again without a trace, so it is not there yet."""
        for name in segment.find(self._directory):
            if name.sealed or name.segment in self._rows or durable.limit(self._directory, name):
                yield name
            else:
                self._listed_mtime_ns = -1

    def _to_read(self, names: Iterable[Name]) -> list[Name]:
        """One of the two formats of each number: the one that is known, there or gone, else cbor."""
        chosen: dict[tuple[str, int], Name] = {}
        for name in sorted(names, key=lambda name: (name.writer, name.number, name.format)):
            twin = name._replace(format="jsonl" if name.format == "cbor" else "cbor")
            if name.segment in self._rows or twin.segment not in self._rows:
                chosen.setdefault((name.writer, name.number), name)
        return list(chosen.values())

    def _add(self, name: Name) -> SegmentRow:
        number = max((row.number for row in self._rows.values()), default=0) + 1
        self._rows[name.segment] = row = SegmentRow(number, name.segment, 0, closed=False, gone=False)
        return row

    def _presence(self, names: dict[str, Name]) -> Callable[[SegmentRow], SegmentRow | None]:
        def changed(row: SegmentRow) -> SegmentRow | None:
            gone = row.name not in names and not segment.is_there(self._directory, row.name)
            if gone == row.gone:
                return None
            self._rows[row.name] = row = row._replace(gone=gone)
            return row

        return changed

    def _plan(self, names: dict[str, Name]) -> None:
        """What is to be read, in order; files that are open already stay so."""
        old = {source.name.segment: source for sources in self._sources.values() for source in sources}
        self._sources, self._newest = {}, {}
        for name in self._to_read(names.values()):
            self._newest[name.writer] = name.number
            row = self._rows[name.segment]
            if not row.closed:
                source = old.pop(name.segment, None) or _Source(name, row)
                source.name, source.row = name, row
                self._sources.setdefault(name.writer, []).append(source)
        for source in old.values():
            source.close()

    # --- reading

    def _step_writer(self, sources: list[_Source]) -> Step | None:
        """A step in the oldest unread segment of a writer."""
        source = sources[0]
        try:
            step = self._step_source(source)
        except FileNotFoundError:
            self._listed_mtime_ns = -1
            return None
        except OSError as err:
            self.problem = f"cannot read {source.name.segment}: {err.strerror or err}"
            count_swallowed("segment_not_read")
            return None
        if step is not None:
            self._rows[source.row.name] = source.row = step.segment
            if step.segment.closed:
                source.close()
                sources.pop(0)
        return step

    def _step_source(self, source: _Source) -> Step | None:
        try:
            file = source.open(self._directory)
        except ValueError:  # a sealed segment without a seek table: nothing in it can be found
            offset, size = source.row.offset, (self._directory / f"{source.name.segment}.zst").stat().st_size
            return self._done(source, [Damage(offset, size)], offset + size)
        sealed = source.name.sealed or file.sealed
        grows = source.name.number == self._newest[source.name.writer] and not sealed
        # The mark may still name a segment that has been sealed, whose plain file is open here.
        offset, size = source.row.offset, file.size if sealed else durable.readable_bytes(self._directory, file)
        if offset >= size:
            return None if grows else self._done(source, [], offset)
        content = _read(file, offset, min(source.window_bytes, size - offset))
        if content is None:
            end = file.frame_end(offset)
            return self._done(source, [Damage(offset, end - offset)], end, closed=end >= size)
        whole = not grows and offset + len(content) >= size
        items, end = self._scan(source, content, whole)
        footer = bool(items) and isinstance(items[-1], Located) and items[-1].record.kind == "footer"
        if end > offset or whole:
            return self._done(source, items, end, closed=whole or (footer and end >= size))
        return self._stuck(source, content, offset + len(content) < size)

    def _done(self, source: _Source, items: list[Located | Damage], end: int, *, closed: bool = True) -> Step:
        source.window_bytes = WINDOW_BYTES
        source.cut_since = None
        return Step(source.row._replace(offset=end, closed=closed), items, end - source.row.offset)

    def _stuck(self, source: _Source, content: bytes, more: bool) -> Step | None:
        """Not one whole record in a window: take a larger one, or wait, or give up on what no window can hold."""
        if more and source.window_bytes < WINDOW_BYTES_MAX:
            source.window_bytes *= 4
            return self._step_source(source)
        if more:
            damage = Damage(source.row.offset, len(content))
            return self._done(source, [damage], damage.offset + damage.size, closed=False)
        source.cut_since = source.cut_since or self._clock()
        return None

    def _scan(self, source: _Source, content: bytes, closed: bool) -> tuple[list[Located | Damage], int]:
        """The records in a window, and the offset of what follows them."""
        begin = offset = source.row.offset
        if offset == 0 and source.name.format == "cbor":
            skipped = _header_bytes(content)
            if skipped == 0 and not closed:
                return [], 0
            begin = skipped or 0
        impatient = source.cut_since is not None and self._clock() - source.cut_since > CUT_FOR_S_MAX
        items = list(window.scan(source.name.format, content[begin - offset :], begin, closed=closed, resync=impatient))
        return items, (items[-1].offset + items[-1].size if items else begin)


def _read(file: SegmentFile, offset: int, size: int) -> bytes | None:
    """Bytes from `offset`, of a damaged sealed segment those before the next damaged frame; None if that is this one."""
    for end in (offset + size, file.frame_end(offset)):
        try:
            return file.read(offset, end - offset)
        except ValueError:
            continue
    return None


def _header_bytes(content: bytes) -> int | None:
    """The length of the header, 0 if it is not there whole yet, None if something else is there: damage."""
    try:
        return segment.skip_header(content)
    except DamageError:
        return None
