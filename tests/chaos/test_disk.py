"""Disks that refuse under load: no client notices, and when the fault is gone all is stored and certified.

What is guarded, and was seen to fail without it:

    writer     cuts back what was not synced and never writes to that file again; sends nobody away for good: a probe
    proxy      keeps what is not acknowledged, in memory and in its spill file; tells of what it had to drop
    readers    go no further in a growing segment than its writer's mark
    indexer    begins again from what the index holds, whatever failed
"""

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checker import check_api, check_certified, check_files, check_rebuilt, check_whole, settle, verify
from tests.chaos.clients import Load
from tests.chaos.disks import Under, failed, failing, fill, limited, remount, small_disk, writers_files
from tests.chaos.stored import Stored
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

pytestmark = [pytest.mark.xdist_group("chaos-disk"), pytest.mark.timeout(1800)]
SEGMENT_BYTES = 300_000
OFTEN = ("write", "fdatasync", "fsync", "openat", "pwrite64")
ERRORS = ("EIO", "ENOSPC")
SLOW_SYNC_US = 150_000
"""Long enough for an indexer to read what is not synced yet."""
SHORT = [
    [f"fdatasync:error=EIO:delay_enter={SLOW_SYNC_US}:when=3+5", "write:error=ENOSPC:when=7+9", "pwrite64:error=EIO:when=9+11",
     "openat:error=EMFILE:when=4+13"],
]  # fmt: skip
LONG = [
    *SHORT,
    # Rarer than the calls of one kind that a new segment takes: it would never be had.
    *([f"{call}:error={error}:when={n}+{n}"] for call in OFTEN for error in ERRORS for n in (5, 7, 9, 13)),
    # Once a sealed segment; files are cut only after another call has failed.
    *([f"{call}:error={error}:when={n}+{n}"] for call in ("rename", "unlink") for error in ERRORS for n in (1, 2, 3)),
    *(["write:error=ENOSPC:when=5+5", f"ftruncate:error={error}:when={n}+{n}"] for error in ERRORS for n in (1, 2, 3)),
    *([f"fdatasync:error=EIO:delay_enter={SLOW_SYNC_US}:when={n}+{n}", f"ftruncate:error=EIO:when=1+{n}"] for n in (2, 3, 5)),
]
HAD_WITHIN_S = 60.0
GOES_ON_WITHIN_S = 10.0


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
    told = tmp_path / "strace"
    commands = {"writer": failing(writers_files(tmp_path / "data"), told, *faults)}
    with Under(tmp_path, commands, upstream=backend, capture_max_bytes=SEGMENT_BYTES) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.go_on_for(5 if is_long else 3)
            eventually(lambda: {fault.partition(":")[0] for fault in faults} <= failed(told).keys(), HAD_WITHIN_S, "each fault")
        assert load.errors == []
        metrics = settle(pipe)
        assert metrics["llmdump_records_dropped_total"] == 0
        check_api(pipe, load.done)
    stored = check_all(pipe, load)
    tell(
        faults=" ".join(faults), exchanges=len(load.done), records=stored.records, failed=failed(told).total(),
        resent=round(metrics["llmdump_records_resent_total"]),
    )  # fmt: skip


# --- faults that come and go, one pipeline


def errors(pipe: Pipeline) -> float:
    """Writes that the writer's disk refused."""
    return pipe.metrics().get("llmdump_writer_write_errors_total", 0.0)


def until_refused(pipe: Pipeline) -> None:
    """Until the writer's disk has refused once more."""
    before = errors(pipe)
    eventually(lambda: errors(pipe) > before, WAIT_S, f"a write fails\n{pipe.log()}")


def a_full_disk(pipe: Pipeline) -> None:
    ballast = fill(pipe.data.segments)
    until_refused(pipe)
    ballast.unlink()


def a_disk_that_becomes_read_only(pipe: Pipeline) -> None:
    """It is full before: while files are open for writing the kernel refuses."""
    ballast = fill(pipe.data.segments)
    until_refused(pipe)
    remount(pipe.data.segments, "ro")
    until_refused(pipe)
    remount(pipe.data.segments, "rw")
    ballast.unlink()


