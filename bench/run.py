"""llmdump beside other proxies and beside none, on the same work, in turns: `make bench`.

    python -m bench.run [--quick] [--rounds N] [--only TEXT] [--arms TEXT] [--parts TEXT] [--save FILE] [--write]
    python -m bench.run --load FILE [--write]      tables of an earlier run

The full form takes 5 rounds and about 40 minutes on 2 cores, `--quick` one round and minutes. Tables are printed;
`--write` puts them into docs/PERFORMANCE.md. Each run is of processes of its own in a directory of its own, on loopback.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench import cells, measure, page, parts, processes, questions
from bench.arms.arm import Arm
from bench.arms.every import ARMS
from bench.cells import Cell
from bench.results import Results, Run

ROUNDS = 5


def main() -> None:
    """Run what is asked for, and tell."""
    given = _parser().parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    signal.signal(signal.SIGTERM, _leave)
    results = Results.load(given.load) if given.load else measured(given)
    told = page.text(questions.all_of(results, os.cpu_count() or 1), results.conditions)
    print(told)
    if given.write:
        page.PAGE.write_text(page.put_into(page.PAGE.read_text(), told))


def measured(given: argparse.Namespace) -> Results:
    """All runs that were asked for. What was installed and where it ran is noted."""
    began_s, results = time.monotonic(), Results([])
    rounds = given.rounds or (1 if given.quick else ROUNDS)
    processes.raise_file_limit()
    compare(chosen(cells.quick() if given.quick else cells.full(), given.only), wanted(given.arms), rounds, results, given.save)
    for part in parts.PARTS:
        if given.parts in part.cell:
            tell(parts.attempt(part, is_quick=given.quick), results, given.save)
    results.conditions = page.conditions(ARMS, rounds, time.monotonic() - began_s)
    tell([], results, given.save)
    return results


def compare(some: Sequence[Cell], arms: Sequence[Arm], rounds: int, results: Results, save: Path | None) -> None:
    """All cells in each round; the arms of a cell follow each other, another one first each time."""
    for round_ in range(rounds):
        for cell in some:
            here = [arm for arm in arms if arm.name in cell.arms]
            first = round_ % max(1, len(here))
            for arm in here[first:] + here[:first]:
                tell([measure.run(cell, arm, round_)], results, save)


def tell(runs: Sequence[Run], results: Results, save: Path | None) -> None:
    """Keep runs, and a line of each as it ends."""
    for run in runs:
        results.add(run)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in run.figures.items())
        print(
            f"{run.round_ + 1}: {run.cell}: {run.arm}: {shown}{' VOID: ' + run.void if run.void else ''}",
            file=sys.stderr,
            flush=True,
        )
    if save:
        results.save(save)


def chosen(every: Sequence[Cell], text: str) -> list[Cell]:
    """The cells with this in their names."""
    return [cell for cell in every if text in cell.name]


def wanted(text: str) -> list[Arm]:
    """The arms with one of these in their names, parted by commas."""
    return [arm for arm in ARMS if any(part.strip() in arm.name for part in text.split(","))]


def _leave(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C, which an event loop knows how to end for: blocks end, and with them what they started."""
    signal.raise_signal(signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--only", default="", help="cells with this in their names")
    parser.add_argument("--arms", default="", help="arms with one of these in their names, parted by commas")
    parser.add_argument("--parts", default="", help="parts measured alone with this in their names; `none` for none")
    parser.add_argument("--save", type=Path, help="keep all figures here, as JSON, after each run")
    parser.add_argument("--load", type=Path, help="run nothing, take these figures")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PERFORMANCE.md")
    return parser


if __name__ == "__main__":
    main()
