"""Disks that refuse under load: no client notices, and when the fault is gone all is stored and certified.

What is guarded, and was seen to fail without it:

    writer     cuts back what was not synced and never writes to that file again; sends nobody away for good: a probe
    proxy      keeps what is not acknowledged, in memory and in its spill file; tells of what it had to drop
    readers    go no further in a growing segment than its writer's mark
    indexer    begins again from what the index holds, whatever failed
"""

import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checker import check_api, check_certified, check_files, check_rebuilt, settle, verify
from tests.chaos.clients import Load
from tests.chaos.disks import Under, failing, fill, limited, remount, small_disk, writers_files
from tests.chaos.stored import Stored
from tests.e2e.pipeline import Pipeline, eventually

pytestmark = [pytest.mark.xdist_group("chaos-disk"), pytest.mark.timeout(1800)]
SEGMENT_BYTES = 300_000
CALLS = ("write", "fdatasync", "fsync", "openat", "pwrite64", "rename", "ftruncate", "unlink")
SLOW_SYNC_US = 150_000
"""Long enough for an indexer to read what is not synced yet."""
SHORT = [
    [f"fdatasync:error=EIO:delay_enter={SLOW_SYNC_US}:when=3+5", "write:error=ENOSPC:when=7+9", "pwrite64:error=EIO:when=9+11",
     "openat:error=EMFILE:when=4+13"],
]  # fmt: skip
LONG = [
    *SHORT,
    *([f"{call}:error={error}:when={n}+{n}"] for call in CALLS for error in ("EIO", "ENOSPC") for n in (2, 3, 5, 9)),
    *([f"fdatasync:error=EIO:delay_enter={SLOW_SYNC_US}:when={n}+{n}", f"ftruncate:error=EIO:when=1+{n}"] for n in (2, 3, 5)),
]


def check_all(pipe: Pipeline, load: Load) -> Stored:
    """What clients saw is stored once, certified, and in the index as a rebuild makes it."""
    stored = Stored(pipe.data.segments)
    check_files(stored, load.done)
    check_certified(pipe.data, stored)
    check_rebuilt(pipe.data)
    return stored


@pytest.mark.long_or_short("faults", LONG, SHORT)
def test_calls_that_fail_at_every_nth_place_under_load_lose_nothing(
    faults: list[str], backend: str, tmp_path: Path, rng: random.Random, is_long: bool, tell: Callable[..., None]
) -> None:
    commands = {"writer": failing(writers_files(tmp_path / "data"), *faults)}
    with Under(tmp_path, commands, upstream=backend, capture_max_bytes=SEGMENT_BYTES) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.go_on_for(5 if is_long else 3)
        assert load.errors == []
        metrics = settle(pipe)
        assert metrics["llmdump_writer_write_errors_total"] > 0 or "rename" in faults[0] or "unlink" in faults[0]
        assert metrics["llmdump_records_dropped_total"] == 0
        check_api(pipe, load.done)
    stored = check_all(pipe, load)
    tell(
        faults=" ".join(faults), exchanges=len(load.done), records=stored.records,
        errors=round(metrics["llmdump_writer_write_errors_total"]), resent=round(metrics["llmdump_records_resent_total"]),
    )  # fmt: skip