def short_writes(pipe: Pipeline) -> None:
    """A file takes so many bytes: of the write that goes beyond it, a part; then EFBIG."""
    with limited(pipe.processes["writer"].pid, resource.RLIMIT_FSIZE, SEGMENT_BYTES // 2):
        until_refused(pipe)


def too_many_open_files_in_the_writer(pipe: Pipeline) -> None:
    told = pipe.log().count("EMFILE")
    with limited(pipe.processes["writer"].pid, resource.RLIMIT_NOFILE, 3):
        eventually(lambda: pipe.log().count("EMFILE") > told, WAIT_S, f"EMFILE\n{pipe.log()}")


def too_many_open_files_in_the_indexer(pipe: Pipeline) -> None:
    with limited(pipe.processes["indexer"].pid, resource.RLIMIT_NOFILE, 3):
        told = pipe.log().count("indexing_interrupted")
        eventually(lambda: pipe.log().count("indexing_interrupted") > told, WAIT_S, f"the indexer is interrupted\n{pipe.log()}")


def an_index_that_cannot_grow(pipe: Pipeline) -> None:
    with limited(pipe.processes["indexer"].pid, resource.RLIMIT_FSIZE, 4096):
        told = pipe.log().count("indexing_interrupted")
        eventually(lambda: pipe.log().count("indexing_interrupted") > told, WAIT_S, f"the indexer is interrupted\n{pipe.log()}")


FAULTS = (
    a_full_disk, a_disk_that_becomes_read_only, short_writes, too_many_open_files_in_the_writer,
    too_many_open_files_in_the_indexer, an_index_that_cannot_grow,
)  # fmt: skip


def test_faults_that_come_and_go_lose_nothing_and_capture_goes_on_by_itself(
    backend: str, tmp_path: Path, rng: random.Random, is_long: bool, tell: Callable[..., None]
) -> None:
    rounds = [fault for _ in range(10 if is_long else 1) for fault in rng.sample(FAULTS, len(FAULTS))]
    longest_s = 0.0
    settings = {"capture_max_bytes": SEGMENT_BYTES, "capture_min_free_bytes": 0, "upstream": backend}
    with small_disk(tmp_path / "data" / "segments", "64m" if is_long else "16m"), Pipeline(tmp_path, **settings) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.wait_for_more(5)
            for fault in rounds:
                fault(pipe)
                gone_at = time.monotonic()
                eventually(pipe.ready, GOES_ON_WITHIN_S, f"ready again after {fault.__name__}\n{pipe.log()}")
                longest_s = max(longest_s, time.monotonic() - gone_at)
                load.wait_for_more(5)
        assert load.errors == []
        metrics = settle(pipe)
        assert metrics["llmdump_records_dropped_total"] == 0
        check_api(pipe, load.done)
        for role in ("proxy", "writer", "indexer", "api"):
            pipe.stop(role)
        stored = check_all(pipe, load)
    tell(
        rounds=len(rounds), exchanges=len(load.done), records=stored.records, goes_on_after_s=round(longest_s, 2),
        errors=round(metrics.get("llmdump_writer_write_errors_total", 0)),
    )  # fmt: skip


# --- the spill file


MEMORY_BYTES = 1024 * 1024
SPILL_FAULTS = ["pwritev:error=EIO:when=2+3", "ftruncate:error=EIO:when=1+2"]


def test_a_spill_file_that_refuses_costs_only_what_is_told(
    backend: str, tmp_path: Path, rng: random.Random, is_long: bool, tell: Callable[..., None]
) -> None:
    settings = {"capture_memory_bytes": MEMORY_BYTES, "upstream": backend}
    commands = {"proxy": failing([], tmp_path / "strace", *SPILL_FAULTS)}
    with small_disk(tmp_path / "data" / "spill", "2m") as spill, Under(tmp_path, commands, **settings) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            for _ in range(5 if is_long else 1):
                load.wait_for_more(5)
                before = pipe.metric("llmdump_records_dropped_total")
                pipe.kill("writer")
                eventually(lambda: pipe.metric("llmdump_records_dropped_total") > before, WAIT_S, "records are dropped")  # noqa: B023
                pipe.start("writer")
        assert load.errors == []
        metrics = settle(pipe)
        assert not [*spill.glob("*.spill")]
        for role in ("proxy", "writer", "indexer", "api"):
            pipe.stop(role)
    stored, told = Stored(pipe.data.segments), verify(pipe.data)
    missing = [one for instance in told["instances"] for one in instance["missing"]]
    assert {one["reason"] for one in missing} <= {"spill_error", "spill_slow", "overflow"}
    assert told["missing"] == metrics["llmdump_records_dropped_total"] > 0
    assert told["duplicates"] == 0 and not told["damaged"]
    by_request = stored.by_request()
    whole = [one for one in load.done if by_request.get(one.head) and not by_request[one.head][0].lost]
    for one in whole:
        check_whole(one, by_request[one.head][0])
    check_rebuilt(pipe.data)
    tell(
        exchanges=len(load.done), whole=len(whole), told=told["missing"],
        dropped=round(metrics["llmdump_records_dropped_total"]), spilled=round(metrics["llmdump_records_spilled_total"]),
    )  # fmt: skip
