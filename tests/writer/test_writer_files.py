"""Flushing, rotation, caps, modes and sealing, each exactly as its setting says: real processes and files."""

import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from llmdump import seekable, segment
from llmdump.segment import SegmentFile
from llmdump.wire import Ack
from tests.patience import Limit
from tests.writer.writer_rig import Proxy, Writer, chunk, files, located, numbers, stored, wait_for

NEVER = 30


def flushes(writer: Writer) -> dict[str, float]:
    """How often each trigger set off a flush."""
    name = "llmdump_writer_flushes_total"
    found = writer.metrics().items()
    return {key.split('"')[1]: value for key, value in found if key.startswith(name + "{")}


# --- flush: each trigger alone


def test_records_wait_no_longer_than_the_flush_interval(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_flush_interval=2.0) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        limit = Limit(2.25)
        proxy.send(1, 3)
        assert proxy.hear(0.3) is None and not files(writer.data)
        proxy.send(4, 4)  # does not make the first ones wait longer
        proxy.acknowledged(4)
        assert limit.passed_s > 1.9 and limit.is_kept
        assert flushes(writer) == {"interval": 1}


def test_so_many_entries_are_flushed_at_once(tmp_path: Path) -> None:
    settings = {"capture_flush_interval": NEVER, "capture_max_entries_per_flush": 20}
    with Writer(tmp_path / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 19)
        assert proxy.hear(0.2) is None
        proxy.send(20, 20)
        proxy.acknowledged(20)
        assert flushes(writer) == {"entries": 1}


def test_so_many_bytes_are_flushed_at_once(tmp_path: Path) -> None:
    one = len(chunk(1, bytes(1000), "00000000000000aa"))
    settings = {"capture_flush_interval": NEVER, "capture_buffer_size": 10 * one}
    with Writer(tmp_path / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 9, bytes(1000))
        assert proxy.hear(0.2) is None
        proxy.send(10, 10, bytes(1000))
        proxy.acknowledged(10)
        assert flushes(writer) == {"bytes": 1}


def test_half_a_window_of_one_proxy_is_flushed_whatever_the_settings(tmp_path: Path) -> None:
    settings = {"capture_flush_interval": NEVER, "capture_buffer_size": 1 << 30, "capture_max_entries_per_flush": 1 << 30}
    with Writer(tmp_path / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for number in range(1, 9):
            proxy.send(number, number, bytes(256 * 1024))
        proxy.acknowledged(8)
        assert flushes(writer) == {"window": 1}


# --- rotation


@pytest.mark.parametrize(
    "capture_format", [*(pytest.param(one, marks=pytest.mark.only_long) for one in ("cbor", "jsonl")), "both"]
)
def test_a_file_is_closed_before_it_would_grow_beyond_its_limit(tmp_path: Path, capture_format: str) -> None:
    data, limit = tmp_path / "data", 6000
    with Writer(data, capture_format=capture_format, capture_max_bytes=limit) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 100, 5):
            proxy.send(first, first + 4)
            proxy.acknowledged(first + 4)
        proxy.send(101, 300)  # many times the limit at once
        proxy.acknowledged(300)
        writer.stop()
    sizes = files(data)
    assert len(sizes) > 10 and max(sizes.values()) <= limit
    by_format = {name: [size for file, size in sizes.items() if file.endswith(name)] for name in ("cbor", "jsonl")}
    fullest = by_format["jsonl"] or by_format["cbor"]
    assert min(sorted(fullest)[1:]) > limit / 2, "closed too early"
    for one in ("cbor", "jsonl") if capture_format == "both" else (capture_format,):
        assert numbers(data, one) == list(range(1, 301))


def test_a_record_larger_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Writer(data, capture_max_bytes=4096) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 2)
        proxy.send(3, 3, bytes(100_000))
        proxy.send(4, 5)
        proxy.acknowledged(5)
        writer.stop()
    assert numbers(data) == [1, 2, 3, 4, 5]
    assert [len(list(located(data / "segments", name))) - 1 for name in segment.find(data / "segments")] == [2, 1, 2]


