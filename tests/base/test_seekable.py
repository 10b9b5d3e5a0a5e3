"""Sealed files: any range reads as the plain file does, zstd reads the whole, and damage is told, never returned."""

import random
import struct
import subprocess
from pathlib import Path

import pytest
from needs import needs_tool

from llmdump import seekable
from llmdump.seekable import SealedFile

FRAMES = [b"a" * 100, random.Random(1).randbytes(70_000), b"the end"]
PLAIN = b"".join(FRAMES)


def sealed(path: Path, frames: list[bytes] = FRAMES) -> Path:
    """A sealed file of these frames."""
    compressed = [seekable.compress_frame(frame) for frame in frames]
    sizes = [(len(small), len(plain)) for small, plain in zip(compressed, frames, strict=True)]
    path.write_bytes(b"".join(compressed) + seekable.seek_table(sizes))
    return path


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 0), (0, 1), (0, 100), (99, 2), (100, 70_000), (50, 70_060), (0, 99_999_999), (70_099, 3), (70_107, 5), (99_999, 1)],
)
def test_a_range_is_what_the_plain_file_has_there(tmp_path: Path, offset: int, size: int) -> None:
    file = SealedFile(sealed(tmp_path / "x.zst"))
    assert file.read(offset, size) == PLAIN[offset : offset + size]
    assert file.size == len(PLAIN)
    file.close()


def test_random_ranges_in_any_order_are_the_plain_files(tmp_path: Path) -> None:
    file = SealedFile(sealed(tmp_path / "x.zst"))
    rng = random.Random(2)
    for _ in range(200):
        offset, size = rng.randrange(len(PLAIN)), rng.randrange(80_000)
        assert file.read(offset, size) == PLAIN[offset : offset + size]
    file.close()


def test_the_frame_read_last_is_not_read_again(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.zst")
    file = SealedFile(path)
    assert file.read(200, 10) == PLAIN[200:210]
    path.write_bytes(b"")  # same inode, now empty: whatever is still told comes from memory
    assert file.read(60_000, 10) == PLAIN[60_000:60_010]
    with pytest.raises(ValueError, match="frame 0"):
        file.read(0, 10)
    file.close()


BIG = random.Random(3).randbytes(3_000_000) + bytes(2_000_000)


def test_a_frame_is_read_on_from_where_reading_it_stopped(tmp_path: Path) -> None:
    file = SealedFile(sealed(tmp_path / "x.zst", [BIG, BIG[:9]]))
    rng = random.Random(4)
    for end in sorted(rng.randrange(len(BIG)) for _ in range(50)):
        begin = rng.randrange(end + 1)
        assert file.read(begin, end - begin) == BIG[begin:end]
    assert file.read(0, len(BIG) + 9) == BIG + BIG[:9]
    file.close()


def test_damage_behind_what_is_asked_for_costs_nothing(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.zst", [BIG])
    content = bytearray(path.read_bytes())
    content[2_600_000:2_900_000] = b"\xff" * 300_000  # there begin blocks, whose kind is none now
    path.write_bytes(content)
    file = SealedFile(path)
    assert file.read(1000, 1000) == BIG[1000:2000]
    with pytest.raises(ValueError, match=r"frame 0 at 0: damaged"):
        file.read(2_700_000, 10)
    assert file.read(1000, 1000) == BIG[1000:2000]
    file.close()


def test_the_zstd_tool_reads_a_sealed_file_as_one_stream(tmp_path: Path) -> None:
    needs_tool("zstd")
    path = sealed(tmp_path / "x.zst")
    told = subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True)
    assert told.stdout == PLAIN


def test_a_negative_range_is_refused(tmp_path: Path) -> None:
    file = SealedFile(sealed(tmp_path / "x.zst"))
    for offset, size in ((-1, 5), (0, -5)):
        with pytest.raises(ValueError, match="cannot read"):
            file.read(offset, size)
    file.close()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = sealed(tmp_path / "x.zst", [b"one", b"two" * 50]).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.zst").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.zst: (not a sealed|damaged)"):
            SealedFile(tmp_path / "cut.zst")


def test_no_flipped_byte_gives_wrong_content_in_silence(tmp_path: Path) -> None:
    """The table guards itself; of a frame's content only what zstd notices is refused, the record's checksum does the rest."""
    path = sealed(tmp_path / "x.zst", [b"one" * 10, b"two" * 50])
    whole = bytearray(path.read_bytes())
    table_at = len(whole) - 9 - 2 * 8 - 8
    for at in range(table_at, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.zst"):
            file = SealedFile(path)
            try:
                file.read(0, 1000)
            finally:
                file.close()


def test_a_table_cannot_make_a_reader_allocate_without_bound(tmp_path: Path) -> None:
    frame = seekable.compress_frame(bytes(1000))
    path = tmp_path / "bomb.zst"
    path.write_bytes(frame + seekable.seek_table([(len(frame), seekable.FRAME_BYTES_MAX + 1)]))
    with pytest.raises(ValueError, match="a frame of more than"):
        SealedFile(path)
    path.write_bytes(frame + seekable.seek_table([(len(frame), 10)]))
    file = SealedFile(path)
    with pytest.raises(ValueError, match="does not hold the 10 bytes"):
        file.read(0, 10)
    file.close()


def test_a_table_that_does_not_fit_its_file_is_named(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.zst", [b"one"])
    content = bytearray(path.read_bytes())
    content[-5] = 0x80
    path.write_bytes(content)
    with pytest.raises(ValueError, match="without checksums only"):
        SealedFile(path)
    frame = seekable.compress_frame(b"one")
    path.write_bytes(frame + b"more" + seekable.seek_table([(len(frame), 3)]))
    with pytest.raises(ValueError, match="do not add up"):
        SealedFile(path)
    path.write_bytes(struct.pack("<IBI", 1 << 30, 0, 0x8F92EAB1))
    with pytest.raises(ValueError, match="do not fit"):
        SealedFile(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SealedFile(tmp_path / "none.zst")


def test_a_full_frame_reaches_back_to_its_beginning(tmp_path: Path) -> None:
    """The window spans the frame: a second copy 30 MiB later costs next to nothing."""
    part = random.Random(3).randbytes(1024 * 1024)
    plain = part + bytes(30 * 1024 * 1024) + part
    assert len(seekable.compress_frame(plain)) < 1.1 * len(part)
