"""What a starting writer finds of its own: what it holds of each proxy instance, and leftovers put in order. Blocking.

    <segment>.zst.tmp, *.probe.tmp   a seal or a probe that was cut off                → removed
    sealed and plain                 cut off between rename and unlink                 → the plain one removed
    sealed                           its footer is its last frame                      → read
    plain with a footer              closed                                            → read; to be sealed
    plain without one                active when its writer died, or suspect           → read whole, its torn tail cut
                                     off, synced, given a footer; to be sealed
    plain with no whole record       nothing was ever acknowledged from it             → removed, and its number is used again

After a kill, records may be in the page cache that were never synced; they are read here and so are held from now on:
hence the sync. Where a sync had failed before, the kernel may call pages clean that never reached the disk, and a further
sync would prove nothing: so what lies behind the mark (see `llmdump.durable`) is first written once more.

A segment in two formats is cut back to the records that both files have, for only those were acknowledged.

After a power cut pages may have reached the disk out of order: a hole of zeros, and whole records behind it. Where all that was
acknowledged had been synced, nothing acknowledged lies behind a hole, and held must not rise over it: it is the torn tail.

A writer always goes on in a new segment, numbered above all it finds and all that were deleted: whoever knows a segment
by its name will not look at it again. Numbers have no hole, or it would be taken for a deleted segment: one that is removed
is used again if no reader can have looked at it, which the mark tells (see `llmdump.durable`), else written down as deleted
with no records, before it goes. What retention deleted is held as well (see `llmdump.retention`): nobody needs to send it
again.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from llmdump import durable, footer, jsonl, log, record, segment, window
from llmdump.admin import count_swallowed
from llmdump.footer import Spans
from llmdump.lines import Converter
from llmdump.record import RECORD_BYTES_MAX, DamageError, Record
from llmdump.retention import Notes
from llmdump.seekable import SealedFile
from llmdump.segment import Damage, Located, Name
from llmdump_writer.appender import sync_directory, write_all
from llmdump_writer.catalog import Closed
from llmdump_writer.deletions import Deletions

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Read at a time; more only for a record that is larger."""
FOOTER_BYTES_MAX: Final = 16 * 1024 * 1024
PAGE_BYTES: Final = 4096
"""What reaches a disk whole or not at all; larger pages are several of these."""
_TAIL_BYTES: Final = 64 * 1024

Read = Callable[[int, int], bytes]
"""Bytes of a plain file: (offset, size), fewer at its end."""


class Found(NamedTuple):
    """What a writer starts from."""

    held: dict[str, int]
    """For each instance the highest number, oldest instance first."""
    closed: dict[int, Closed]
    """By number."""
    next_number: int
    unsealed: list[Name]
    torn_bytes: int


class _Whole(NamedTuple):
    """What reading all of a file has shown."""

    spans: Spans
    records: int
    end: int
    """Where the last whole record ends."""


def recover(directory: Path, writer: str, *, synced: bool = False) -> Found:
    """Put the files of `writer` in order and tell what they hold. Raises OSError where the disk refuses that.

    `synced`: whatever was acknowledged had been synced before.
    """
    _remove_leftovers(directory, writer)
    names = [name for name in segment.find(directory) if name.writer == writer]
    notes = _notes(directory)
    held = _held_and_deleted(notes, writer)
    unsealed: list[Name] = []
    closed: dict[int, Closed] = {}
    torn_bytes, last_number = 0, notes.last_number(writer)
    for number in sorted({name.number for name in names}):
        twins = [name for name in names if name.number == number]
        unseen = not any(_may_be_known(directory, name) for name in twins)
        spans, cut, empty = _recover_segment(directory, twins, synced=synced)
        torn_bytes += cut
        _remove(directory, empty, to_note=len(empty) == len(twins) and not unseen)
        for instance, (_, last, _) in spans.items():
            held[instance] = max(last, held.pop(instance, 0))
        stats = {name: (directory / name.file).stat() for name in twins if (directory / name.file).exists()}
        if stats:
            sizes = {name: stat.st_size for name, stat in stats.items()}
            closed[number] = Closed(sizes, max(stat.st_mtime for stat in stats.values()), spans)
        if stats or not unseen:
            last_number = max(number, last_number)
        unsealed += [name for name in twins if not name.sealed and (directory / name.file).exists()]
    return Found(held, closed, last_number + 1, unsealed, torn_bytes)


