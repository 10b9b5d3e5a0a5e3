"""Values and tables as a terminal shows them. Pure; nothing that was captured can command it."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_SAFE_CATEGORIES: Final = frozenset("LMNPSZ")
_LINES: Final = frozenset({"\u2028", "\u2029"})


def safe(text: str, *, lines: bool = False) -> str:
    r"""The text with controls, and what turns the direction of writing, as \x1b or \u202e; with `lines`, line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _is_safe(letter) or (lines and letter in "\n\t") else _escaped(letter) for letter in text)


def _is_safe(letter: str) -> bool:
    return letter not in _LINES and (unicodedata.category(letter)[0] in _SAFE_CATEGORIES)


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns_of(text: str) -> int:
    """How many columns a safe text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly so many columns, cut with an ellipsis."""
    took = columns_of(text)
    if took > width:
        kept, took = "", 0
        for letter in text:
            if took + columns_of(letter) > width - 1:
                break
            kept, took = kept + letter, took + columns_of(letter)
        text, took = kept + "…", took + 1
    return " " * (width - took) + text if right else text + " " * (width - took)


class Column(NamedTuple):
    """One column of a table."""

    title: str
    width: int
    right: bool = False
    rank: int = 0
    """The column with the highest rank goes first where there is no room."""


def chosen(columns: Sequence[Column], width: int) -> list[int]:
    """The columns for which there is room, by their index; the last one takes what is left."""
    kept = list(range(len(columns)))
    while sum(columns[at].width + 2 for at in kept) - 2 > width and any(columns[at].rank for at in kept):
        kept.remove(max(kept, key=lambda at: columns[at].rank))
    return kept


def line(columns: Sequence[Column], kept: Sequence[int], cells: Sequence[str], width: int) -> str:
    """A line of a table."""
    parts, left = [], width
    for at in kept:
        column = columns[at]
        own = max(column.width, left) if at == kept[-1] else column.width
        parts.append(fitted(cells[at], own, right=column.right))
        left -= own + 2
    return "  ".join(parts).rstrip()


def bars(values: Sequence[float]) -> str:
    """A small chart, a block a value; zero is a blank."""
    most = max(values, default=0)
    return "".join(_BLOCKS[0 if not value else max(1, round(8 * value / most))] for value in values) if most else ""


def bar(value: float, most: float, width: int) -> str:
    """A bar as long as its share."""
    return "█" * max(1 if value else 0, round(width * value / most)) if most else ""


def span_ms(value: float | None) -> str:
    """A duration in few characters."""
    if value is None:
        return ""
    if value < 1000:
        return f"{value:.0f}ms" if value >= 10 else f"{value:.1f}ms"
    if value < 60_000:
        return f"{value / 1000:.1f}s"
    return f"{value / 60_000:.0f}m{value / 1000 % 60:02.0f}s" if value < 3_600_000 else f"{value / 3_600_000:.1f}h"


def count(value: Any) -> str:
    """A count in few characters."""
    if value is None:
        return ""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= scale:
            return f"{value / (1000 if unit == 'k' else scale):.1f}{unit}"
    return str(value)


def dollars(value: float | None) -> str:
    """Money."""
    if value is None:
        return ""
    return f"${value:.4f}" if value < 1 else f"${value:,.2f}"


def moment(rfc3339: str | None) -> str:
    """A time of the answers, local, to the second."""
    if rfc3339 is None:
        return ""
    return f"{datetime.fromisoformat(rfc3339).astimezone():%Y-%m-%d %H:%M:%S}"
