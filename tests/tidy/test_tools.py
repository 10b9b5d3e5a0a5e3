"""Formatting, lint, types and the import contract, as tests: `make test` runs them beside all others."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TOOLS = [
    ("ruff", "format", "--check"),
    ("ruff", "check"),
    ("mypy", "--no-error-summary"),
    ("lint-imports",),
]


@pytest.mark.parametrize("command", TOOLS, ids=" ".join)
def test_tool_has_nothing_to_say(command: tuple[str, ...]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
