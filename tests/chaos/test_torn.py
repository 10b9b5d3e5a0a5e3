"""Files torn at every byte, and with every byte changed: what is whole is read, what is not is told, nothing else is made up.

Bodies hold whole records of other captures, as when a client uploads a capture file. In the short form a sample of places
and the ends of all records; in the long form each of the last 65,536 bytes.

What is guarded, and was seen to fail without it: `segment.scan` passes over a record whose layout is whole as one, and asks
whether a record can stand where it is found; `recovery` cuts all that follows the last whole record behind the mark;
`jsonl.scan` parts lines whose end was changed; readers count a torn tail as not there.
"""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from llmdump import record, segment
from llmdump.commands.verify import Window, certify
from llmdump.data_dir import DataDir
from llmdump.durable import Mark
from llmdump.record import Identity
from llmdump.segment import Damage, Located
from llmdump.settings import Settings
from llmdump.survey import Survey
from llmdump.tail import Tail
from llmdump_writer.catalog import Catalog
from llmdump_writer.recovery import recover
from llmdump_writer.rotation import Limits
from llmdump_writer.store import Store
from tests.chaos.disks import small_disk

pytestmark = [pytest.mark.xdist_group("chaos-torn"), pytest.mark.timeout(1800)]
TORN_BYTES: Final = 64 * 1024
INSTANCE: Final = "00000000000000aa"
FOREIGN: Final = "ffffffffffffffff"
EXCHANGE: Final = "01900000-0000-7000-8000-000000000001"
RECORDS: Final = 13
SAMPLES: Final = 150


def chunk(number: int, data: bytes, instance: str = INSTANCE) -> bytes:
    """A record."""
    return record.encode_chunk(1.7e9 + number, 3, number, data, Identity(instance, EXCHANGE), number, False)


def upload(rng: random.Random, size: int, seq: int = 1000) -> bytes:
    """A body that is in part a capture file, from its record `seq` on."""
    inner = bytearray()
    for one in range(seq, seq + 3):
        at = len(inner)
        inner += chunk(one, rng.randbytes(40), FOREIGN)
        record.patch_seq(inner, at, one)
    return (bytes(inner) + rng.randbytes(size))[: max(size, len(inner))]


def written(data: DataDir, file_format: str, records: list[bytes], *, close: bool = False) -> Path:
    """The file of a writer that stored these records, one a flush, and was then killed, or closed its segment."""
    settings = Settings(capture_format=file_format, capture_min_free_bytes=0)
    store = Store(Catalog(data, Limits.of(settings), {}), settings, "w0", 1)
    buffer = store.begin()
    for one in records:
        whole = record.decode(one)
        lines = b"".join(store.converter.lines(whole))
        buffer.add(whole.instance, [whole.number], [len(one)], one, 0.0, lines, whole.exchange)
        store.write(buffer)
    if close:
        store.close(buffer)
    return data.segments / f"w0-00000001.{file_format}"


def located(path: Path) -> list[Located]:
    """The records of an undamaged file."""
    with Tail(path.parent, []) as tail:
        return [item for item in read_on(tail) if isinstance(item, Located) and item.record.kind != "footer"]


def read_on(tail: Tail) -> list[Located | Damage]:
    """All that a tail gives now."""
    found: list[Located | Damage] = []
    tail.look()
    while (step := tail.step()) is not None:
        found += step.items
    return found


