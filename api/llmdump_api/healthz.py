"""`/healthz`: that this process answers, and the counters that api-log tells there. Blocking but for what is shown.

The counters are sums of the index over everything ever, and bytes on disk: one row each, and one look at a directory. So
they outlive restarts, where api-log's begin again. What cannot be known is null, never 0; and while the index cannot be
read all of them are, for the process answers all the same.
"""

import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from llmdump.admin import count_swallowed
from llmdump.overrides import Overrides
from llmdump.settings import Settings
from llmdump_api import params
from llmdump_api.index import rows

WARN_AT_PERCENT: Final = 80
DAY_S: Final = 86400

_SUMS: Final = (
    "requests", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"
)  # fmt: skip
_SUMS_SQL: Final = ", ".join(_SUMS)
_WANTED: Final = "('', 'status_class', 'media_count')"
EVER: Final = f"SELECT dimension, value, {_SUMS_SQL} FROM usage WHERE seconds = 0 AND bucket = 0 AND dimension IN {_WANTED}"
GAPS: Final = "SELECT reason, sum(last - first + 1) FROM ledger_gap GROUP BY reason"
_TOTALS: Final = (
    "appended", "total_prompt_tokens", "total_completion_tokens", "total_cached_tokens", "total_cache_creation_tokens",
    "total_reasoning_tokens",
)  # fmt: skip
_CLASSES: Final = ("2xx", "4xx", "5xx")


class Retention(NamedTuple):
    """The limits in force."""

    max_bytes: int
    """Of the segment files of a writer; 0: no limit."""
    max_age_s: float
    warn_at_percent: int
    source: str
    """`override` if one of them was changed over HTTP, else `settings`."""

    @classmethod
    def of(cls, settings: Settings, changed: Overrides) -> "Retention":
        """The limits that these make together."""
        total, age, warn = changed.capture_total_max_bytes, changed.capture_max_age_s, changed.warn_at_percent
        return cls(
            settings.capture_total_max_bytes if total is None else total,
            settings.capture_max_age_s if age is None else age,
            WARN_AT_PERCENT if warn is None else warn,
            "settings" if (total, age, warn) == (None, None, None) else "override",
        )

    def shown(self) -> dict[str, Any]:
        """As /api/config/retention tells them."""
        days = self.max_age_s / DAY_S
        return {
            "max_bytes": self.max_bytes,
            "max_age_days": int(days) if days.is_integer() else days,
            "warn_at_percent": self.warn_at_percent,
            "source": self.source,
        }


def unknown_counters() -> dict[str, Any]:
    """The counters while nothing is known of them."""
    return {
        **dict.fromkeys((*_TOTALS, "indexed", *(f"appended_{one}" for one in _CLASSES), "drop_writer_full", "drop_jsonl_fail")),
        "total_media_files": None,
        "drop_sqlite_fail": 0,
    }


def counters(db: apsw.Connection) -> dict[str, Any]:
    """What the index tells. Raises apsw.Error."""
    sums = {(dimension, value): amounts for dimension, value, *amounts in rows(db, EVER)}
    gaps: dict[str, int] = dict(rows(db, GAPS))
    total = sums.get(("", ""), [0] * len(_SUMS))
    return {
        **dict(zip(_TOTALS, total, strict=True)),
        "indexed": total[0],
        **{f"appended_{one}": sums.get(("status_class", one), [0])[0] for one in _CLASSES},
        "total_media_files": sum(int(value) * one[0] for (by, value), one in sums.items() if by == "media_count"),
        "drop_writer_full": gaps.pop("overflow", 0),
        "drop_jsonl_fail": sum(gaps.values()),
        "drop_sqlite_fail": 0,  # a row that is missing is made when the segment is read again
    }


def stored_bytes(segments: Path) -> dict[str, int]:
    """Sizes of all segment files, by writer. Blocking."""
    found: dict[str, int] = {}
    try:
        for entry in segments.iterdir():
            writer, dash, _ = entry.name.partition("-")
            if dash and writer.startswith("w"):
                found[writer] = found.get(writer, 0) + entry.stat().st_size
    except FileNotFoundError:
        pass  # one was sealed or deleted between the look and the question: the next look has it right
    except OSError:
        count_swallowed("storage_not_read")
    return found


def storage(by_writer: dict[str, int], retention: Retention, *, writes: bool) -> dict[str, Any]:
    """How full it is; a cap is each writer's own, so the fullest counts. Pure."""
    percent = (
        max((100 * size / retention.max_bytes for size in by_writer.values()), default=0.0) if retention.max_bytes else None
    )
    return {
        "data_dir_bytes": sum(by_writer.values()),
        "max_bytes": retention.max_bytes,
        "max_age_days": retention.shown()["max_age_days"],
        "usage_pct": None if percent is None else round(percent, 2),
        "state": _state(percent, retention.warn_at_percent),
        "engine_running": writes,
        "eviction_cap_hit": percent is not None and percent >= 100,
    }


def _state(percent: float | None, warn_at_percent: int) -> str:
    if percent is None:
        return "disabled"
    return "critical" if percent >= 100 else "warning" if percent >= warn_at_percent else "ok"


def uptime(started_at: float) -> dict[str, Any]:
    """Now, and for how long this has run."""
    now = time.time()
    return {"ts": params.rfc3339(round(now * 1000)), "uptime_seconds": max(0, int(now - started_at))}
