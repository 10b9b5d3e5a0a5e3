"""All segment files of a directory read once, every checksum, and what they show of each proxy instance.

Nothing is held but ranges: a few numbers for each instance and writer, whatever the size of the capture. The files are
listed once, at the beginning, and each is read to where it ends by then or a little later, so a writer may go on.

A writer stores the numbers of an instance in rising order. So what stood in a damaged place had numbers between those
of its neighbours within the file, and what stood in a segment that is not there, between those of the segments around it.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmdump import durable, ledger, pins, ranges, segment, window
from llmdump.certificate import DAMAGED, DELETED, Hole, Retired
from llmdump.ledger import Gap, Runs
from llmdump.positions import WINDOW_BYTES, WINDOW_BYTES_MAX
from llmdump.ranges import Ranges
from llmdump.record import DamageError, Record
from llmdump.retention import Note
from llmdump.segment import Damage, Located, Name, SegmentFile
from llmdump.values import integer

_LOOK_EVERY_S: Final = 0.05

ReadTo = Callable[[Name], float | None]
"""How many bytes of a segment the index has read, infinity for all there will be; None: it reads the other format of it."""


class Seen:
    """What the files show of one instance."""

    __slots__ = (
        "_runs", "abouts", "before", "beyond", "first_within", "gaps", "holes", "last", "last_ts", "last_within", "made",
        "retired", "stored",
    )  # fmt: skip

    def __init__(self) -> None:
        self._runs: dict[str, Runs] = {}
        self.beyond = Runs()
        """Numbers in bytes that the index had not read when the survey began."""
        self.abouts: list[ledger.About] = []
        """What hello and bye say."""
        self.gaps: list[Gap] = []
        self.holes: list[Hole] = []
        self.stored: dict[str, int] = {}
        """The highest number in the files of each writer that has any."""
        self.retired: list[Retired] = []
        self.made = 0
        """The highest number of which there is any trace."""
        self.before = 0
        """The highest number of which it is known that it is from before the window."""
        self.last = 0
        """The highest number that is there, made at `last_ts`, seconds."""
        self.last_ts = 0.0
        self.first_within: int | None = None
        """The lowest number from the beginning of the window on."""
        self.last_within: int | None = None
        """The highest number before the end of the window."""

    def add(self, name: Name, found: Record) -> bool:
        """Take in a record; False if the files of this format had it before."""
        number = found.number
        if number > self.last:
            self.last, self.last_ts = number, found.ts
        self.made = max(self.made, number)
        runs = self._runs.get(name.format)
        if runs is None:
            runs = self._runs[name.format] = Runs()
        return runs.add(number)

    def tell(self, found: Record) -> None:
        """Take in what a record says of the instance."""
        about = ledger.about(found)
        if about is not None:
            self.abouts.append(about)
            self.made = max(self.made, about.bye_last or 0)
        if found.kind == "gap":
            self.gaps += ledger.gaps(found)
            self.made = max([self.made, *(gap.last for gap in self.gaps)])

    @property
    def present(self) -> Ranges:
        """The numbers that are there, in one format or the other."""
        return ranges.merged(pair for runs in self._runs.values() for pair in runs.runs())


class Survey:
    """What all files show."""

    def __init__(self, since_s: float = -math.inf, until_s: float = math.inf) -> None:
        """The window is [since, until), seconds since 1970."""
        self.instances: dict[str, Seen] = {}
        self.damages: list[tuple[str, Damage]] = []
        """Places in files that are no record; the offset counts in the plain file."""
        self.deleted: list[str] = []
        """Segments that are not there and that no note calls deleted, as ranges of names."""
        self.files = self.records = self.bytes = self.duplicates = 0
        self.pinned = 0
        """Pinned files."""
        self.torn_bytes = 0
        """Behind the last whole and durable record of files that may still grow."""
        self._since_s = since_s
        self._until_s = until_s

    def of(self, instance: str) -> Seen:
        """What is known of an instance."""
        found = self.instances.get(instance)
        if found is None:
            found = self.instances[instance] = Seen()
        return found

    def read(
        self,
        data: Path,
        known: Iterable[Name],
        retired: Iterable[Note],
        read_to: ReadTo,
        patience_s: float,
        advance: Callable[[int], None],
    ) -> None:
        """Read all segments in `data`. Blocking. Raises OSError.

        `known` are further segments that there have been, `retired` those of them that retention deleted. `patience_s`: how
        long a tail that looks cut, with whole records after it, may still be being written. `advance` hears of bytes read.
        """
        names = segment.find(data)
        numbers: dict[str, set[int]] = {}
        gone = {(note.writer, note.number) for note in retired}
        for name in (*names, *known, *(Name(writer, number, "cbor") for writer, number in gone)):
            numbers.setdefault(name.writer, set()).add(name.number)
        writers = [_Writer(writer, self, data, read_to, advance) for writer in sorted(numbers)]
        for writer, (slot, ever) in zip(writers, sorted(numbers.items()), strict=True):
            there = [name for name in names if name.writer == slot]
            writer.read(there, max(ever), ranges.merged((number, number) for one, number in gone if one == slot), patience_s)
        for writer in writers:
            writer.finish()

    def look_at_pinned(self, path: Path) -> None:
        """Compute the checksums in a pinned file; its records are copies, and count for nothing. Blocking. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            damages = [item for item in pins.scan(path) if isinstance(item, Damage)]
            self.damages += [(f"{path.parent.name}/{path.name}", damage) for damage in damages]
            self.pinned += 1

    def retire(self, notes: Iterable[Note]) -> None:
        """Take in what retention has deleted, once all is read."""
        for note in notes:
            for instance, one in note.retired():
                seen = self.of(instance)
                seen.retired.append(one)
                seen.made = max(seen.made, one.last)
                seen.stored[note.writer] = max(one.last, seen.stored.get(note.writer, 0))
                if note.at < self._since_s:
                    seen.before = max(seen.before, one.last)

    def note(self, name: Name, found: Record, beyond: bool) -> None:
        """Take in a record of a file."""
        self.records += 1
        if found.kind == "footer":
            self._footer(found.meta)
            return
        seen = self.of(found.instance)
        if not seen.add(name, found):
            self.duplicates += 1
        if beyond:
            seen.beyond.add(found.number)
        if found.kind in {"hello", "gap", "bye"}:
            seen.tell(found)
        if found.ts >= self._since_s:
            seen.first_within = min(found.number, seen.first_within or found.number)
        if found.ts < self._until_s:
            seen.last_within = max(found.number, seen.last_within or 0)

    def _footer(self, meta: dict[str, Any]) -> None:
        """A footer says what its segment held: of the last records there may be no other trace."""
        spans = meta.get("x_instances")
        for instance, span in spans.items() if isinstance(spans, dict) else ():
            last = integer(span[1], 0) if isinstance(span, list) and len(span) == 3 else 0
            seen = self.of(instance)
            seen.made = max(seen.made, last)