def surveyed(directory: Path) -> Survey:
    """What verify reads."""
    found = Survey()
    found.read(directory, [], [], lambda _: math.inf, 0.0, lambda _: None)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    """On a disk whose syncs cost nothing."""
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield DataDir(disk / "data").create()


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "without a mark"])
@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_a_file_torn_at_any_byte_gives_its_whole_records_to_readers_and_writer(
    file_format: str, marked: bool, data: DataDir, is_long: bool, rng: random.Random, tell: Callable[..., None]
) -> None:
    """With the mark of a writer that acknowledged the whole records, even if what is in a body could stand there."""
    size = 6000 if file_format == "cbor" else 4000
    bodies = [upload(rng, size, number if marked else 1000) for number in range(1, RECORDS + 1)]
    path = written(data, file_format, [chunk(number, body) for number, body in enumerate(bodies, 1)])
    mark, whole = Mark(data.segments, "w0"), path.read_bytes()
    mark.set(2, {})
    assert len(whole) > TORN_BYTES
    ends = [one.offset + one.size for one in located(path)]
    assert len(ends) == RECORDS
    cuts = range(len(whole) - 1, len(whole) - 1 - TORN_BYTES, -1)
    near = {end + more for end in ends for more in (-1, 0, 1)}
    tried = [cut for cut in cuts if is_long or cut in near or rng.random() < SAMPLES / TORN_BYTES]
    for cut in tried:
        count = sum(end <= cut for end in ends)
        path.write_bytes(whole[:cut])
        mark.set(1 if marked else 2, {file_format: ends[count - 1]})
        check_torn(data, cut, ends[:count])
        check_recovered(data, path, whole, cut, ends[:count])
    tell(cuts=len(tried), bytes=len(whole))


def check_torn(data: DataDir, cut: int, ends: list[int]) -> None:
    """Readers see whole records only."""
    with Tail(data.segments, []) as tail:
        found = read_on(tail)
    whole = list(range(1, len(ends) + 1))
    assert [item.record.number for item in found if isinstance(item, Located)] == whole, cut
    survey = surveyed(data.segments)
    assert survey.instances.keys() == {INSTANCE}
    assert (survey.instances[INSTANCE].present, survey.damages) == ([(1, len(ends))], []), cut
    assert survey.torn_bytes == cut - ends[-1], cut


def check_recovered(data: DataDir, path: Path, whole: bytes, cut: int, ends: list[int]) -> None:
    """The writer that starts next: it cuts what is torn, counts it, writes a footer, and goes on in a new segment."""
    found = recover(data.segments, "w0")
    assert (found.held, found.torn_bytes, found.next_number) == ({INSTANCE: len(ends)}, cut - ends[-1], 2), cut
    after = path.read_bytes()
    assert after[: ends[-1]] == whole[: ends[-1]] and len(after) > ends[-1]
    assert found.unsealed == [segment.parse_name(path.name)]


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_any_byte_changed_costs_its_record_alone_and_is_told_by_number(
    file_format: str, data: DataDir, is_long: bool, rng: random.Random, tell: Callable[..., None]
) -> None:
    path = written(
        data, file_format, [chunk(number, upload(rng, 700) if number > 1 else b"") for number in range(1, 11)], close=True
    )
    path.with_name(f"w0-00000002.{file_format}").write_bytes(b"")  # so that it is not the newest
    Mark(data.segments, "w0").set(3, {})
    content = path.read_bytes()
    places = located(path)
    always = {*range(places[0].offset), *(one.offset + one.size - 1 for one in places)}
    offsets = [offset for offset in range(len(content)) if is_long or offset in always or rng.random() < SAMPLES / len(content)]
    told = 0
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        told += check_changed(data, path, places, offset)
    tell(places=len(offsets), told=told)


def check_changed(data: DataDir, path: Path, places: list[Located], offset: int) -> bool:
    """Whether a record is lost: then it is the one that has the place, and verify and the index say so."""
    hit = [one.record.number for one in places if one.offset <= offset < one.offset + one.size]
    with Tail(data.segments, []) as tail:
        found = read_on(tail)
    numbers = [item.record.number for item in found if isinstance(item, Located) and item.record.kind != "footer"]
    lost = sorted({one.record.number for one in places} - set(numbers))
    # A changed `seq` is no damage: nobody's checksum has it, for the writer sets it. Nor is a changed LF.
    assert lost in ([], hit), (offset, hit, lost)
    assert sorted(numbers) == numbers and all(
        item.record.instance in {INSTANCE, "0" * 16} for item in found if isinstance(item, Located)
    )
    certificate = certify(data, Window(), lambda _: None)
    (one,) = certificate.instances
    assert [(missing.first, missing.last, missing.reason) for missing in one.statement.missing] == [
        (number, number, "damaged") for number in lost
    ], offset
    assert bool(certificate.survey.damages) or not lost
    return bool(lost)
