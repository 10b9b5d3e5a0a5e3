"""`kill -9` of the proxy, at random moments under load: what it handed over is stored, and the rest is told of.

Some of the kills hit it while there is no writer and it spills. What is guarded, and was seen to fail without it:

    writer     acknowledges only what is in its file
    proxy      sends what a dead one left in its spill files, once
    verify     says of each killed instance which numbers are missing, and after which nothing is known
"""

import contextlib
import itertools
import random
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from llmdump import presence
from llmdump.data_dir import DataDir
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from llmdump_proxy.spill import Room, orphans
from tests.chaos.checker import check_rebuilt, check_whole, lines, settle, verify
from tests.chaos.clients import Load, Seen
from tests.chaos.stored import Exchange, Stored, numbers
from tests.chaos.test_kills import runs, wait
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

pytestmark = [pytest.mark.xdist_group("chaos-proxy"), pytest.mark.timeout(1800)]
KILLS: Final = 50
WITHOUT_WRITER: Final = 0.3
"""So many of the kills hit a proxy that has no writer."""
MEMORY_BYTES: Final = 1024 * 1024
RUNS_FOR_S: Final = 0.5
LOOK_EVERY_S: Final = 0.1
SPILLS_WITHIN_S: Final = 60.0


class Killed(NamedTuple):
    """A proxy's end."""

    instance: str
    at: float
    """When it was killed, on the monotonic clock."""
    back_at: float
    """When the next one served."""
    acknowledged: int
    """Records, just before."""
    durable_at: float
    """Everything it had made by then was acknowledged when it was killed."""
    spilled: dict[str, list[int]]
    """Numbers in the spill files, its own and those of earlier ones that it had not sent yet."""


def test_what_a_killed_proxy_handed_over_is_stored_and_the_rest_is_told_of(
    backend: str, tmp_path: Path, is_long: bool, rng: random.Random, tell: Callable[..., None]
) -> None:
    plan = [rng.random() >= WITHOUT_WRITER for _ in range(KILLS)] if is_long else [False]
    began, killed = time.monotonic(), []
    with Pipeline(tmp_path, upstream=backend, capture_memory_bytes=MEMORY_BYTES) as pipe:
        with Load(pipe.proxy, rng.getrandbits(32), cuts=True) as load:
            for with_writer in plan:
                load.wait_for_more(10)
                killed.append(kill_proxy(pipe, rng, with_writer=with_writer))
            load.wait_for_more(10)
        settle(pipe)
        eventually(lambda: not [*pipe.data.spill.glob("*.spill")], WAIT_S, "all that was spilled is sent")
    stored = Stored(pipe.data.segments)
    check_errors(load, killed)
    check_instances(stored, killed, pipe.data)
    outcomes = check_exchanges(stored, load.seen, killed)
    if is_long:
        check_rebuilt(pipe.data)
    told = {
        "spilled": sum(len(one.spilled.get(one.instance, [])) for one in killed),
        "missing": sum(len(stored.missing(one)) for one in stored.numbers),
    }
    took_s = round(time.monotonic() - began)
    tell(kills=len(killed), exchanges=len(load.seen), records=stored.records, **told, **outcomes, took_s=took_s)


def kill_proxy(pipe: Pipeline, rng: random.Random, *, with_writer: bool) -> Killed:
    """Kill the proxy and start the next, and wait until it serves.

    Without a writer: that is killed before, the spill file is in use, and a writer comes back after the next proxy.
    """
    (card,) = [card for card in presence.living(pipe.data.run, "proxy") if card.state == "running"]
    made = [(0.0, 0), *watch_for(rng.uniform(0, RUNS_FOR_S), card)]
    if not with_writer:
        pipe.kill("writer")
        eventually(lambda: own_metric(card, "llmdump_records_spilled_total"), SPILLS_WITHIN_S, "the proxy spills", LOOK_EVERY_S)
        wait(rng.uniform(0, RUNS_FOR_S))
    acknowledged = own_metric(card, "llmdump_records_acknowledged_total")
    at = time.monotonic()
    pipe.kill("proxy")
    spilled = numbers_in_spill(pipe.data)
    pipe.start("proxy", wait=False)
    eventually(lambda: runs(pipe, "proxy"), WAIT_S, "the next proxy serves")
    durable_at = max(when for when, count in made if count <= acknowledged)
    killed = Killed(card.instance, at, time.monotonic(), acknowledged, durable_at, spilled)
    if not with_writer:
        pipe.start("writer")
    return killed


