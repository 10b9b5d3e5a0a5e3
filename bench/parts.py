"""What is measured of one part alone, with nothing beside it to compare: writer, indexer, sealed sessions, lag of the api."""

from collections.abc import Callable
from typing import NamedTuple

from bench import agents, behind, cells, index_rate, writer_rate
from bench.results import Run
from llmdump import wire

ROUNDS = 5
SLOW_ROUNDS = 3


class Part(NamedTuple):
    """One of them."""

    cell: str
    measure: Callable[[bool], list[Run]]
    """Blocking; True for the quick form."""


def writer(is_quick: bool) -> list[Run]:
    """Chunks of 300 bytes."""
    runs = []
    for round_ in range(1 if is_quick else ROUNDS):
        for arm, capture_format in ((cells.CBOR, "cbor"), (cells.JSONL, "jsonl")):
            rate = writer_rate.measure(100_000 if is_quick else 400_000, 300, capture_format, wire.WINDOW_BYTES)
            figures = {
                "chunks_per_s": rate.records / rate.took_s,
                "mb_per_s": rate.size_bytes / rate.took_s / 1e6,
                "chunks_per_cpu_s": rate.records / rate.cpu_s,
            }
            runs.append(Run(cells.WRITER, arm, round_, figures, ""))
    return runs


def indexer(is_quick: bool) -> list[Run]:
    """Three kinds of traffic."""
    runs = []
    for round_ in range(1 if is_quick else SLOW_ROUNDS):
        for kind, rate in index_rate.loads(*((1_000, 20, 100) if is_quick else (10_000, 100, 1_000))):
            figures = {
                "exchanges_per_s": rate.exchanges / rate.cpu_s,
                "records_per_s": rate.records / rate.cpu_s,
                "index_bytes": rate.index_bytes / rate.exchanges,
            }
            runs.append(Run(cells.INDEXER, kind, round_, figures, ""))
    return runs


def sessions(is_quick: bool) -> list[Run]:
    """20 sessions of 100 turns."""
    made = [agents.measure(6 if is_quick else 20, 100) for _ in range(1 if is_quick else SLOW_ROUNDS)]
    return [run._replace(round_=round_) for round_, run in enumerate(made)]


def lag(is_quick: bool) -> list[Run]:
    """From the wire to the api."""
    made = [behind.measure(20 if is_quick else 100) for _ in range(1 if is_quick else SLOW_ROUNDS)]
    return [run._replace(round_=round_) for round_, run in enumerate(made)]


def attempt(part: Part, *, is_quick: bool) -> list[Run]:
    """Its runs, or a void one that says why there are none."""
    try:
        return part.measure(is_quick)
    except Exception as err:  # whatever it is, the tables of all else are wanted
        return [Run(part.cell, cells.CBOR, 0, {}, f"{type(err).__name__}: {err}")]


PARTS = (Part(cells.WRITER, writer), Part(cells.INDEXER, indexer), Part(cells.AGENTS, sessions), Part(cells.BEHIND, lag))
