"""Capture files from anywhere as a data directory of their own, so that whatever reads archives reads them too.

    our segments, both formats, sealed or plain     links to them, so nothing is copied
    anything else that `llmdump import` takes       imported

Nothing of theirs is changed. The index is made by the indexer, in a process of its own.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from llmdump import interrupt, segment
from llmdump.commands import terminal
from llmdump.data_dir import DataDir
from llmdump.importing import files, taking
from llmdump.importing.parts import UnusableError
from llmdump.importing.segments import Importing
from llmdump.importing.taking import Told
from llmdump.seekable import SealedFile
from llmdump.segment import Name

_OURS: Final = {"segment": "cbor", "wire-jsonl": "jsonl"}
"""Forms that are segments, with the format of that."""


class ArchiveError(RuntimeError):
    """No archive can be made of these; the message says why."""


@contextlib.contextmanager
def opened(places: Sequence[Path]) -> Iterator[DataDir]:
    """The data directory with an index that is named, or a temporary one of what is in all places. Blocking.

    Places are files, or directories with segments. What could not be taken is told on stderr, a line a file; a person sees how
    far it is. Raises ArchiveError, OSError, apsw.Error.
    """
    if len(places) == 1 and DataDir(places[0]).index.exists():
        yield DataDir(places[0])
        return
    with tempfile.TemporaryDirectory(prefix="llmdump-") as root:
        data = DataDir(Path(root)).create()
        try:
            _fill(data, places)
            yield data
        finally:
            if data.sockets != data.run:
                data.sockets.rmdir()


def _fill(data: DataDir, places: Sequence[Path]) -> None:
    found = [*_files(places)]
    if not found:
        raise ArchiveError(f"there are no segment files in {', '.join(map(str, places))}")
    links = {path: name for number, path in enumerate(found, 1) if (name := _as_segment(path, number))}
    for path, name in links.items():
        (data.segments / name.file).symlink_to(path.absolute())
    _import(data, [path for path in found if path not in links])
    command = [sys.executable, "-P", "-m", "llmdump_indexer.rebuild", str(data.root), "--json"]
    errors = None if sys.stderr.isatty() else subprocess.PIPE  # a person sees how far it is
    with interrupt.held():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        try:
            _, told = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ArchiveError((told or "").strip() or "the index cannot be made")


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
            continue
        directory = DataDir(place).segments if DataDir(place).segments.is_dir() else place
        if not directory.is_dir():
            raise ArchiveError(f"{place}: no such file or directory")
        yield from (directory / name.file for name in segment.find(directory))
        yield from sorted(DataDir(place).pinned.glob("*.cbor"))


def _as_segment(path: Path, number: int) -> Name | None:
    """The name under which a file is one of our segments as it is; None if it is none. Raises ArchiveError, OSError."""
    try:
        with files.opened(path) as content:
            form = _OURS.get(files.form_of(content))
            is_plain = isinstance(content, io.BufferedReader)
    except UnusableError as err:
        raise ArchiveError(f"{path}: {err}") from err
    return Name(f"w{number}", 1, form, not is_plain) if form and (is_plain or _is_sealed(path)) else None


def _is_sealed(path: Path) -> bool:
    try:
        SealedFile(path).close()
    except ValueError:  # compressed by somebody else
        return False
    return True


def _import(data: DataDir, paths: Sequence[Path]) -> None:
    if not paths:
        return
    with Importing(data, 0) as importing:
        for path in paths:
            _warn(taking.take(importing, path, terminal.progress))
        importing.finish()


def _warn(told: Told) -> None:
    if not told.problems:
        return
    first = told.listed[0]
    place = f"{first['where']}: " if first["where"] else ""
    rest = f"; and {told.problems - 1:,} more, which `llmdump import` lists" if told.problems > 1 else ""
    click.echo(f"WARNING: {told.file}: {place}{first['what']}{rest}", err=True)
