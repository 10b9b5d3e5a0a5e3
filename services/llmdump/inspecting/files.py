"""The files that somebody named, read from front to back: entries, and what is none. Blocking.

    a data directory, or its `segments`      all segments, sealed ones too; of two formats of one segment the CBOR one
    any other directory                      the capture files in it, by name
    a file                                   CBOR V2 of any program, JSONL (ours, or the buffered format); each also as .zst

What a file is, its first bytes say, not its name. Entries of other programs come by their number. Nothing is held but a
window of the file, and entries that wait for one with a lower number (see `v2`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from llmdump import durable, jsonl, record, segment, window
from llmdump.captures import buffered, v2
from llmdump.captures.entry import Entry, Mark, of_record
from llmdump.captures.v2 import WINDOW_BYTES, WINDOW_BYTES_MAX, BadHeaderError, Cut, Header, Skipped
from llmdump.inspecting.issues import Issue
from llmdump.seekable import SealedFile, zstd
from llmdump.segment import Damage, SegmentFile

_ZSTD: Final = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_SUFFIXES: Final = (".cbor", ".jsonl", ".log", ".zst")
_SEQUENCE: Final = re.compile(rb'"sequence":([0-9]{1,18})')


class UnreadableError(ValueError):
    """What was named cannot be read; the message says what and why."""


class Source(NamedTuple):
    """One file to be read."""

    path: Path
    segment: str = ""
    """Of a data directory: the segment's name, which it keeps when it is sealed meanwhile."""

    @property
    def name(self) -> str:
        """For people."""
        return self.path.name


Item = Entry | Header | Issue
"""An issue of the kind `damage` is what is no entry."""


def sources(named: Iterable[Path]) -> list[Source]:
    """The files behind what was named, in order. Raises UnreadableError."""
    found: list[Source] = []
    for path in named:
        if path.is_dir():
            found += _in_directory(path)
        elif path.exists():
            found.append(Source(path))
        else:
            raise UnreadableError(f"{path}: there is no such file")
    return found


def _in_directory(path: Path) -> list[Source]:
    directory = path / "segments" if (path / "segments").is_dir() else path
    names = segment.find(directory)
    both = {(name.writer, name.number) for name in names if name.format == "cbor"}
    if names:
        kept = [name for name in names if name.format == "cbor" or (name.writer, name.number) not in both]
        return [Source(directory / name.file, name.segment) for name in kept]
    files = [Source(file) for file in sorted(directory.iterdir()) if file.suffix in _SUFFIXES and file.is_file()]
    if not files:
        raise UnreadableError(f"{path}: there is no capture file in this directory")
    return files


def sizes(found: Iterable[Source]) -> int:
    """Bytes of these files on disk."""
    return sum(source.path.stat().st_size for source in found if source.path.exists())


def items(source: Source, advance: Callable[[int], None] = lambda _: None) -> Iterator[Item]:
    """What is in a file, in order. `advance` hears of bytes read, on disk. Raises UnreadableError."""
    try:
        with _File(source, advance) as file:
            yield from _read(file, source.name)
    except BadHeaderError as err:
        raise UnreadableError(f"{source.path}: {err}") from err
    except (OSError, zstd.ZstdError, EOFError) as err:
        raise UnreadableError(f"{source.path}: cannot be read: {err}") from err


def _read(file: "_File", name: str) -> Iterator[Item]:
    first = file.read(WINDOW_BYTES)
    if first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        yield from _lines(file, first, name)
        return
    header, size, rest = v2.begin(file.read, first)
    yield header
    if "x_format" in header.metadata:
        yield from _ours(file, rest, size, "cbor", name)
    else:
        yield from v2.in_order(_others(file, rest, size, name))


def _ours(file: "_File", content: bytes, base: int, form: str, name: str) -> Iterator[Item]:
    """Our own records, each with its checksum."""
    at_end = False
    while True:
        end = base
        for found in window.scan(form, content, base, closed=False, resync=at_end):
            end = found.offset + found.size
            if isinstance(found, Damage):
                yield from _damaged(content[found.offset - base : end - base], found, name)
            else:
                yield of_record(found.record, _seq(content, found.offset - base, form), name)
        content, base, want = content[end - base :], end, WINDOW_BYTES if end > base else max(WINDOW_BYTES, len(content))
        if at_end:
            break
        more = file.read(want)
        at_end = not more
        content += more
        if len(content) > WINDOW_BYTES_MAX:
            yield _damage(name, f"{len(content):,} bytes at {base} are no entry")
            content, base = b"", base + len(content)
    if content:
        yield _damage(name, f"truncated tail, {len(content):,} bytes")
    if file.damaged:
        yield _damage(name, f"{file.damaged:,} bytes in zstd frames that are damaged")


