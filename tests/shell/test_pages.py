"""README and docs against the project: links, names, figures that would rot."""

import re
import tomllib
from pathlib import Path

import pytest

from llmdump.commands import banner
from llmdump.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ONE_PAGE_LINES_MAX = 80
COMMAND_LINES_ARE_RUN_BY = {
    "PERFORMANCE.md": "",  # an hour and more; the scripts are looked up below, and tests/benches runs a small part
    "README.md": "tests/shell/test_make.py",
    "RELIABILITY.md": "",  # an hour and a half of `make chaos`; the targets are looked up below
    "api.md": "tests/shell/test_lines.py",
    "cli.md": "tests/shell/test_lines.py",
    "commands.md": "tests/shell/test_lines.py",
    "diff.md": "tests/shell/test_lines.py",
    "export.md": "tests/api/test_api_export.py tests/api/test_api_otlp.py",
    "formats.md": "tests/writer/test_formats_page.py",
    "inspect.md": "tests/inspecting/test_inspect_page.py",
    "live.md": "tests/shell/test_lines.py",
    "looking.md": "tests/api/test_looking.py",
    "proxy.md": "tests/chaos/test_rolling.py",
    "security.md": "tests/api/test_api_security.py",
    "serve.md": "tests/shell/test_lines.py",
    "verify.md": "tests/verify/test_verify_page.py",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_readme_points_clients_where_the_banner_does() -> None:
    printed = banner.text(Settings())
    named = re.findall(r"`([A-Z_]+_(?:BASE_URL|HOST)=\S+)`", (ROOT / "README.md").read_text())
    assert len(named) == 4
    assert all(setting in printed for setting in named)


def test_readme_names_every_console_script_and_every_make_command_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    for script in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]:
        assert f"`{script}" in readme
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", readme)) <= set(targets)


def test_architecture_is_one_page_and_names_the_packages() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    assert page.count("\n") <= ONE_PAGE_LINES_MAX
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all(f"`{package}`" in page for package in packages)


def test_version_has_a_place_in_the_changelog() -> None:
    assert re.search(r"^## (Unreleased|\[?\d)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_reliability_names_tests_that_are_there_and_make_targets_that_exist() -> None:
    page = (ROOT / "docs" / "RELIABILITY.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert {f"tests/chaos/{path.name}" for path in (ROOT / "tests" / "chaos").glob("test_*.py")} <= named
    assert all((ROOT / name).exists() for name in named)
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", page)) <= set(targets)


def test_performance_names_scripts_that_are_there_and_make_targets_that_exist() -> None:
    page = (ROOT / "docs" / "PERFORMANCE.md").read_text()
    scripts = set(re.findall(r"\bbench/\w+\.py", page)) | {
        f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (bench\.\w+)", page)
    }
    assert scripts
    assert all((ROOT / script).exists() for script in scripts)
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)$", page, re.MULTILINE)) <= set(targets)


def test_every_page_with_command_lines_has_a_test_that_runs_them() -> None:
    shown = re.compile(r"^```sh$|^    (?:[A-Z_]+=\S+ )?(?:llmdump(?:-\w+)?|curl|make) ", re.MULTILINE)
    assert {page.name for page in PAGES if shown.search(page.read_text())} == set(COMMAND_LINES_ARE_RUN_BY)
    for page, tests in COMMAND_LINES_ARE_RUN_BY.items():
        assert all(f'{page}"' in (ROOT / test).read_text() for test in tests.split()), page
