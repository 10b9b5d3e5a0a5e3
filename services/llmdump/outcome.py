"""What the exchanges of one proxy instance came to: their number, tokens, money and errors, as the index has them."""

import contextlib
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

BUSY_TIMEOUT_MS: Final = 2000
_LOOK_EVERY_S: Final = 0.05
_NAMES_MAX: Final = 5
_SUMS: Final = """
SELECT count(*), sum(input_tokens), sum(cache_read_tokens), sum(output_tokens), sum(cost_nano_usd),
       sum(cost_nano_usd IS NOT NULL), sum(total_tokens IS NOT NULL)
FROM trace WHERE instance = ? AND ts_start >= ?
"""
_ERRORS: Final = """
SELECT CASE WHEN end_reason = 'complete' THEN CAST(status AS TEXT) ELSE coalesce(error_code, end_reason, 'open') END, count(*)
FROM trace WHERE instance = ? AND ts_start >= ? AND (end_reason IS NOT 'complete' OR status >= 400)
GROUP BY 1 ORDER BY 2 DESC, 1
"""
_MODELS: Final = """
SELECT model, count(*) FROM trace WHERE instance = ? AND ts_start >= ? AND model IS NOT NULL
GROUP BY 1 ORDER BY 2 DESC, 1
"""


class Outcome(NamedTuple):
    """Sums; None where nothing is known."""

    exchanges: int
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    priced: int
    """Exchanges whose cost is known, of `metered` that have tokens."""
    metered: int
    errors: list[tuple[str, int]]
    """Statuses from 400 on, and how exchanges ended that did not end well; the most frequent first."""
    models: list[tuple[str, int]]
    is_whole: bool
    """All that the instance recorded is in the index."""


def of(index: Path, instance: str, since_ms: int, within_s: float) -> Outcome | None:
    """The outcome once the instance's goodbye is in the index, or after that time; None without an index. Blocking."""
    deadline = time.monotonic() + within_s
    while True:
        found = _read(index, instance, since_ms)
        if (found is not None and found.is_whole) or time.monotonic() > deadline:
            return found
        time.sleep(_LOOK_EVERY_S)


def _read(index: Path, instance: str, since_ms: int) -> Outcome | None:
    try:
        with contextlib.closing(apsw.Connection(str(index), flags=apsw.SQLITE_OPEN_READONLY)) as db, db:
            db.set_busy_timeout(BUSY_TIMEOUT_MS)
            where = (instance, since_ms)
            bye = db.execute("SELECT bye_us FROM ledger_instance WHERE instance = ?", (instance,)).fetchone()
            sums: Any = db.execute(_SUMS, where).fetchone()
            errors: Any = db.execute(_ERRORS, where).fetchall()
            models: Any = db.execute(_MODELS, where).fetchall()
    except apsw.Error:
        return None
    count, read, cached, written, cost, priced, metered = sums
    dollars = None if cost is None else cost / 1e9
    whole = bye is not None and bye[0] is not None
    return Outcome(count, read, cached, written, dollars, priced or 0, metered or 0, errors, models, whole)


def text(found: Outcome, took_s: float) -> list[str]:
    """A few lines for people."""
    ended = (
        f"{sum(count for _, count in found.errors)} of them errors ({_named(found.errors)})" if found.errors else "no errors"
    )
    lines = [f"{found.exchanges:,} exchange{'s' * (found.exchanges != 1)} in {_span(took_s)}, {ended}"]
    if found.metered:
        cached = f" ({found.cached_tokens:,} cached)" if found.cached_tokens else ""
        cost = "unknown cost" if found.cost_usd is None else f"${found.cost_usd:.4f}"
        unpriced = f" without {found.metered - found.priced} of unknown price" if 0 < found.priced < found.metered else ""
        lines.append(f"{found.input_tokens or 0:,} tokens in{cached}, {found.output_tokens or 0:,} out, {cost}{unpriced}")
    if found.models:
        lines.append(f"models: {_named(found.models)}")
    if not found.is_whole:
        lines.append("not all of it is indexed yet; `llmdump verify` tells when it is")
    return lines


def _named(counts: list[tuple[str, int]]) -> str:
    shown = [f"{_printable(name)} {count:,}" for name, count in counts[:_NAMES_MAX]]
    return ", ".join([*shown, *(["…"] if len(counts) > _NAMES_MAX else [])])


def _printable(text: str) -> str:
    return "".join(character for character in str(text) if character.isprintable())


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
