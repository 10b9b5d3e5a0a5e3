"""An import taken back: its segments are noted as undone, and removed. Blocking.

    note in deleted.jsonl ─▶ segment removed ─▶ `llmdump rebuild`, which forgets the rows of what is undone

A kill in between leaves the import whole, or rows without their bytes until the next rebuild. Writers never look at these
segments, so they may run.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from llmdump import footer, segment
from llmdump.data_dir import DataDir
from llmdump.importing import files
from llmdump.importing.segments import LOCK, WRITER, imported, records
from llmdump.retention import FILE, UNDONE


def undo(data: DataDir, path: Path) -> Sequence[str]:
    """Take back what was imported of this file; the segments that are removed, none if it was not imported. Raises OSError.

    `path` is the file as it was then, under whatever name, or one of the segments itself."""
    with _alone(data):
        found = _segments(data, path)
        for name in found:
            _note(data, name)
        for name in found:
            (data.segments / name).unlink()
    return found


@contextmanager
def _alone(data: DataDir) -> Iterator[None]:
    lock = os.open(data.run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _segments(data: DataDir, path: Path) -> Sequence[str]:
    name = segment.parse_name(path.name)
    if name is not None and name.writer == WRITER and path.resolve().parent == data.segments.resolve():
        return [name.segment]
    sha256 = files.sha256(path)
    return [name for name, one in imported(data) if one == sha256]


def _note(data: DataDir, name: str) -> None:
    """Write down that it goes, in the words of retention. One write, for writers append to this file, too."""
    spans: footer.Spans = {}
    for one in records(data, name):
        if one.kind != footer.KIND:
            footer.add(spans, one.instance, one.number)
    line = {
        "segment": name, "at": time.time(), "reason": UNDONE, "bytes": (data.segments / name).stat().st_size,
        "records": sum(count for _, _, count in spans.values()), "instances": spans, "indexed": True,
    }  # fmt: skip
    fd = os.open(data.segments / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"\n" + orjson.dumps(line) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