class _Place(NamedTuple):
    """Where records may be missing."""

    reason: str
    where: str


class _Order:
    """The rising numbers of each instance in a row of files, and the places in it where some may be missing."""

    def __init__(self, survey: Survey) -> None:
        self.last: dict[str, int] = {}
        self._survey = survey
        self._places: list[_Place] = []
        self._closed: dict[str, int] = {}

    def place(self, reason: str, where: str) -> None:
        """Here records may be missing."""
        self._places.append(_Place(reason, where))

    def record(self, instance: str, number: int) -> None:
        """The next record."""
        if self._places:
            self._close(instance, number)
        if number > self.last.get(instance, 0):
            self.last[instance] = number

    def finish(self) -> None:
        """There is no more."""
        for instance in self._survey.instances:
            self._close(instance, None)

    def _close(self, instance: str, number: int | None) -> None:
        begin = self._closed.get(instance, 0)
        if begin == len(self._places):
            return
        self._closed[instance] = len(self._places)
        after = self.last.get(instance, 0)
        if number is None or number > after + 1:
            holes = self._survey.of(instance).holes
            holes += [Hole(place.reason, place.where, after, number) for place in self._places[begin:]]


class _Writer:
    """The files of one writer, read in order."""

    def __init__(self, writer: str, survey: Survey, data: Path, read_to: ReadTo, advance: Callable[[int], None]) -> None:
        self._writer = writer
        self._survey = survey
        self._data = data
        self._read_to = read_to
        self._advance = advance
        self._all = _Order(survey)
        self._formats = {"cbor": _Order(survey), "jsonl": _Order(survey)}

    def read(self, names: list[Name], last_number: int, gone: Ranges, patience_s: float) -> None:
        """Read `names`; there have been segments up to `last_number`, of which retention deleted those in `gone`."""
        newest = max((name.number for name in names), default=0)
        expected = 1
        for name in names:
            self._skip(expected, name.number, gone)
            expected = name.number + 1
            self._file(name, patience_s if name.number == newest and not name.sealed else None)
        self._skip(expected, last_number + 1, gone)

    def finish(self) -> None:
        """All writers have been read, all instances are known."""
        for order in (self._all, *self._formats.values()):
            order.finish()
        for instance, last in self._all.last.items():
            self._survey.of(instance).stored[self._writer] = last

    def _skip(self, number: int, there: int, gone: Ranges) -> None:
        """No segment from `number` on is there before the one that is."""
        if number == there:
            return
        for run in ranges.without([(number, there - 1)], gone):
            names = [f"{self._writer}-{one:08d}" for one in sorted(set(run))]
            self._survey.deleted.append(" … ".join(names))
            self._all.place(DELETED, " … ".join(names))

    def _file(self, name: Name, patience_s: float | None) -> None:
        survey, read_to, order = self._survey, self._read_to(name), self._formats[name.format]
        twin = self._formats["jsonl" if name.format == "cbor" else "cbor"]
        survey.files += 1
        for found in _read(self._data, name, patience_s, survey, self._advance):
            if isinstance(found, Damage):
                survey.damages.append((name.file, found))
                order.place(DAMAGED, f"{name.file} at {found.offset}")
                continue
            instance, number = found.record.instance, found.record.number
            # The file in the other format was read a moment ago, and may have grown since.
            beyond = number > twin.last.get(instance, 0) if read_to is None else found.offset >= read_to
            survey.note(name, found.record, beyond)
            if found.record.kind != "footer":
                order.record(instance, number)
                self._all.record(instance, number)


