"""Values out of decoded JSON that strangers wrote: of the right type, or None. A field of a wrong type is passed over.

    count    a whole number of things: 0 … 2**63-1; 12.0 is 12; true, "12", -1 and 1e30 are not counts
    number   anything finite and not negative
    text     a string with something in it

Decoding never fails: orjson first, for speed; then the standard library, which takes lone surrogates, NaN and numbers
of any size; what that cannot read either is `BROKEN`.
"""

import json
import math
from typing import Any, Final

import orjson

COUNT_MAX: Final = 2**63 - 1
"""What SQLite holds in an integer."""
BROKEN: Final = object()
"""What `decoded` answers for bytes that are no JSON."""
EMPTY: Final[dict[str, Any]] = {}


def decoded(data: bytes) -> Any:
    """The JSON value in these bytes, or `BROKEN`. Damaged UTF-8 is replaced."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _decoded_leniently(data)


def _decoded_leniently(data: bytes) -> Any:
    # Most of what is broken was cut, and need not be looked at again to know it.
    if data.lstrip()[:1] == b"{" and data.rstrip()[-1:] != b"}":
        return BROKEN
    try:
        return json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return BROKEN


def encoded(value: Any) -> str:
    """A decoded value as JSON again, in few characters."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return _encoded_leniently(value)


def _encoded_leniently(value: Any) -> str:
    """Lone surrogates, numbers beyond 64 bits, and what is nested deeply; nothing at all if it is too deep."""
    try:
        return json.dumps(value, separators=(",", ":"))
    except (ValueError, RecursionError):
        return ""


def count(value: Any) -> int | None:
    """The value as a count."""
    if isinstance(value, float) and value.is_integer() and value <= COUNT_MAX:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None


def number(value: Any) -> float | None:
    """The value as a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer may be beyond what a float holds.
    return float(value) if 0 <= value <= COUNT_MAX and math.isfinite(value) else None


def text(value: Any) -> str | None:
    """The value as a text that is not empty."""
    return value if isinstance(value, str) and value else None


def clean(value: str, chars_max: int) -> str:
    """The text cut at the limit, and fit to be stored: lone surrogates are replaced."""
    value = value[:chars_max]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def mapping(value: Any) -> dict[str, Any]:
    """The value as an object; an empty one for anything else."""
    return value if isinstance(value, dict) else EMPTY


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of an array, in order; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def at(value: Any, *path: str) -> Any:
    """What is found at this path of keys, or None."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
