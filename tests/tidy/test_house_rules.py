"""Rules of the house that no linter has."""

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("services", "proxy", "writer", "indexer", "api")
FUNCTION_LINES_MAX = 60
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".sql", ".html", ".css", ".js", ".svg", ""}

# Where packages come from is the machine's affair, and so is where its folders are. Written in pieces, so that this
# file does not break its own rule.
REGISTRY_HOSTS = [".".join(parts) for parts in (
    ("pypi", "org"), ("pythonhosted", "org"), ("crates", "io"), ("npmjs", "org"), ("npmjs", "com"), ("golang", "org/dl"),
    ("deb.debian", "org"), ("maven", "org"), ("index-url", ""), ("find-links", ""),
)]  # fmt: skip
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(?:" + "|".join(("root", "home/[a-z]", "work", "Users", "tmp/b")) + r")/")


def tracked() -> list[Path]:
    """The files of the tree: in a checkout those git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Once, whatever number of rules looks at it."""
    return ast.parse(path.read_bytes())


def modules() -> list[Path]:
    found = [path for root in SOURCE_ROOTS for path in sorted((ROOT / root).rglob("*.py"))]
    assert len(found) > 20
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def where(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{where(path, node.lineno)} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in modules()
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is_for() -> None:
    every = [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]
    silent = [where(path) for path in every if not ast.get_docstring(parsed(path)) and path.read_bytes()]
    assert not silent, "\n".join(silent)


def test_every_public_function_and_class_says_what_it_gives() -> None:
    silent = [
        f"{where(path, item.lineno)} {item.name}"
        for path in modules()
        for item in parsed(path).body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if not item.name.startswith("_") and not ast.get_docstring(item)
    ]
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "manager", "common", "misc"])
def test_no_module_has_a_name_that_says_nothing(name: str) -> None:
    assert not [where(path) for path in modules() if path.stem == name]


def test_package_initialisers_hold_only_a_docstring() -> None:
    for path in modules():
        if path.name == "__init__.py":
            assert len(parsed(path).body) == 1, where(path)


def test_no_registry_host_and_no_path_of_a_machine_in_the_tree() -> None:
    found = []
    for path in tracked():
        if path.suffix not in TEXT_SUFFIXES or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if any(host in line for host in REGISTRY_HOSTS[:8]) or MACHINE_PATHS.search(line):
                found.append(f"{where(path, number)}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_every_procfile_line_begins_with_exec() -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert [line.partition(":")[0] for line in lines] == ["proxy", "writer", "indexer", "api"]
    for line in lines:
        role, _, command = line.partition(": ")
        assert command.split()[0] == "exec", line
        assert command.split()[1] == f"llmdump-{role}"
        assert f"llmdump-{role}" in scripts


def test_no_test_sleeps_for_a_fixed_time_outside_a_loop() -> None:
    """`time.sleep` is for polls: within a loop that looks at something."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = parsed(path)
        looped = {id(inner) for loop in ast.walk(tree) if isinstance(loop, ast.While | ast.For) for inner in ast.walk(loop)}
        found += [
            where(path, node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep" and id(node) not in looped
        ]
    assert not found, "\n".join(found)