def _read(
    data: Path, name: Name, patience_s: float | None, survey: Survey, advance: Callable[[int], None]
) -> Iterator[Located | Damage]:
    """The records and the damage of one file. `patience_s` None: nothing is added to it any more.

    Otherwise a tail that is cut short is not there yet; for so long it is waited for if whole records follow it.
    """
    try:
        file = SegmentFile(data, name.segment)
    except FileNotFoundError:
        return  # deleted by a cap since it was listed
    except ValueError:  # sealed, and without the table that says where anything is
        size = (data / name.file).stat().st_size
        survey.bytes += size
        yield Damage(0, size)
        return
    with file:
        size = file.size
        survey.bytes += size
        end = 0
        for behind, item in _scan(file, lambda: durable.readable_bytes(data, file), patience_s, advance):
            end = behind
            if item is not None:
                yield item
        survey.torn_bytes += max(0, size - end)


def _scan(
    file: SegmentFile, readable_bytes: Callable[[], int], patience_s: float | None, advance: Callable[[int], None]
) -> Iterator[tuple[int, Located | Damage | None]]:
    """What is in a file, as far as it can be read now, each with the offset behind it."""
    at, size, want, deadline = 0, readable_bytes(), WINDOW_BYTES, math.inf
    while at < size:
        content = _content(file, at, min(want, size - at))
        if content is None:
            end = file.frame_end(at)
            yield end, Damage(at, end - at)
            at = end
            continue
        ends, begin, resync = at + len(content) >= size, at, time.monotonic() >= deadline
        for item in _items(file, content, at, closed=ends and patience_s is None, resync=resync):
            at = item if isinstance(item, int) else item.offset + item.size
            yield at, None if isinstance(item, int) else item
        advance(at - begin)
        if at > begin:
            want = WINDOW_BYTES
        elif not ends and want < WINDOW_BYTES_MAX:
            want *= 4
        elif not ends:
            yield at + len(content), Damage(at, len(content))
            at += len(content)
        elif resync or (deadline == math.inf and not _looks_damaged(file, content, at)):
            return
        else:
            deadline = min(deadline, time.monotonic() + (patience_s or 0.0))
            time.sleep(_LOOK_EVERY_S)
            size = readable_bytes()


def _content(file: SegmentFile, at: int, size: int) -> bytes | None:
    """Bytes from `at`, of a damaged sealed segment those before the next damaged frame; None if that is this one."""
    for end in (at + size, file.frame_end(at)):
        try:
            return file.read(at, end - at)
        except ValueError:
            continue
    return None


def _items(file: SegmentFile, content: bytes, at: int, *, closed: bool, resync: bool) -> Iterator[Located | Damage | int]:
    """The items of a window; the offset behind the header, at the beginning of a file that has one."""
    skip = 0
    if at == 0 and file.name.format == "cbor":
        try:
            skip = segment.skip_header(content)
            if skip == 0 and not closed:
                return
            yield skip
        except DamageError:
            skip = 0
    yield from window.scan(file.name.format, content[skip:], at + skip, closed=closed, resync=resync)


def _looks_damaged(file: SegmentFile, content: bytes, at: int) -> bool:
    return any(isinstance(item, Damage) for item in _items(file, content, at, closed=False, resync=True))
