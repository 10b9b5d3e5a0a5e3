"""The command lines on the pages about the command line: each is one that `llmdump` takes, with all its options."""

import re
import shlex
from pathlib import Path

import click
import pytest

from llmdump import cli

ROOT = Path(__file__).parents[2]
PAGES = ("cli.md", "serve.md")


def lines() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL):
            found += [line for line in block.splitlines() if line.startswith("llmdump ")]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("line", lines())
def test_every_line_is_one_that_the_command_takes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    command = cli.main.get_command(click.Context(cli.main), words[1])
    assert command is not None
    for word in words[2:]:  # files that are named must be there for the command to take them
        if ("/" in word and "://" not in word) or word.endswith(".json"):
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).touch()
    command.make_context(words[1], words[2:])
