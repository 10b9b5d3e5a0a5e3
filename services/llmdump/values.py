"""Values from records as the index holds them: what strangers wrote is cut at named limits, or passed over. Pure."""

import math
from typing import Any, Final

TEXT_CHARS_MAX: Final = 256
INTEGER_MAX: Final = 2**63 - 1
"""What SQLite holds in an integer."""


_MICROS_MAX_S: Final = 9e12


def micros(ts: float) -> int:
    """Seconds since 1970 as µs; 0 for what is no time at all."""
    if 0.0 <= ts < _MICROS_MAX_S:  # nearly always; not so NaN
        return round(ts * 1e6)
    return INTEGER_MAX if math.isfinite(ts) and ts > 0 else 0


def integer(value: Any, default: Any = None) -> Any:
    """The value if it is a count that the index can hold, else the default."""
    return value if isinstance(value, int) and 0 <= value <= INTEGER_MAX else default


def text(value: Any, chars_max: int = TEXT_CHARS_MAX) -> str | None:
    """The value if it is a text, valid and cut at the limit, else None."""
    return value[:chars_max].encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None
