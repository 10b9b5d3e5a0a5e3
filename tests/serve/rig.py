"""`llmdump serve` as a process, and archives for it: recorded through a real proxy, or made record for record."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent
LEFT_WITHIN_S: Final = 10.0


class Serving:
    """A running `llmdump serve`; use it in a `with`. At its end SIGINT, and it must leave with exit code 0."""

    def __init__(self, *arguments: object) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
        words = ["serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(
            [BIN / "llmdump", *words],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = ""
        self.told: list[str] = []
        """What it said at its start, but for the last line."""
        self.said = self.errors = ""
        """What it said at its end, and on stderr."""

    def __enter__(self) -> "Serving":
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"serving .* at (\S+)$", line):
                self.url = found[1]
                return self
            self.told.append(line.rstrip("\n"))
        raise AssertionError(f"it left: {self.process.communicate()[1]}")

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.said, self.errors = self.process.communicate(timeout=LEFT_WITHIN_S)
        finally:
            self.process.kill()
        if kind is None:
            assert self.process.returncode == 0, self.errors
            assert "Traceback" not in self.errors, self.errors
