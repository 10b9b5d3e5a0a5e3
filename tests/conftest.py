"""What all tests share: the options of the long forms."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` is what `make chaos` adds; `--seed` tries a failure again."""
    group = parser.getgroup("llmdump")
    group.addoption("--long", action="store_true", help="faults in their long form: minutes, not seconds")
    group.addoption("--seed", type=int, help="of everything that is drawn in tests/chaos; default: the clock")
