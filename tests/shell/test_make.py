"""The Makefile: which Python it takes, what it does twice, and what a newcomer sees in the README's first five minutes."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pipeline import free_ports
from tests.patience import WAIT_S, Limit, eventually
from tests.shell import tree

ROOT = tree.ROOT


def make(where: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What make does there. The Makefile's variables are not taken from a make that runs these tests."""
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(
        ["make", *arguments], cwd=where, env={**clean, **environ}, capture_output=True, text=True, timeout=200, check=False
    )


def chosen_python(path: str) -> str:
    done = make(ROOT, "--eval", "chosen: ; @echo '$(PYTHON)'", "chosen", PATH=path)
    return done.stdout.strip()


def program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(ROOT).stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert sorted(listed) == sorted(phony[1].split())


def test_newest_python_that_runs_is_taken(tmp_path: Path) -> None:
    """A launcher that is there but fails, as pyenv's for a version that is not selected, does not count."""
    program(tmp_path, "python3.14", "exit 127")
    program(tmp_path, "python3.13", "exit 1")
    program(tmp_path, "python3.12", f'exec {sys.executable} "$@"')
    program(tmp_path, "python3.11", f'exec {sys.executable} "$@"')
    assert chosen_python(f"{tmp_path}:/usr/bin:/bin") == "python3.12"


def test_python_that_is_too_old_is_not_taken(tmp_path: Path) -> None:
    pretends = "import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])"
    as_3_10 = f'exec {sys.executable} -c "{pretends}" "$2"'
    for name in ("python3.14", "python3.13", "python3.12"):
        program(tmp_path, name, as_3_10)
    program(tmp_path, "python3.11", f'exec {sys.executable} "$@"')
    assert chosen_python(f"{tmp_path}:/usr/bin:/bin") == "python3.11"


def test_python3_is_taken_where_no_version_is_named(tmp_path: Path) -> None:
    for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
        program(tmp_path, name, "exit 127")
    program(tmp_path, "python3", f'exec {sys.executable} "$@"')
    assert chosen_python(f"{tmp_path}:/usr/bin:/bin") == "python3"


def test_without_a_python_that_will_do_make_says_what_to_install(tmp_path: Path) -> None:
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3"):
        program(tmp_path, name, "exit 1")
    done = make(ROOT, f"VENV={tmp_path}/venv", "run", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert "python3-venv" in done.stderr


def test_every_tool_that_tests_ask_for_is_one_that_make_test_installs() -> None:
    listed = re.search(r"^TEST_TOOLS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    asked = {name for text in tests for name in re.findall(r'needs_tool\("([\w-]+)"\)', text)} - {"sh", "no-such-tool"}
    assert asked <= {pair.partition(":")[0] for pair in listed[1].split()}


def test_ci_runs_make_test_and_nothing_else() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and line[0] != "#"]
    assert commands[0] == "set -eu"
    assert commands[-1].endswith(" make test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def readme_commands() -> list[str]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.timeout(400)
def test_first_five_minutes_of_the_readme_are_as_it_says(tmp_path: Path) -> None:
    """A fresh copy; every line of the README's shell blocks; only the ports are other ones."""
    clone = tree.copy_to(tmp_path / "llmdump")
    assert make(clone, ".venv/installed-run").returncode == 0
    limit = Limit(10)
    assert "installing" not in make(clone, ".venv/installed-run").stdout
    assert limit.is_kept, "the second call installs nothing and is quick"

    numbers = ("7861", "7862", "7869", "7871", "7872", "7873")
    ports = dict(zip(numbers, map(str, free_ports(len(numbers))), strict=True))
    listens = {"PROXY": "7861", "API": "7862", "PROXY_ADMIN": "7871", "WRITER_ADMIN": "7872", "INDEXER_ADMIN": "7873"}
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    environ |= {f"LLMDUMP_{name}_LISTEN": f"127.0.0.1:{ports[port]}" for name, port in listens.items()}
    environ["LLMDUMP_ROUTES"] = f"/demo/*=http://127.0.0.1:{ports['7869']}"

    first, *others = readme_commands()
    assert first == "make run"
    log = tmp_path / "run.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            shlex.split(first), cwd=clone, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as run,
    ):
        try:
            script = re.sub(r"\b78\d\d\b", lambda match: ports[match[0]], "\n".join(others))
            status = [clone / ".venv/bin/llmdump", "status"]
            eventually(
                lambda: subprocess.run(status, cwd=clone, env=environ, capture_output=True, check=False).returncode == 0,
                WAIT_S,
                "`make run` has started all four processes",
            )
            done = subprocess.run(
                ["sh", "-euxc", script], cwd=clone, env=environ, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
            assert "7 of 7 captured" in done.stdout
            assert "NOT CAPTURED" not in done.stdout
            assert '"traces"' in done.stdout
        finally:
            os.killpg(run.pid, signal.SIGINT)
            run.wait(WAIT_S)
    text = log.read_text()
    assert "OPENAI_BASE_URL" in text, "the banner comes first"
    for role in ("proxy", "writer", "indexer", "api"):
        assert re.search(rf"{role}\.1 .*stopped process={role}-0", text), text
    assert not list((clone / "data" / "run").glob("*.json")), "nobody is left"
