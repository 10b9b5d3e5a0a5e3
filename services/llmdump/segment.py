"""Segment files: how they are named, begun, read, tailed, and found again after sealing.

    <writer>-<number>.<format>[.zst]        w0-00000001.cbor, w0-00000001.jsonl, w0-00000001.cbor.zst

A CBOR segment is a CBOR sequence (RFC 8742) in the V2 capture profile: a header map, then records (see `record`):

    a5 "magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at": <float64>, "session_id": "w0-00000001",
       "metadata": {"config_file": null, "x_format": 1, "x_writer": "w0", "x_segment": 1}
    <record> <record> …  and, once closed, a last record of kind `footer`

A JSONL segment holds the same records as lines (see `jsonl`). Offsets are those of the plain file, before and after
sealing: a sealed file is a series of zstd frames with a seek table (see `seekable`), its content the plain file's.

Reading rules. The writer appends; a batch that is cut short at the end of the file is not there yet (a torn tail is end
of file, not damage). Something that is not a record with bytes after it is damage: it is skipped up to the next place
where a whole record begins, counted, and never stops the reading.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import cbor2

from llmdump import record
from llmdump.record import DamageError, Record
from llmdump.seekable import SealedFile

V2_MAGIC: Final = "LLMPROXY-CAPTURE-V2"
V2_VERSION: Final = 2
FORMAT: Final = 1
_NAME = re.compile(r"(w\d+)-(\d{8})\.(cbor|jsonl)(\.zst)?")
_HEADER_BYTES_MAX: Final = 4096
_CBOR_MAP: Final = 5


class Name(NamedTuple):
    """What a segment file's name says."""

    writer: str
    number: int
    format: str
    """`cbor` or `jsonl`."""
    sealed: bool = False

    @property
    def segment(self) -> str:
        """The name without the seal: how the index refers to the segment for ever."""
        return f"{self.writer}-{self.number:08d}.{self.format}"

    @property
    def file(self) -> str:
        """The file's name."""
        return self.segment + (".zst" if self.sealed else "")


def parse_name(file: str) -> Name | None:
    """The parts of a segment file's name, or None if it is not one."""
    found = _NAME.fullmatch(file)
    return Name(found[1], int(found[2]), found[3], found[4] is not None) if found else None


def find(directory: Path) -> list[Name]:
    """All segments in a directory, oldest first for each writer; a sealed file hides its plain twin. Blocking."""
    names: dict[str, Name] = {}
    for entry in directory.iterdir():
        name = parse_name(entry.name)
        if name and (name.sealed or name.segment not in names):
            names[name.segment] = name
    return sorted(names.values(), key=lambda name: (name.writer, name.number, name.format))


def is_there(directory: Path, segment: str) -> bool:
    """Whether there is a file of this segment. Blocking.

    Asked of the files, plain before sealed: a listing may miss both while one becomes the other.
    """
    return (directory / segment).exists() or (directory / f"{segment}.zst").exists()


def header(writer: str, number: int, created_at: float) -> bytes:
    """The first item of a CBOR segment."""
    return cbor2.dumps(
        {
            "magic": V2_MAGIC,
            "version": V2_VERSION,
            "created_at": created_at,
            "session_id": f"{writer}-{number:08d}",
            "metadata": {"config_file": None, "x_format": FORMAT, "x_writer": writer, "x_segment": number},
        }
    )


class Located(NamedTuple):
    """A record and where it stands in its (plain) segment file."""

    offset: int
    size: int
    record: Record


class Damage(NamedTuple):
    """Bytes of a segment that are not a record."""

    offset: int
    size: int


def skip_header(content: bytes) -> int:
    """The length of the header at the beginning of a CBOR segment, or 0 if it is not there whole yet.

    Raises DamageError if it is another format; the message names it.
    """
    if content and content[0] >> 5 != _CBOR_MAP:
        raise DamageError("not a capture file: it does not begin with a CBOR map")
    stream = io.BytesIO(content[:_HEADER_BYTES_MAX])
    try:
        found: Any = cbor2.CBORDecoder(stream).decode()
    except cbor2.CBORDecodeEOF as err:
        if len(content) >= _HEADER_BYTES_MAX:
            raise DamageError(f"not a capture file: no header within {_HEADER_BYTES_MAX} bytes") from err
        return 0
    except (cbor2.CBORDecodeError, ValueError) as err:
        raise DamageError(f"not a capture file: {err}") from err
    if not isinstance(found, dict) or found.get("magic") != V2_MAGIC or found.get("version") != V2_VERSION:
        raise DamageError("not a capture file of version 2")
    end = stream.tell()
    if record.MAGIC in content[: end + len(record.MAGIC) - 1]:
        raise DamageError("not a capture file: its header reaches into the first record")
    return end


