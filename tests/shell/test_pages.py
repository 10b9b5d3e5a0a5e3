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
