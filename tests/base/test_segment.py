"""Segments: names, headers, and the reading of whatever is in them."""

from itertools import pairwise
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump import segment
from llmdump.record import DamageError, Identity, Record, encode, entries, kind_entry, patch_seq
from llmdump.segment import Damage, Located, Name, SegmentFile, find, header, parse_name, scan, skip_header

IDENTITY = Identity("0123456789abcdef", "0192d3c4-aaaa-7bbb-8ccc-123456789abc", {"sid": "s"})


def raw(number: int, data: bytes = b"some data") -> bytes:
    extra, count = entries({"ci": number})
    return encode(1.0, 0, number, data, IDENTITY, kind_entry("pipe"), extra, count)


RAWS = [raw(1), raw(2, b""), raw(3, b"x" * 300), raw(4)]
CONTENT = b"".join(RAWS)
STARTS = [sum(map(len, RAWS[:index])) for index in range(len(RAWS))]


def read(content: bytes, *, closed: bool = False, base: int = 0) -> tuple[list[int], list[Damage]]:
    """The numbers of the records that were found, and the damage."""
    found = list(scan(content, base, closed=closed))
    assert all(earlier.offset < later.offset for earlier, later in pairwise(found))
    return [item.record.number for item in found if isinstance(item, Located)], [i for i in found if isinstance(i, Damage)]


def test_records_are_found_where_they_stand() -> None:
    found = list(scan(CONTENT, 1000))
    assert [(item.offset, item.size) for item in found] == [
        (1000 + start, len(record)) for start, record in zip(STARTS, RAWS, strict=True)
    ]
    assert all(isinstance(item, Located) and isinstance(item.record, Record) for item in found)


def test_a_torn_tail_is_not_there_yet_wherever_it_is_torn() -> None:
    for size in range(len(CONTENT)):
        whole = sum(start + len(record) <= size for start, record in zip(STARTS, RAWS, strict=True))
        assert read(CONTENT[:size]) == (list(range(1, whole + 1)), [])
        at = sum(map(len, RAWS[:whole]))
        expected = [Damage(at, size - at)] if size > at else []
        assert read(CONTENT[:size], closed=True) == (list(range(1, whole + 1)), expected)


def test_damage_in_the_middle_costs_the_damaged_record_only() -> None:
    """Each byte but those of `seq`, in each record but the last."""
    for index in range(3):
        for offset in range(len(RAWS[index])):
            if 23 <= offset < 31:
                continue
            damaged = bytearray(CONTENT)
            damaged[STARTS[index] + offset] ^= 0xFF
            numbers, damage = read(bytes(damaged), closed=True)
            assert numbers == [n for n in (1, 2, 3, 4) if n != index + 1], offset
            assert damage == [Damage(STARTS[index], len(RAWS[index]))]


def test_damage_in_the_last_record_is_told_when_nothing_more_will_come() -> None:
    damaged = bytearray(CONTENT)
    damaged[STARTS[3] + 60] ^= 1
    assert read(bytes(damaged)) == ([1, 2, 3], [])
    assert read(bytes(damaged), closed=True) == ([1, 2, 3], [Damage(STARTS[3], len(RAWS[3]))])


@pytest.mark.parametrize("lost", [1, 7, 100])
def test_bytes_that_are_missing_or_too_many_cost_no_more_than_their_record(lost: int) -> None:
    for at in (STARTS[1], STARTS[1] + 50, STARTS[2] + 60):
        index = max(i for i, start in enumerate(STARTS) if start <= at)
        numbers, damage = read(CONTENT[:at] + CONTENT[at + lost :])
        gone = {index + 1} | ({index + 2} if at + lost > STARTS[index] + len(RAWS[index]) else set())
        assert numbers == [n for n in (1, 2, 3, 4) if n not in gone] and len(damage) == 1
        numbers, damage = read(CONTENT[:at] + b"\xa5" * lost + CONTENT[at:])
        kept = [1, 2, 3, 4] if at in STARTS else [n for n in (1, 2, 3, 4) if n != index + 1]
        assert numbers == kept and sum(item.size for item in damage) >= lost


def test_what_looks_like_a_record_within_a_good_one_is_its_data() -> None:
    content = raw(1, b"\xa5\x62ts\xfb" * 5 + raw(99)) + raw(2)
    assert read(content) == ([1, 2], [])


@pytest.mark.parametrize("inner_seq", [0, 51, 52])
def test_a_record_within_a_damaged_one_or_a_cut_one_is_not_taken_for_one(inner_seq: int) -> None:
    """A client may upload a capture file. Mostly its records bear other places than they can have here; and where they do not,
    a damaged record is still passed over as one if its layout is whole."""
    inner = in_file(inner_seq, *(raw(90 + n) for n in range(5)))
    parts = [raw(1), raw(2, inner), raw(3), raw(4)]
    content = in_file(50, *parts)
    begin, end = len(parts[0]), len(parts[0]) + len(parts[1])
    layout = {
        *range(begin, begin + 5),
        *range(begin + 37, begin + 41),
        *range(begin + 41 + len(inner), begin + 57 + len(inner)),
    }
    for offset in range(begin, end):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        if not begin + 23 <= offset < begin + 31 and (inner_seq == 0 or offset not in layout):
            assert read(bytes(damaged), closed=True)[0] == [1, 3, 4], offset
        assert read(content[:offset]) == ([1], []), offset