def scan(content: bytes, base: int = 0, *, closed: bool = False, resync: bool = False) -> Iterator[Located | Damage]:
    """The records in `content`, which begins at offset `base` of a CBOR segment, just at a record. Does no I/O.

    `content` may end anywhere: what may still become a record when more is read is not there yet. With `closed`, nothing
    more will come, and what is cut is damage. `resync`: take for damage what looks cut, if whole records follow.
    """
    at, last, view, before = 0, None, memoryview(content), 0
    while at < len(content):
        found = _record_at(view, at, meta=at > before)
        if found:
            size, whole = found
            yield Located(base + at, size, whole)
            last = record.seq_of(view, at)
            at = before = at + size
            continue
        end = _end_of_damage(content, at, last, may_be_cut=not (closed or resync))
        if end < 0 and not closed:
            return
        end = end if end >= 0 else len(content)
        yield Damage(base + at, end - at)
        at = end


def _end_of_damage(content: bytes, at: int, last: int | None, *, may_be_cut: bool) -> int:
    """Where a record begins again behind what is none at `at`; -1 if that is not in `content`. `last`: the `seq` before.

    A body holds whatever clients send, a capture file for example. So a record whose layout is whole is passed over as one,
    and else only a record that can stand here, by its `seq`, is taken for one.
    """
    try:
        size = record.measure(content, at)
    except DamageError:
        size = -1
    if size > 0 and content.startswith(record.MAGIC, at + size):
        return at + size
    if may_be_cut and (size == 0 or at + size > len(content)):
        return -1
    return _next_record(content, at, _seq_before(content, at) if last is None else last)


def _record_at(view: memoryview, at: int, *, meta: bool) -> tuple[int, Record] | None:
    """The whole and undamaged record at `at` with its size, else None.

    `meta` looks into that as well: behind damage, what looks like a record may be part of a captured body.
    """
    try:
        size = record.measure(view, at)
        if not size or at + size > len(view):
            return None
        found = record.decode(view[at : at + size])
        return (size, found) if not meta or isinstance(found.meta, dict) else None
    except DamageError:
        return None


def _seq_before(content: bytes, at: int) -> int | None:
    """What the damaged record itself says, if it does."""
    head = content[at : at + record.SEQ_AT + 8]
    whole = head.startswith(record.MAGIC) and len(head) == record.SEQ_AT + 8 and head[18 : record.SEQ_AT] == b"\x63seq\x1b"
    return record.seq_of(head, 0) - 1 if whole else None


def _next_record(content: bytes, damage_at: int, last: int | None) -> int:
    """Where the next whole record begins behind damage; -1 if there is none.

    That is the first to which the `seq` says that one record is lost, or none; else the first that can stand there.
    """
    view, possible = memoryview(content), -1
    at = content.find(record.MAGIC, damage_at + 1)
    while 0 <= at <= len(content) - record.EMPTY_RECORD_BYTES:
        seq = record.seq_of(view, at)
        certain = last is None or last < seq <= last + 2
        if (certain or (possible < 0 and _can_stand(seq, last, at - damage_at))) and _record_at(view, at, meta=True):
            if certain:
                return at
            possible = at
        at = content.find(record.MAGIC, at + 1)
    return possible


def _can_stand(seq: int, last: int | None, damaged_bytes: int) -> bool:
    """Whether a record with this `seq` can come so many bytes behind the one with the `seq` `last`."""
    return last is None or last <= seq <= last + 1 + damaged_bytes // record.EMPTY_RECORD_BYTES


class SegmentFile:
    """One segment, plain or sealed, read by offsets of the plain file. Close it, or use it in a `with`."""

    def __init__(self, directory: Path, segment: str) -> None:
        """Open by the name the index uses (`w0-00000001.cbor`). Blocking. Raises FileNotFoundError, ValueError."""
        name = parse_name(segment)
        if name is None or name.sealed:
            raise ValueError(f"{segment!r} is not the name of a segment")
        self.name = name
        self._plain: BinaryIO | None = None
        try:
            self._plain = (directory / segment).open("rb", buffering=0)
        except FileNotFoundError:
            self._sealed = SealedFile(directory / f"{segment}.zst")

    @property
    def sealed(self) -> bool:
        """Whether this is the sealed form, to which nothing is ever added."""
        return self._plain is None

    @property
    def size(self) -> int:
        """Bytes of the plain file, now."""
        return os.fstat(self._plain.fileno()).st_size if self._plain else self._sealed.size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file. Blocking; a sealed file decompresses a frame."""
        return os.pread(self._plain.fileno(), size, offset) if self._plain else self._sealed.read(offset, size)

    def frame_end(self, offset: int) -> int:
        """Where reading can go on if `read` raised ValueError at `offset`: behind the sealed file's damaged frame."""
        return self.size if self._plain else next(at for at in self._sealed.frame_offsets if at > offset or at == self.size)

    def close(self) -> None:
        """Close the file."""
        (self._plain or self._sealed).close()

    def __enter__(self) -> "SegmentFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
