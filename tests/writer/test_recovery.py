"""What a starting writer makes of the files a dead one left: cut at every byte, in each format."""

import os
import shutil
from pathlib import Path

import pytest

from llmdump import record, segment
from llmdump.data_dir import DataDir
from llmdump.durable import Mark
from llmdump.retention import FILE, Notes
from llmdump.settings import Settings
from llmdump.survey import Survey
from llmdump_writer.buffer import Buffer
from llmdump_writer.catalog import Catalog
from llmdump_writer.recovery import recover
from llmdump_writer.rotation import Limits
from llmdump_writer.store import Store
from tests.simulation.disk import Disk
from tests.simulation.world import Process, Thread, World
from tests.writer.traffic import INSTANCE, Tape, compact, pretty, realistic
from tests.writer.writer_rig import chunk, located


def catalog_of(directory: Path, settings: Settings) -> Catalog:
    """Of a writer that found nothing."""
    data = DataDir(directory)
    data.segments = directory
    return Catalog(data, Limits.of(settings), {})


def begin(directory: Path, capture_format: str, records: list[bytes], *, close: bool = False, each: int = 1) -> list[Path]:
    """The files of a writer that stored these records, `each` a flush, and was then killed, or closed its segment."""
    directory.mkdir(exist_ok=True)
    directory.with_name("run").mkdir(exist_ok=True)
    settings = Settings(capture_format=capture_format)
    store = Store(catalog_of(directory, settings), settings, "w0", 1)
    buffer = store.begin()
    for at, one in enumerate(records, 1):
        whole = record.decode(one)
        lines = b"".join(store.converter.lines(whole))
        buffer.add(whole.instance, [whole.number], [len(one)], one, 0.0, lines, whole.exchange)
        if at % each == 0:
            store.write(buffer)
    if close:
        store.close(buffer)
    return sorted(directory.iterdir())


def held_and_stored(directory: Path) -> tuple[int, dict[str, list[int]]]:
    """What recovery says is held, and what the files then have, by format."""
    found = recover(directory, "w0")
    numbers: dict[str, list[int]] = {}
    for name in segment.find(directory):
        records = [one.record for one in located(directory, name)]
        assert records[-1].kind == "footer"
        assert records[-1].meta["x_records"] == len(records) - 1
        numbers[name.format] = [one.number for one in records[:-1]]
    return found.held.get(INSTANCE, 0), numbers


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_a_tail_torn_at_every_byte_of_the_last_record_is_cut(unsynced: Path, file_format: str) -> None:
    tape = Tape()
    body = pretty({"a": "b"})
    tape.exchange(1, "/v1/x", [body], [b"{}"])
    records = tape.records[:3]  # the last one has a derived line before it
    [path] = begin(unsynced / "made", file_format, records)
    whole = path.read_bytes()
    [*_, before, last] = located(unsynced / "made", segment.find(unsynced / "made")[0])
    for size in range(before.offset + before.size, len(whole)):
        directory = unsynced / "torn"
        directory.mkdir()
        (directory / path.name).write_bytes(whole[:size])
        found = recover(directory, "w0")
        kept = (directory / path.name).read_bytes()
        assert found.held == {INSTANCE: 2} and found.torn_bytes == size - before.offset - before.size
        assert kept.startswith(whole[: before.offset + before.size])
        assert [one.record.kind for one in located(directory, segment.find(directory)[0])] == ["hello", "head", "footer"]
        shutil.rmtree(directory)
    assert last.offset + last.size == len(whole)


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_a_file_cut_at_any_byte_holds_its_whole_records(unsynced: Path, file_format: str) -> None:
    records = [chunk(number, b"x" * number, INSTANCE) for number in range(1, 4)]
    [path] = begin(unsynced / "made", file_format, records)
    whole = path.read_bytes()
    ends = [one.offset + one.size for one in located(unsynced / "made", segment.find(unsynced / "made")[0])]
    for size in range(len(whole) + 1):
        directory = unsynced / "torn"
        directory.mkdir()
        (directory / path.name).write_bytes(whole[:size])
        expected = sum(end <= size for end in ends)
        held, numbers = held_and_stored(directory)
        assert held == expected
        assert numbers == ({file_format: list(range(1, expected + 1))} if expected else {})
        shutil.rmtree(directory)


def test_two_files_of_a_segment_are_cut_back_to_what_both_have(tmp_path: Path) -> None:
    records = [chunk(number, b"x" * 20, INSTANCE) for number in range(1, 5)]
    cbor, jsonl = begin(tmp_path / "made", "both", records)
    offsets = {
        name.format: [0, *(one.offset + one.size for one in located(tmp_path / "made", name))]
        for name in segment.find(tmp_path / "made")
    }
    for cbor_has in range(5):
        for jsonl_has in range(5):
            directory = tmp_path / "torn"
            directory.mkdir()
            (directory / cbor.name).write_bytes(cbor.read_bytes()[: offsets["cbor"][cbor_has] + 7])
            (directory / jsonl.name).write_bytes(jsonl.read_bytes()[: offsets["jsonl"][jsonl_has] + 7])
            both = list(range(1, min(cbor_has, jsonl_has) + 1))
            assert held_and_stored(directory) == (len(both), {"cbor": both, "jsonl": both} if both else {})
            shutil.rmtree(directory)


