"""A million records of a clean run: verify has nothing to say. Then some are spoilt in the files: it names exactly those.

The records are made by a proxy under the heaviest load that the machine gives: many streams of small chunks at a time.
While it runs, verify is asked again and again, and must never take what is under way for lost.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from llmdump import record, seekable, segment
from llmdump.data_dir import DataDir
from llmdump.segment import Located
from tests.chaos.checker import settle, verify
from tests.chaos.stored import numbers
from tests.chaos.test_proxy_kills import own_metric
from tests.chaos.test_without_writer import proxy_card
from tests.e2e.pipeline import Pipeline

pytestmark = [pytest.mark.only_long, pytest.mark.timeout(3600)]
RECORDS: Final = 1_000_000
STREAMS: Final = 100
CHUNKS: Final = 1000
CHUNK_BYTES: Final = 40
SPOILT: Final = 500
"""Of each way."""
SEQ: Final = range(record.SEQ_AT, record.SEQ_AT + 8)
"""A record's place in the file, which the writer fills in, has no checksum; nothing that was captured is there."""
NO_NEIGHBOUR: Final = 3
"""Two of the spoilt are at least so many records apart, so that each is one range."""


def test_a_million_clean_records_give_no_alarm_and_each_spoilt_one_is_named(
    backend: str, tmp_path: Path, rng: random.Random, tell: Callable[..., None]
) -> None:
    began, asked = time.monotonic(), 0
    with Pipeline(tmp_path, upstream=backend) as pipe:
        while (made := own_metric(proxy_card(pipe), "llmdump_records_made_total")) < RECORDS:
            asyncio.run(streams(pipe.proxy))
            if made > asked * RECORDS / 4:
                found, asked = verify(pipe.data), asked + 1
                assert found["complete"], found["problems"]
        made_s = time.monotonic() - began
        assert settle(pipe)["llmdump_records_dropped_total"] == 0
    found = verify(pipe.data)
    assert found["complete"], found["problems"]
    assert found["made"] == found["in_files"] == found["indexed"] >= RECORDS
    assert (found["missing"], found["duplicates"], found["damaged"]) == (0, 0, [])
    (one,) = found["instances"]
    flipped, removed = spoil(pipe.data, one["made"], rng)
    (told,) = verify(pipe.data)["instances"]
    by_reason = {
        reason: numbers((gone["first"], gone["last"]) for gone in told["missing"] if gone["reason"] == reason)
        for reason in ("damaged", "unknown")
    }
    assert by_reason == {"damaged": flipped, "unknown": removed}
    assert sum(gone["last"] - gone["first"] + 1 for gone in told["missing"]) == len(flipped) + len(removed)
    tell(
        records=found["made"], false_alarms=0, verified=asked + 1, records_a_s=round(found["made"] / made_s),
        files_mib=found["files_bytes"] >> 20, flipped=len(flipped), removed=len(removed), named=len(flipped) + len(removed),
    )  # fmt: skip


async def streams(url: str) -> None:
    """Some streams at a time, each to its end."""
    await asyncio.gather(*(stream(url) for _ in range(STREAMS)))


async def stream(url: str) -> None:
    """One stream of small chunks; fails if it is cut."""
    host = url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    target = f"/sim/chunks?n={CHUNKS}&size={CHUNK_BYTES}&gap_ms=1"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    end, size = b"", 0
    while data := await reader.read(65536):
        end, size = (end + data)[-5:], size + len(data)
    writer.close()
    assert end == b"0\r\n\r\n"
    assert size > CHUNKS * CHUNK_BYTES


def spoil(data: DataDir, made: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Flip a bit in some records and take some others out, wherever they are, sealed or not: their numbers."""
    drawn = rng.sample(range(2, made - 2, NO_NEIGHBOUR), 2 * SPOILT)
    flip, remove = set(drawn[:SPOILT]), set(drawn[SPOILT:])
    for name in segment.find(data.segments):
        with segment.SegmentFile(data.segments, name.segment) as file:
            content = bytearray(file.read(0, file.size))
        begin = segment.skip_header(bytes(content[:4096]))
        here = [item for item in segment.scan(bytes(content[begin:]), begin, closed=True) if isinstance(item, Located)]
        for item in reversed(here):
            if item.record.kind != "footer" and item.record.number in flip:
                content[item.offset + rng.choice([at for at in range(item.size) if at not in SEQ])] ^= 1 << rng.randrange(8)
            elif item.record.kind != "footer" and item.record.number in remove:
                del content[item.offset : item.offset + item.size]
        write(data, name, bytes(content))
    return sorted(flip), sorted(remove)


def write(data: DataDir, name: segment.Name, content: bytes) -> None:
    """The content of a segment anew; a sealed one is sealed again, in frames as large as the writer's."""
    if name.sealed:
        step = 32 * 1024 * 1024
        parts = [content[at : at + step] for at in range(0, len(content), step)]
        frames = [seekable.compress_frame(part) for part in parts]
        table = seekable.seek_table([(len(frame), len(part)) for frame, part in zip(frames, parts, strict=True)])
        content = b"".join([*frames, table])
    (data.segments / name.file).write_bytes(content)
