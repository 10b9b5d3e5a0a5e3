"""A disk that refuses: nothing is acknowledged that is not stored, the writer lives on, and goes on by itself afterwards."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import needs_root, needs_tool

from llmdump import record
from llmdump.wire import Ack, Resync
from tests.patience import Limit
from tests.writer.writer_rig import Proxy, Writer, files, numbers, wait_for


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size at `at`."""
    needs_root()
    at.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "llmdump", str(at)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        from needs import missing

        missing(f"needs to mount a tmpfs: {err}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def errors(writer: Writer) -> dict[str, float]:
    """Write errors by name."""
    prefix = "llmdump_writer_write_errors_total{"
    return {key.split('"')[1]: value for key, value in writer.metrics().items() if key.startswith(prefix)}


@pytest.mark.parametrize("capture_format", [pytest.param("cbor", marks=pytest.mark.only_long), "both"])
def test_a_full_disk_is_waited_for_and_nothing_is_lost_or_stored_twice(tmp_path: Path, capture_format: str) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with small_disk(data / "segments", "3m") as segments:
        ballast = segments / "ballast"
        ballast.write_bytes(bytes(1024 * 1024))
        settings = {"capture_format": capture_format, "capture_min_free_bytes": 0}
        with Writer(data, **settings) as writer, Proxy(writer.card().listen) as proxy:
            proxy.hello()
            acknowledged = fill(proxy)
            assert acknowledged > 0
            assert wait_for(lambda: writer.health() == 503)
            assert "ENOSPC" in errors(writer) and writer.process.poll() is None
            with contextlib.suppress(AssertionError):
                proxy.hello(within_s=0.3)
                raise RuntimeError("HELLO must be left unanswered while the disk is full")
            ballast.unlink()
            assert proxy.hello() == acknowledged
            assert writer.health() == 200
            proxy.send(acknowledged + 1, acknowledged + 10, bytes(1000))
            proxy.acknowledged(acknowledged + 10)
            assert writer.log.count("disk_refuses_writes") >= 1
            for one in ("cbor", "jsonl") if capture_format == "both" else ("cbor",):
                assert numbers(data, one) == list(range(1, acknowledged + 11))
            writer.kill()
        with Writer(data, **settings) as writer, Proxy(writer.card().listen) as proxy:
            assert proxy.hello() == acknowledged + 10


def free_bytes(directory: Path) -> int:
    """What ordinary users may still write there."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def test_the_watermark_is_left_free_and_capture_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with small_disk(data / "segments", "8m") as segments:
        ballast, keep = segments / "ballast", 3 * 1024 * 1024
        ballast.write_bytes(bytes(2 * 1024 * 1024))
        with Writer(data, capture_min_free_bytes=keep) as writer, Proxy(writer.card().listen) as proxy:
            proxy.hello()
            acknowledged = fill(proxy)
            assert keep <= free_bytes(segments) < keep + 300_000
            assert writer.health() == 503
            assert writer.health_details()["disk_error"] == "min_free"
            assert f"capture_min_free_bytes is {keep}" in writer.health_details()["reason"]
            assert set(errors(writer)) == {"min_free"}
            assert keep <= writer.metrics()["llmdump_writer_disk_free_bytes"] < keep + 300_000
            with pytest.raises(AssertionError, match="no HAVE"):
                proxy.hello(within_s=0.3)
            ballast.unlink()
            assert proxy.hello() == acknowledged
            assert writer.health() == 200
            proxy.send(acknowledged + 1, acknowledged + 10)
            proxy.acknowledged(acknowledged + 10)
            assert numbers(data) == list(range(1, acknowledged + 11))


def test_a_cap_that_makes_room_comes_before_the_watermark(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with small_disk(data / "segments", "8m") as segments:
        keep, cap = 4 * 1024 * 1024, 4 * 1024 * 1024 - 40960
        settings = {"capture_min_free_bytes": keep, "capture_total_max_bytes": cap, "capture_max_bytes": 1024 * 1024}
        with Writer(data, **settings) as writer, Proxy(writer.card().listen) as proxy:
            proxy.hello()
            for first in range(1, 1000, 20):
                proxy.send(first, first + 19, os.urandom(10_000))
                proxy.acknowledged(first + 19)
            assert not errors(writer) and free_bytes(segments) >= keep
            assert numbers(data)[-1] == 1000


def fill(proxy: Proxy) -> int:
    """Send until the writer says RESYNC; the last number that was acknowledged."""
    acknowledged, number = 0, 0
    while True:
        proxy.send(number + 1, number + 10, os.urandom(10_000))
        number += 10
        answer = proxy.hear()
        while isinstance(answer, Ack) and answer.held < number:
            acknowledged = answer.held
            answer = proxy.hear()
        if isinstance(answer, Resync):
            return acknowledged
        assert isinstance(answer, Ack)
        acknowledged = answer.held


def injected(tmp_path: Path, fault: str, calls: str) -> list[str]:
    """A command that makes one system call of the writer fail."""
    strace = needs_tool("strace")
    options = ["-D", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    return [str(strace), *options]


@pytest.mark.parametrize("when", [1, 2, 3])
def test_what_a_failed_sync_covered_is_not_acknowledged_and_never_synced_again(tmp_path: Path, when: int) -> None:
    command = injected(tmp_path, f"error=EIO:when={when}", "fdatasync")
    with Writer(tmp_path / "data", command=command) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for round_ in range(1, when):
            proxy.send(round_, round_)
            proxy.acknowledged(round_)
        proxy.send(when, when)
        assert proxy.hear() == Resync(proxy.nonce)
        suspect = files(writer.data).get("w0-00000001.cbor")
        assert proxy.hello() == when - 1
        proxy.send(when, when + 5)
        proxy.acknowledged(when + 5)
        assert errors(writer) == {"EIO": 1}
        # Where nothing before the failure was durable the file is gone, and its number may be another file's.
        assert suspect is None or files(writer.data)["w0-00000001.cbor"] == suspect, "the suspect file was touched again"
        assert numbers(writer.data) == list(range(1, when + 6))
        assert writer.health() == 200
        writer.kill()
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == when + 5


def syncs(writer: Writer) -> float:
    """How often a segment file was synced."""
    return writer.metrics()["llmdump_writer_fsync_seconds_count"]


def test_with_fsync_interval_many_acknowledged_flushes_share_one_sync(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", fsync="interval", capture_fsync_interval_s=1.5) as writer:
        with Proxy(writer.card().listen) as proxy:
            proxy.hello()
            limit = Limit(2.5)
            for number in range(1, 11):
                proxy.send(number, number)
                proxy.acknowledged(number)
            assert syncs(writer) <= limit.passed_s / 1.4
            wait_for(lambda: syncs(writer) > 0)
            assert limit.passed_s > 1.4 and limit.is_kept
            proxy.send(11, 11)
            proxy.acknowledged(11)
            assert syncs(writer) <= limit.passed_s / 1.4
        writer.stop()  # closes the segment, and that is synced
        assert numbers(writer.data) == list(range(1, 12))


@pytest.mark.parametrize("at", ["interval", "rotation"])
def test_a_sync_that_fails_after_the_acknowledgement_is_told_and_its_file_left_alone(tmp_path: Path, at: str) -> None:
    command = injected(tmp_path, "error=EIO:when=1", "fdatasync")
    settings = {"fsync": "interval", "capture_fsync_interval_s": 0.3 if at == "interval" else 60}
    settings |= {"capture_max_bytes": 4096} if at == "rotation" else {}
    with Writer(tmp_path / "data", command=command, **settings) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 10)
        proxy.acknowledged(10)
        if at == "rotation":
            proxy.send(11, 20)  # goes into the next segment
            proxy.acknowledged(20)
        told = wait_for(lambda: writer.metrics()["llmdump_records_unsynced_total"])
        suspect = (writer.data / "segments" / "w0-00000001.cbor").read_bytes()
        assert told == suspect.count(record.MAGIC) - suspect.count(b"x_instances")
        assert f"instance=00000000000000aa above=0 to={told:.0f} records={told:.0f}" in wait_for(lambda: writer.log)
        held = proxy.hello()
        assert held == (20 if at == "rotation" else 10)
        proxy.send(held + 1, 30)
        proxy.acknowledged(30)
        assert (writer.data / "segments" / "w0-00000001.cbor").read_bytes() == suspect
        assert numbers(writer.data) == list(range(1, 31))


def test_a_write_that_takes_only_part_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    """A file size limit makes the kernel take a part, then refuse."""
    limited = ["sh", "-c", 'ulimit -f 64; exec "$0" "$@"']  # 64 blocks of 512 bytes
    with Writer(tmp_path / "data", command=limited) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 20, bytes(1000))
        proxy.acknowledged(20)
        proxy.send(21, 40, bytes(1000))
        assert proxy.hear() == Resync(proxy.nonce)
        assert numbers(writer.data) == list(range(1, 21))
        assert "EFBIG" in errors(writer)


def test_a_failing_write_at_each_place_never_stores_twice(tmp_path: Path) -> None:
    """EIO on every third write, for a while: all is stored once in the end."""
    command = injected(tmp_path, "error=EIO:when=2+3", "fdatasync")
    with Writer(tmp_path / "data", command=command, capture_format="both") as writer, Proxy(writer.card().listen) as proxy:
        held, last = proxy.hello(), 40
        while held < last:
            proxy.send(held + 1, min(held + 4, last))
            answer = proxy.hear()
            if isinstance(answer, Ack):
                held = answer.held
            elif isinstance(answer, Resync):
                held = proxy.hello()
        assert errors(writer)["EIO"] > 3
        assert numbers(writer.data) == numbers(writer.data, "jsonl") == list(range(1, last + 1))
