"""claude-tap as a reverse proxy alone: no client is started, no viewer is served, traces go to its database."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import processes
from bench.arms.arm import Target
from bench.arms.tools import PROGRAMS
from bench.bodies import PATH


class ClaudeTap:
    """A recorder for coding agents, on aiohttp."""

    name = "claude-tap"

    def version(self) -> str:
        """As it says itself."""
        told = subprocess.run([PROGRAMS / "claude-tap", "--version"], capture_output=True, text=True, check=True).stdout
        return told.split()[-1]

    @contextmanager
    def running(self, backend_port: int, place: Path) -> Iterator[Target]:
        """One process; its database is below a home directory of its own."""
        port, log = processes.free_port(), place / "claude-tap.log"
        command = [PROGRAMS / "claude-tap", "--tap-no-launch", "--tap-no-live", "--tap-no-open", "--tap-host", "127.0.0.1"]
        command += ["--tap-port", str(port), "--tap-target", f"http://127.0.0.1:{backend_port}", "--tap-allow-path", PATH]
        home = place / "home"
        home.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        with processes.started(command, log=log, environment={**own, "HOME": str(home)}) as (pid,):
            processes.wait_for_port(port, pid, log)
            yield Target(port, [pid], [pid], kept=home)
