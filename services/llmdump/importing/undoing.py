"""An import taken back: its segments are noted as undone, and removed. Blocking.

    note in deleted.jsonl ─▶ segment removed ─▶ `llmdump rebuild`, which forgets the rows of what is undone

A kill in between leaves the import whole, or rows without their bytes until the next rebuild. Writers never look at these
segments, so they may run.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from llmdump import footer, retention, segment
from llmdump.data_dir import DataDir
from llmdump.importing import files
from llmdump.importing.segments import WRITER, alone, imported, records
from llmdump.retention import UNDONE


def undo(data: DataDir, path: Path) -> Sequence[str]:
    """Take back what was imported of this file; the segments that are removed, none if it was not imported. Raises OSError.

    `path` is the file as it was then, under whatever name, or one of the segments itself."""
    with alone(data):
        found = _segments(data, path)
        for name in found:
            _note(data, name)
        for name in found:
            (data.segments / name).unlink()
    return found


def _segments(data: DataDir, path: Path) -> Sequence[str]:
    name = segment.parse_name(path.name)
    if name is not None and name.writer == WRITER and path.resolve().parent == data.segments.resolve():
        return [name.segment]
    sha256 = files.sha256(path)
    return [name for name, one in imported(data) if one == sha256]


def _note(data: DataDir, name: str) -> None:
    """Write down that it goes, in the words of retention."""
    spans: footer.Spans = {}
    for one in records(data, name):
        if one.kind != footer.KIND:
            footer.add(spans, one.instance, one.number)
    size_bytes = (data.segments / name).stat().st_size
    retention.append(data.segments, retention.line(name, time.time(), UNDONE, size_bytes, spans, indexed=True))
