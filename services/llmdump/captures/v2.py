"""Entries out of a CBOR V2 file of any program, which has neither lengths nor checksums. Does no I/O; never raises for bytes.

    header  {"magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at", "session_id", "metadata"}
    entry   {"ts": float, "dir": int, "seq": int, "data": bytes, "enc"?: "zlib", "meta"?: map}

What is no entry is skipped up to the next place where one begins, and counted: an item of another type, a body that does
not inflate, bytes that are no CBOR. A header in the middle begins the next segment. What is cut at the end is not there.
Batches of other programs are written concurrently, so their entries may stand in another order than they were made in.
"""

import heapq
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import cbor2

from llmdump import record
from llmdump.captures.entry import Entry
from llmdump.segment import V2_MAGIC, V2_VERSION

WINDOW_BYTES: Final = 1024 * 1024
WINDOW_BYTES_MAX: Final = record.RECORD_BYTES_MAX + WINDOW_BYTES
"""What no entry exceeds. Our own exports have a whole body in one."""
DATA_BYTES_MAX: Final = record.RECORD_BYTES_MAX
"""Of one inflated payload."""
HEADER_BYTES_MAX: Final = 1024 * 1024
ORDER_MAX: Final = 2048
"""Entries that wait for one with a lower number."""
ORDER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Their bytes."""
CANDIDATES_MAX: Final = 256
"""Places behind a cut that are looked at for an entry."""
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
    """A torn tail: what the file ends with is an entry of which there is not all."""

    offset: int
    size: int


Item = Entry | Header | Skipped | Cut
T = TypeVar("T")


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


def begin(more: Callable[[int], bytes], content: bytes = b"") -> tuple[Header, int, bytes]:
    """The header, its length, and what was read behind it. Raises BadHeaderError, and what `more` raises.

    `more` gives the next bytes of the file, at most so many and none at its end; `content` is what it has given already.
    """
    while (found := header(content)) is None:
        piece = more(WINDOW_BYTES) if len(content) < HEADER_BYTES_MAX else b""
        if not piece:
            raise BadHeaderError("not a capture file: its header is cut short" if content else "the file is empty")
        content += piece
    return found[0], found[1], content[found[1] :]


def read(more: Callable[[int], bytes], content: bytes, base: int, file: str = "") -> Iterator[Item]:
    """What follows the header, as it stands in the file. `more` as for `begin`; `content` was read and begins at `base`.

    Memory is a window, which grows to `WINDOW_BYTES_MAX` with the largest entry.
    """
    last_seq, is_over = -1, False
    while True:
        end, cut = base + len(content), None
        is_all = is_over or len(content) > WINDOW_BYTES_MAX
        for found in scan(content, base, last_seq, file, at_end=is_all):
            if isinstance(found, Cut):
                cut, end = found, end if is_all else found.offset
                continue
            if not isinstance(found, Skipped):
                last_seq = found.seq if isinstance(found, Entry) else -1
            yield found
        if is_over:
            yield from [cut] if cut else []
            return
        if is_all and cut:
            yield Skipped(cut.offset, cut.size, _TOO_LARGE)
        want = WINDOW_BYTES if end > base else max(WINDOW_BYTES, len(content))
        content, base = content[end - base :], end
        piece = more(want)
        is_over = not piece
        content += piece


def in_order(found: Iterable[T]) -> Iterator[T]:
    """The same, entries by their number as far as they are near; a header begins anew, and what is no entry does not wait."""
    waiting: list[tuple[int, int, T]] = []
    held_bytes = 0
    for index, item in enumerate(found):
        if isinstance(item, Entry):
            heapq.heappush(waiting, (item.seq, index, item))
            held_bytes += len(item.data)
            while len(waiting) > ORDER_MAX or held_bytes > ORDER_BYTES_MAX:
                first = heapq.heappop(waiting)[2]
                held_bytes -= len(first.data) if isinstance(first, Entry) else 0
                yield first
            continue
        while isinstance(item, Header) and waiting:
            yield heapq.heappop(waiting)[2]
        held_bytes = 0 if isinstance(item, Header) else held_bytes
        yield item
    while waiting:
        yield heapq.heappop(waiting)[2]


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


def scan(content: bytes, base: int, last_seq: int, file: str, *, at_end: bool) -> Iterator[Item]:
    """What is in `content`, which begins at offset `base` with an item. The last one is a `Cut`, if there is a rest.

    `last_seq` is that of the entry before; `at_end`: the file ends where `content` does.
    """
    stream, at = io.BytesIO(content), 0
    decoder = cbor2.CBORDecoder(stream)
    while at < len(content):
        stream.seek(at)
        try:
            item = decoder.decode()
            end, found = stream.tell(), entry(item, last_seq + 1, file, base + at)
        except cbor2.CBORDecodeEOF:
            behind = _after_eof(content, at, last_seq) if at_end or not _BEGIN.match(content, at) else -1
            if behind < 0:
                yield Cut(base + at, len(content) - at)
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
_TOO_LARGE: Final = "no entry is so large"
_OVERLAP_BYTES: Final = 16


def _next(content: bytes, at: int) -> int:
    """Where an entry or a header may begin next."""
    found = _BEGIN.search(content, at)
    return found.start() if found else len(content)


def _after_eof(content: bytes, at: int, last_seq: int) -> int:
    """Where a whole entry begins behind what needs more bytes than there are; -1 if nowhere: then it is cut.

    Only one with a later number: a body may hold a capture file.
    """
    place = _next(content, at + 1)
    stream = io.BytesIO(content)
    for _ in range(CANDIDATES_MAX):
        if place >= len(content):
            break
        stream.seek(place)
        try:
            found = entry(cbor2.CBORDecoder(stream).decode(), 0)
            if isinstance(found, Header) or (isinstance(found, Entry) and found.seq > last_seq):
                return place
        except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError):
            pass
        place = _next(content, place + 1)
    return -1


def entry(item: Any, seq: int = 0, file: str = "", offset: int = -1) -> Entry | Header | str:
    """A decoded item as what it is, or why it is nothing. `seq` is for an entry without its number."""
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
    made = Entry(
        own if isinstance(own, int) else seq,
        ts,
        direction if isinstance(direction, int) and direction >= 0 else 255,
        data.encode() if isinstance(data, str) else data or b"",
        {str(key): value for key, value in meta.items()} if isinstance(meta, dict) else {},
        file,
        offset,
    )
    return _inflated(made, item.get("enc"))


def _seconds(value: Any) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def _inflated(made: Entry, encoding: Any) -> Entry | str:
    if encoding is None:
        return made
    if encoding != "zlib":
        made.flag = f"unknown encoding {str(encoding)[:40]!r}, shown as it is"
        return made
    try:
        inflate = zlib.decompressobj()
        made.data = inflate.decompress(made.data, DATA_BYTES_MAX)
    except zlib.error as err:
        return f"a payload that does not inflate ({err})"
    if not inflate.eof:
        made.flag = "payload cut: it is not whole, or beyond the limit"
    return made
