"""`llmdump inspect` as a program: colours, the progress bar, and readers that leave."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inspecting import made
from tests.patience import WAIT_S
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

LLMDUMP = Path(sys.executable).parent / "llmdump"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.sample(tmp_path_factory.mktemp("sample") / "sample.cbor")


def on_terminal(*arguments: object, **environ: str) -> str:
    """What a terminal gets to see."""
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environ
    command = [str(LLMDUMP), *map(str, arguments)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = bytearray()
    while piece := _read(master):
        seen += piece
    os.close(master)
    assert process.wait(WAIT_S) == 0
    return seen.decode()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # how Linux says that nobody writes any more
        return b""


def test_a_person_sees_colours_and_progress_and_a_pipe_neither(sample: Path) -> None:
    seen = on_terminal("inspect", sample, "--detect-issues")
    assert "\x1b[31m[!!!]\x1b[0m" in seen and "Reading" in seen and "100%" in seen
    command = [LLMDUMP, "inspect", sample, "--detect-issues"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert "\x1b" not in done.stdout and done.stderr == ""


def test_a_person_sees_how_far_the_index_of_a_file_is(tmp_path: Path) -> None:
    [path] = begin(tmp_path / "segments", "cbor", realistic().records, close=True)
    seen = on_terminal("ls", path)
    assert "Indexing" in seen and "\x1b[31m" in seen and "000000000005  429" in seen


def test_no_color_is_honoured(sample: Path) -> None:
    seen = on_terminal("inspect", sample, "--detect-issues", NO_COLOR="1")
    assert "[!!!]" in seen and "\x1b[31m" not in seen


def test_a_reader_that_leaves_is_no_error(sample: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [LLMDUMP, "inspect", sample, "-e", "41"], stdout=write, stderr=subprocess.PIPE, timeout=WAIT_S, check=False
    )
    os.close(write)
    assert done.stderr == b"" and done.returncode == -13, "ended by SIGPIPE, as programs are"
