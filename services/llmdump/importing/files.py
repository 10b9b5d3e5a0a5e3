"""Which sort of capture a file is, told from its first bytes, and its content as a plain file. Blocking.

zstd or gzip    undone into a temporary file first
CBOR            `segment` where the header says so, else `v2` (see `entries`)
JSON            `har` where the object has a `log`; `wire-jsonl` where the first line is one of our segments, with its
                checksum, `buffered` where it has the same keys without; one with `req` and `resp` is a trace, api-log's or ours
"""

import gzip
import hashlib
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from llmdump import jsonl
from llmdump.captures import v2
from llmdump.captures.v2 import BadHeaderError
from llmdump.importing.parts import UnusableError
from llmdump.seekable import zstd
from llmdump.segment import V2_MAGIC

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_GZIP: Final = b"\x1f\x8b"
_LOOK_BYTES: Final = 64 * 1024
LINE_BYTES_MAX: Final = 256 * 1024 * 1024
_COPY_BYTES: Final = 1024 * 1024
_HAR = re.compile(rb'\{\s*"log"\s*:')
_TRACE = re.compile(rb'"(?:req|method|llmdump_export)"\s*:')
_WIRE = re.compile(rb'"timestamp_iso"\s*:')


def sha256(path: Path) -> str:
    """Of its bytes as they are. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content from front to back, compression undone; seeking back is slow. Raises OSError, UnusableError."""
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(0)
        if begin != _ZSTD and begin[:2] != _GZIP:
            yield file
            return
        try:
            with zstd.ZstdFile(file) if begin == _ZSTD else gzip.GzipFile(fileobj=file) as packed:
                yield cast(BinaryIO, packed)
        except (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile) as err:
            raise UnusableError(f"its compression is damaged: {err}") from err


@contextmanager
def plain(path: Path) -> Iterator[BinaryIO]:
    """The content, seekable, compression undone. Raises OSError, UnusableError."""
    with opened(path) as file:
        if isinstance(file, io.BufferedReader):
            yield file
            return
        with tempfile.TemporaryFile() as undone:
            shutil.copyfileobj(file, undone, _COPY_BYTES)
            undone.seek(0)
            yield undone


def form_of(file: BinaryIO) -> str:
    """`segment`, `v2`, `wire-jsonl`, `buffered`, `traces` or `har`. Raises OSError, UnusableError."""
    begin = file.read(_LOOK_BYTES)
    file.seek(0)
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n")
    if V2_MAGIC.encode() in begin[:256]:
        return "segment" if _is_ours(begin) else "v2"
    if _HAR.match(text):
        return "har"
    line = text.partition(b"\n")[0]
    if line.startswith(b"{") and _WIRE.search(line[:256]):
        return "wire-jsonl" if jsonl.is_sealed(_first_line(file)) else "buffered"
    if line.startswith(b"{") and _TRACE.search(line):
        return "traces"
    raise UnusableError("no capture: neither CBOR V2, nor JSONL of llmdump, api-log or the reference implementation, nor HAR")


def _first_line(file: BinaryIO) -> bytes:
    file.seek(0)
    while (line := file.readline(LINE_BYTES_MAX)) and not line.strip():
        pass
    file.seek(0)
    return line


def _is_ours(begin: bytes) -> bool:
    """Whether the header is that of a segment."""
    try:
        header, _, _ = v2.begin(lambda _: b"", begin)
    except BadHeaderError:
        return False
    return "x_format" in header.metadata
