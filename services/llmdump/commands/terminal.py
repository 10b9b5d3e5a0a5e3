"""What commands know of the terminal: colours, its width, whether a person looks; and how they end when a reader leaves."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

_COLOURS: Final = {"error": "red", "warning": "yellow", "good": "green", "head": "cyan", "dim": "bright_black"}
WIDTH_MIN: Final = 40


def end_with_reader() -> None:
    """From now on the process ends silently when nobody reads its output any more, as programs do."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def has_colours() -> bool:
    """Whether output is coloured: on a terminal, unless NO_COLOR is set to anything (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painter() -> Callable[[str, str], str]:
    """What gives a text the colour of a role: error, warning, good, head, dim."""
    if not has_colours():
        return lambda text, _: text
    return lambda text, role: click.style(text, fg=_COLOURS[role])


def width() -> int:
    """Columns of the terminal; of a pipe, COLUMNS or 160."""
    return max(WIDTH_MIN, shutil.get_terminal_size((160, 24)).columns)


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Hears of steps; a bar on stderr where a person looks, and nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
