"""llmdump: one or more proxies that share a port and, when recording, writer, indexer and api as well. Default settings but
for addresses, the format, and what is captured.

A recording run is read to its end: caught up is when every record that the proxies made is acknowledged and in the index,
and when the processes have left, `llmdump verify` reads the files and says whether any is missing.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from bench import processes
from bench.arms.arm import Account, Target
from llmdump import presence
from llmdump.data_dir import DataDir
from llmdump.version import __version__

BIN = Path(sys.executable).parent
CAUGHT_UP_WITHIN_S = 240.0
LOOK_EVERY_S = 0.1
COMPLETE = "SELECT count(*) FROM trace WHERE end_reason = 'complete'"
ASK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Llmdump:
    """The project in one of its forms."""

    def __init__(self, name: str, *, proxies: int = 1, **settings: str) -> None:
        """`settings` by their names in llmdump.yaml."""
        self.name = name
        self._recording = settings.get("capture_rules") != "/*=none"
        self._roles = ["proxy"] * proxies + (["writer", "indexer", "api"] if self._recording else [])
        self._settings = settings

    def version(self) -> str:
        """As the package says."""
        return __version__

    @contextmanager
    def running(self, backend_port: int, place: Path) -> Iterator[Target]:
        """All processes, once each says that it runs and the proxies have their writer."""
        with self.instance(backend_port, place) as (_, target):
            yield target

    @contextmanager
    def instance(self, backend_port: int, place: Path) -> "Iterator[tuple[Instance, Target]]":
        """The same, with what else can be asked of it."""
        run = Instance(place, backend_port, self._settings)
        with run.processes(*self._roles) as pids:
            proxies = pids[: self._roles.count("proxy")]
            if not self._recording:
                yield run, Target(run.port, proxies, pids)
                return
            run.wait_until(lambda: run.proxies_sum("llmdump_proxy_writers_connected") == len(proxies), processes.READY_WITHIN_S)
            yield run, Target(run.port, proxies, pids, run.data.segments, run.catch_up, run.account, run.seal)


class Instance:
    """One data directory and the processes in it."""

    def __init__(self, place: Path, backend_port: int, settings: dict[str, str]) -> None:
        self.data = DataDir(place / "data")
        self.port = processes.free_port()
        self.api_port = processes.free_port()
        own = {
            "data_dir": str(self.data.root),
            "proxy_listen": f"127.0.0.1:{self.port}",
            "api_listen": f"127.0.0.1:{self.api_port}",
            **{f"{role}_admin_listen": "127.0.0.1:0" for role in ("proxy", "writer", "indexer")},
            "upstream": f"http://127.0.0.1:{backend_port}",
            "log_level": "warning",
            **settings,
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
        self.environment = {**clean, **{f"LLMDUMP_{name.upper()}": value for name, value in own.items()}}
        self._log = place / "llmdump.log"

    @contextmanager
    def processes(self, *roles: str) -> Iterator[list[int]]:
        """These processes, once each says that it runs."""
        commands: list[list[str | Path]] = [[BIN / f"llmdump-{role}"] for role in roles]
        with processes.started(*commands, log=self._log, environment=self.environment) as pids:
            self.wait_until(lambda: len(self.cards()) == len(roles), processes.READY_WITHIN_S)
            yield pids

    def cards(self) -> list[presence.Card]:
        """Of the processes that run."""
        return [card for card in presence.living(self.data.run) if card.state == "running"] if self.data.run.exists() else []

    def proxies_sum(self, metric: str) -> float:
        """A metric of the proxies, over all its labels."""
        pages = [ask(card.admin + "/metrics") for card in self.cards() if card.role == "proxy"]
        return sum(float(value) for page in pages for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", page, re.MULTILINE))

    def api(self, path: str) -> str:
        """An answer of the api."""
        return ask(f"http://127.0.0.1:{self.api_port}{path}", self.data.admin_token.read_text().strip())

    def wait_until(self, holds: Callable[[], bool], within_s: float) -> None:
        """Raises RuntimeError with the log when it takes too long."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {within_s:g} s:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(LOOK_EVERY_S)

    def catch_up(self) -> None:
        """Wait until the index has all that the proxies made, but for what they dropped."""
        self.wait_until(self._has_caught_up, CAUGHT_UP_WITHIN_S)

    def _has_caught_up(self) -> bool:
        made, dropped = (self.proxies_sum(f"llmdump_records_{what}_total") for what in ("made", "dropped"))
        if self.proxies_sum("llmdump_records_acknowledged_total") + dropped < made:
            return False
        return int(json.loads(self.api("/api/ledger"))["indexed"]) + dropped >= made

    def account(self) -> Account:
        """The certificate, from the files."""
        done = self._llmdump("verify", "--json")
        if not done.stdout:
            return Account(0, 0, 0, 0, f"verify: {done.stderr.strip()[-200:]}")
        found = json.loads(done.stdout)
        made, stored, indexed = found["made"], found["in_files"], found["indexed"]
        lost = "; ".join(found["problems"]) or ("" if made == stored == indexed else "not all is indexed")
        return Account(self._exchanges(), made, stored, indexed, lost)

    def _exchanges(self) -> int:
        counted = apsw.Connection(str(self.data.index), flags=apsw.SQLITE_OPEN_READONLY).execute(COMPLETE).get
        return int(counted)

    def seal(self) -> None:
        """Start the writer once more, which compresses what is closed."""
        with self.processes("writer"):
            self.wait_until(lambda: not self._unsealed(), CAUGHT_UP_WITHIN_S)

    def _unsealed(self) -> list[Path]:
        """Closed ones: the writer holds an open file from its first record on only."""
        return [path for path in self.data.segments.glob("w*-*") if path.suffix in {".cbor", ".jsonl"} and path.stat().st_size]

    def _llmdump(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [BIN / "llmdump", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)


def ask(url: str, token: str = "") -> str:
    """The body of an answer on loopback."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with ASK.open(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text
