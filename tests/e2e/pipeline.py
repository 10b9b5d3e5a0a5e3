"""The four console scripts as real processes in a directory of their own, and what they recorded, as their api tells it.

    with Pipeline(tmp_path, upstream=backend_url) as pipe:
        …  requests to pipe.proxy …
        (row,) = pipe.rows()

At the end all get SIGTERM at the same moment, as honcho does it. Then each must leave within 4 s with exit code 0, the
logs must hold no traceback, and no process may be left that has this directory as its own.
"""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from llmdump import health, presence
from llmdump.data_dir import DataDir
from tests.patience import WAIT_S, Limit, eventually

BIN: Final = Path(sys.executable).parent
READY_WITHIN_S: Final = 120.0
LEFT_WITHIN_S: Final = 4.0
SEEN_WITHIN_S: Final = 2.0
"""How soon after its end an exchange is in the list."""
SETTLED_WITHIN_S: Final = 90.0
# Below the range from which the kernel takes ports for outgoing connections, or a port chosen here could be gone.
_PORTS: Final = range(18000, 32000)
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody holds, and that no outgoing connection will be given."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def environment(place: Path, **settings: object) -> dict[str, str]:
    """The environment of a pipeline in `place`: these settings and ports of its own, nothing else of llmdump's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    proxy, api = free_ports(2)
    own = {
        "data_dir": place / "data",
        "proxy_listen": f"127.0.0.1:{proxy}",
        "api_listen": f"127.0.0.1:{api}",
        **{f"{role}_admin_listen": "127.0.0.1:0" for role in ("proxy", "writer", "indexer")},
        "capture_flush_interval": 0.05,
        **settings,
    }
    return {
        **clean,
        **{f"LLMDUMP_{name.upper()}": str(value) for name, value in own.items()},
        "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return [*found]


class Reader:
    """The read side of a pipeline, however its processes were started: the api with its token, and the metrics."""

    def __init__(self, place: Path, environ: dict[str, str]) -> None:
        self.place = place
        self.environ = environ
        self.data = DataDir(Path(environ["LLMDUMP_DATA_DIR"]))
        self.proxy = f"http://{environ['LLMDUMP_PROXY_LISTEN']}"
        self.api = f"http://{environ['LLMDUMP_API_LISTEN']}"

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            with _DIRECT.open(f"{self.api}/readyz", timeout=3) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def raw(self, path: str) -> bytes:
        """The body of an answer of the api. Raises HTTPError."""
        token = self.data.admin_token.read_text().strip()
        request = urllib.request.Request(self.api + path, headers={"Authorization": f"Bearer {token}"})
        with _DIRECT.open(request, timeout=WAIT_S) as answer:
            body: bytes = answer.read()
        return body

    def get(self, path: str) -> Any:
        """An answer of the api."""
        return json.loads(self.raw(path))

    def rows(self) -> list[dict[str, Any]]:
        """All exchanges, oldest first, those under way too."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.get(f"/api/traces?limit=500{cursor}")
            found += page["traces"]
            if page["next_cursor"] is None:
                return found[::-1]
            cursor = f"&cursor={page['next_cursor']}"

    def ended(self, count: int, within_s: float = SETTLED_WITHIN_S) -> list[dict[str, Any]]:
        """All exchanges, oldest first, once so many have ended; fails if there are more, or some that have not."""

        def look() -> list[dict[str, Any]]:
            rows = self.rows()
            return rows if sum(row["end_reason"] is not None for row in rows) >= count else []

        rows = eventually(look, within_s, lambda: f"{count} have ended: {[row['end_reason'] for row in self.rows()]}")
        assert len(rows) == count, [(row["path"], row["end_reason"]) for row in rows]
        return rows

    def new_row(self, before: int, within_s: float = SEEN_WITHIN_S) -> dict[str, Any]:
        """The one exchange that ended since there were `before`."""
        return self.ended(before + 1, within_s)[-1]

    def trace(self, row: dict[str, Any]) -> Any:
        """The exchange of a row, put together."""
        return self.get(f"/api/traces/{row['id']}")["trace"]

    def request_body(self, row: dict[str, Any]) -> bytes:
        """The request body as stored."""
        return self.raw(f"/api/traces/{row['id']}/request")

    def response_body(self, row: dict[str, Any]) -> bytes:
        """The response body as stored."""
        return self.raw(f"/api/traces/{row['id']}/response")

    def metrics(self) -> dict[str, float]:
        """All samples of the api's /metrics, summed over the processes and over labels but `reason`, by name."""
        with _DIRECT.open(f"{self.api}/metrics", timeout=WAIT_S) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^([a-z_]+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def metric(self, name: str) -> float:
        """One of them, which a process has that lives: the api leaves out who does not answer it in time."""

        def look() -> list[float]:
            found = self.metrics()
            return [found[name]] if name in found else []

        return eventually(look, what=f"{name} is told")[0]

    def llmdump(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What `llmdump …` does here."""
        command = [str(BIN / "llmdump"), *arguments]
        return subprocess.run(
            command, cwd=self.place, env=self.environ, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def living(self) -> list[presence.Card]:
        """The cards of the processes that live."""
        return presence.living(self.data.run)

    def orphans(self) -> list[str]:
        """Processes that work in this directory, by their command lines."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == self.place and process.name != str(os.getpid()):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


class Pipeline(Reader):
    """The processes of one directory, each of which can be stopped, killed and started again."""

    def __init__(self, place: Path, **settings: object) -> None:
        """Starts nothing yet. `settings` under the names that they have in llmdump.yaml."""
        place.mkdir(exist_ok=True)
        super().__init__(place, environment(place, **settings))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._retired: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    def __enter__(self) -> "Pipeline":
        try:
            self.start(*health.ROLES)
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.discard()
        else:
            self.close()

    def start(self, *roles: str, wait: bool = True) -> None:
        """Start these processes; with all four there, wait until they are ready."""
        for role in roles:
            self.processes[role] = self._spawn(role)
        if wait and set(self.processes) >= set(health.ROLES):
            self.wait_until_ready()

    def also(self, role: str) -> str:
        """Start a second process of a role; its name among `processes`."""
        name = f"{role}+{len(self._logs)}"
        self.processes[name] = self._spawn(role)
        return name

    def take_over(self) -> "subprocess.Popen[bytes]":
        """Start a proxy that takes over from the one there is; gives that one, which retires."""
        before = self.processes.pop("proxy")
        self._retired.append(before)
        self.processes["proxy"] = self._spawn("proxy", "--takeover")
        self.wait_until_runs("proxy")
        eventually(lambda: self.state(before) != "running", WAIT_S, lambda: f"the old one retires\n{self.log()}")
        return before

    def wait_until_runs(self, name: str) -> None:
        """Wait until this process says so on its card; fails with the logs if it leaves."""

        def look() -> bool:
            assert self.processes[name].poll() is None, self.log()
            return self.state(self.processes[name]) == "running"

        eventually(look, READY_WITHIN_S, lambda: f"{name} runs\n{self.log()}")

    def state(self, process: "subprocess.Popen[bytes]") -> str:
        """What the process says on its card; empty if it has none."""
        return next((card.state for card in self.living() if card.pid == process.pid), "")

    def _spawn(self, role: str, *arguments: str) -> "subprocess.Popen[bytes]":
        path = self.place / f"{role}-{len(self._logs)}.log"
        self._logs.append(path)
        with path.open("wb") as log:
            return self._popen([str(BIN / f"llmdump-{role}"), *arguments], log)

    def _popen(self, command: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, cwd=self.place, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait for /readyz; fails with the logs if a process leaves meanwhile."""

        def look() -> bool:
            gone = {role: code for role, process in self.processes.items() if (code := process.poll()) is not None}
            assert not gone, f"left with {gone}:\n{self.log()}"
            return self.ready()

        eventually(look, READY_WITHIN_S, lambda: f"ready\n{self.log()}")

    def stop(self, role: str) -> None:
        """SIGTERM to one process, alone; it leaves in time and cleanly."""
        self._leave({role: self.processes.pop(role)})

    def kill(self, role: str) -> None:
        """SIGKILL to one process."""
        process = self.processes.pop(role)
        process.kill()
        process.wait(WAIT_S)

    def restart(self, role: str, *, kill: bool = False) -> None:
        """Stop or kill one process, start it again, and wait until all are ready."""
        (self.kill if kill else self.stop)(role)
        self.start(role)

    def close(self) -> None:
        """Stop all at the same moment and check how they left."""
        processes, self.processes = self.processes, {}
        try:
            self._leave(processes)
            log = self.log()
            assert "Traceback" not in log, log
            assert not self.orphans()
        finally:
            _end(processes.values())

    def discard(self) -> None:
        """End what still runs, and check nothing: the test has failed already."""
        _end([*self.processes.values(), *self._retired])
        sys.stderr.write(self.log())

    def _leave(self, processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
        limit = Limit(LEFT_WITHIN_S)
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for role, process in processes.items():
            code = left(process, limit, lambda role=role: f"{role} leaves\n{self.log()}")
            assert code == 0, f"{role} left with {code}\n{self.log()}"

    def log(self) -> str:
        """What all processes have logged so far."""
        return "".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in self._logs)


def left(process: "subprocess.Popen[Any]", within: float | Limit = LEFT_WITHIN_S, what: Any = "it leaves") -> int:
    """The exit code of a process that has been told to leave; fails if it does not in time."""
    eventually(lambda: process.poll() is not None, within, what)
    assert process.returncode is not None
    return process.returncode


def _end(processes: Any) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(WAIT_S)


def backend_process(log: Path) -> Iterator[str]:
    """The simulated backend as a process of its own; gives its base URL, ends it afterwards."""
    url = f"127.0.0.1:{free_port()}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmdump.demo.backend", "--listen", url], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        eventually(lambda: answers(url) or process.poll() is not None, READY_WITHIN_S, "the simulated backend answers")
        assert process.poll() is None, log.read_text()
        yield f"http://{url}"
    finally:
        _end([process])


def answers(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
