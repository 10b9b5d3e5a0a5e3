"""No proxy: the ceiling of backend and load, and what the latency of all others is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.arms.arm import Target


class Direct:
    """The backend itself."""

    name = "direct"

    def version(self) -> str:
        """There is no program."""
        return ""

    @contextmanager
    def running(self, backend_port: int, place: Path) -> Iterator[Target]:
        """Nothing runs."""
        yield Target(backend_port, [], [])
