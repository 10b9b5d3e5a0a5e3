"""docs/verify.md: each command line in it runs, and what it explains is what there is."""

import json
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pipeline import BIN, Pipeline, backend_process, environment
from tests.patience import WAIT_S, eventually

PAGE = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()
COMMANDS = re.findall(r"^    (llmdump \w+.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose `data` has one small whole capture."""
    place = tmp_path_factory.mktemp("page")
    for backend in backend_process(place / "log"):
        with Pipeline(place, upstream=backend) as pipe:
            with urllib.request.urlopen(f"{pipe.proxy}/v1/models", timeout=WAIT_S) as answer:
                assert answer.read()
            eventually(pipe.rows, WAIT_S, "a row")
    yield place


def run(place: Path, command: str) -> "subprocess.CompletedProcess[str]":
    program, *arguments = shlex.split(command)
    return subprocess.run(
        [str(BIN / program), *arguments],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_line_runs(place: Path, command: str) -> None:
    done = run(place, command)
    assert done.returncode == 0, done.stdout + done.stderr
    if "rebuild" in command:
        assert ("exchanges" in json.loads(done.stdout)) if "--json" in command else done.stdout.startswith("the index holds")
    elif "--json" in command:
        assert json.loads(done.stdout)["complete"]
    else:
        assert done.stdout.splitlines()[-1].startswith("COMPLETE: ")


def test_there_are_command_lines_and_every_key_is_explained(place: Path) -> None:
    assert len(COMMANDS) >= 7
    found = json.loads(run(place, "llmdump verify --json").stdout)
    plain = {"complete", "problems", "since", "until", "instances", "files", "files_bytes"}
    plain |= {"instance", "about", "began", "last_record"}
    for key in {*found, *found["instances"][0]} - plain:
        assert f"`{key}`" in PAGE, key