def watch_for(seconds: float, card: presence.Card) -> list[tuple[float, int]]:
    """How many records a proxy had made at which moments, within so long."""
    found, until = [], time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        found.append((now, own_metric(card, "llmdump_records_made_total")))
        wait(LOOK_EVERY_S)
    return found


def own_metric(card: presence.Card, name: str) -> int:
    """A number of the process's own /metrics, summed over its labels."""
    with urllib.request.urlopen(f"{card.admin}/metrics", timeout=WAIT_S) as answer:
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found
    return int(sum(map(float, found)))


def numbers_in_spill(data: DataDir) -> dict[str, list[int]]:
    """Of each dead instance that left any. No proxy may be running."""
    found: dict[str, list[int]] = {}
    for spill in orphans(data.spill, Room(1 << 40, 0)):
        with contextlib.closing(spill):
            frames = [(one, frame) for one in spill.found() for frame in one.frames]
            numbers_of = (spill.read(frame).numbers for one, frame in frames)
            found[spill.instance] = [*itertools.chain.from_iterable(numbers_of)]
    return found


def check_errors(load: Load, killed: list[Killed]) -> None:
    """Clients saw an error only on connections that were asked for before the next proxy served, and after a kill."""
    assert load.errors, "nobody noticed: it was not under load"
    cut = [(one.connected_at, one.ended_at) for one in load.seen if one.error]
    for connected_at, ended_at in [*cut, *load.refused]:
        assert any(connected_at <= dead.back_at and dead.at <= ended_at for dead in killed)


def check_instances(stored: Stored, killed: list[Killed], data: DataDir) -> None:
    """Of each instance all that was acknowledged and all that was spilled is stored, once; verify tells exactly the rest."""
    told = {one["instance"]: one for one in verify(data)["instances"]}
    for dead in killed:
        there = stored.numbers.get(dead.instance, [])
        assert len(set(there)) == len(there), f"{dead.instance}: stored twice"
        assert len(there) >= dead.acknowledged
        for instance, spilled in dead.spilled.items():
            assert set(spilled) <= set(stored.numbers.get(instance, [])), f"{instance} spilled them, and they are not stored"
        if there:
            one = told.pop(dead.instance)
            assert (one["state"], one["unknown_after"], one["in_files"]) == ("died", max(there), len(there))
            assert numbers((gone["first"], gone["last"]) for gone in one["missing"]) == stored.missing(dead.instance)
            told_of = numbers((first, last) for first, last, _ in stored.told.get(dead.instance, []))
            assert dead.instance in dead.spilled or stored.missing(dead.instance) == told_of, "a hole, and nothing was spilled"
    (last,) = told.values()
    assert (last["state"], last["missing"], last["unknown_after"]) == ("ended", [], None)


def check_exchanges(stored: Stored, seen: list[Seen], killed: list[Killed]) -> dict[str, int]:
    """Each exchange is stored once at most: whole, or as far as it is, equal to what its client saw."""
    found, outcomes = stored.by_request(), {"whole": 0, "stored_in_part": 0, "not_stored": 0, "acknowledged": 0}
    for one in seen:
        exchanges = found.pop(one.head, [])
        assert len(exchanges) <= 1, f"{one.id} is stored {len(exchanges)} times"
        if exchanges and exchanges[0].reason == "complete":
            assert one.answer.whole or one.error
            check_cut(one, exchanges[0])
            outcomes["whole"] += 1
        elif exchanges:
            check_cut(one, exchanges[0])
            outcomes["stored_in_part"] += 1
        else:
            outcomes["not_stored"] += one.answer.head_end > 0
        if one.answer.whole and is_safe(one, killed):
            assert exchanges, f"all of {one.id} was acknowledged, and it is not stored"
            outcomes["acknowledged"] += 1
            check_whole(one, exchanges[0])
    assert not found, "stored, and nobody asked for it"
    return outcomes


def is_safe(one: Seen, killed: list[Killed]) -> bool:
    """Whether all of it was acknowledged before the next kill, if there was one. A client may read the end of an answer when
    the proxy that gave it is dead."""
    following = next((dead for dead in killed if dead.at >= one.began_at), None)
    return following is None or one.ended_at < following.durable_at


def check_cut(one: Seen, exchange: Exchange) -> None:
    """What is stored of it up to the first missing record is what crossed. The client may have seen more, or, where bytes
    died with the proxy, less."""
    assert one.wire.startswith(exchange.wire(CLIENT_TO_PROXY)), one.id
    if not exchange.response_head or not one.answer.head:
        return
    assert lines(exchange.response_head) == lines(one.answer.head), one.id
    kept, seen = exchange.wire(BACKEND_TO_PROXY), one.answer.wire
    assert kept.startswith(seen) or seen.startswith(kept), one.id
