"""Our CBOR segments are files of the V2 capture profile: a strict reader, written from the profile's facts, takes them."""

from pathlib import Path

import cbor2

from tests import v2_reader
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic


def test_a_closed_segment_is_a_v2_capture(tmp_path: Path) -> None:
    tape = realistic()
    [path] = begin(tmp_path, "cbor", tape.records, close=True, each=7)
    _, entries = v2_reader.read(path.read_bytes())
    assert len(entries) == len(tape.records) + 1
    assert entries[-1]["meta"]["x_k"] == "footer"
    assert entries[-1]["meta"]["x_records"] == len(tape.records)
    assert entries[-1]["meta"]["x_instances"] == {tape.instance: [1, len(tape.records), len(tape.records)]}


def test_an_active_segment_is_one_too(tmp_path: Path) -> None:
    tape = realistic()
    [path] = begin(tmp_path, "cbor", tape.records)
    _, entries = v2_reader.read(path.read_bytes())
    assert [entry["meta"]["x_n"] for entry in entries] == list(range(1, len(tape.records) + 1))
    assert not [entry for entry in entries if "enc" in entry]


def test_the_reader_used_here_notices_what_is_not_the_profile(tmp_path: Path) -> None:
    [path] = begin(tmp_path, "cbor", realistic().records)
    content = path.read_bytes()
    for broken in (content + content, content[1:], content.replace(b"\x63seq\x1b", b"\x63sEq\x1b", 1)):
        try:
            v2_reader.read(broken)
        except (AssertionError, cbor2.CBORDecodeError):
            continue
        raise AssertionError("not noticed")