def _may_be_known(directory: Path, name: Name) -> bool:
    """Whether a reader may have looked at a file: not if its writer never let one."""
    return name.sealed or durable.limit(directory, name) > 0


def _notes(directory: Path) -> Notes:
    """What retention has deleted; a list that cannot be read keeps nobody from capturing."""
    notes = Notes(directory)
    try:
        notes.read()
    except OSError as err:
        count_swallowed("deletion_notes_not_read")
        log.error("deletion_notes_not_read", error=err.strerror or err)
    return notes


def _held_and_deleted(notes: Notes, writer: str) -> dict[str, int]:
    """For each instance the highest number that retention deleted: it was stored, and is not to be sent again."""
    held: dict[str, int] = {}
    for note in (note for note in notes.deleted() if note.writer == writer):
        for instance, (_, last, _) in note.spans.items():
            held[instance] = max(last, held.pop(instance, 0))
    return held


def _remove_leftovers(directory: Path, writer: str) -> None:
    for path in sorted(directory.glob(f"{writer}[-.]*")):
        name = segment.parse_name(path.name)
        if path.name.endswith(".tmp"):
            path.unlink()
        elif name and name.sealed and (directory / name.segment).exists():
            _settle_twins(directory / name.segment, path)


def _settle_twins(plain: Path, sealed: Path) -> None:
    """A sealed file is renamed into place only when it is whole, so it is the plain one that goes; still, look first."""
    try:
        file = SealedFile(sealed)
        whole = file.size == plain.stat().st_size
        file.close()
    except ValueError as err:
        log.error("sealed_file_damaged", file=sealed.name, error=err)
        whole = False
    (plain if whole else sealed).unlink()
    sync_directory(plain.parent)


# --- one segment, in one format or two


def _recover_segment(directory: Path, twins: list[Name], *, synced: bool) -> tuple[Spans, int, list[Name]]:
    """What a segment holds, how many bytes were cut off, and the files that hold nothing."""
    footers = {name: _footer_of(directory, name) for name in twins}
    if all(footers.values()):
        return _merged([footer.spans(found) for found in footers.values() if found]), 0, []
    wholes = {name: _read_whole(directory, name, synced=synced) for name in twins}
    limit = {} if _lacks_its_twin(directory, twins) else _common(list(wholes.values()))
    kept = {name: _within(directory, name, whole, limit, synced=synced) for name, whole in wholes.items()}
    open_ones = [name for name, found in footers.items() if not found and not name.sealed]
    for name in open_ones:
        _write_again(directory / name.file, durable.limit(directory, name), kept[name].end)
    cut = sum(_close(directory / name.file, name, kept[name]) for name in open_ones)
    return _merged([whole.spans for whole in kept.values()]), cut, [name for name in open_ones if not kept[name].records]


def _remove(directory: Path, empty: list[Name], *, to_note: bool) -> None:
    """Files that hold no record. Those that must be written down as deleted stay, cut to nothing, where the disk refuses
    that; the next start tries again."""
    if to_note and not Deletions(directory).note_empty(empty[0].segment):
        for name in empty:
            _cut_to_nothing(directory / name.file)
    else:
        for name in empty:
            (directory / name.file).unlink()
    if empty:
        sync_directory(directory)


