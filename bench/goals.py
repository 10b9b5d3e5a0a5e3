"""The figures to reach, and whether a run reached them. Computed from the medians of the run, never written by hand."""

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench import cells, table
from bench.cells import CBOR, DIRECT, MITM, NGINX, OFF, PLAIN, RATE, STREAMS, TWO
from bench.results import Results, Spread

CORES_FOR_TWO = 4
"""Two proxies, a backend and a load, each on its own."""


class Goal(NamedTuple):
    """A line of the table."""

    what: str
    wanted: str
    figure: Spread | None
    unit: str
    holds: Callable[[float], bool]
    excuse: str = ""
    """Why it cannot be judged here."""

    def judged(self) -> str:
        """In a word."""
        if self.excuse:
            return f"not judged: {self.excuse}"
        if self.figure is None:
            return "no run of it counts"
        return "reached" if self.holds(self.figure.median) else "**not reached**"


def lines(results: Results, cores: int) -> list[str]:
    """The table."""
    rows = [
        [goal.what, goal.wanted, f"{table.told(goal.figure)} {goal.unit}".strip(), goal.judged()]
        for goal in goals(results, cores)
    ]
    return table.markdown(["what", "wanted", "measured", ""], rows)


def goals(results: Results, cores: int) -> Iterator[Goal]:
    """In the order in which they were set."""
    yield from _cpu(results)
    yield from _throughput(results, cores)
    yield from _latency(results)
    yield from _recording(results)
    yield from _storage(results)


def _cpu(results: Results) -> Iterator[Goal]:
    request, ratio = "forwarding_us", operator.truediv
    to_nginx = results.paired(ratio, (PLAIN, CBOR, request), (PLAIN, NGINX, request))
    yield _at_most("proxy CPU per plain request, to nginx", to_nginx, 2.0, "×")
    to_mitm = results.paired(ratio, (PLAIN, MITM, request), (PLAIN, CBOR, request))
    yield _at_least("mitmdump's CPU per plain request, to the proxy", to_mitm, 20, "×")
    chunk = results.paired(ratio, (STREAMS, CBOR, request), (STREAMS, NGINX, request))
    yield _at_most("proxy CPU per SSE chunk, to nginx", chunk, 1.6, "×")


def _throughput(results: Results, cores: int) -> Iterator[Goal]:
    rate, ratio = "units_per_s", operator.truediv
    one = results.paired(ratio, (PLAIN, CBOR, rate), (PLAIN, NGINX, rate))
    yield _at_least("requests/s of one proxy, to nginx with one worker", one, 0.6, "×")
    two = results.paired(ratio, (PLAIN, TWO, rate), (PLAIN, CBOR, rate))
    excuse = "" if cores >= CORES_FOR_TWO else f"{cores} cores for two proxies, backend, load and recording"
    yield _at_least("requests/s of two proxies, to one", two, 1.7, "×")._replace(excuse=excuse)


def _latency(results: Results) -> Iterator[Goal]:
    for figure, most_ms in (("latency_p50_ms", 0.3), ("latency_p99_ms", 1.5)):
        name = f"added latency at 1,000 requests/s, {_part(figure)}"
        ours, nginx = (added(results, RATE, arm, figure) for arm in (CBOR, NGINX))
        bound = max(most_ms, 2 * nginx.median) if nginx else most_ms
        relaxed = f" (2 × nginx: {table.number(bound)})" if bound > most_ms else ""
        yield Goal(name, f"≤ {most_ms} ms{relaxed}", ours, "ms", lambda value, bound=bound: value <= bound)  # type: ignore[misc]
    for figure, most_ms in (("first_p50_ms", 0.3), ("first_p99_ms", 2.0)):
        yield _at_most(
            f"added time to first byte, 300 streams, {_part(figure)}", added(results, STREAMS, CBOR, figure), most_ms, "ms"
        )
    yield _at_most("added chunk skew, 300 streams, p99", added(results, STREAMS, CBOR, "skew_p99_ms"), 1.0, "ms")


def _recording(results: Results) -> Iterator[Goal]:
    for cell, unit, most_us in ((PLAIN, "request", 8), (STREAMS, "chunk", 4)):
        more = results.paired(operator.sub, (cell, CBOR, "forwarding_us"), (cell, OFF, "forwarding_us"))
        yield _at_most(f"recording itself in the proxy, per {unit}", more, most_us, "µs")
    yield _at_most("memory of the proxy, 5,000 open streams", results.spread(cells.MANY, CBOR, "peak_mb"), 100, "MB")
    for cell, what, most in ((STREAMS, "streams", 2), (PLAIN, "plain requests", 8)):
        whole = results.paired(operator.truediv, (cell, CBOR, "pipeline_us"), (cell, CBOR, "forwarding_us"))
        yield _at_most(f"CPU of all four processes to the proxy's, {what}", whole, most, "×")


def _storage(results: Results) -> Iterator[Goal]:
    rate = results.spread(cells.WRITER, CBOR, "chunks_per_s")
    yield _at_least("chunks/s that one writer appends and syncs", rate, 150_000, "")
    yield _at_most("agent sessions, sealed, of raw", results.spread(cells.AGENTS, CBOR, "sealed_percent"), 5, "%")
    yield _at_most("reading any exchange of them, the slowest", results.spread(cells.AGENTS, CBOR, "read_max_ms"), 50, "ms")


def added(results: Results, cell: str, arm: str, figure: str) -> Spread | None:
    """Over direct, in the same round."""
    return results.paired(operator.sub, (cell, arm, figure), (cell, DIRECT, figure))


def _part(figure: str) -> str:
    return figure.split("_")[1]


def _at_most(what: str, figure: Spread | None, most: float, unit: str) -> Goal:
    return Goal(what, f"≤ {most:,g} {unit}".strip(), figure, unit, lambda value: value <= most)


def _at_least(what: str, figure: Spread | None, least: float, unit: str) -> Goal:
    return Goal(what, f"≥ {least:,g} {unit}".strip(), figure, unit, lambda value: value >= least)
