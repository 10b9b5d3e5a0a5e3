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

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import cbor2

from llmdump import record
from llmdump.record import DamageError, Record

V2_MAGIC: Final = "LLMPROXY-CAPTURE-V2"
V2_VERSION: Final = 2
FORMAT: Final = 1
_NAME = re.compile(r"(w\d+)-(\d{8})\.(cbor|jsonl)(\.zst)?")
_HEADER_BYTES_MAX: Final = 4096


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
    decoder_input = content[:_HEADER_BYTES_MAX]
    at = decoder_input.find(record.MAGIC)
    whole = decoder_input if at < 0 else decoder_input[:at]
    try:
        found: Any = cbor2.loads(whole)
    except cbor2.CBORDecodeEOF:
        return 0
    except (cbor2.CBORDecodeError, ValueError) as err:
        raise DamageError(f"not a capture file: {err}") from err
    if not isinstance(found, dict) or found.get("magic") != V2_MAGIC or found.get("version") != V2_VERSION:
        raise DamageError("not a capture file of version 2")
    return len(whole)


def scan(content: bytes, base: int = 0, *, closed: bool = False) -> Iterator[Located | Damage]:
    """The records in `content`, which begins at offset `base` of a CBOR segment, just at a record.

    Ends at the last whole record: what follows is not there yet. With `closed`, nothing more will come, and what
    follows is damage. Does no I/O.
    """
    at, view = 0, memoryview(content)
    while at < len(content):
        size = _whole_record(view, at)
        if size:
            yield Located(base + at, size, record.decode(view[at : at + size]))
            at += size
            continue
        next_at = _next_record(content, at + 1)
        if next_at < 0 and not closed:
            return
        end = next_at if next_at >= 0 else len(content)
        yield Damage(base + at, end - at)
        at = end


def _whole_record(view: memoryview, at: int) -> int:
    """The size of the whole and undamaged record at `at`, else 0."""
    try:
        size = record.measure(view[at:], 0)
    except DamageError:
        return 0
    whole = size and at + size <= len(view) and record.is_whole(view[at : at + size])
    return size if whole else 0


def _next_record(content: bytes, at: int) -> int:
    """Where the next whole record begins, at or after `at`; -1 if there is none."""
    view = memoryview(content)
    at = content.find(record.MAGIC, at)
    while at >= 0 and not _whole_record(view, at):
        at = content.find(record.MAGIC, at + 1)
    return at
