"""Times as people say them on a command line. Pure.

1767225618, 1.7e9           seconds since 1970
2026-01-31T12:00:00Z, …+01:00, 2026-01-31 12:00, 2026-01-31      without a zone it is local time
12:30, 12:30:05.25          on the day on which the capture begins, local time
now, now-2h, -2h            before now; +90s: after the capture's beginning. Units: us ms s m h d
"""

import math
import re
from datetime import datetime, time
from typing import Final

from llmdump.filter_fields import SPANS

ALLOWED: Final = "seconds since 1970, 2026-01-31T12:00:00Z, 2026-01-31 12:00, 12:30:05, now-2h, -2h or +90s"
_NUMBER: Final = re.compile(r"[0-9.]+(?:[eE][+-]?[0-9]+)?")
_SPAN: Final = re.compile(r"(now)?(?:([+-])([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d))?")


def parse(text: str, began_s: float, now_s: float) -> float:
    """Seconds since 1970. `began_s` is when the capture begins. Raises ValueError that says what is allowed."""
    text = text.strip()
    try:
        found = _relative(text, began_s, now_s) or _epoch(text) or _of_day(text, began_s) or _date(text)
    except (ValueError, OverflowError, OSError):
        found = None
    if found is None or not math.isfinite(found) or found <= 0:
        raise ValueError(f"{text!r} is no time; allowed are {ALLOWED}")
    return found


def needs_beginning(text: str) -> bool:
    """Whether it depends on when the capture begins."""
    return bool(re.match(r"\s*(\+|[0-9]{1,2}:)", text))


def _relative(text: str, began_s: float, now_s: float) -> float | None:
    found = _SPAN.fullmatch(text)
    if not found or not text:
        return None
    now, sign, count, unit = found.groups()
    span_s = float(count) * SPANS[unit] / 1e6 if count else 0.0
    if sign == "+":
        return None if now else began_s + span_s
    return now_s - span_s


def _epoch(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _of_day(text: str, began_s: float) -> float | None:
    if not re.match(r"[0-9]{1,2}:", text):
        return None
    day = datetime.fromtimestamp(began_s).astimezone()
    moment = time.fromisoformat(text if text[1] != ":" else f"0{text}")
    zone = moment.tzinfo
    return datetime.combine(day.astimezone(zone).date(), moment).timestamp()


def _date(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