def test_a_file_is_closed_at_its_age_with_nobody_writing(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_rotate_interval_seconds=1) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        limit = Limit(2.5)
        proxy.send(1, 3)
        proxy.acknowledged(3)
        wait_for(lambda: writer.metrics().get('llmdump_writer_rotations_total{trigger="age"}') == 1)
        assert limit.passed_s > 0.9 and limit.is_kept
        proxy.send(4, 4)
        proxy.acknowledged(4)
        assert set(files(writer.data)) == {"w0-00000001.cbor", "w0-00000002.cbor"}


# --- caps


def test_no_more_closed_files_are_kept_than_max_files_says(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_max_bytes=4096, capture_max_files=3) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 200, 10):
            proxy.send(first, first + 9)
            proxy.acknowledged(first + 9)
        names = sorted(files(writer.data))
        metrics = writer.metrics()
    newest = int(names[-1][3:11])
    assert names == [f"w0-{number:08d}.cbor" for number in range(newest - 3, newest + 1)]
    assert metrics['llmdump_writer_segments_deleted_total{reason="max_files"}'] == newest - 4
    assert writer.log.count("segment_deleted") == newest - 4
    kept = numbers(writer.data)
    assert kept == list(range(kept[0], 201))


def test_the_total_cap_is_held_at_every_moment(tmp_path: Path) -> None:
    cap = 20_000
    settings = {"capture_max_bytes": 4096, "capture_total_max_bytes": cap, "capture_format": "both"}
    seen = []
    with Writer(tmp_path / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 300, 3):
            proxy.send(first, first + 2)
            proxy.acknowledged(first + 2)
            seen.append(sum(files(writer.data).values()))
        metrics = writer.metrics()
    assert max(seen) <= cap and max(seen) > cap / 2
    assert metrics['llmdump_writer_segments_deleted_total{reason="total_max_bytes"}'] > 5
    assert metrics["llmdump_writer_segments_deleted_bytes_total"] > 0
    assert metrics["llmdump_writer_storage_bytes"] == seen[-1]
    kept = numbers(writer.data)
    assert kept == list(range(kept[0], 301)) and kept == numbers(writer.data, "jsonl")


def test_a_cap_smaller_than_a_file_closes_files_earlier(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_total_max_bytes=5000) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 100, 3):
            proxy.send(first, first + 2)
            proxy.acknowledged(first + 2)
            assert sum(files(writer.data).values()) <= 5000
        assert numbers(writer.data)[-1] == 99


def test_what_a_cap_deleted_is_not_asked_for_again(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_max_bytes=4096, capture_max_files=1) as writer:
        with Proxy(writer.card().listen) as proxy:
            proxy.hello()
            for first in range(1, 100, 10):
                proxy.send(first, first + 9)
                proxy.acknowledged(first + 9)
            assert proxy.hello() == 100
        writer.kill()
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 100


# --- modes


def test_files_are_private(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_seal="true", capture_format="both") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 3)
        proxy.acknowledged(3)
        writer.stop()
        paths = [writer.data, *writer.data.rglob("*")]
        for path in paths:
            private = 0o600 if path.is_file() else 0o700
            assert stat.S_IMODE(path.stat().st_mode) == private, path
        assert len(paths) > 4


# --- sealing


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_every_record_is_read_from_the_sealed_file_at_its_offset(tmp_path: Path, file_format: str) -> None:
    data = tmp_path / "data"
    with Writer(data, capture_format=file_format) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 300, 50):
            proxy.send(first, first + 49, os.urandom(3000))
        proxy.acknowledged(300)
        writer.stop()
    [name] = segment.find(data / "segments")
    plain = (data / "segments" / name.file).read_bytes()
    before = list(located(data / "segments", name))
    with Writer(data, capture_seal="true") as writer:
        wait_for(lambda: list(files(data)) == [name.segment + ".zst"])
        wait_for(lambda: writer.metrics()["llmdump_writer_segments_sealed_total"] == 1)
    [name] = segment.find(data / "segments")
    assert name.sealed
    assert list(located(data / "segments", name)) == before
    with SegmentFile(data / "segments", name.segment) as file:
        for found in reversed(before):
            assert file.read(found.offset, found.size) == plain[found.offset : found.offset + found.size]


