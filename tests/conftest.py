"""What all tests share: the options of the long forms, and checks outside test files whose assertions tell more."""

import pytest

# Here, for a module can be registered only before anybody imports it.
pytest.register_assert_rewrite(
    *(f"tests.chaos.{checks}" for checks in ("checker", "kills", "stored", "clients")),
    *(f"tests.e2e.{checks}" for checks in ("crossing", "pipeline", "load", "files")),
    "tests.reading.replay",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` is what `make chaos` adds; `--seed` tries a failure again."""
    group = parser.getgroup("llmdump")
    group.addoption("--long", action="store_true", help="faults in their long form: minutes, not seconds")
    group.addoption("--seed", type=int, help="of everything that is drawn in tests/chaos; default: the clock")
