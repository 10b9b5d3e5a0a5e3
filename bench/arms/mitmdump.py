"""mitmdump as a reverse proxy that saves flows (`-w`). It holds a whole answer before it passes it on, its default."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import processes
from bench.arms.arm import Target
from bench.arms.tools import PROGRAMS


class Mitmdump:
    """The usual tool for looking at HTTP."""

    name = "mitmdump"

    def version(self) -> str:
        """As it says itself."""
        told = subprocess.run([PROGRAMS / "mitmdump", "--version"], capture_output=True, text=True, check=True).stdout
        return told.splitlines()[0].split()[-1]

    @contextmanager
    def running(self, backend_port: int, place: Path) -> Iterator[Target]:
        """One process; its flows go to a file."""
        port, log, flows = processes.free_port(), place / "mitmdump.log", place / "flows"
        command = [PROGRAMS / "mitmdump", "--quiet", "--mode", f"reverse:http://127.0.0.1:{backend_port}", "-w", flows]
        command += ["--listen-host", "127.0.0.1", "--listen-port", str(port), "--set", f"confdir={place / 'mitmproxy'}"]
        with processes.started(command, log=log, environment={**os.environ, "HOME": str(place)}) as (pid,):
            processes.wait_for_port(port, pid, log)
            yield Target(port, [pid], [pid], kept=flows)
