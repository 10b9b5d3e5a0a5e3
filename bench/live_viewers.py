"""What viewers of the live tail cost the clients of the proxy: nothing is asked for.

    python bench/live_viewers.py [--streams N] [--viewers N] [--events N] [--gap-ms N] [--pairs N]

Rounds with and without viewers take turns in one run of the four processes, so that what else the machine does is in both.
Every viewer is told everything. Shown are, of each kind of round: from the backend's write of an event to the client's read;
the proxy's own part of it, the worst of each exchange, from its rows; and at the end what the ledger says.
"""

import argparse
import asyncio
import os
import statistics
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import live_load
from live_load import Load, Running, percentile


class Round(NamedTuple):
    """What one round showed, ms."""

    p99: float
    median: float
    own_p99: float
    own_each_us: float
    api_cpu: float
    proxy_cpu: float


def rows_since(at: Running, since_ms: int, count: int) -> list[dict[str, Any]]:
    """The rows of all exchanges that began since then, once they are there."""
    deadline = time.monotonic() + 30
    while True:
        path, rows = f"/api/traces?limit=500&end_reason=complete&since={_rfc3339(since_ms)}", []
        cursor = ""
        while cursor is not None:
            page = at.ask(path + (f"&cursor={cursor}" if cursor else ""))
            rows += page["traces"]
            cursor = page["next_cursor"]
        if len(rows) >= count or time.monotonic() > deadline:
            return rows
        time.sleep(0.2)


def viewers_of(at: Running) -> int:
    """Who watches."""
    lines = at.text("/metrics?scope=own").decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("llmdump_live_viewers ")))


def _rfc3339(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


async def one_round(at: Running, load: Load, streams: int, viewers: int, number: int) -> Round:
    """All streams once."""
    with ExitStack() as stack:
        if viewers:
            stack.enter_context(live_load.viewers(at, viewers))
            await asyncio.sleep(1.0)
        while viewers_of(at) != viewers:  # those of the round before may come back for a while
            await asyncio.sleep(0.5)
        since, began = round(time.time() * 1000), time.monotonic()
        before = at.cpu_s("api"), at.cpu_s("proxy")
        await load.run(at.proxy, number)
        took = time.monotonic() - began
        cpu = (at.cpu_s("api") - before[0]) / took, (at.cpu_s("proxy") - before[1]) / took
        rows = rows_since(at, since, streams)
    worst_ms = percentile([row["own_worst_us"] / 1000 for row in rows], 0.99)
    each_us = statistics.median(row["own_sum_us"] / max(1, row["resp_chunks"]) for row in rows)
    delays = [delay * 1000 for delay in load.delays_s]
    return Round(percentile(delays, 0.99), percentile(delays, 0.5), worst_ms, each_us, *cpu)


async def measure(given: argparse.Namespace) -> None:
    """All rounds."""
    load = Load(given.streams, given.events, given.gap_ms / 1000)
    await load.serve()
    rounds: dict[int, list[Round]] = {0: [], given.viewers: []}
    with live_load.running(load.url) as at:
        await one_round(at, load, given.streams, 0, 0)
        for number in range(1, 2 * given.pairs + 1):
            viewers = given.viewers if number % 4 in {2, 3} else 0  # without, with, with, without
            rounds[viewers].append(await one_round(at, load, given.streams, viewers, number))
        ledger, metrics = at.ask("/api/ledger"), at.text("/metrics").decode()
    rate = given.streams * 1000 / given.gap_ms
    print(f"{given.streams} streams, {rate:,.0f} events a second, load average of the machine {os.getloadavg()[0]:.1f}")
    for viewers, found in rounds.items():
        told = " ".join(f"{one.p99:.1f}" for one in found)
        middle = [statistics.median(values) for values in zip(*found, strict=True)]
        print(f"{viewers:>3} viewers: client p99 {middle[0]:.2f} ms, median {middle[1]:.2f} ms (p99 of each round: {told})")
        print(f"    proxy's own p99 {middle[2]:.2f} ms, of a read {middle[3]:.1f} us; "
              f"CPU of the api {middle[4]:.0%}, of the proxy {middle[5]:.1%}")  # fmt: skip
    with_, without = (statistics.median(one.p99 for one in rounds[viewers]) for viewers in (given.viewers, 0))
    print(f"p99 with viewers is {with_ / without - 1:+.1%}; rounds of one kind differ by "
          f"{max(one.p99 for one in rounds[0]) / min(one.p99 for one in rounds[0]) - 1:.0%}")  # fmt: skip
    lost = [line for line in metrics.splitlines() if line.startswith("llmdump_live_lost_events_total")]
    print(f"ledger: made {ledger['made']}, indexed {ledger['indexed']}, missing {ledger['missing']}; {lost[0]}")


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", type=int, default=300)
    options.add_argument("--viewers", type=int, default=20)
    options.add_argument("--events", type=int, default=30)
    options.add_argument("--gap-ms", type=float, default=250.0)
    options.add_argument("--pairs", type=int, default=4)
    asyncio.run(measure(options.parse_args()))


if __name__ == "__main__":
    main()
