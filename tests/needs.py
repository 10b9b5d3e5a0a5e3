"""What a test needs and a machine may not have: it skips there and says why, and in CI that is a failure.

needs_tool("jq")      a program in PATH
needs_root()          user id 0
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def needs_tool(name: str) -> Path:
    """The program's path. Skips the test where there is none; fails it in CI."""
    found = shutil.which(name)
    if found is None:
        missing(f"needs the program {name}")
    return Path(found)


def needs_root() -> None:
    """Skips the test for an ordinary user; fails it in CI."""
    if os.geteuid() != 0:
        missing("needs root")


def missing(reason: str) -> NoReturn:
    """End the test: skipped with the reason, or failed where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI this is not skipped", pytrace=False)
    pytest.skip(reason)
