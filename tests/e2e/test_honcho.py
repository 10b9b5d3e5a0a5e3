"""`honcho start` with the project's Procfile: all four as one thing, which comes up, records, and leaves in time."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmdump import health
from tests.e2e import files
from tests.e2e.load import Load, Reading, check_stored_once
from tests.e2e.pipeline import BIN, LEFT_WITHIN_S, READY_WITHIN_S, Reader, environment, left
from tests.patience import WAIT_S, Limit, eventually

pytestmark = pytest.mark.xdist_group("e2e-honcho")
PROCFILE = Path(__file__).parents[2] / "Procfile"
STARTED = {"proxy": 1, "writer": 1, "indexer": 1, "api": 1}


class Honcho(Reader):
    """A pipeline that honcho runs."""

    def __init__(self, place: Path, environ: dict[str, str], *arguments: str) -> None:
        super().__init__(place, environ)
        self.log_path = place / "honcho.log"
        with self.log_path.open("wb") as log:
            command = [str(BIN / "honcho"), "start", *arguments]
            self.process = subprocess.Popen(command, cwd=place, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def up(self, counts: dict[str, int]) -> "Honcho":
        """Wait until so many processes of each role run and all work."""

        def look() -> bool:
            assert self.process.poll() is None, self.log()
            roles = [card.role for card in self.living() if card.state == "running"]
            return {role: roles.count(role) for role in health.ROLES} == counts and self.ready()

        eventually(look, READY_WITHIN_S, lambda: f"honcho's processes are ready\n{self.log()}")
        return self

    def end(self, number: signal.Signals) -> None:
        """Signal honcho; all leave in time, with code 0 each as honcho tells it."""
        cards = self.living()
        limit = Limit(LEFT_WITHIN_S + 1)
        self.process.send_signal(number)
        eventually(lambda: not any(alive(card.pid) for card in cards), LEFT_WITHIN_S, lambda: f"all have left\n{self.log()}")
        left(self.process, limit)
        log = self.log()
        codes = re.findall(r"(\w+\.\d) .*stopped \(rc=(-?\d+)\)", log)
        assert sorted(code for _, code in codes) == ["0"] * len(cards), log
        assert "Traceback" not in log
        assert not self.orphans()

    def log(self) -> str:
        """What honcho has printed."""
        return self.log_path.read_text(errors="replace")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


@contextlib.contextmanager
def honcho(place: Path, environ: dict[str, str], counts: dict[str, int], *arguments: str) -> Iterator[Honcho]:
    """honcho with its processes working; what a failing test leaves of them is ended."""
    shutil.copy(PROCFILE, place / "Procfile")
    running = Honcho(place, environ, *arguments)
    try:
        yield running.up(counts)
    finally:
        running.process.terminate()
        running.process.wait(WAIT_S)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.only_long)], ids=["SIGTERM", "Ctrl-C"]
)
def test_honcho_starts_all_and_what_was_asked_just_before_the_end_is_indexed(
    backend: str, tmp_path: Path, number: signal.Signals
) -> None:
    environ = environment(tmp_path, upstream=backend)
    with honcho(tmp_path, environ, STARTED) as running:
        for at in range(3):
            with urllib.request.urlopen(f"{running.proxy}/sim/bytes/{1000 + at}", timeout=WAIT_S) as answer:
                assert len(answer.read()) == 1000 + at
        endless = Reading(f"{running.proxy}/sim/chunks?n=10000&size=10&gap_ms=10")
        assert endless.begun.wait(WAIT_S)
        running.end(number)
        endless.join(WAIT_S)
    with honcho(tmp_path, environ, STARTED) as again:
        rows = again.ended(4)
        assert [row["resp_bytes"] for row in rows] == [1000, 1001, 1002, len(endless.got)]
        assert [row["end_reason"] for row in rows] == ["complete", "complete", "complete", "shutdown"]
        again.end(signal.SIGTERM)


def test_two_proxies_serve_one_port_and_each_exchange_is_whole_with_one_of_two_writers(backend: str, tmp_path: Path) -> None:
    counts = {**STARTED, "proxy": 2, "writer": 2}
    concurrency = ",".join(f"{role}={count}" for role, count in counts.items())
    with honcho(tmp_path, environment(tmp_path, upstream=backend), counts, "-c", concurrency) as running:
        with contextlib.ExitStack() as stack:  # a connection stays with the proxy that took it, so several are needed
            loads = [stack.enter_context(Load(running.proxy, workers=2)) for _ in range(6)]
            for load in loads:
                load.wait_for_more(6)
        assert [error for load in loads for error in load.errors] == []
        done = [one for load in loads for one in load.done]
        check_stored_once(running, done)
        assert len({row["instance"] for row in running.rows()}) == 2, "one proxy forwarded everything"
        running.end(signal.SIGTERM)
        files.check_each_exchange_is_whole_in_one_writer(running.data.segments, len(done), {"w0", "w1"})
        files.check_every_number_is_there_once(running.data.segments)
