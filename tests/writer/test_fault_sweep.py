"""System calls that fail at every n-th place, disks and limits that come and go, files torn at every byte.

The checker is a proxy that numbers its records: in the end each record that was acknowledged is in the files exactly
once, nothing else is there, and the writer never died.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from needs import missing, needs_root, needs_tool

from llmdump import segment
from llmdump.wire import Ack, Resync
from llmdump_writer.recovery import _read_whole, recover
from tests.writer.test_recovery import begin
from tests.writer.test_writer_faults import errors, small_disk
from tests.writer.writer_rig import EXCHANGE, Proxy, Writer, chunk, files, located, numbers, wait_for

INSTANCE = "00000000000000aa"
LAST = 30


def failing(data: Path, *faults: str) -> list[str]:
    """A command under which calls on the writer's own files fail. A fault is `calls:what`, as strace says it."""
    strace = needs_tool("strace")
    own = [data / "segments" / f"w0-{number:08d}.{one}" for number in range(1, 120) for one in ("cbor", "jsonl")]
    own += [path.with_name(path.name + more) for path in own[:40] for more in (".zst.tmp", ".zst")]
    own += [data / "segments" / "w0.probe.tmp"]
    own += [] if any("openat" in fault for fault in faults) else [data / "segments"]  # a start must list it
    paths = [word for path in own for word in ("-P", str(path))]
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    return [str(strace), "-D", "-f", "-qq", "-o", "/dev/null", *paths, *injected]


def deliver(proxy: Proxy, last: int) -> None:
    """Send until all is acknowledged, as a proxy does: again after each RESYNC."""
    held = proxy.hello()
    while held < last:
        proxy.send(held + 1, min(held + 3, last))
        answer = proxy.hear()
        while isinstance(answer, Ack) and answer.nonce != proxy.nonce:
            answer = proxy.hear()
        if isinstance(answer, Ack):
            held = answer.held
        elif isinstance(answer, Resync):
            held = proxy.hello()
        else:
            raise AssertionError(answer)


