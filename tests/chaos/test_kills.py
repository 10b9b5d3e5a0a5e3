"""`kill -9` of what is behind the proxy, at random moments under load: nothing is lost, nothing doubled, no client notices.

What is guarded, and was seen to fail without it:

    writer     acknowledges only what is in its file; reads from its files what it holds; cuts its own torn tail
    proxy      keeps what is not acknowledged and sends it again, from where the next writer says
    indexer    rows and position in one transaction
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.checker import check_api, check_certified, check_files, check_rebuilt, settle
from tests.chaos.clients import Load
from tests.chaos.stored import Stored
from tests.e2e.pipeline import Pipeline, eventually

pytestmark = [pytest.mark.xdist_group("chaos-kills"), pytest.mark.timeout(1800)]
ROUNDS: Final = 200
ROUNDS_SHORT: Final = 4
AT_START: Final = 0.25
"""So many kills hit a process that is still starting."""
START_TAKES_S: Final = 0.8
RUNS_FOR_S: Final = 0.3
SEGMENT_BYTES: Final = 3_000_000
"""Small, so that rotation and sealing are hit too."""


@pytest.mark.long_or_short("roles", [("writer",), ("indexer",), ("api",)], [("writer", "indexer", "api", "writer")])
def test_no_kill_behind_the_proxy_loses_or_doubles_anything(
    roles: tuple[str, ...], backend: str, tmp_path: Path, is_long: bool, rng: random.Random, tell: Callable[..., None]
) -> None:
    rounds = ROUNDS if is_long else ROUNDS_SHORT
    seed, began = rng.getrandbits(32), time.monotonic()
    with Pipeline(tmp_path, upstream=backend, capture_max_bytes=SEGMENT_BYTES) as pipe:
        with Load(pipe.proxy, seed) as load:
            load.wait_for_more(10)
            for at in range(rounds):
                kill(pipe, roles[at % len(roles)], rng)
            load.wait_for_more(10)
        assert load.errors == []
        metrics = settle(pipe)
        assert metrics["llmdump_records_dropped_total"] == 0
        check_api(pipe, load.done)
    stored = Stored(pipe.data.segments)
    check_files(stored, load.done)
    check_certified(pipe.data, stored)
    check_rebuilt(pipe.data)
    tell(
        kills=rounds, exchanges=len(load.done), records=stored.records, resent=round(metrics["llmdump_records_resent_total"]),
        client_errors=0, lost=0, doubled=0, took_s=round(time.monotonic() - began),
    )  # fmt: skip


def kill(pipe: Pipeline, role: str, rng: random.Random) -> None:
    """Kill a process and start the next: while it starts, or while it runs."""
    if rng.random() < AT_START:
        wait(rng.uniform(0, START_TAKES_S))
    else:
        eventually(lambda: runs(pipe, role), 30, f"{role} runs")
        wait(rng.uniform(0, RUNS_FOR_S))
    pipe.kill(role)
    pipe.start(role, wait=False)


def runs(pipe: Pipeline, role: str) -> bool:
    """Whether the last that was started of a role is running; fails if it left by itself."""
    process = pipe.processes[role]
    assert process.poll() is None, f"{role} left with {process.returncode}\n{pipe.log()}"
    return any(card.pid == process.pid and card.state == "running" for card in pipe.living())


def wait(seconds: float) -> None:
    """A random moment is what is wanted here, not an event."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))
