"""A file put into an archive, whatever form it has, and what is to be told of it. Blocking.

How far it is, is told by bytes that were read; a form that is read twice counts twice.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from llmdump.importing import entries, files, har, ours, traces
from llmdump.importing.parts import Item, Made, Problem, UnusableError
from llmdump.importing.segments import Importing, exchange_id
from llmdump.record import DamageError, Record

PROBLEMS_KEPT: Final = 20
"""Of one file; the rest is counted."""
_READS: Final = {"v2": 2, "buffered": 2}
"""How often a form is read, if not once."""

Progress = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
"""Is given how much there is to do and what, and gives what hears of steps, as `commands.terminal.progress`."""


@dataclass
class Told:
    """What came of a file."""

    file: str
    form: str | None = None
    exchanges: int = 0
    already_there: int = 0
    problems: int = 0
    listed: list[dict[str, str]] = field(default_factory=list)
    """The first problems, each with `where` and `what`."""
    already_imported: str = ""
    """The segment that an earlier import made of this file."""

    def note(self, problem: Problem) -> None:
        """One more thing that could not be taken."""
        self.problems += 1
        if len(self.listed) < PROBLEMS_KEPT:
            self.listed.append({"where": problem.where, "what": problem.what})

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        told = asdict(self)
        return told if self.already_imported else {name: value for name, value in told.items() if name != "already_imported"}


def take(importing: Importing, path: Path, progress: Progress | None = None) -> Told:
    """Import one file. Raises ImportFailedError, OSError, apsw.Error; what is wrong with the file is told."""
    told, sha256 = Told(str(path)), files.sha256(path)
    if sha256 in importing.known.files:
        told.already_imported = importing.known.files[sha256]
        return told
    importing.known.files[sha256] = str(path)
    try:
        with files.plain(path) as content:
            told.form = files.form_of(content)
            importing.begin(path.name, sha256, told.form)
            _take(importing, content, sha256, told, progress)
    except (UnusableError, DamageError) as err:
        told.note(Problem("", str(err)))
    if told.form and importing.is_empty:
        importing.take_back()
    return told


def _take(importing: Importing, content: BinaryIO, sha256: str, told: Told, progress: Progress | None) -> None:
    form = str(told.form)
    size_bytes = os.fstat(content.fileno()).st_size * _READS.get(form, 1)
    with progress(size_bytes, f"Importing {Path(told.file).name}") if progress else nullcontext(lambda _: None) as advance:
        counted = cast(BinaryIO, _Counted(content, advance))
        for ordinal, item in enumerate(_items(counted, form)):
            if isinstance(item, Problem):
                told.note(item)
            elif isinstance(item, Record):
                _count(told, item.kind == "head" and item.direction == 0, is_new=importing.record(item))
            else:
                _made(importing, item, exchange_id(item.id, item.parts[0].ts, sha256, ordinal), told)


def _items(content: BinaryIO, form: str) -> Iterator[Item]:
    if form in {"segment", "wire-jsonl"}:
        return ours.read(content, form)
    if form in {"v2", "buffered"}:
        return entries.read(content, form)
    return {"har": har.read, "traces": traces.read}[form](content)


def _made(importing: Importing, made: Made, id_: str, told: Told) -> None:
    try:
        _count(told, 1, is_new=importing.exchange(made, id_))
    except UnusableError as err:
        told.note(Problem(made.where, str(err)))


def _count(told: Told, exchanges: int, *, is_new: bool) -> None:
    if is_new:
        told.exchanges += exchanges
    else:
        told.already_there += exchanges


class _Counted:
    """A file of which somebody hears how much was read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self.seek = file.seek
        self.tell = file.tell
        self.readable = file.readable
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        return self._told(self._file.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._told(self._file.readline(size))

    def _told(self, data: bytes) -> bytes:
        self._advance(len(data))
        return data
