"""No writer for a while, under load: clients do not notice, memory stays bounded, and afterwards all is stored, or told of.

What is guarded, and was seen to fail without it:

    proxy      holds what is not acknowledged within `capture_memory_bytes`; puts the rest into a bounded spill file, and sends
               it from there; drops nothing while there is room, and numbers, counts and tells of all that it drops
    verify     believes no count: it looks at the numbers that are there
"""

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from llmdump import presence
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from llmdump_proxy.outbox import RESERVE_BYTES
from tests.chaos.checker import check_api, check_certified, check_files, check_rebuilt, check_whole, settle, verify
from tests.chaos.clients import WORKERS, Load
from tests.chaos.stored import Stored, numbers
from tests.chaos.test_kills import wait
from tests.chaos.test_proxy_kills import check_cut, own_metric
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

pytestmark = [pytest.mark.xdist_group("chaos-writer"), pytest.mark.timeout(1800)]
MIB: Final = 1024 * 1024
AWAY_S: Final = 60.0
AWAY_SHORT_S: Final = 1.0
BRIEFLY_S: Final = 5.0
MEMORY_BYTES: Final = 8 * MIB
TINY_BYTES: Final = MIB
"""The least that can be set."""
OVERHEAD_BYTES: Final = 32 * MIB
"""Resident above the budget: buffers of connections, what the allocator keeps, the batch in the hands of the disk."""
LOOK_EVERY_S: Final = 0.1


@pytest.mark.only_long
@pytest.mark.parametrize("how", ["stopped by a signal", "not running"])
def test_without_a_writer_for_a_minute_memory_is_bounded_and_all_is_stored_in_the_end(
    how: str, backend: str, tmp_path: Path, rng: random.Random, tell: Callable[..., None]
) -> None:
    with Pipeline(tmp_path, upstream=backend, capture_memory_bytes=MEMORY_BYTES) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.wait_for_more(200)
            with watching(pipe) as memory, without_writer(pipe, by_signal=how == "stopped by a signal"):
                load.go_on_for(AWAY_S)
                spilled = own_metric(proxy_card(pipe), "llmdump_records_spilled_total")
                held = own_metric(proxy_card(pipe), "llmdump_queue_depth_bytes")
            load.wait_for_more(20)
        assert load.errors == []
        assert memory.queue_bytes_max <= MEMORY_BYTES + RESERVE_BYTES
        assert memory.grown_bytes < MEMORY_BYTES + OVERHEAD_BYTES
        assert spilled > 0
        metrics = settle(pipe)
        assert metrics["llmdump_records_dropped_total"] == 0
        check_api(pipe, load.done)
    stored = Stored(pipe.data.segments)
    check_files(stored, load.done)
    check_certified(pipe.data, stored)
    check_rebuilt(pipe.data)
    assert not [*pipe.data.spill.iterdir()]
    tell(
        away_s=AWAY_S, exchanges=len(load.done), records=stored.records, held_mib=held // MIB, spilled=spilled,
        grown_mib=round(memory.grown_bytes / MIB, 1), client_errors=0, lost=0,
    )  # fmt: skip


@pytest.mark.long_or_short("policy", ["spill", "drop"], ["spill"])
def test_over_every_budget_what_is_counted_as_dropped_is_exactly_what_is_missing(
    policy: str, backend: str, tmp_path: Path, is_long: bool, rng: random.Random, tell: Callable[..., None]
) -> None:
    tiny = {"capture_memory_bytes": TINY_BYTES, "capture_spill_bytes": TINY_BYTES, "on_overflow": policy}
    with Pipeline(tmp_path, upstream=backend, **tiny) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.wait_for_more(20)
            with watching(pipe) as memory, without_writer(pipe, by_signal=rng.random() < 0.5):
                eventually(lambda: dropped(pipe), WAIT_S, "something is dropped", LOOK_EVERY_S)
                load.go_on_for(AWAY_S / 4 if is_long else AWAY_SHORT_S)
            load.wait_for_more(20)
        assert load.errors == []
        assert memory.queue_bytes_max <= TINY_BYTES + RESERVE_BYTES
        settle(pipe)
        counted = dropped(pipe)
    stored = Stored(pipe.data.segments)
    ((instance, told),) = stored.told.items()
    missing = stored.missing(instance)
    assert numbers((first, last) for first, last, _ in told) == missing
    assert counted == len(missing) > 0
    found = verify(pipe.data)
    assert (found["missing"], found["in_files"], found["made"]) == (counted, stored.records, counted + stored.records)
    (one,) = found["instances"]
    assert numbers((gone["first"], gone["last"]) for gone in one["missing"]) == missing
    cut = check_what_is_left(stored, load)
    if is_long:
        check_rebuilt(pipe.data)
    tell(exchanges=len(load.done), records=stored.records, dropped=counted, missing=len(missing), exchanges_cut=cut)


