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


def pytest_configure(config: pytest.Config) -> None:
    """The mark for what takes long and tells little more than its twins."""
    config.addinivalue_line("markers", "only_long: only with --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is for the long form only is not there in the short one."""
    if not config.getoption("long"):
        only_long = [item for item in items if item.get_closest_marker("only_long")]
        config.hook.pytest_deselected(items=only_long)
        items[:] = [item for item in items if item not in only_long]
