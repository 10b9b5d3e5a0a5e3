"""How far the live tail is behind the wire: from an event's arrival at a client of the proxy to its arrival at a viewer.

    python bench/live.py [--streams N] [--events N] [--gap-ms N] [--flush-interval S]

Real processes with default settings. Backend and clients share one more process, the viewer has its own; both take the
machine's monotonic clock. Also: what the tail costs the api while nothing happens, and while something does.
"""

import argparse
import asyncio
import os
import time

import live_load
from live_load import Load, Running, percentile


def lags_s(load: Load, reads: list[tuple[float, bytes]]) -> tuple[list[float], list[str]]:
    """Of each event, and what else the viewer was told that it should not have been."""
    names: dict[str, str] = {}
    lags, wrong = [], []
    left = {name: list(arrived) for name, arrived in load.arrived.items()}
    for kind, data, when in live_load.chunks(reads):
        if kind == "lost":
            wrong.append(str(data))
        elif kind == "chunk" and data["side"] == "request":
            names[data["id"]] = data["text"]
        elif kind == "chunk":
            arrived = left[names[data["id"]]]
            while arrived and arrived[0][0] <= data["offset"] + data["size"]:
                lags.append(when - arrived.pop(0)[1])
    return lags, wrong + [f"{name}: {len(rest)} events not told" for name, rest in left.items() if rest]


def idle_cpu(at: Running, seconds: float) -> float:
    """Part of a core that the api takes while nothing happens."""
    before = at.cpu_s("api")
    time.sleep(seconds)
    return (at.cpu_s("api") - before) / seconds


def main() -> None:
    """Print the lag."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", type=int, default=20)
    options.add_argument("--events", type=int, default=200)
    options.add_argument("--gap-ms", type=float, default=25.0)
    options.add_argument("--flush-interval", default="0.1")
    asyncio.run(measure(options.parse_args()))


async def measure(given: argparse.Namespace) -> None:
    """One run."""
    load = Load(given.streams, given.events, given.gap_ms / 1000)
    await load.serve()
    with live_load.running(load.url, f"--capture-flush-interval={given.flush_interval}") as at:
        alone = idle_cpu(at, 5.0)
        with live_load.viewers(at, 1) as viewer:
            watched = idle_cpu(at, 5.0)
            before, began = at.cpu_s("api"), time.monotonic()
            await load.run(at.proxy)
            busy = (at.cpu_s("api") - before) / (time.monotonic() - began)
            await asyncio.sleep(1.0)
            viewer.send(None)
            lags, wrong = lags_s(load, viewer.recv())
            metrics, name = at.text("/metrics"), "llmdump_writer_fsync_seconds"
            sync_s, late = live_load.mean_s(metrics, name), live_load.above(metrics, name, "0.05")
    rate = given.streams * 1000 / given.gap_ms
    print(f"{given.streams} streams of {given.events} events, one each {given.gap_ms:g} ms ({rate:,.0f} a second)")
    print(f"behind the wire: median {percentile(lags, 0.5) * 1000:.0f} ms, p99 {percentile(lags, 0.99) * 1000:.0f} ms, "
          f"worst {max(lags) * 1000:.0f} ms, of {len(lags)} events")  # fmt: skip
    told = ((alone, "with no viewer"), (watched, "with one"), (busy, "while it is told"))
    print("CPU of the api, of a core: " + ", ".join(f"{part:.1%} {when}" for part, when in told))
    print(f"a sync of the segment took {sync_s * 1000:.0f} ms, {late:.1%} of them more than 50 ms")
    print(f"load average of the machine {os.getloadavg()[0]:.1f}")
    print("\n".join(wrong) or "every event was told")


if __name__ == "__main__":
    main()
