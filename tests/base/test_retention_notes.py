"""What is read from `deleted.jsonl`, and what the certificate makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmdump import retention
from llmdump.certificate import DELETED, Facts, Hole, Missing, Retired, judge, window
from llmdump.ledger import Gap
from llmdump.retention import Note, Notes
from llmdump.survey import Survey

ONE = "00" * 8


def line(number: int, span: list[int], form: str = "cbor", **more: Any) -> bytes:
    note = {"segment": f"w0-{number:08d}.{form}", "at": 9.5, "reason": "max_age", "instances": {ONE: span}, **more}
    return json.dumps(note).encode() + b"\n"


def retired(first: int, last: int, count: int, where: str = "w0-00000001") -> Retired:
    return Retired(first, last, count, "max_age", where, 9.5)


def read(directory: Path) -> Notes:
    notes = Notes(directory)
    notes.read()
    return notes


def test_notes_are_read_on_and_a_file_that_is_still_there_was_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / retention.FILE
    notes = read(tmp_path)
    assert (notes.deleted(), notes.unreadable) == ([], 0)
    (tmp_path / "w0-00000002.jsonl.zst").touch()
    path.write_bytes(line(1, [1, 5, 5]) + line(1, [1, 5, 5], "jsonl") + line(2, [6, 9, 4]))
    notes.read()
    assert retention.by_instance(notes.deleted()) == {ONE: [retired(1, 5, 5)]}
    (tmp_path / "w0-00000002.jsonl.zst").unlink()
    with path.open("ab") as file:
        file.write(line(3, [10, 10, 1])[:20])
    notes.read()
    assert [note.number for note in notes.deleted()] == [1, 2]
    assert notes.unreadable == 1
    with path.open("ab") as file:
        file.write(b"\n" + line(3, [10, 10, 1]))
    notes.read()
    assert [note.number for note in notes.deleted()] == [1, 2, 3]
    assert (notes.unreadable, read(tmp_path).unreadable, notes.last_number("w0"), notes.last_number("w1")) == (1, 1, 3, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"{}\n", b"[]\n", b"1\n", b"\xff\n", line(1, [5, 1, 1]), line(1, [1, 5, 6]), line(1, [1, 5, 0]), line(1, [1, 5]),
        line(1, [1, 2**70, 3]), line(1, [1, 5, 5], at="x"), line(1, [1, 5, 5], at=float("inf")), line(1, [1, 5, 5], reason=7),
        line(1, [1, 5, 5], segment="../w0"), line(1, [1, 5, 5], instances=[1]),
    ],
)  # fmt: skip
def test_what_is_no_note_says_nothing_and_is_counted(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / retention.FILE).write_bytes(bad + line(2, [6, 9, 4]))
    notes = read(tmp_path)
    assert ([note.number for note in notes.deleted()], notes.unreadable) == ([2], 1)


def test_a_shorter_list_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / retention.FILE
    path.write_bytes(line(1, [1, 5, 5]) + line(2, [6, 9, 4]))
    notes = read(tmp_path)
    path.write_bytes(line(7, [1, 5, 5]))
    notes.read()
    assert [note.number for note in notes.deleted()] == [7]


CASES: list[tuple[str, Facts, list[tuple[int, int]], list[Missing]]] = [
    ("all of it", Facts(ONE, [], 9, ended=True, retired=[retired(1, 9, 9)]), [(1, 9)], []),
    ("exactly what is noted", Facts(ONE, [(5, 6)], 9, ended=True, retired=[retired(1, 3, 3)]), [(1, 3)],
     [Missing(4, 4, "unknown"), Missing(7, 9, "unknown")]),
    ("a segment that nobody noted, beside one", Facts(ONE, [(7, 9)], 9, holes=[Hole(DELETED, "w0-2", 0, 7)], ended=True,
     retired=[retired(1, 3, 3)]), [(1, 3)], [Missing(4, 6, DELETED, "w0-2")]),
    ("what is there is not deleted", Facts(ONE, [(2, 9)], 9, ended=True, retired=[retired(1, 3, 3)]), [(1, 1)], []),
    ("one of two writers' segments", Facts(ONE, [(2, 2), (4, 4), (6, 9)], 9, ended=True, retired=[retired(1, 5, 3)]),
     [(1, 1), (3, 3), (5, 5)], []),
    ("and a number more is missing: nobody knows which", Facts(ONE, [(4, 4), (6, 9)], 9, ended=True,
     retired=[retired(1, 5, 3)]), [], [Missing(1, 3, "unknown"), Missing(5, 5, "unknown")]),
    ("and that one is told of", Facts(ONE, [(4, 4), (6, 9)], 9, [Gap(ONE, 2, 2, "overflow")], ended=True,
     retired=[retired(1, 5, 3)]), [(1, 1), (3, 3), (5, 5)], [Missing(2, 2, "overflow")]),
    ("two that lie between each other", Facts(ONE, [(7, 9)], 9, ended=True,
     retired=[retired(1, 5, 3), retired(2, 6, 3, "w1-00000001")]), [(1, 5), (6, 6)], []),
    ("one of these was deleted by hand", Facts(ONE, [(7, 9)], 9, ended=True, retired=[retired(1, 5, 3)]), [],
     [Missing(1, 6, "unknown")]),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "gone", "missing"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_certificate_of_what_was_deleted(facts: Facts, gone: list[tuple[int, int]], missing: list[Missing]) -> None:
    found = judge(facts)
    assert [(one.first, one.last) for one in found.retired] == gone
    assert found.deleted == sum(last - first + 1 for first, last in gone)
    assert (found.missing, found.complete) == (missing, not missing)
    assert found.present + found.lost + found.deleted == found.made


def test_a_window_does_not_reach_back_to_what_was_deleted_before_it() -> None:
    facts = Facts(ONE, [(6, 9)], 9, retired=[retired(1, 5, 5)])
    assert window(7, 9, facts) == (7, 9)
    assert window(6, 9, facts) == (1, 9)
    assert window(6, 9, facts, before=5) == (6, 9)
    gone = Facts(ONE, [], 9, retired=[retired(1, 9, 9)])
    first, last = window(None, None, gone, before=9)
    assert first > last


def test_what_was_deleted_before_a_window_is_known_to_be_from_before_it() -> None:
    for at, before in ((49.0, 5), (51.0, 0)):
        survey = Survey(since_s=50.0)
        survey.retire([Note("w0", 1, at, "max_age", {ONE: (1, 5, 5)})])
        assert (survey.of(ONE).before, survey.of(ONE).made, survey.of(ONE).stored) == (before, 5, {"w0": 5})
