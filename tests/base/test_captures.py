"""Entries of other programs' captures: where they begin, what is none, and which belong together, for every reader alike."""

import io
from pathlib import Path
from random import Random

import pytest

from llmdump.captures import v2
from llmdump.captures.belonging import Captures, Requests
from llmdump.captures.entry import Entry
from llmdump.captures.v2 import Cut, Header, Skipped
from llmdump.importing import entries as importing
from llmdump.importing.parts import Problem
from tests.inspecting import edges, made
from tests.inspecting.running import call

BP, CP, PB = made.BP, made.CP, made.PB


def read(content: bytes, window_bytes: int = v2.WINDOW_BYTES) -> list[v2.Item]:
    """What follows the header, read so many bytes at a time."""
    file = io.BytesIO(content)
    _, size, rest = v2.begin(lambda _: file.read(window_bytes))
    return list(v2.read(lambda count: file.read(min(count, window_bytes)), rest, size))


def entries(items: list[v2.Item]) -> list[tuple[int, int, bytes]]:
    return [(item.offset, item.seq, item.data) for item in items if isinstance(item, Entry)]


@pytest.mark.parametrize("kind", ["nondict", "badzlib", "garbage", "noentry", "no cbor"])
def test_what_is_read_does_not_depend_on_where_reads_end(kind: str) -> None:
    content = edges.damaged(kind)
    whole = read(content)
    assert [seq for _, seq, _ in entries(whole)] == [0, 1, 2, 3, 4, 5]
    assert any(isinstance(item, Skipped) for item in whole)
    for window_bytes in (1, 7, 61, 500):
        assert entries(read(content, window_bytes)) == entries(whole)


def test_what_claims_to_be_larger_than_any_entry_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2, "WINDOW_BYTES_MAX", 2000)
    claims = made.item(2, 0.2, BP, b"").replace(b"\x64data\x40", b"\x64data\x5a\x00\xff\xff\xff")
    filler = bytes(5000)
    content = made.header() + b"".join(edges.plain(0)[:2]) + claims + filler + b"".join(edges.plain(3))
    found = read(content, 500)
    assert [seq for _, seq, _ in entries(found)] == [0, 1, 3, 4, 5]
    assert not any(isinstance(item, Cut) for item in found)


def test_a_cut_tail_is_told_with_its_place_and_size() -> None:
    content = made.header() + b"".join(edges.plain(0))
    last = read(content)[-1]
    assert isinstance(last, Entry)
    for cut in (1, 20, len(content) - last.offset - 1):
        assert read(content[:-cut])[-1] == Cut(last.offset, len(content) - cut - last.offset)


def test_import_and_inspect_find_the_same_damage(tmp_path: Path) -> None:
    content = made.sample(tmp_path / "sample.cbor").read_bytes()
    for seed in range(12):
        chance, damaged = Random(seed), bytearray(content)
        for _ in range(3):
            at = chance.randrange(100, len(damaged))
            damaged[at : at + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
        path = tmp_path / f"{seed}.cbor"
        path.write_bytes(damaged)
        with path.open("rb") as file:
            items = list(importing.read(file, "v2"))
        places = {item.where for item in items if isinstance(item, Problem)}
        for line in call(path).err.splitlines():
            if "skipped" in line:
                assert f"offset {line.split(' bytes at ')[1].split()[0]}" in places, (seed, line, places)


def entry(rid: str, session: str, direction: int = BP, **meta: object) -> Entry:
    return Entry(0, 0.0, direction, b"x", {**({"rid": rid} if rid else {}), "sid": session, **meta})


def test_an_entry_without_an_id_belongs_to_the_last_request_of_its_session() -> None:
    requests = Requests()
    asked = [
        (entry("r1", "a", CP), "r1"), (entry("", "b", CP), "#1"), (entry("", "a"), "r1"), (entry("", "b"), "#1"),
        (entry("", "a", CP), "#2"), (entry("", "b", CP, event="frame"), "#1"), (entry("", "a", PB), "#2"),
        (entry("", "c"), "#3"),
    ]  # fmt: skip
    assert [requests.of(one) for one, _ in asked] == [request for _, request in asked]


def test_the_second_capture_of_a_stream_is_told_from_the_first() -> None:
    captures = Captures()
    pieces = [entry("r", session, ci=index) for index in (1, 2, 3) for session in ("boundary", "translated")]
    assert [captures.is_first(one) for one in pieces] == [True, False] * 3
    again = [entry("r", "one", ci=index) for index in (1, 2, 1, 2)]
    captures = Captures()
    assert [captures.is_first(one) for one in again] == [True, True, False, False]


def test_entries_come_by_their_number_and_a_header_begins_anew() -> None:
    first, second = edges.plain(0), edges.plain(3)
    content = made.header() + b"".join((second[1], first[2], second[0], first[0])) + made.header("y") + first[1]
    found = list(v2.in_order(read(content)))
    assert [item.seq if isinstance(item, Entry) else type(item) for item in found] == [0, 2, 3, 4, Header, 1]


@pytest.mark.parametrize(("name", "why"), [("dir9", "direction 9 is none"), ("unknownenc", "unknown encoding 'lz4'")])
def test_what_did_not_cross_so_is_not_imported(tmp_path: Path, name: str, why: str) -> None:
    with edges.file(tmp_path, name).open("rb") as file:
        [told] = importing.read(file, "v2")
    assert isinstance(told, Problem) and why in told.what
