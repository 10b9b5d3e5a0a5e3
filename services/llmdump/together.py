"""Processes started together and stopped together, as honcho does it: for `llmdump up`, `run` and `demo`.

Each is in a session of its own, so that Ctrl-C reaches only whoever started them. They are stopped by SIGTERM to all at
the same moment, and leave in their own order (see `process`). None is started again.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from llmdump import health
from llmdump.data_dir import DataDir

READY_WITHIN_S: Final = 30.0
LEFT_WITHIN_S: Final = 6.0
LOOK_EVERY_S: Final = 0.1
_LOG_TAIL_BYTES: Final = 2000


class NotReadyError(RuntimeError):
    """The processes did not all come to work in time; the message has the end of their log, where there is one."""


class Together:
    """Some of the four processes. Use it in a `with`: at its end they are stopped."""

    def __init__(self, data: DataDir, log: IO[bytes] | None = None) -> None:
        """What they say goes to `log`, else where this process's own goes."""
        self._data = data
        self._log = log
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """By their roles."""

    def start(self, role: str, arguments: Sequence[str]) -> None:
        """Start one. Raises FileNotFoundError, OSError."""
        program = shutil.which(f"llmdump-{role}", path=_path())
        if program is None:
            raise FileNotFoundError(f"llmdump-{role} is not installed beside {sys.executable}; `make run` installs it")
        self.processes[role] = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def wait(self, until: Callable[[], bool] | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until all four roles work, or `until` says so, or `stop` does. Blocking. Raises NotReadyError."""
        works = until or (lambda: health.works(health.look(self._data)))
        deadline = time.monotonic() + READY_WITHIN_S
        while not stop() and not works():
            if time.monotonic() > deadline or self.left():
                raise NotReadyError(f"the processes did not start{self._tail()}")
            time.sleep(LOOK_EVERY_S)

    def left(self) -> tuple[str, int] | None:
        """The first that has left, with its exit code: 128 and the number of the signal that ended it."""
        for role, process in self.processes.items():
            if (code := process.poll()) is not None:
                return role, exit_code(code)
        return None

    def stop(self) -> None:
        """Stop all that still run, and wait for them. Blocking, at most `LEFT_WITHIN_S`; what is left then is killed."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + LEFT_WITHIN_S
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tail(self) -> str:
        """The end of the log."""
        if self._log is None:
            return "; what they said is above"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return ":\n" + self._log.read().decode(errors="replace")

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def exit_code(code: int) -> int:
    """A child's code as a shell tells it."""
    return 128 - code if code < 0 else code


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
