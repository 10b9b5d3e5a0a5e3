"""The words after an operator as what a column is compared with. Pure."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from llmdump.filter_fields import SIZES, SPANS, Kind

INTEGER_MAX: Final = 2**63 - 1
"""What SQLite holds in an integer."""

Number = int | float

_COUNT: Final = r"(?P<count>[0-9]{1,18}(?:\.[0-9]{1,9})?)"
_NUMBER = re.compile(_COUNT)
_SIZE = re.compile(_COUNT + r"(?P<unit>[A-Za-z]*)")
_SPAN = re.compile(_COUNT + r"(?P<unit>us|ms|s|m|h|d)")
_MONEY = re.compile(r"\$?" + _COUNT)
_CLASS = re.compile(r"[1-5]xx")
_NOW = re.compile(r"now(?:-(?P<span>.+))?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {unit.lower(): factor for unit, factor in SIZES.items()}


def number(kind: Kind, word: str, now_ms: int) -> Number | None:
    """What the word says in the unit of the column; None for what is no value of this kind."""
    found = _exact(kind, word, now_ms)
    if found is None or abs(found) > INTEGER_MAX:
        return None
    return int(found) if found == found.to_integral_value() else float(found)


def status_class(word: str) -> tuple[int, int] | None:
    """The first status of a class such as 5xx, and the first behind it."""
    return (int(word[0]) * 100, int(word[0]) * 100 + 100) if _CLASS.fullmatch(word) else None


def _exact(kind: Kind, word: str, now_ms: int) -> Decimal | None:
    if kind == "time":
        return _time_ms(word, now_ms)
    pattern = {"size": _SIZE, "duration": _SPAN, "money": _MONEY}.get(kind, _NUMBER)
    found = pattern.fullmatch(word)
    if not found:
        return None
    factor = 1
    if kind == "size":
        factor = _UNITS.get(found["unit"].lower(), 0)
    elif kind == "duration":
        factor = SPANS[found["unit"]]
    elif kind == "money":
        factor = 10**9
    return Decimal(found["count"]) * factor if factor else None


def _time_ms(word: str, now_ms: int) -> Decimal | None:
    """Ms since 1970 of `now`, `now-2h`, or an RFC 3339 time."""
    relative = _NOW.fullmatch(word)
    if relative:
        span_us = _exact("duration", relative["span"], now_ms) if relative["span"] else Decimal(0)
        return None if span_us is None else now_ms - span_us / 1000
    try:
        when = datetime.fromisoformat(word)
    except ValueError:
        return None
    if when.tzinfo is None or "T" not in word.upper():
        return None
    return Decimal((when - _EPOCH) // datetime.resolution) / 1000
