"""What the scenarios share: how long they are, the seed, the simulated backend, and a line of figures for each."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e import pipeline


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@long_or_short(name, long, short)`: which values a parameter takes."""
    for mark in metafunc.definition.iter_markers("long_or_short"):
        name, long, short = mark.args
        values = long if metafunc.config.getoption("long") else short
        metafunc.parametrize(name, values, ids=lambda value: value if isinstance(value, str) else "-".join(value))


def pytest_configure(config: pytest.Config) -> None:
    """The mark of this folder."""
    config.addinivalue_line("markers", "long_or_short(name, long, short): a parameter's values with --long, and without")


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make chaos`."""
    return bool(request.config.getoption("long"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of everything that is drawn. Printed, and settable with --seed. When what happens is the machine's."""
    given = request.config.getoption("seed")
    found = time.time_ns() % 1_000_000_007 if given is None else int(given)
    print(f"--seed={found}")
    return found


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Draws for the scenario itself."""
    return random.Random(seed)


@pytest.fixture
def tell(request: pytest.FixtureRequest, seed: int, is_long: bool) -> Callable[..., None]:
    """Give a scenario's figures to who looks: at once in the long form, with the captured output in the short one."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def line(**figures: Any) -> None:
        text = " ".join(f"{name}={value}" for name, value in {**figures, "seed": seed}.items())
        told = f"{request.node.name}: {text}"
        with capture.global_and_fixture_disabled() if is_long and capture else contextlib.nullcontext():
            print(told, flush=True)

    return line


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the simulated backend, a process of its own."""
    yield from pipeline.backend_process(tmp_path_factory.mktemp("backend") / "log")
