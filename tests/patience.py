"""How long a test waits, on a machine that may be slow, or busy with something else.

eventually(look, …)     what `look` gives once that is true
WAIT_S                  for what comes: it costs nothing where it does come, and is far longer than it takes
Limit(4.0)              for what is promised within so many seconds: when processes are held up, that does not count
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

WAIT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.02
_HELD_UP_S_MAX: Final = 60.0
"""What hangs on a busy machine hangs too."""
_PRESSURE: Final = Path("/proc/pressure")
_STAT: Final = Path("/proc/stat")

Found = TypeVar("Found")


class Limit:
    """So many seconds from now on, and as long as somebody is held up."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self._began_s, self._held_up_before_s = time.monotonic(), _held_up_s()

    @property
    def passed_s(self) -> float:
        """Since it began, by the clock."""
        return time.monotonic() - self._began_s

    @property
    def held_up_s(self) -> float:
        """Meanwhile."""
        return min(_held_up_s() - self._held_up_before_s, _HELD_UP_S_MAX)

    @property
    def is_kept(self) -> bool:
        """Whether no more has passed."""
        return self.passed_s <= self.within_s + self.held_up_s

    def __str__(self) -> str:
        return f"{self.within_s} s; {self.passed_s:.2f} s have passed, and processes were held up for {self.held_up_s:.2f} s"


def eventually(
    look: Callable[[], Found],
    within: float | Limit = WAIT_S,
    what: str | Callable[[], str] = "",
    every_s: float = LOOK_EVERY_S,
) -> Found:
    """What `look` gives as soon as that is true. Fails the test after that time. A dear look should not be made often."""
    limit = within if isinstance(within, Limit) else Limit(within)
    while True:
        found = look()
        if found:
            return found
        assert limit.is_kept, f"not within {limit}: {what() if callable(what) else what}"
        time.sleep(every_s)


def _held_up_s() -> float:
    """For how long, since this machine started, a process has waited for a processor or for a disk, or the machine for its
    host. 0 where the kernel does not tell; Linux does, if it is built with pressure stall information."""
    return _waited_s(_PRESSURE / "cpu") + _waited_s(_PRESSURE / "io") + _stolen_s()


def _waited_s(path: Path) -> float:
    try:
        some = path.read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


def _stolen_s() -> float:
    try:
        processors = _STAT.read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(processors.split()[8]) / os.sysconf("SC_CLK_TCK")