@pytest.mark.only_long
def test_blocked_clients_wait_and_nothing_is_dropped(
    backend: str, tmp_path: Path, rng: random.Random, tell: Callable[..., None]
) -> None:
    with Pipeline(tmp_path, upstream=backend, capture_memory_bytes=TINY_BYTES, on_overflow="block") as pipe:
        with Load(pipe.proxy, rng.getrandbits(32)) as load:
            load.wait_for_more(20)
            card = proxy_card(pipe)
            with watching(pipe) as memory, without_writer(pipe, by_signal=True):
                eventually(lambda: stands_still(card), WAIT_S, "memory is full", LOOK_EVERY_S)
                began = len(load.seen)
                load.go_on_for(BRIEFLY_S)
                meanwhile = len(load.seen) - began
            load.wait_for_more(20)
        assert load.errors == []
        assert meanwhile <= WORKERS, "clients did not wait"
        assert memory.queue_bytes_max <= TINY_BYTES + RESERVE_BYTES
        assert settle(pipe)["llmdump_records_dropped_total"] == 0
    stored = Stored(pipe.data.segments)
    check_files(stored, load.done)
    check_certified(pipe.data, stored)
    tell(exchanges=len(load.done), while_full=meanwhile, records=stored.records, lost=0)


def stands_still(card: presence.Card) -> bool:
    """Whether nothing is added to a memory that is nearly full. That it was full once says nothing: on a busy machine
    the writer lags behind before it is stopped."""
    before = own_metric(card, "llmdump_queue_memory_bytes")
    wait(0.5)
    return 0.9 * TINY_BYTES < before == own_metric(card, "llmdump_queue_memory_bytes")


def check_what_is_left(stored: Stored, load: Load) -> int:
    """Exchanges that lost nothing are whole; of the others what is stored is a beginning. How many those are."""
    found, cut = stored.by_request(), 0
    for one in load.done:
        exchanges = found.pop(one.head, [])
        assert len(exchanges) <= 1
        if exchanges and not exchanges[0].lost:
            check_whole(one, exchanges[0])
        elif exchanges:
            check_cut(one, exchanges[0])
            assert not exchanges[0].has_holes(CLIENT_TO_PROXY) and not exchanges[0].has_holes(BACKEND_TO_PROXY)
        cut += not exchanges or exchanges[0].lost > 0
    assert not found, "stored, and nobody asked for it"
    return cut


def proxy_card(pipe: Pipeline) -> presence.Card:
    """The running proxy's."""
    (card,) = [card for card in presence.living(pipe.data.run, "proxy") if card.state == "running"]
    return card


def dropped(pipe: Pipeline) -> int:
    """Records that the proxy says it has dropped, for whatever reason."""
    return own_metric(proxy_card(pipe), "llmdump_records_dropped_total")


@contextlib.contextmanager
def without_writer(pipe: Pipeline, *, by_signal: bool) -> Iterator[None]:
    """Within the block the writer hangs, or is not there."""
    if by_signal:
        pipe.processes["writer"].send_signal(signal.SIGSTOP)
    else:
        pipe.kill("writer")
    try:
        yield
    finally:
        if by_signal:
            pipe.processes["writer"].send_signal(signal.SIGCONT)
        else:
            pipe.start("writer")


class Memory:
    """What a proxy had in memory, at most."""

    def __init__(self) -> None:
        self.queue_bytes_max = 0
        self.grown_bytes = 0


@contextlib.contextmanager
def watching(pipe: Pipeline) -> Iterator[Memory]:
    """The proxy's memory, looked at again and again within the block."""
    memory, over, pid, card = Memory(), threading.Event(), pipe.processes["proxy"].pid, proxy_card(pipe)
    before = resident_bytes(pid)

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            memory.grown_bytes = max(memory.grown_bytes, resident_bytes(pid) - before)
            memory.queue_bytes_max = max(memory.queue_bytes_max, own_metric(card, "llmdump_queue_memory_bytes"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def resident_bytes(pid: int) -> int:
    """Of a process, by the kernel."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