def in_file(seq: int, *records: bytes) -> bytes:
    """Records one after another, from this place in a file on."""
    content = bytearray()
    for place, one in enumerate(records, seq):
        content += one
        patch_seq(content, len(content) - len(one), place)
    return bytes(content)


def test_what_is_made_to_look_like_a_record_behind_damage_breaks_nothing() -> None:
    """A client may send anything, also bytes with a good checksum whose meta is no CBOR."""
    bad_meta = encode(1.0, 0, 99, b"", IDENTITY, kind_entry("pipe"), b"\xff\xff\xff", 3)
    damaged = bytearray(raw(1, bad_meta * 3) + raw(2))
    damaged[0] ^= 1
    numbers, damage = read(bytes(damaged))
    assert numbers == [2] and len(damage) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(RAWS), st.binary(max_size=40)), max_size=8), st.booleans())
def test_whatever_is_in_a_file_each_byte_is_a_record_or_damage(parts: list[bytes], closed: bool) -> None:
    content = b"".join(parts)
    found = list(scan(content, closed=closed))
    at = 0
    for item in found:
        assert item.offset == at
        at += item.size
    assert at == len(content) if closed else at <= len(content)
    numbers = [item.record.number for item in found if isinstance(item, Located)]
    assert len(numbers) >= sum(part in RAWS for part in parts)


# ---------------------------------------------------------------- headers and names


def test_a_header_is_the_capture_profiles() -> None:
    found = cbor2.loads(header("w0", 7, 1.5))
    assert list(found) == ["magic", "version", "created_at", "session_id", "metadata"]
    assert (found["magic"], found["version"], found["created_at"]) == ("LLMPROXY-CAPTURE-V2", 2, 1.5)
    assert found["session_id"] == "w0-00000007"
    assert found["metadata"] == {"config_file": None, "x_format": 1, "x_writer": "w0", "x_segment": 7}


def test_a_header_that_is_not_there_whole_is_waited_for() -> None:
    first = header("w0", 1, 1.5)
    for size in range(len(first)):
        assert skip_header(first[:size]) == 0
    assert skip_header(first) == skip_header(first + CONTENT) == len(first)


@pytest.mark.parametrize(
    "content",
    [
        b"{}\n",
        b"\xff\xff",
        cbor2.dumps({"magic": "OTHER", "version": 2}),
        cbor2.dumps({"magic": "LLMPROXY-CAPTURE-V2", "version": 3}),
        cbor2.dumps([1, 2]),
        b"\xa1\x7a\x7f\xff\xff\xff" + bytes(5000),
        CONTENT,
    ],
)
def test_another_format_is_refused(content: bytes) -> None:
    with pytest.raises(DamageError, match="not a capture file"):
        skip_header(content)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("w0-00000001.cbor", Name("w0", 1, "cbor")),
        ("w12-00000001.jsonl.zst", Name("w12", 1, "jsonl", sealed=True)),
        ("w0-1.cbor", None),
        ("w0-00000001.cbor.tmp", None),
        ("w0-00000001.txt", None),
        ("x0-00000001.cbor", None),
        ("../w0-00000001.cbor", None),
    ],
)
def test_a_name_says_writer_number_format_and_seal(file: str, name: Name | None) -> None:
    assert parse_name(file) == name
    if name:
        assert name.file == file and name.segment == file.removesuffix(".zst")


def test_segments_are_found_oldest_first_and_a_seal_hides_its_twin(tmp_path: Path) -> None:
    for file in (
        "w1-00000001.cbor",
        "w0-00000010.cbor",
        "w0-00000002.cbor",
        "w0-00000002.cbor.zst",
        "w0-00000002.jsonl",
        "notes.txt",
    ):
        (tmp_path / file).touch()
    assert [name.file for name in find(tmp_path)] == [
        "w0-00000002.cbor.zst", "w0-00000002.jsonl", "w0-00000010.cbor", "w1-00000001.cbor",
    ]  # fmt: skip


def test_a_plain_file_is_read_by_offset_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "w0-00000001.cbor"
    path.write_bytes(b"0123456789")
    with SegmentFile(tmp_path, path.name) as found:
        assert (found.size, found.sealed, found.read(3, 4), found.read(8, 10), found.read(99, 1)) == (
            10,
            False,
            b"3456",
            b"89",
            b"",
        )
        with path.open("ab") as more:
            more.write(b"abc")
        assert (found.size, found.read(9, 3)) == (13, b"9ab")


@pytest.mark.parametrize("name", ["nonsense", "w0-00000001.cbor.zst", "../w0-00000001.cbor"])
def test_only_a_segments_own_name_opens_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a segment"):
        SegmentFile(tmp_path, name)
    with pytest.raises(FileNotFoundError):
        segment.SegmentFile(tmp_path, "w0-00000001.cbor")
