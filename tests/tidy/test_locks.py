"""The locked requirements: every direct dependency, hashes only, and no word about where packages come from."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
BUILD = PROJECT["dependency-groups"]["build"]
BENCH = PROJECT["dependency-groups"]["bench"]
LOCKS = {
    "requirements.txt": DIRECT,
    "requirements-build.txt": BUILD,
    "requirements-test.txt": [*DIRECT, *EXTRAS["test"], *BUILD],
    "requirements-llama.txt": [*DIRECT, *EXTRAS["llama"]],
    "requirements-fuzz.txt": [*DIRECT, *EXTRAS["fuzz"]],
    "requirements-bench.txt": BENCH,
}
OF_ONE_ENVIRONMENT = [name for name in LOCKS if name != "requirements-bench.txt"]


def pins(name: str) -> list[Requirement]:
    """The requirements of a lock file, without their hashes."""
    joined = (ROOT / name).read_text().replace("\\\n", " ")
    return [Requirement(line.partition("--hash")[0].strip()) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_nothing_but_pins_and_hashes(name: str) -> None:
    line_forms = re.compile(r"([A-Za-z0-9._-]+==[A-Za-z0-9.]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?)")
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
        assert line_forms.fullmatch(line), f"{name}:{number}: {line}"
        assert "/" not in line


@pytest.mark.parametrize("name", LOCKS)
def test_every_direct_dependency_is_locked_within_its_bounds(name: str) -> None:
    locked = {canonicalize_name(pin.name): [] for pin in pins(name)}
    for pin in pins(name):
        locked[canonicalize_name(pin.name)].append(next(iter(pin.specifier)).version)
    for wanted in map(Requirement, LOCKS[name]):
        versions = locked.get(canonicalize_name(wanted.name))
        assert versions, f"{wanted.name} is not in {name}; run `make lock`"
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted} in {name}: run `make lock`"


def test_locks_agree_with_each_other() -> None:
    every = [{str(pin) for pin in pins(name)} for name in OF_ONE_ENVIRONMENT]
    versions: dict[tuple[str, str], set[str]] = {}
    for lock in every:
        for pin in map(Requirement, lock):
            versions.setdefault((pin.name, str(pin.marker)), set()).add(str(pin.specifier))
    assert not {key: found for key, found in versions.items() if len(found) > 1}


def test_build_backend_is_the_locked_one() -> None:
    assert {Requirement(text).name for text in PROJECT["build-system"]["requires"]} <= {
        Requirement(text).name for text in BUILD
    }