def test_a_segment_is_sealed_while_the_writer_goes_on(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_seal="true", capture_max_bytes=4096) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 100)
        proxy.acknowledged(100)
        wait_for(lambda: [name for name in files(writer.data) if not name.endswith(".zst")] == [max(files(writer.data))])
        assert numbers(writer.data) == list(range(1, 101))


def a_closed_segment(tmp_path: Path) -> tuple[Path, str]:
    """A data directory with one closed, unsealed segment, and its name."""
    data = tmp_path / "data"
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 50)
        proxy.acknowledged(50)
        writer.stop()
    return data, "w0-00000001.cbor"


@pytest.mark.parametrize("step", ["empty tmp", "half tmp", "whole tmp", "renamed, not unlinked", "renamed, but damaged"])
def test_a_seal_that_was_cut_off_leaves_the_old_file_or_the_new(tmp_path: Path, step: str) -> None:
    data, plain = a_closed_segment(tmp_path)
    content = (data / "segments" / plain).read_bytes()
    frame = seekable.compress_frame(content)
    sealed = frame + seekable.seek_table([(len(frame), len(content))])
    made, done = data / "segments" / f"{plain}.zst.tmp", data / "segments" / f"{plain}.zst"
    match step:
        case "empty tmp":
            made.write_bytes(b"")
        case "half tmp":
            made.write_bytes(sealed[: len(sealed) // 2])
        case "whole tmp":
            made.write_bytes(sealed)
        case "renamed, not unlinked":
            done.write_bytes(sealed)
        case _:
            done.write_bytes(sealed[:-3])
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:  # not sealing: what is left is what counted
        assert proxy.hello() == 50
        expected = plain + ".zst" if step == "renamed, not unlinked" else plain
        assert list(files(data)) == [expected]
        assert numbers(data) == list(range(1, 51))
    with Writer(data, capture_seal="true"):
        wait_for(lambda: list(files(data)) == [plain + ".zst"])
        assert numbers(data) == list(range(1, 51))


def test_kill_9_while_sealing_loses_nothing(tmp_path: Path) -> None:
    data, _ = a_closed_segment(tmp_path)
    original = tmp_path / "original"
    shutil.copytree(data / "segments", original)
    for pause_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        shutil.rmtree(data / "segments")
        shutil.copytree(original, data / "segments")
        with Writer(data, capture_seal="true") as writer:
            wait_for(writer._card)
            time.sleep(pause_s)  # a random moment, not a wait for something
            writer.kill()
        assert [one.number for one in stored(data)] == list(range(1, 51))
        with Writer(data, capture_seal="true"):
            wait_for(lambda: [name.endswith(".zst") for name in files(data)] == [True])
        assert numbers(data) == list(range(1, 51))


def test_a_cap_deletes_sealed_files_too(tmp_path: Path) -> None:
    settings = {"capture_seal": "true", "capture_max_bytes": 4096, "capture_max_files": 2}
    with Writer(tmp_path / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in range(1, 200, 10):
            proxy.send(first, first + 9)
            proxy.acknowledged(first + 9)
        wait_for(lambda: sum(name.endswith(".zst") for name in files(writer.data)) == 2)
        assert len(files(writer.data)) == 3


def test_acks_are_for_this_session_only(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_flush_interval=0.3) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        first = proxy.nonce
        proxy.send(1, 2)
        proxy.hello()
        proxy.send(3, 3)
        proxy.acknowledged(3)
        assert proxy.nonce != first
        assert not isinstance(proxy.hear(0.4), Ack)
