"""What an arm is: something that stands between a client and a backend, and is started anew for each run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class Account(NamedTuple):
    """What an arm that keeps a ledger says of a run, after it has ended."""

    exchanges: int
    """Whole ones that are stored."""
    made: int
    stored: int
    indexed: int
    lost: str
    """Why the run is void; empty if every record made is stored and indexed, and none was dropped."""


class Target(NamedTuple):
    """A running arm."""

    port: int
    forwarders: list[int]
    """The processes that forward: their CPU and memory is that of the way."""
    pipeline: list[int]
    """All processes of the arm, those that store included."""
    kept: Path | None = None
    """The file or directory in which it keeps what it captured."""
    catch_up: Callable[[], None] | None = None
    """Blocks until all that was captured is stored and can be read."""
    account: Callable[[], Account] | None = None
    """Asked after the processes have ended."""
    seal: Callable[[], None] | None = None
    """Puts what is kept into its final form, after the processes have ended."""


class Arm(Protocol):
    """One of the compared."""

    @property
    def name(self) -> str:
        """As in tables and on the command line."""

    def version(self) -> str:
        """Of the program; empty for none. Raises OSError where it is not installed."""

    def running(self, backend_port: int, place: Path) -> AbstractContextManager[Target]:
        """The arm in front of a backend, with all its files in `place`, until the block ends."""
