"""`kill -9` of what is behind the proxy, at random moments under load: nothing is lost, nothing doubled, no client notices.

What is guarded, and was seen to fail without it:

    writer     acknowledges only what is in its file; reads from its files what it holds; cuts its own torn tail
    proxy      keeps what is not acknowledged and sends it again, from where the next writer says
    indexer    rows and position in one transaction
"""

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.checker import check_api, check_certified, check_files, check_rebuilt, settle
from tests.chaos.clients import Load
from tests.chaos.stored import Stored
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

pytestmark = [pytest.mark.xdist_group("chaos-kills"), pytest.mark.timeout(3600)]
ROUNDS: Final = 200
ROUNDS_SHORT: Final = 3
MOMENTS: Final = ("starting", "running", "writing", "writing")
WRITES_WITHIN_S: Final = 2.0
START_TAKES_S: Final = 0.8
RUNS_FOR_S: Final = 0.3
SEGMENT_BYTES: Final = 3_000_000
"""Small, so that rotation and sealing are hit too."""


@pytest.mark.long_or_short("roles", [("writer",), ("indexer",), ("api",)], [("writer", "indexer", "api")])
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
    """Kill a process and start the next: while it starts, while it runs, or just when it has written."""
    moment = rng.choice(MOMENTS)
    if moment == "starting":
        wait(rng.uniform(0, START_TAKES_S))
    else:
        eventually(lambda: runs(pipe, role), WAIT_S, f"{role} runs")
        wait(rng.uniform(0, RUNS_FOR_S))
    if moment == "writing":
        wait_for_write(pipe, role)
    pipe.kill(role)
    pipe.start(role, wait=False)


def wait_for_write(pipe: Pipeline, role: str) -> None:
    """Until a file of its own has grown: it is in the middle of making that durable, and nobody has been told."""
    before, deadline = written(pipe, role), time.monotonic() + WRITES_WITHIN_S
    while role != "api" and written(pipe, role) == before and time.monotonic() < deadline:
        time.sleep(0)


def written(pipe: Pipeline, role: str) -> list[tuple[str, int, int]]:
    """Its files, their sizes and when they were changed."""
    files = pipe.data.segments.glob("*.cbor") if role == "writer" else pipe.data.root.glob("index.sqlite*")
    with contextlib.suppress(FileNotFoundError):  # it is sealed at this moment
        return sorted((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
    return []


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
