"""`llmdump up`: the four processes started by one command, and stopped with it."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmdump import presence
from llmdump.data_dir import DataDir
from tests.patience import WAIT_S

BIN = Path(sys.executable).parent
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def up(place: Path) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """`llmdump up` in a directory, ready; and what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    flags = [f"--{name}-listen=127.0.0.1:0" for name in ("proxy", "api", "proxy-admin", "writer-admin", "indexer-admin")]
    command = [BIN / "llmdump", "up", *flags]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=place, env=clean, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("All four processes work"):
                break
        assert process.poll() is None, (place / "log").read_text()
        yield process, said
    finally:
        for card in presence.living(DataDir(place / "data").run):
            os.kill(card.pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_when_one_dies_the_others_leave_and_its_code_is_told(tmp_path: Path) -> None:
    with up(tmp_path) as (process, said):
        data = DataDir(tmp_path / "data")
        assert sorted(card.role for card in presence.living(data.run)) == ["api", "indexer", "proxy", "writer"]
        found = re.search(r"metrics +(\S+)", "".join(said))
        assert found is not None
        with _DIRECT.open(found[1], timeout=WAIT_S) as answer:
            assert answer.status == 200
        again = subprocess.run(
            [BIN / "llmdump", "up"], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert again.returncode == 1
        assert "already live" in again.stderr
        (card,) = presence.living(data.run, "writer")
        os.kill(card.pid, signal.SIGKILL)
        assert process.wait(WAIT_S) == 128 + signal.SIGKILL
        assert not presence.living(data.run)
        assert "writer has left with exit code 137" in (tmp_path / "log").read_text()


def test_ctrl_c_stops_all(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("with --long: all four processes once more")
    with up(tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        assert not presence.living(DataDir(tmp_path / "data").run)
