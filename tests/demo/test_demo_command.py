"""`llmdump demo` with the real processes: it captures all, leaves nobody behind, and does not say so when it is not so."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmdump import health, presence
from llmdump.data_dir import DataDir
from llmdump.demo.exchanges import all_exchanges
from tests.e2e.pipeline import free_ports
from tests.patience import WAIT_S, eventually

BIN = Path(sys.executable).parent
COUNT = len(all_exchanges())


class Instance:
    """A place of its own: data directory, ports, and the processes started in it."""

    def __init__(self, place: Path) -> None:
        self.data = DataDir(place / "data")
        self.place = place
        ports = free_ports(6)
        names = ("PROXY", "API", "PROXY_ADMIN", "WRITER_ADMIN", "INDEXER_ADMIN")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
        self.environ = {**clean, "LLMDUMP_ROUTES": f"/demo/*=http://127.0.0.1:{ports[5]}"}
        self.environ |= {f"LLMDUMP_{name}_LISTEN": f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *roles: str) -> None:
        self.processes += [
            subprocess.Popen([BIN / f"llmdump-{role}"], cwd=self.place, env=self.environ, stderr=subprocess.DEVNULL)
            for role in roles
        ]
        eventually(
            lambda: {card.role for card in presence.living(self.data.run) if card.state == "running"} >= set(roles),
            WAIT_S,
            f"{roles} run",
        )

    def demo(self) -> subprocess.CompletedProcess[str]:
        command = [BIN / "llmdump", "demo"]
        return subprocess.run(
            command, cwd=self.place, env=self.environ, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            process.wait(WAIT_S)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    made = Instance(tmp_path)
    yield made
    made.stop()


def test_demo_where_nothing_runs_starts_captures_and_leaves_nobody(instance: Instance) -> None:
    done = instance.demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Nothing is running")
    assert f"{COUNT} of {COUNT} captured" in done.stdout
    assert done.stdout.count(" complete") == COUNT
    assert presence.living(instance.data.run) == []


def test_demo_uses_the_processes_that_run_and_leaves_them_running(instance: Instance) -> None:
    instance.start(*health.ROLES)
    before = [card.pid for card in presence.living(instance.data.run)]
    for _ in range(2):
        done = instance.demo()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Nothing is running" not in done.stdout
        assert done.stdout.count(" complete") == COUNT
    assert [card.pid for card in presence.living(instance.data.run)] == before


def test_demo_names_the_process_that_is_missing(instance: Instance) -> None:
    instance.start("writer", "indexer", "api")
    done = instance.demo()
    assert done.returncode == 1
    assert done.stderr == "llmdump: not running: proxy; start `llmdump-proxy`, or stop the others\n"


@pytest.mark.only_long
def test_demo_fails_where_the_writer_does_not_write(instance: Instance) -> None:
    instance.start("proxy", "indexer", "api", "writer")
    instance.processes[3].send_signal(signal.SIGSTOP)
    done = instance.demo()
    assert done.returncode == 1, done.stdout
    assert f"0 of {COUNT} captured" in done.stdout
    assert done.stdout.count("NOT CAPTURED") == COUNT
    assert "not everything was captured" in done.stderr
