"""Notes of deletions: whole, whatever the kernel takes at a time, and readable behind one that was cut short."""

import os
from pathlib import Path

import pytest

from llmdump import retention
from llmdump.retention import Notes

SPANS = {"ab" * 8: (1, 9, 9)}


def noted(directory: Path, number: int) -> None:
    name = f"w0-{number:08d}.cbor"
    retention.append(directory, retention.line(name, 1.0, "max_age", 100, SPANS, indexed=True))


def read(directory: Path) -> list[int]:
    notes = Notes(directory)
    notes.read()
    return [note.number for note in notes.deleted()]


def test_a_note_is_whole_though_the_kernel_takes_it_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    noted(tmp_path, 1)
    noted(tmp_path, 2)
    assert read(tmp_path) == [1, 2]


def test_a_note_behind_one_that_was_cut_short_begins_a_line(tmp_path: Path) -> None:
    noted(tmp_path, 1)
    path = tmp_path / retention.FILE
    path.write_bytes(path.read_bytes() + b'{"segment": "w0-')
    noted(tmp_path, 2)
    assert read(tmp_path) == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o600
