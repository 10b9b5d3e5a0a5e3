"""docs/inspect.md: each command line in it runs, and it explains every flag, kind of issue and member of the JSON."""

import re
import shlex
from pathlib import Path

import pytest

from llmdump.commands import inspect
from llmdump.inspecting.issues import KINDS
from tests.inspecting import made
from tests.inspecting.running import call
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

PAGE = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
COMMANDS = re.findall(r"^    llmdump inspect (.+)$", PAGE, re.MULTILINE)
HELP_COMMANDS = re.findall(r"^  llmdump inspect (.+?)(?:  .*|$)", inspect.EPILOG, re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `session.cbor`, and a data directory `data`."""
    place = tmp_path_factory.mktemp("page")
    made.sample(place / "session.cbor")
    (place / "data").mkdir()
    begin(place / "data" / "segments", "cbor", realistic().records, close=True)
    return place


@pytest.mark.parametrize("command", [*COMMANDS, *HELP_COMMANDS])
def test_each_command_line_runs(place: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(place)
    arguments = shlex.split(command.partition(" >")[0])
    done = call(*arguments)
    fails = "--fail-on" in arguments or "-2h" in arguments  # broken_stream is found; the capture is older
    assert done.code == (1 if fails else 0), done.err
    assert fails or not done.err
    assert len(done.out.splitlines()) > 5 or "-2h" in arguments or "export.json" in arguments


def test_every_flag_kind_and_member_is_explained(place: Path) -> None:
    assert len(COMMANDS) >= 35
    for option in inspect.command.params:
        names = [name for name in option.opts if name.startswith("--")]
        assert all(name in PAGE for name in names), names
    table = re.findall(r"^\| `([a-z_]+)` \| ", PAGE, re.MULTILINE)
    assert table == list(KINDS)
    views = ("--status-summary", "-t", "-a", "--detect-issues", "--group-by-session", "--b2bua", "--analyze-streaming")
    told = call(place / "session.cbor", *views, "--track-request", 1, "-e", 5, "--json").json
    assert all(f"`{member}`" in PAGE for member in (*told, *told["entries"][0]) if member not in _PLAIN)


_PLAIN = {"seq", "direction", "timestamp", "data_length", "metadata", "backend", "file"}
