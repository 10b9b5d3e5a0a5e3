"""Positions: packed runs unpack to themselves, go on after a restart, and read back what they point to."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import Instance, append, begin_segment, new_id

from llmdump import window
from llmdump.data_dir import DataDir
from llmdump.positions import Piece, Runs, read, unpack
from llmdump.segment import Damage, Located


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**40)), max_size=20), st.integers(0, 20))
def test_runs_unpack_to_themselves_also_when_packing_goes_on(gaps: list[tuple[int, int]], restart: int) -> None:
    runs, at, want = Runs(), 0, list[tuple[int, int]]()
    for index, (gap, size) in enumerate(gaps):
        if index == restart:
            runs = Runs(runs.packed())
        at += gap
        runs.add(at, size)
        if gap == 0 and want:
            want[-1] = (want[-1][0], want[-1][1] + size)
        else:
            want.append((at, size))
        at += size
    assert unpack(runs.packed()) == want
    assert runs.count == len(want)


@pytest.mark.parametrize("packed", [b"\x80", b"\x01", b"\x01\x02\x03", b"\x01\x02\x83"])
def test_cut_runs_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="cut short"):
        unpack(packed)


def test_runs_only_rise() -> None:
    runs = Runs()
    runs.add(100, 10)
    with pytest.raises(ValueError, match="cannot follow"):
        runs.add(90, 10)


def test_a_run_longer_than_a_window_is_read_whole(tmp_path: Path) -> None:
    data = DataDir(tmp_path).create()
    path = begin_segment(data)
    begin = path.stat().st_size
    instance = Instance()
    bodies = [bytes([index]) * (700_000 * (index + 1)) for index in range(5)]
    for body in bodies:
        append(path, instance.record(new_id(1), 0, "chunk", body, ci=1))
    runs = Runs()
    runs.add(begin, path.stat().st_size - begin)
    assert [item.record.data for item in read(data.segments, [Piece(path.name, runs.packed())])] == bodies


def test_a_record_within_a_body_is_not_taken_for_one_where_the_window_cuts() -> None:
    """Clients send what they like, a capture file for example."""
    forger, instance = Instance("ee" * 8), Instance()
    forged = forger.record(new_id(9), 0, "head", b"GET /forged HTTP/1.1\r\n\r\n")
    true = instance.record(new_id(1), 0, "chunk", b"x" * 100 + forged + b"y" * 100, ci=1)
    for cut in range(len(true)):
        assert list(window.scan("cbor", true[:cut], 0, closed=False)) == []
    (item,) = window.scan("cbor", true, 0, closed=False)
    assert isinstance(item, Located)
    assert item.record.instance == instance.name


def test_damage_with_whole_records_behind_it_is_told_at_once() -> None:
    instance = Instance()
    first, second = (instance.record(new_id(1), 0, "chunk", b"x" * 50, ci=index) for index in (1, 2))
    broken = bytearray(first)
    broken[60] ^= 1
    damage, item = window.scan("cbor", bytes(broken) + second, 0, closed=False)
    assert damage == Damage(0, len(first))
    assert isinstance(item, Located)
    assert item.offset == len(first)
