"""The figures of runs, and what is told of them: the median over rounds with the least and the most.

A figure of one arm set against that of another is taken within each round, where the machine was the same, and the median
is that of the ratios or differences.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Figures = dict[str, float]


class Run(NamedTuple):
    """One arm in one cell in one round."""

    cell: str
    arm: str
    round_: int
    figures: Figures
    void: str
    """Why it does not count; empty if it does."""


class Spread(NamedTuple):
    """Of the rounds."""

    median: float
    least: float
    most: float


class Results:
    """All runs so far."""

    def __init__(self, runs: list[Run], conditions: list[str] | None = None) -> None:
        self.runs = runs
        self.conditions = conditions or []
        """Machine, versions and date, a line each; known at the end."""

    def add(self, run: Run) -> None:
        """One more."""
        self.runs.append(run)

    def figure(self, cell: str, arm: str, figure: str) -> dict[int, float]:
        """By round, of the runs that count."""
        return {
            run.round_: run.figures[figure]
            for run in self.runs
            if run.cell == cell and run.arm == arm and not run.void and figure in run.figures
        }

    def spread(self, cell: str, arm: str, figure: str) -> Spread | None:
        """None where no run of it counts."""
        return spread(list(self.figure(cell, arm, figure).values()))

    def paired(
        self, join: Callable[[float, float], float], this: tuple[str, str, str], that: tuple[str, str, str]
    ) -> Spread | None:
        """Two figures, each (cell, arm, figure), joined within each round that has both."""
        left, right = self.figure(*this), self.figure(*that)
        return spread([join(left[one], right[one]) for one in left if one in right])

    def names(self) -> list[tuple[str, str]]:
        """Cells and arms, in the order in which they first ran."""
        return list(dict.fromkeys((run.cell, run.arm) for run in self.runs))

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"conditions": self.conditions, "runs": [run._asdict() for run in self.runs]}, indent=1))

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What `save` wrote."""
        saved = json.loads(path.read_text())
        return cls([Run(**run) for run in saved["runs"]], saved["conditions"])


def spread(values: list[float]) -> Spread | None:
    """None for no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def percentile(values: list[int], part: float) -> float:
    """Of values in any order, at least one."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