def _cut_to_nothing(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _merged(all_spans: list[Spans]) -> Spans:
    merged: Spans = {}
    for spans in all_spans:
        merged |= spans
    return merged


def _common(wholes: list[_Whole]) -> dict[str, int]:
    """For each instance the last number that all files of a segment have."""
    names = {instance for whole in wholes for instance in whole.spans}
    return {one: min(whole.spans[one][1] if one in whole.spans else 0 for whole in wholes) for one in names}


def _lacks_its_twin(directory: Path, twins: list[Name]) -> bool:
    """Whether there should be a second file, of which not even the name reached the disk: then nothing was acknowledged."""
    [name, *more] = twins
    if more or name.sealed or name.format != "jsonl":
        return False
    with (directory / name.file).open("rb") as file:
        first = file.readline(_TAIL_BYTES)
    return b'"x_formats":"both"' in first


def _within(directory: Path, name: Name, whole: _Whole, limit: dict[str, int], *, synced: bool) -> _Whole:
    """The part of a file before the first record that its twin does not have; mostly all of it."""
    within = all(last <= limit.get(instance, 0) for instance, (_, last, _) in whole.spans.items())
    return whole if within else _read_whole(directory, name, limit, synced=synced)


def _write_again(path: Path, begin: int, end: int) -> None:
    """Write the same bytes once more, to be synced by `_close`."""
    if begin >= end:
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        while begin < end and (content := os.pread(fd, min(WINDOW_BYTES, end - begin), begin)):
            begin += os.pwrite(fd, content, begin)
    finally:
        os.close(fd)


def _close(path: Path, name: Name, kept: _Whole) -> int:
    """Cut off what is torn, or not in the twin, and write the footer; how many bytes were cut off. A file that is left
    without a record is not touched, see `_remove`."""
    cut = path.stat().st_size - kept.end
    if kept.records:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        written_ns = os.fstat(fd).st_mtime_ns
        try:
            os.ftruncate(fd, kept.end)
            os.fsync(fd)
            _append_footer(fd, name, kept)
            os.utime(fd, ns=(written_ns, written_ns))  # its age counts from its last record
        finally:
            os.close(fd)
    if cut:
        log.warning("torn_tail_cut", file=name.file, bytes=cut)
    sync_directory(path.parent)
    return cut


def _append_footer(fd: int, name: Name, kept: _Whole) -> None:
    """A footer saves the next start from reading the file, no more: a full disk may refuse it."""
    body = bytearray(footer.encode(time.time(), kept.records, kept.spans))
    if name.format == "jsonl":
        body = bytearray(b"".join(Converter().lines(record.decode(bytes(body)))))
    else:
        record.patch_seq(body, 0, kept.records)
    try:
        write_all(fd, body)
        os.fsync(fd)
    except OSError as err:
        count_swallowed("recovery_footer")
        log.warning("segment_without_footer", file=name.file, error=err.strerror or err)
        os.ftruncate(fd, kept.end)


# --- reading


def _footer_of(directory: Path, name: Name) -> Record | None:
    """The footer of a closed segment, from its end; None where it has none or cannot be read."""
    try:
        if name.sealed:
            return _sealed_footer(directory / name.file, name.format)
        with (directory / name.file).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for tail_bytes in (_TAIL_BYTES, FOOTER_BYTES_MAX):
                begin = max(0, size - tail_bytes)
                found = _last_footer(os.pread(file.fileno(), size - begin, begin), name.format)
                if found or begin == 0:
                    return found
    except ValueError as err:
        count_swallowed("recovery_damage")
        log.error("segment_damaged", file=name.file, error=err)
    return None


def _sealed_footer(path: Path, file_format: str) -> Record | None:
    """From the last frame, which the sealer makes of the footer alone."""
    file = SealedFile(path)
    try:
        begin = file.frame_offsets[max(0, len(file.frame_offsets) - 2)]
        return _last_footer(file.read(begin, file.size - begin), file_format)
    finally:
        file.close()


def _last_footer(tail: bytes, file_format: str) -> Record | None:
    """The footer that ends at the end of `tail`."""
    if file_format == "jsonl":
        begins = [tail.rfind(b"\n", 0, max(0, len(tail) - 1)) + 1]
    else:
        begins = [found.start() for found in re.finditer(re.escape(record.MAGIC), tail)][::-1]
    for begin in begins:
        found = _record_to_end(tail[begin:], file_format)
        if found:
            return found if found.kind == footer.KIND and "x_instances" in found.meta else None
    return None


def _record_to_end(content: bytes, file_format: str) -> Record | None:
    """The record that exactly these bytes are."""
    scan = jsonl.scan if file_format == "jsonl" else segment.scan
    first = next(iter(scan(content)), None)
    return first.record if isinstance(first, Located) and first.size == len(content) else None


def _read_whole(directory: Path, name: Name, limit: dict[str, int] | None = None, *, synced: bool = False) -> _Whole:
    """All records of a file, or those before the first beyond its instance's `limit`."""
    spans: Spans = {}
    records = end = 0
    try:
        with segment.SegmentFile(directory, name.segment) as file:
            limit_bytes = durable.limit(directory, name)
            # A mark that holds is of this boot: there was no power cut.
            until_hole = synced and limit_bytes > file.size
            for located in _records(file.read, name.format, limit_bytes, until_hole=until_hole):
                one = located.record
                if one.kind == footer.KIND:
                    continue
                if limit is not None and one.number > limit.get(one.instance, 0):
                    break
                footer.add(spans, one.instance, one.number)
                records, end = records + 1, located.offset + located.size
    except ValueError as err:
        log.error("segment_damaged", file=name.file, error=err)
    return _Whole(spans, records, end)


def _records(read: Read, file_format: str, durable_bytes: int, *, until_hole: bool) -> Iterator[Located]:
    """The records of a file, read in windows; damage is passed over and counted.

    Where something looks cut short at the end of the file but whole records follow, they are kept if it lies in what was
    durable: rather a damaged place that stays in the file than a cut through what was acknowledged. Behind that it is torn,
    and what looks like records is in a body.
    """
    at = 0 if file_format == "jsonl" else _skip_header(read)
    size = WINDOW_BYTES
    while content := read(at, size):
        before, at_end = at, len(content) < size
        for found in _scan(file_format, content, at, durable_bytes, at_end=at_end):
            at = found.offset + found.size
            if isinstance(found, Damage):
                if until_hole and _has_hole(content[found.offset - before : at - before], found.offset):
                    return
                count_swallowed("recovery_damage")
                log.error("segment_damaged", offset=found.offset, bytes=found.size)
            else:
                yield found
        if at_end or size > 2 * RECORD_BYTES_MAX:
            return
        size = WINDOW_BYTES if at > before else 2 * size


def _has_hole(damage: bytes, offset: int) -> bool:
    """Whether a page of it, or what of its first page lies in it, was never written. No record begins with zeros."""
    first = PAGE_BYTES - offset % PAGE_BYTES
    starts = (0, *range(first, len(damage) - PAGE_BYTES + 1, PAGE_BYTES))
    ends = (first, *(start + PAGE_BYTES for start in starts[1:]))
    return any(not any(damage[start:end]) for start, end in zip(starts, ends, strict=True))


def _scan(file_format: str, content: bytes, base: int, durable_bytes: int, *, at_end: bool) -> Iterator[Located | Damage]:
    at = base
    for found in window.scan(file_format, content, base, closed=False):
        at = found.offset + found.size
        yield found
    if at_end and at < min(durable_bytes, base + len(content)):
        again = window.scan(file_format, content, base, closed=False, resync=True)
        yield from (found for found in again if found.offset >= at)


def _skip_header(read: Read) -> int:
    try:
        return segment.skip_header(read(0, WINDOW_BYTES))
    except DamageError:
        return 0
