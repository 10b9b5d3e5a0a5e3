"""Two answers to one request beside each other, for people. Pure.

status        200                          429
model         gpt-4o-2024-08-06            –
…
───────────────────────────────┬───────────────────────────────
The sum is 4.                  │ Rate limit reached.
"""

import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Final

NAME_CHARS: Final = 14
COLUMN_CHARS_MIN: Final = 20
LINES_MAX: Final = 400
"""Of each text; `--json` has all."""
_FIGURES: Final = (
    "status",
    "model",
    "finish",
    "input tokens",
    "cached",
    "output tokens",
    "cost",
    "first token",
    "took",
    "calls",
)


def figures(told: dict[str, Any]) -> dict[str, str]:
    """What is compared of an answer; `told` is as `resend.told` makes it."""
    calls = ", ".join(str(call["name"]) for call in told["tool_calls"])
    values = (
        told["status"], told["model"], told["finish_reason"], told["input_tokens"], told["cached_tokens"],
        told["output_tokens"], _dollars(told["cost_usd"]), _ms(told["ttft_ms"]), _ms(told["duration_ms"]), calls or None,
    )  # fmt: skip
    return dict(zip(_FIGURES, ("–" if value is None else printable(str(value)) for value in values), strict=True))


def _dollars(value: float | None) -> str | None:
    return None if value is None else f"${value:.6f}"


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"


def printable(text: str) -> str:
    """Without what could drive a terminal; line ends stay."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def text(names: tuple[str, str], one: dict[str, Any], other: dict[str, Any], width: int) -> str:
    """Both, on lines of at most `width` characters (not fewer than two small columns)."""
    column = max(COLUMN_CHARS_MIN, (width - NAME_CHARS - 2) // 2)
    mine, theirs = figures(one), figures(other)
    rows = [("", *names), *((name, mine[name], theirs[name]) for name in _FIGURES if {mine[name], theirs[name]} != {"–"})]
    lines = [
        f"{name:<{NAME_CHARS}}{_cut(left, column):<{column}}  {_cut(right, column)}".rstrip() for name, left, right in rows
    ]
    half = max(COLUMN_CHARS_MIN, (width - 3) // 2)
    lines.append("─" * (half + 1) + "┬" + "─" * (half + 1))
    sides = [list(_wrapped(told["text"] or told["error_message"] or "", half)) for told in (one, other)]
    lines += [f"{left:<{half}} │ {right}".rstrip() for left, right in zip_longest(*sides, fillvalue="")]
    return "\n".join(lines)


def _cut(value: str, chars: int) -> str:
    return value if len(value) <= chars else value[: chars - 1] + "…"


def _wrapped(value: str, chars: int) -> Iterator[str]:
    lines = [part for line in printable(value).splitlines() for part in textwrap.wrap(line, chars) or [""]]
    yield from lines[:LINES_MAX]
    if len(lines) > LINES_MAX:
        yield f"… {len(lines) - LINES_MAX} more lines (--json has all)"
