"""What the end-to-end tests share: the simulated backend as a process, and the real llama.cpp server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import llama, pipeline


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the simulated backend, a process of its own."""
    yield from pipeline.backend_process(tmp_path_factory.mktemp("backend") / "log")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for a pipeline that all tests of a module share."""
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the real server; skips the test where its wheel is not installed, and fails it in CI."""
    yield from llama.server_process(tmp_path_factory.mktemp("llama"))