def _seq(content: bytes, at: int, form: str) -> int:
    if form == "cbor":
        return record.seq_of(content, at)
    found = _SEQUENCE.search(content, at)
    return int(found[1]) if found else 0


def _damaged(content: bytes, damage: Damage, name: str) -> Iterator[Item]:
    """A header in the middle begins the next segment; anything else is damage."""
    try:
        found = v2.header(content)
    except BadHeaderError:
        found = None
    if found is not None and found[1] == damage.size:
        yield found[0]
    else:
        yield _damage(name, f"{damage.size:,} bytes at {damage.offset} are no entry")


def _others(file: "_File", content: bytes, base: int, name: str) -> Iterator[Item]:
    """Entries of other programs."""
    for found in v2.read(file.read, content, base, name):
        if isinstance(found, Skipped):
            yield _damage(name, f"{found.size:,} bytes at {found.offset} skipped: {found.why}")
        elif isinstance(found, Cut):
            yield _damage(name, f"truncated tail, {found.size:,} bytes")
        else:
            yield found


def _lines(file: "_File", content: bytes, name: str) -> Iterator[Item]:
    if jsonl.is_sealed(content.partition(b"\n")[0]):
        yield from _ours(file, content, 0, "jsonl", name)
    else:
        yield from v2.in_order(_other_lines(file, content, name))


def _other_lines(file: "_File", content: bytes, name: str) -> Iterator[Item]:
    seq, at, is_first = 0, 0, True
    while True:
        lines = content.split(b"\n")
        content = lines.pop()
        for line in lines:
            found = buffered.entry(line, seq, name) if line.strip() else None
            if found is None and is_first:
                raise BadHeaderError("its first line is no entry of a capture")
            if found is not None:
                yield found
                seq, is_first = found.seq + 1, False
            elif line.strip():
                yield _damage(name, f"{len(line):,} bytes at {at} are no entry")
            at += len(line) + 1
        more = file.read(WINDOW_BYTES)
        if not more or len(content) > WINDOW_BYTES_MAX:
            break
        content += more
    found = buffered.entry(content, seq, name) if content.strip() else None
    if found is not None:
        yield found
    elif content.strip() and is_first:
        raise BadHeaderError("its first line is no entry of a capture")
    elif content.strip():
        yield _damage(name, f"truncated tail, {len(content):,} bytes")


def _damage(name: str, text: str) -> Issue:
    return Issue("damage", "warning", text, Mark(name, -1, 0.0))


class _File:
    """One file from front to back, decompressed."""

    def __init__(self, source: Source, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._at = 0
        self.damaged = 0
        """Bytes of sealed frames that could not be read."""
        self._sealed: SealedFile | None = None
        self._stream: zstd.ZstdFile | None = None
        path, self._limit = _where(source)
        self._raw = path.open("rb", buffering=0)
        if _ZSTD.match(os.pread(self._raw.fileno(), 4, 0)):
            try:
                self._sealed = SealedFile(path)
            except ValueError:  # compressed by somebody else
                self._stream = zstd.ZstdFile(self._raw)
        self._size_on_disk = path.stat().st_size

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        if self._sealed is not None:
            return self._of_sealed(self._sealed, size)
        if self._stream is not None:
            before = self._raw.tell()
            data = self._stream.read(size)
            self._advance(self._raw.tell() - before)
            return data
        data = os.pread(self._raw.fileno(), max(0, min(size, self._limit - self._at)), self._at)
        self._at += len(data)
        self._advance(len(data))
        return data

    def _of_sealed(self, sealed: SealedFile, size: int) -> bytes:
        while self._at < sealed.size:
            before = self._at * self._size_on_disk // sealed.size
            end = next(at for at in sealed.frame_offsets if at > self._at)
            try:
                data = sealed.read(self._at, min(size, end - self._at))
                self._at += len(data)
            except ValueError:
                self.damaged += end - self._at
                self._at, data = end, b""
            self._advance(self._at * self._size_on_disk // sealed.size - before)
            if data:
                return data
        return b""

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._sealed, self._stream, self._raw):
            if file is not None:
                file.close()


def _where(source: Source) -> tuple[Path, int]:
    """The file, and how far it may be read: of a segment that is being written to, what is durable."""
    path = source.path
    if not source.segment:
        return path, 1 << 62
    if not path.exists():
        path = path.with_name(f"{source.segment}.zst")
    if path.suffix == ".zst":
        return path, 1 << 62
    with SegmentFile(path.parent, source.segment) as file:
        return path, durable.readable_bytes(path.parent, file)
