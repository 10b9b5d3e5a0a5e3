"""`llmdump ls` as lines: an exchange a line, in columns for which the terminal has room. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from llmdump_api.looking.screen import Column, chosen, count, dollars, line, moment, safe, span_ms

ID_CHARS: Final = 12
"""Of the end of an id, which is random; `llmdump show` takes it."""

COLUMNS: Final = (
    Column("TIME", 19), Column("ID", ID_CHARS), Column("STATUS", 6), Column("MODEL", 24, rank=1),
    Column("CLIENT", 14, rank=6), Column("IN", 6, right=True, rank=3), Column("OUT", 6, right=True, rank=3),
    Column("COST", 8, right=True, rank=5), Column("TTFT", 6, right=True, rank=4), Column("TOOK", 6, right=True, rank=2),
    Column("END", 15, rank=7), Column("PATH", 12),
)  # fmt: skip
_GOOD_BELOW: Final = 400

Paint = Callable[[str, str], str]


def cells(row: dict[str, Any]) -> list[str]:
    """A row's cells."""
    status, end = row["status"], row["end_reason"]
    return [
        moment(row["ts_start"]),
        row["id"][-ID_CHARS:],
        "-" if status is None else str(status),
        safe(row["model"] or ""),
        safe(row["client_kind"] or ""),
        count(row["input_tokens"]),
        count(row["output_tokens"]),
        dollars(row["cost_usd"]),
        span_ms(row["ttft_ms"]),
        span_ms(row["duration_ms"]),
        "open" if end is None else "" if end == "complete" else end,
        f"{safe(row['method'] or '')} {safe(row['path'] or '')}",
    ]


def lines(rows: Iterable[dict[str, Any]], width: int, paint: Paint) -> Iterator[str]:
    """The table, as the rows come."""
    kept = chosen(COLUMNS, width)
    yield paint(line(COLUMNS, kept, [column.title for column in COLUMNS], width), "dim")
    for row in rows:
        shown = line(COLUMNS, kept, cells(row), width)
        yield paint(shown, role) if (role := _role(row)) else shown
        for parts in (row.get("found") or {}).values():
            if parts:
                yield paint(f"    {safe(' '.join(''.join(parts).split()))}"[:width], "dim")


def _role(row: dict[str, Any]) -> str:
    if (
        (row["status"] or 0) >= _GOOD_BELOW
        or row["error_type"]
        or row["end_reason"] in ("upstream_error", "upstream_closed", "timeout")
    ):
        return "error"
    return "warning" if row["end_reason"] not in ("complete", None) else ""
