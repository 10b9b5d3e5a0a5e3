"""Segment files from anywhere as a data directory of their own, so that whatever reads archives reads them too.

The directory's segments are links to the files, so nothing is copied and nothing of theirs is changed; its index is made
by the indexer, in a process of its own.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from llmdump import segment
from llmdump.data_dir import DataDir
from llmdump.seekable import zstd
from llmdump.segment import Name

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_HEAD_BYTES: Final = 4096
_CBOR_MAP: Final = 5


class ArchiveError(RuntimeError):
    """No archive can be made of these; the message says why."""


def make(root: Path, places: Sequence[Path]) -> DataDir:
    """A data directory at `root` with the segments of all places: files, or directories with some. Blocking.

    Raises ArchiveError, OSError.
    """
    data = DataDir(root).create()
    number = 0
    for number, path in enumerate(_files(places), 1):
        name = Name(f"w{number}", 1, *_format(path))
        (data.segments / name.file).symlink_to(path.absolute())
    if not number:
        raise ArchiveError(f"there are no segment files in {', '.join(map(str, places))}")
    command = [sys.executable, "-P", "-m", "llmdump_indexer.rebuild", str(data.root), "--json"]
    errors = None if sys.stderr.isatty() else subprocess.PIPE  # a person sees how far it is
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    if done.returncode:
        raise ArchiveError((done.stderr or "").strip() or "the index cannot be made")
    return data


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


def _format(path: Path) -> tuple[str, bool]:
    """A file's format, and whether it is sealed, by what is in it. Raises ArchiveError."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    sealed = head.startswith(_ZSTD)
    if sealed:
        try:
            head = zstd.open(path).read(1)
        except (zstd.ZstdError, EOFError) as err:
            raise ArchiveError(f"{path}: {err}") from err
    if head[:1] and head[0] >> 5 == _CBOR_MAP:
        return "cbor", sealed
    if head[:1] == b"{":
        return "jsonl", sealed
    raise ArchiveError(f"{path} is no segment file of llmdump: neither CBOR nor JSONL")
