"""Entries out of a CBOR V2 file of any program, which has neither lengths nor checksums. Does no I/O; never raises for bytes.

    header  {"magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at", "session_id", "metadata"}
    entry   {"ts": float, "dir": int, "seq": int, "data": bytes, "enc"?: "zlib", "meta"?: map}

What is no entry is skipped up to the next place where one begins, and counted: an item of another type, a body that does
not inflate, bytes that are no CBOR. A header in the middle begins the next segment. What is cut at the end is not there.
"""

import io
import re
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

import cbor2

from llmdump.inspecting.entry import Entry
from llmdump.segment import V2_MAGIC, V2_VERSION

DATA_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one inflated payload."""
CANDIDATES_MAX: Final = 256
"""Places behind a cut that are looked at for an entry: each costs a copy of the window."""
# A map with a `ts` first, as any order of keys that is used has it; or a header.
_BEGIN: Final = re.compile(rb"[\xa3-\xaf\xb8\xbf].?\x62ts[\xc1\xf9\xfa\xfb\x1a\x1b]|[\xa2-\xaf\xbf]\x65magic", re.DOTALL)


class BadHeaderError(ValueError):
    """This is no CBOR V2 file; the message says why."""


class Header(NamedTuple):
    """What the first item says."""

    session_id: str
    created_at: float | None
    metadata: dict[str, Any]


class Skipped(NamedTuple):
    """Bytes that are no entry."""

    offset: int
    size: int
    why: str


class Cut(NamedTuple):
    """More bytes are needed from `offset` on; at the end of the file: a torn tail."""

    offset: int


def header(content: bytes) -> tuple[Header, int] | None:
    """The header and its length; None if more bytes are needed to tell. Raises BadHeaderError."""
    stream = io.BytesIO(content)
    try:
        found: Any = cbor2.CBORDecoder(stream).decode()
    except cbor2.CBORDecodeEOF:
        return None
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError) as err:
        raise BadHeaderError(f"not a capture file: {err}") from err
    return as_header(found), stream.tell()


def as_header(found: Any) -> Header:
    """A decoded item as the header. Raises BadHeaderError."""
    if not isinstance(found, dict):
        raise BadHeaderError(f"not a capture file: it begins with a CBOR {type(found).__name__}, not a map")
    if found.get("magic") != V2_MAGIC:
        raise BadHeaderError(f"not a capture file: its magic is {str(found.get('magic'))[:40]!r}, not {V2_MAGIC!r}")
    if type(found.get("version")) is not int or found["version"] != V2_VERSION:
        raise BadHeaderError(f"capture version {str(found.get('version'))[:20]!r}: only {V2_VERSION} can be read")
    created, metadata = found.get("created_at"), found.get("metadata")
    return Header(
        str(found.get("session_id", "")),
        float(created) if isinstance(created, int | float) else None,
        metadata if isinstance(metadata, dict) else {},
    )


def scan(content: bytes, base: int, last_seq: int, file: str, *, at_end: bool) -> Iterator[Entry | Header | Skipped | Cut]:
    """What is in `content`, which begins at offset `base` with an item. The last one is a `Cut`, if there is a rest.

    `last_seq` is that of the entry before; `at_end`: the file ends where `content` does.
    """
    stream, at = io.BytesIO(content), 0
    decoder = cbor2.CBORDecoder(stream)
    while at < len(content):
        stream.seek(at)
        try:
            item = decoder.decode()
            end, found = stream.tell(), _entry(item, last_seq + 1, file)
        except cbor2.CBORDecodeEOF:
            behind = _after_eof(content, at, last_seq) if at_end or not _BEGIN.match(content, at) else -1
            if behind < 0:
                yield Cut(base + at)
                return
            end, found = behind, _NO_CBOR
        except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError):
            end, found = _next(content, at + 1), _NO_CBOR
        if found == _NO_CBOR:
            decoder = cbor2.CBORDecoder(stream)  # one that has failed goes on failing
        if found == _NO_MAP:
            end = max(end, _next(content, at + 1))
        if isinstance(found, str):
            if end >= len(content) and not at_end:
                end = max(at + 1, len(content) - _OVERLAP_BYTES)
            yield Skipped(base + at, end - at, found)
        else:
            last_seq = found.seq if isinstance(found, Entry) else -1
            yield found
        at = end


_NO_CBOR: Final = "not CBOR"
_NO_MAP: Final = "an item that is no map"
_OVERLAP_BYTES: Final = 16


def _next(content: bytes, at: int) -> int:
    """Where an entry or a header may begin next."""
    found = _BEGIN.search(content, at)
    return found.start() if found else len(content)


def _after_eof(content: bytes, at: int, last_seq: int) -> int:
    """Where a whole entry begins behind what needs more bytes than there are; -1 if nowhere: then it is cut.

    Only one with a later number: a body may hold a capture file.
    """
    begin = _next(content, at + 1)
    for _ in range(CANDIDATES_MAX):
        if begin >= len(content):
            break
        try:
            item = cbor2.CBORDecoder(io.BytesIO(content[begin:])).decode()
            found = _entry(item, 0, "")
            if isinstance(found, Header) or (isinstance(found, Entry) and found.seq > last_seq):
                return begin
        except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError):
            pass
        begin = _next(content, begin + 1)
    return -1


def _entry(item: Any, seq: int, file: str) -> Entry | Header | str:
    """A decoded item as what it is, or why it is nothing."""
    if not isinstance(item, dict):
        return _NO_MAP
    if "magic" in item:
        try:
            return as_header(item)
        except BadHeaderError as err:
            return str(err)
    ts, data, meta = _seconds(item.get("ts")), item.get("data"), item.get("meta")
    if ts is None or not isinstance(data, bytes | str | None):
        return "a map that is no entry"
    own, direction = item.get("seq"), item.get("dir")
    entry = Entry(
        own if isinstance(own, int) else seq,
        ts,
        direction if isinstance(direction, int) and direction >= 0 else 255,
        data.encode() if isinstance(data, str) else data or b"",
        {str(key): value for key, value in meta.items()} if isinstance(meta, dict) else {},
        file,
    )
    return _inflated(entry, item.get("enc"))


def _seconds(value: Any) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def _inflated(entry: Entry, encoding: Any) -> Entry | str:
    if encoding is None:
        return entry
    if encoding != "zlib":
        entry.flag = f"unknown encoding {str(encoding)[:40]!r}, shown as it is"
        return entry
    try:
        inflate = zlib.decompressobj()
        entry.data = inflate.decompress(entry.data, DATA_BYTES_MAX)
    except zlib.error as err:
        return f"a payload that does not inflate ({err})"
    if not inflate.eof:
        entry.flag = "payload cut: it is not whole, or beyond the limit"
    return entry
