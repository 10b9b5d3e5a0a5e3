"""A place for what is synced a thousand times in a test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def unsynced(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk where a sync costs nothing, where there is one; for small files."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield Path(place)