def test_a_file_whose_twin_never_reached_the_disk_holds_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "made", "both", [chunk(1, b"x", INSTANCE)])
    (tmp_path / "made" / "w0-00000001.cbor").unlink()
    assert held_and_stored(tmp_path / "made") == (0, {})


def test_damage_in_the_middle_costs_its_record_only_and_held_does_not_fall(tmp_path: Path) -> None:
    for file_format in ("cbor", "jsonl"):
        directory = tmp_path / file_format
        [path] = begin(directory, file_format, [chunk(number, b"x" * 20, INSTANCE) for number in range(1, 5)])
        middle = list(located(directory, segment.find(directory)[0]))[1]
        content = bytearray(path.read_bytes())
        content[middle.offset + middle.size // 2] ^= 1
        path.write_bytes(content)
        assert recover(directory, "w0").held == {INSTANCE: 4}
        found = [one.record.number for one in located(directory, segment.find(directory)[0], damage_ok=True)]
        assert found == [1, 3, 4, 0]


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
@pytest.mark.parametrize("hole", ["within a record", "where a record begins"])
def test_what_lies_behind_a_page_that_was_never_written_is_not_held(tmp_path: Path, file_format: str, hole: str) -> None:
    """After a power cut, where all that was acknowledged had been synced: the proxy still has what the hole has lost."""
    directory = tmp_path / "segments"
    [path] = begin(directory, file_format, [chunk(number, b"x" * 3000, INSTANCE) for number in range(1, 9)])
    Mark(directory, "w0").remove()
    third = [*located(directory, segment.find(directory)[0])][2]
    content = bytearray(path.read_bytes())
    begins = third.offset if hole == "where a record begins" else (third.offset // 4096 + 1) * 4096
    ends = (begins // 4096 + 1) * 4096
    content[begins:ends] = bytes(ends - begins)
    path.write_bytes(content)
    (directory / "other").mkdir()
    copy = Path(shutil.copy(path, directory / "other"))
    assert recover(copy.parent, "w0").held == {INSTANCE: 8}
    kept = 2 if begins < third.offset + third.size else 3
    assert recover(directory, "w0", synced=True).held == {INSTANCE: kept}
    assert [one.record.number for one in located(directory, segment.find(directory)[0])] == [*range(1, kept + 1), 0]


def test_recovery_done_twice_changes_nothing_more(tmp_path: Path) -> None:
    begin(tmp_path / "made", "both", realistic().records)
    first = recover(tmp_path / "made", "w0")
    content = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    second = recover(tmp_path / "made", "w0")
    assert first.held == second.held and second.torn_bytes == 0
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}


def test_held_is_the_highest_of_all_segments_and_numbers_go_on(tmp_path: Path) -> None:
    other = "00000000000000bb"
    begin(tmp_path, "cbor", [chunk(1, b"", INSTANCE), chunk(5, b"", INSTANCE), chunk(9, b"", other)], close=True)
    (tmp_path / "w0-00000001.cbor").rename(tmp_path / "w0-00000007.cbor")
    begin(tmp_path, "cbor", [chunk(2, b"", INSTANCE), chunk(11, b"", other)], close=True)
    found = recover(tmp_path, "w0")
    assert found.held == {INSTANCE: 5, other: 11}
    assert found.next_number == 8


@pytest.mark.parametrize("content", [b"", b"\xa5emagic"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_segment_without_a_whole_record_leaves_no_hole(tmp_path: Path, marked: bool, content: bytes) -> None:
    """Its number is used again if its writer let nobody look at it; else, as after a power cut, it is noted as deleted."""
    directory = tmp_path / "segments"
    begin(directory, "cbor", [chunk(1, b"x", INSTANCE)], close=True)
    mark = Mark(directory, "w0")
    mark.set(2, {})
    if not marked:
        mark.remove()
    (directory / "w0-00000002.cbor").write_bytes(content)
    numbers = [recover(directory, "w0").next_number for _ in range(2)]
    assert numbers == [2, 2] if marked else [3, 3]
    survey = Survey()
    notes = Notes(directory)
    notes.read()
    survey.read(directory, [segment.Name("w0", 2, "cbor")][: not marked], notes.deleted(), lambda _: None, 0.0, lambda _: None)
    assert (survey.deleted, survey.files) == ([], 1)


def test_a_segment_without_a_record_stays_until_it_can_be_noted(tmp_path: Path) -> None:
    """With the disk full the note is refused: a number that is neither there nor noted would be taken for a loss."""
    directory, survey = tmp_path / "segments", Survey()
    begin(directory, "cbor", [chunk(1, b"x", INSTANCE)], close=True)
    torn = directory / "w0-00000002.cbor"
    torn.write_bytes(b"\xa5emagic")
    (directory / FILE).mkdir()
    assert recover(directory, "w0").next_number == 3
    assert torn.read_bytes() == b""
    survey.read(directory, [], [], lambda _: None, 0.0, lambda _: None)
    assert (survey.deleted, survey.damages, survey.torn_bytes) == ([], [], 0)
    (directory / FILE).rmdir()
    assert recover(directory, "w0").next_number == 3
    assert not torn.exists()
    notes = Notes(directory)
    notes.read()
    assert notes.last_number("w0") == 2


def test_what_a_failed_sync_left_is_on_the_disk_before_it_is_held(tmp_path: Path) -> None:
    """On a disk that does as Linux does: a sync fails, its pages are lost and clean, and the next sync says that all is well.
    The file cannot be cut either, and its writer leaves."""
    data, world = DataDir(tmp_path).create(), World(2)
    disk = Disk(world, tmp_path, data.segments, data.spill)
    volume = disk.volumes[0]

    def writer() -> None:
        store = Store(catalog_of(data.segments, Settings()), Settings(), "w0", 1)
        buffer = store.begin()
        fill(store, buffer, 1)
        store.write(buffer)
        fill(store, buffer, 2)
        volume.fails.update(fsync=1.0, ftruncate=1.0)
        with pytest.raises(OSError):
            store.write(buffer)
        store.fail(buffer)

    def next_writer() -> None:
        volume.fails.clear()
        assert recover(data.segments, "w0", synced=True).held == {INSTANCE: 2}

    with world.clocks(), disk.calls():
        file = data.segments / "w0-00000001.cbor"
        for work, is_durable in ((writer, False), (next_writer, True)):
            world.after(0.0, work, Thread(Process("writer")))
            world.run(world.now + 10)
            assert (volume.durable_names[file.name].durable == file.read_bytes()) == is_durable


def test_a_segment_given_up_whole_leaves_no_hole(tmp_path: Path) -> None:
    directory = tmp_path / "segments"
    begin(directory, "both", [])
    settings = Settings(capture_format="both")
    store = Store(catalog_of(directory, settings), settings, "w0", 1)
    given_up = store.begin()
    fill(store, given_up)
    (directory / "w0-00000001.cbor").mkdir()  # the JSONL file is written, then this one fails
    with pytest.raises(FileExistsError):
        store.write(given_up)
    (directory / "w0-00000001.cbor").rmdir()
    store.fail(given_up)
    assert not list(directory.iterdir())
    store.probe()
    again = store.begin()
    fill(store, again)
    store.write(again)
    store.close(again)
    assert [name.number for name in segment.find(directory)] == [1, 1]
    assert store.begin().number == 2


def fill(store: Store, buffer: Buffer, number: int = 1) -> None:
    """A record is to be written."""
    one = chunk(number, b"x", INSTANCE)
    buffer.add(INSTANCE, [number], [len(one)], one, 0.0, b"".join(store.converter.lines(record.decode(one))))


def test_other_writers_files_are_left_alone(tmp_path: Path) -> None:
    foreign = {"w1-00000001.cbor": b"torn", "w10-00000001.cbor": b"torn", "w1-00000002.cbor.zst.tmp": b"", "notes.txt": b"mine"}
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    found = recover(tmp_path, "w0")
    assert found.held == {} and found.next_number == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == foreign


def test_a_file_that_is_something_else_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "w0-00000003.cbor.zst").write_bytes(b"not zstd")
    assert recover(tmp_path, "w0").next_number == 4


def test_reading_goes_by_windows_however_large_the_file_and_the_records(tmp_path: Path) -> None:
    sizes = [10, 9 * 1024 * 1024, 10, 5 * 1024 * 1024, 10]
    for file_format in ("cbor", "jsonl"):
        directory = tmp_path / file_format
        records = [chunk(number, os.urandom(size), INSTANCE) for number, size in enumerate(sizes, 1)]
        begin(directory, file_format, records)
        assert recover(directory, "w0").held == {INSTANCE: 5}


def test_a_derived_line_larger_than_a_window_is_passed_over(tmp_path: Path) -> None:
    tape = Tape()
    body = compact({"a": "x" * 9_000_000})
    tape.exchange(1, "/v1/x", [body[:100], body[100:]], [b"{}"])
    begin(tmp_path / "made", "jsonl", tape.records)
    assert recover(tmp_path / "made", "w0").held == {INSTANCE: len(tape.records)}


def test_records_within_a_body_are_never_taken_for_the_writers_own(tmp_path: Path) -> None:
    """Somebody sent a capture file through the proxy, and the read window ends within that record."""
    stranger = "00000000000000cc"
    inner = b"".join(chunk(number, b"y" * 1000, stranger) for number in range(1, 5000))
    records = [chunk(1, bytes(3 * 1024 * 1024), INSTANCE), chunk(2, inner, INSTANCE), chunk(3, b"after", INSTANCE)]
    begin(tmp_path, "cbor", records)
    found = recover(tmp_path, "w0")
    assert found.held == {INSTANCE: 3} and found.torn_bytes == 0
    assert [one.record.number for one in located(tmp_path, segment.find(tmp_path)[0])] == [1, 2, 3, 0]
