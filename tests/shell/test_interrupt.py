"""Ctrl-C ends every long command without a word, whatever it is at: real processes, SIGINT at moments that are seen.

Which module a process imports just then is told by Python itself (PYTHONPROFILEIMPORTTIME), in lines on stderr.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmdump import interrupt, presence
from llmdump.data_dir import DataDir
from llmdump_indexer.follow import Follower
from tests.inspecting import made
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

BIN = Path(sys.executable).parent
WAIT_S = 60

COMMANDS = {
    "tail": "llmdump_api.live",
    "serve": "llmdump_api.shelf",
    "export -o all.jsonl": "llmdump_api.export.selection",
    "inspect session.cbor": "llmdump.inspecting.views",
    "verify": "llmdump.survey",
    "up": "llmdump.together",
    "run -- true": "llmdump.outcome",
    "ls": "llmdump_api.looking.listing",
    "import session.cbor": "llmdump.importing.segments",
    "rebuild": "llmdump_indexer.follow",
    "demo": "llmdump.together",
}
"""Commands, with a module that is nearly the last that they import before they work."""
MOMENTS = [*COMMANDS.items(), ("tail", "click.core"), ("tail", "llmdump.settings"), ("verify", "click.core")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data`, indexed, and a capture of others."""
    place = tmp_path_factory.mktemp("place")
    (place / "data").mkdir()
    begin(place / "data" / "segments", "cbor", realistic().records, close=True)
    Follower(DataDir(place / "data").create()).catch_up()
    made.sample(place / "session.cbor")
    return place


@pytest.fixture(autouse=True)
def _is_heeded() -> Iterator[None]:
    """A shell's background job has SIGINT ignored, and so has what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def started(line: str, place: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [BIN / "llmdump", *line.split()], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(place), **environ},
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def interrupted_at(module: str, line: str, place: Path) -> tuple[int, list[bytes]]:
    """The exit code, and all lines that are said, when SIGINT comes just after this module was imported."""
    with started(line, place, PYTHONPROFILEIMPORTTIME="1") as process:
        assert process.stderr is not None
        for said in process.stderr:
            if said.split(b"|")[-1].strip() == module.encode():
                break
        else:
            raise AssertionError(f"{line} does not import {module}")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
        lines = [line for line in (out + err).splitlines() if not line.startswith(b"import time:")]
        return process.returncode, lines


@pytest.mark.parametrize(("line", "module"), MOMENTS)
def test_at_start_up_it_ends_without_a_word(line: str, module: str, place: Path) -> None:
    assert interrupted_at(module, line, place) == (interrupt.EXIT_INTERRUPTED, [])


def large(path: Path) -> Path:
    """A capture that takes seconds to read."""
    tape = made.Tape()
    for number in range(20_000):
        tape.put(number, made.CP, made.ask(), sid="s", rid=f"r{number}")
    return tape.file(path)


@pytest.mark.parametrize("line", ["ls large.cbor", "inspect large.cbor --analyze", "import large.cbor"])
def test_at_work_it_puts_away_what_it_made(line: str, tmp_path: Path) -> None:
    large(tmp_path / "large.cbor")
    (tmp_path / "temporary").mkdir()
    with started(line, tmp_path, TMPDIR=str(tmp_path / "temporary")) as process:
        until_read(process.pid, tmp_path / "large.cbor")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (interrupt.EXIT_INTERRUPTED, b"")
    assert not list((tmp_path / "temporary").iterdir())
    assert not list(tmp_path.glob("data/segments/*"))


def until_read(pid: int, path: Path) -> None:
    """Wait until a process has this file open."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if fd.readlink() == path:
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.01)
    raise AssertionError(f"{path} was never opened")


def test_what_is_ignored_stays_ignored(place: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with started("verify", place) as process:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=WAIT_S)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode in {0, 1}, "it went on to its end"


def test_up_that_is_not_up_yet_stops_what_it_has_started(tmp_path: Path) -> None:
    ports = " ".join(
        f"--{name}-listen=127.0.0.1:0" for name in ("proxy", "api", "proxy-admin", "writer-admin", "indexer-admin")
    )
    run = DataDir(tmp_path / "data").run
    with started(f"up {ports}", tmp_path) as process:
        deadline = time.monotonic() + WAIT_S
        while not presence.living(run) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (interrupt.EXIT_INTERRUPTED, b"")
    assert b"Traceback" not in err and not presence.living(run)