@pytest.mark.parametrize(
    ("faults", "settings"),
    [
        (["write:error=EIO:when=1+3"], {}),
        (["write:error=ENOSPC:when=2+4"], {"capture_format": "both"}),
        (["openat:error=EMFILE:when=1+3"], {"capture_max_bytes": 4096}),
        (["fdatasync:error=EIO:when=1+2"], {"capture_format": "jsonl"}),
        (["fdatasync:error=EIO:when=3+3", "ftruncate:error=EIO:when=1+2"], {"capture_format": "both"}),
        (["fdatasync:error=EIO:when=1+2", "unlink:error=EIO:when=1+2"], {}),
        (["fsync:error=EIO:when=1+4", "write:error=EIO:when=4+5"], {}),
        (["write:error=EIO:when=3+4", "close:error=EIO:when=1+2"], {"fsync": "interval", "capture_fsync_interval_s": 0.05}),
        (["rename:error=EIO:when=1+2", "unlink:error=EIO:when=2+2"], {"capture_max_bytes": 4096, "capture_seal": "true"}),
        (["statfs:error=EIO:when=1+3"], {}),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
def test_calls_that_fail_again_and_again_lose_nothing_and_store_nothing_twice(
    tmp_path: Path, faults: list[str], settings: dict[str, object]
) -> None:
    data = tmp_path / "data"
    file_format = str(settings.get("capture_format", "cbor")).replace("both", "cbor")
    with Writer(data, command=failing(data, *faults), **settings) as writer:
        with Proxy(writer.card().listen) as proxy:
            deliver(proxy, LAST)
        assert numbers(data, file_format) == list(range(1, LAST + 1))
        assert writer.process.poll() is None
        writer.kill()
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == LAST
        assert numbers(data, file_format) == list(range(1, LAST + 1))


def test_records_given_up_in_a_file_that_cannot_be_cut_are_gone_before_they_come_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = failing(data, "fdatasync:error=EIO:when=2", "ftruncate:error=EIO:when=1..3")
    with Writer(data, command=command) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 5)
        proxy.acknowledged(5)
        proxy.send(6, 10)
        assert isinstance(proxy.hear(), Resync)
        assert numbers(data) == list(range(1, 11)), "nothing could be cut yet"
        assert proxy.hello() == 5
        assert numbers(data) == list(range(1, 6)), "HAVE came before the file was cut"
        proxy.send(6, 12)
        proxy.acknowledged(12)
        assert numbers(data) == list(range(1, 13))


def test_syncs_that_fail_at_random_lose_nothing(tmp_path: Path) -> None:
    fiu = needs_tool("fiu-run")
    data = tmp_path / "data"
    command = [str(fiu), "-x", "-c", "enable_random name=posix/io/sync/*,probability=0.1"]
    # libfiu's lock and the loader's are taken in both orders: who loads a library while another thread makes its first call
    # of some kind may wait for ever. Names of hosts need a library, which is loaded when there are threads: here, before.
    program = ("-c", "import unicodedata; from llmdump_writer.main import main; main()")
    with Writer(data, command, program, capture_format="both") as writer, Proxy(writer.card().listen) as proxy:
        # Ten batches may have the luck that none of their syncs fails.
        for last in range(LAST, 10 * LAST, LAST):
            deliver(proxy, last)
            if errors(writer):
                break
        assert sum(errors(writer).values()) > 0
        assert numbers(data) == numbers(data, "jsonl") == list(range(1, last + 1))


@contextmanager
def bound(directory: Path) -> Iterator[None]:
    """The directory as a mount of its own, so that it can be made read-only."""
    needs_root()
    directory.mkdir(parents=True, mode=0o700)
    done = subprocess.run(["mount", "--bind", str(directory), str(directory)], capture_output=True, check=False)
    if done.returncode:
        missing(f"needs to mount: {done.stderr!r}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def remount(directory: Path, how: str) -> None:
    """`ro` or `rw`; refused while a file is open for writing, so it is tried until the segment is closed."""
    command = ["mount", "-o", f"remount,bind,{how}", str(directory)]
    wait_for(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0)


def test_a_directory_that_becomes_read_only_is_waited_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with bound(data / "segments"), Writer(data, capture_rotate_interval_seconds=1) as writer:
        with Proxy(writer.card().listen) as proxy:
            proxy.hello()
            proxy.send(1, 5)
            proxy.acknowledged(5)
            remount(data / "segments", "ro")
            proxy.send(6, 10)
            assert proxy.hear() == Resync(proxy.nonce)
            assert writer.health() == 503 and "EROFS" in errors(writer)
            remount(data / "segments", "rw")
            deliver(proxy, 20)
            assert writer.health() == 200 and numbers(data) == list(range(1, 21))
        writer.kill()


def test_a_disk_full_again_and_again_takes_all_in_the_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with small_disk(data / "segments", "4m") as segments:
        ballast = segments / "ballast"
        with Writer(data, capture_min_free_bytes=0) as writer, Proxy(writer.card().listen) as proxy:
            proxy.hello()
            for last in (10, 20, 30):
                with ballast.open("wb") as file:
                    while True:
                        try:
                            os.write(file.fileno(), bytes(4096))
                        except OSError:
                            break
                proxy.send(last - 9, last, bytes(10_000))
                assert isinstance(proxy.hear(), Resync)
                ballast.unlink()
                deliver(proxy, last)
            assert numbers(data) == list(range(1, 31))


def test_too_many_open_files_are_waited_for(tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        missing("needs prlimit(2)")
    with Writer(tmp_path / "data", capture_max_bytes=4096) as writer, Proxy(writer.card().listen) as proxy:
        deliver(proxy, 5)
        soft, hard = resource.prlimit(writer.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(writer.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        proxy.send(6, 60)
        answer = proxy.hear()
        while isinstance(answer, Ack):
            answer = proxy.hear()
        assert isinstance(answer, Resync)
        resource.prlimit(writer.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        deliver(proxy, 80)
        assert errors(writer).keys() == {"EMFILE"} and numbers(writer.data) == list(range(1, 81))


# --- torn files

TORN_BYTES = 64 * 1024


def torn_file(tmp_path: Path, file_format: str) -> tuple[Path, list[int]]:
    """A file of a little more than 64 KiB and where its records end."""
    size = 6000 if file_format == "cbor" else 4000
    records = [chunk(number, os.urandom(size), INSTANCE) for number in range(1, 13)]
    [path] = begin(tmp_path / "made", file_format, records)
    [name] = segment.find(tmp_path / "made")
    whole = _read_whole(tmp_path / "made", name)
    assert whole.records == 12 and path.stat().st_size > TORN_BYTES
    return path, [one.offset + one.size for one in located(tmp_path / "made", name)]


@pytest.mark.only_long
@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_a_file_torn_at_any_byte_of_its_last_64_kib_gives_its_whole_records(tmp_path: Path, file_format: str) -> None:
    path, ends = torn_file(tmp_path, file_format)
    [name] = segment.find(path.parent)
    begins_at = path.stat().st_size - TORN_BYTES
    step = 1 if file_format == "cbor" else 3  # lines take longer to read
    for size in range(path.stat().st_size - 1, begins_at, -step):
        os.truncate(path, size)
        while ends and ends[-1] > size:
            ends.pop()
        found = _read_whole(path.parent, name)
        assert (found.records, found.end) == (len(ends), ends[-1] if ends else found.end), size


def test_a_sealed_file_torn_at_any_byte_never_stops_the_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Writer(data, capture_seal="true") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for number in range(1, 5):
            proxy.batch([chunk(number, os.urandom(5000), INSTANCE, EXCHANGE)])
        proxy.acknowledged(4)
        writer.stop()
    with Writer(data, capture_seal="true"):
        wait_for(lambda: [name.endswith(".zst") for name in files(data)] == [True])
    [path] = (data / "segments").iterdir()
    assert recover(path.parent, "w0").held == {INSTANCE: 4}
    for size in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, size)
        assert recover(path.parent, "w0").next_number == 2


@pytest.mark.parametrize("file_format", ["cbor", "jsonl"])
def test_a_writer_started_on_a_torn_file_holds_what_is_whole(tmp_path: Path, file_format: str) -> None:
    path, ends = torn_file(tmp_path, file_format)
    whole = path.read_bytes()
    for size in (ends[0], ends[3] + 1, ends[6] - 1, ends[10] + 17, ends[11]):
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        (data / "segments").mkdir(parents=True, mode=0o700)
        (data / "segments" / path.name).write_bytes(whole[:size])
        held = sum(end <= size for end in ends)
        with Writer(data, capture_format=file_format) as writer, Proxy(writer.card().listen) as proxy:
            assert proxy.hello() == held
            proxy.send(held + 1, 20)
            proxy.acknowledged(20)
            assert numbers(data, file_format) == list(range(1, 21))
