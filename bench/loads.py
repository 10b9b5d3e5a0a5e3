"""The load of a cell, and what its clients saw."""

import asyncio
import gc
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from bench import load_rate, load_streams, load_wrk
from bench.cells import Cell, Rate, Saturation, Streams
from bench.results import Figures, percentile

WARM_REQUESTS = 200
WARM_PER_S = 400
WARM_CONNECTIONS = 32
WARM_STREAMS = 8
WARM_EVENTS = 20
WARM_GAP_S = 0.005
MS = 1e6


class Done(NamedTuple):
    """A load that is over."""

    exchanges: int
    """That its clients saw whole."""
    units: int
    """Of work: requests, or events of streams."""
    captured_bytes: int
    """Heads and bodies, both ways."""
    figures: Figures


def run(cell: Cell, port: int, place: Path) -> Done:
    """Blocking. Raises RuntimeError for any answer that was not as asked for, OSError, TimeoutError."""
    gc.collect()
    gc.disable()  # its pauses would be told as those of the arm
    try:
        match cell:
            case Saturation():
                return _saturation(cell, port, place)
            case Rate():
                return uvloop.run(_rate(cell.request_bytes, cell.rate_per_s, cell.count, port, cell.connections))
            case Streams():
                return uvloop.run(_streams(cell, port))
    finally:
        gc.enable()


def warm(cell: Cell, port: int) -> Done:
    """A little of the same, so that code is warm and connections are open."""
    warming: Coroutine[Any, Any, Done]
    if isinstance(cell, Streams):
        warming = _streams(Streams("", (), WARM_STREAMS, WARM_EVENTS, WARM_GAP_S, 0.1, 1, cell.request_bytes), port)
    else:
        warming = _rate(cell.request_bytes, WARM_PER_S, WARM_REQUESTS, port, WARM_CONNECTIONS)
    return uvloop.run(warming)


def _saturation(cell: Saturation, port: int, place: Path) -> Done:
    done = load_wrk.run(port, cell.request_bytes, cell.connections, cell.duration_s, place)
    if done.failed:
        raise RuntimeError(f"{done.failed} of {done.requests} requests failed")
    if not done.requests:
        raise RuntimeError(f"no request was answered in {done.took_s:.1f} s")
    return Done(done.requests, done.requests, done.captured_bytes, {"units_per_s": done.requests / done.took_s})


async def _rate(request_bytes: int, rate_per_s: int, count: int, port: int, connections: int) -> Done:
    load = load_rate.Load(request_bytes, rate_per_s, count)
    await load.run(port, connections)
    if load.failed:
        raise RuntimeError(f"{load.failed} of {count} requests failed")
    return Done(count, count, load.captured_bytes, _percentiles("latency", load.latencies_ns))


async def _streams(cell: Streams, port: int) -> Done:
    load = load_streams.Load(
        cell.request_bytes, cell.events, cell.gap_s, streams_each=cell.streams_each, spread_s=cell.spread_s
    )
    began = asyncio.get_running_loop().time()
    await load.run(port, cell.connections)
    took_s = asyncio.get_running_loop().time() - began
    exchanges = cell.connections * cell.streams_each
    if load.events != exchanges * cell.events:
        raise RuntimeError(f"{load.events} of {exchanges * cell.events} events came")
    figures = _percentiles("first", load.first_ns) | _percentiles("skew", [abs(skew) for skew in load.skews_ns])
    closer = -percentile(load.skews_ns, 0.01) / MS
    return Done(
        exchanges, load.events, load.captured_bytes, {**figures, "units_per_s": load.events / took_s, "closer_p99_ms": closer}
    )


def _percentiles(name: str, values_ns: list[int]) -> Figures:
    return {f"{name}_p50_ms": percentile(values_ns, 0.5) / MS, f"{name}_p99_ms": percentile(values_ns, 0.99) / MS}
