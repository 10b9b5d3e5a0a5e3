"""Tables of Markdown: a median with the least and the most of its rounds in each field."""

from collections.abc import Iterable, Sequence

from bench.results import Results, Spread

NOT_RUN = "–"


def number(value: float) -> str:
    """Three digits that count, thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def told(spread: Spread | None) -> str:
    """`median (least–most)`; the median alone where nothing varies."""
    if spread is None:
        return NOT_RUN
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}–{number(spread.most)})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def field(results: Results, cell: str, arm: str, figure: str) -> str:
    """A figure; `void` where the arm ran and no run of it counts."""
    spread = results.spread(cell, arm, figure)
    ran = [run for run in results.runs if (run.cell, run.arm) == (cell, arm)]
    return "void" if ran and all(run.void for run in ran) else told(spread)


def by_cell(results: Results, figure: str, cells: Sequence[str], arms: Sequence[str]) -> list[str]:
    """A row a cell, a column an arm. What nothing was measured for is left out."""
    fields = {(cell, arm): field(results, cell, arm, figure) for cell in cells for arm in arms}
    some_arms = [arm for arm in arms if any(fields[cell, arm] != NOT_RUN for cell in cells)]
    some_cells = [cell for cell in cells if any(fields[cell, arm] != NOT_RUN for arm in arms)]
    return markdown(["", *some_arms], [[cell, *(fields[cell, arm] for arm in some_arms)] for cell in some_cells])


def by_arm(results: Results, cell: str, arms: Sequence[str], figures: Sequence[tuple[str, str]]) -> list[str]:
    """A row an arm, a column a figure, each (title, name). Arms that did not run are left out."""
    rows = [[arm, *(field(results, cell, arm, name) for _, name in figures)] for arm in arms]
    return markdown(["", *(title for title, _ in figures)], [row for row in rows if set(row[1:]) != {NOT_RUN}])
