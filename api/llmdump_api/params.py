"""Parameters of a request, checked before anything is asked: known, once, of bounded length, of the allowed form. Pure."""

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 500
PARAM_CHARS_MAX: Final = 4096
EXPORTED_MAX: Final = 100_000_000
TEXT_CHARS_MAX: Final = 1024
"""Of a value that a column is compared with."""
LINE_BYTES_MAX: Final = 256 * 1024
"""Of a request line: all parameters at their longest, percent-encoded."""

_KEY_HASH = re.compile(r"[0-9a-f]{8}([0-9a-f]{8})?")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,100}")
_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?")
_WHEN: Final = {
    "type": "string", "format": "date-time", "maxLength": 64, "description": "RFC 3339 with a zone, as in 2026-01-31T12:00:00Z"
}  # fmt: skip
UUID_SCHEMA: Final = {
    "type": "string", "format": "uuid", "pattern": f"^{_UUID.pattern}$", "description": "a UUID in lower case, as in a row's id"
}  # fmt: skip
KEY_HASH_SCHEMA: Final = {
    "type": "string", "pattern": f"^{_KEY_HASH.pattern}$", "description": "16 hex digits, or the first 8, lower case"
}  # fmt: skip
CURSOR_SCHEMA: Final = {
    "type": "string", "pattern": f"^{_CURSOR.pattern}$", "description": "the next_cursor of an earlier answer"
}  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = datetime.resolution


class BadParamError(ValueError):
    """A parameter that cannot be used; the message says what is allowed."""

    def __init__(self, param: str, message: str, **more: Any) -> None:
        """`more` is told with the error."""
        super().__init__(message)
        self.param = param
        self.more = more


class Param(NamedTuple):
    """A parameter: what it is for, and the JSON Schema of what it may be. Lists have commas between."""

    name: str
    about: str
    schema: Mapping[str, Any]
    is_required: bool = False

    def check(self, value: str) -> None:
        """Raises BadParamError where a value does not fit the schema."""
        if not _fits(self.schema, value):
            raise BadParamError(self.name, f"allowed is {_allowed(self.schema)}")


def _fits(schema: Mapping[str, Any], value: str) -> bool:
    if schema["type"] == "array":
        return (not value and not schema["minItems"]) or all(_fits(schema["items"], item) for item in value.split(","))
    if schema["type"] == "string":
        fits = re.fullmatch(schema.get("pattern", "(?s:.*)"), value) and len(value) <= schema.get("maxLength", PARAM_CHARS_MAX)
        return bool(fits) and value in schema.get("enum", [value])
    if not re.fullmatch(r"[0-9]{1,16}" if schema["type"] == "integer" else r"(?=.)[0-9]{0,16}(\.[0-9]{1,16})?", value):
        return False
    above = float(value) > schema["exclusiveMinimum"] if "exclusiveMinimum" in schema else float(value) >= schema["minimum"]
    return bool(above and float(value) <= schema["maximum"])


def _allowed(schema: Mapping[str, Any]) -> str:
    """In words."""
    if schema["type"] == "array":
        return f"some of {_allowed(schema['items'])}, with commas between"
    if schema["type"] == "string":
        return ", ".join(schema.get("enum", ())) or str(schema.get("description", "text"))
    least = f"above {schema['exclusiveMinimum']}" if "exclusiveMinimum" in schema else f"from {schema['minimum']}"
    return f"{'a whole' if schema['type'] == 'integer' else 'a decimal'} number {least} to {schema['maximum']:.0f}"


class Cursor(NamedTuple):
    """The place behind a row."""

    ts_ms: int
    id: str


def text(about: str, most: int = TEXT_CHARS_MAX) -> dict[str, Any]:
    """The schema of any text."""
    return {"type": "string", "maxLength": most, "description": f"{about}, {most} characters at most"}


def some_of(values: Collection[str], least: int = 1) -> dict[str, Any]:
    """The schema of a list of such values."""
    return {"type": "array", "items": {"type": "string", "enum": list(values)}, "minItems": least}


def limit_param(default: int, most: int) -> Param:
    """How many are wanted."""
    return Param("limit", "how many at most", {"type": "integer", "minimum": 1, "maximum": most, "default": default})


def check(params: Mapping[str, str], known: Collection[str]) -> None:
    """Raises BadParamError for the first that is not known, is there twice, or is no text of an allowed length."""
    seen = set()
    for name, value in params.items():
        if name not in known:
            raise BadParamError(name, f"unknown parameter; known are {', '.join(known)}")
        if name in seen:
            raise BadParamError(name, "allowed is once")
        if len(value) > PARAM_CHARS_MAX or "\0" in value or _has_surrogate(value):
            raise BadParamError(name, f"allowed are at most {PARAM_CHARS_MAX} characters of text")
        seen.add(name)


def _has_surrogate(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def limit(params: Mapping[str, str], default: int = LIMIT_DEFAULT, most: int = LIMIT_MAX) -> int:
    """How many are asked for."""
    value = params.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= most:
        raise BadParamError("limit", f"allowed is 1 to {most}")
    return int(value)


def cursor(params: Mapping[str, str]) -> Cursor | None:
    """The place to go on from, if one is given."""
    if "cursor" not in params:
        return None
    value = params["cursor"]
    try:
        ts_ms, _, exchange = (
            base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True).decode("ascii").partition(":")
        )
        if re.fullmatch(r"[0-9]{1,18}", ts_ms) and is_uuid(exchange):
            return Cursor(int(ts_ms), exchange)
    except (binascii.Error, ValueError):
        pass
    raise BadParamError("cursor", "allowed is the next_cursor of an earlier answer")


def encode_cursor(ts_ms: int, exchange: str) -> str:
    """The cursor behind a row."""
    return base64.urlsafe_b64encode(f"{ts_ms}:{exchange}".encode()).rstrip(b"=").decode("ascii")


def is_uuid(value: str) -> bool:
    """Whether this is an exchange id in its only spelling."""
    return _UUID.fullmatch(value) is not None


def uuid(name: str, value: str) -> str:
    """An exchange id."""
    if not is_uuid(value):
        raise BadParamError(name, "allowed is a UUID in lower case, as in a row's id")
    return value


def key_hash(value: str) -> tuple[str, str | None]:
    """The hash of a key; of its first half, as file names of api-log have it, the range that begins so."""
    if not _KEY_HASH.fullmatch(value):
        raise BadParamError("key_hash", "allowed are 16 hex digits, or the first 8, lower case")
    return value, None if len(value) == 16 else value + "g"


def time_ms(name: str, value: str) -> int:
    """Ms since 1970; of a fraction of a ms the next whole one, which is the first that is not before it."""
    try:
        when = datetime.fromisoformat(value)
    except ValueError as err:
        raise BadParamError(name, "allowed is RFC 3339, as in 2026-01-31T12:00:00Z") from err
    if when.tzinfo is None or "T" not in value.upper():
        raise BadParamError(name, "allowed is RFC 3339 with a zone, as in 2026-01-31T12:00:00Z")
    micros = (when - _EPOCH) // _MICROSECOND
    return -(-micros // 1000)


def number(name: str, value: str, most: float) -> float:
    """A decimal number from 0 on."""
    if not _DECIMAL.fullmatch(value) or float(value) > most:
        raise BadParamError(name, f"allowed is a decimal number from 0 to {most:.0f}")
    return float(value)


def whole(name: str, value: str, most: int) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) > most:
        raise BadParamError(name, f"allowed is a whole number from 0 to {most}")
    return int(value)


def rfc3339(ts_ms: int | None) -> str | None:
    """As in 2026-01-31T12:00:00.000Z; None for None and for a time that no calendar has."""
    if ts_ms is None:
        return None
    try:
        when = datetime.fromtimestamp(ts_ms // 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ts_ms % 1000:03d}Z"


LIMIT: Final = limit_param(LIMIT_DEFAULT, LIMIT_MAX)
CURSOR: Final = Param("cursor", "where the page before ended", CURSOR_SCHEMA)
SINCE: Final = Param("since", "not before", _WHEN)
UNTIL: Final = Param("until", "before", _WHEN)
FILTER: Final = Param("filter", "an expression, see docs/filter.md", text("a filter expression", PARAM_CHARS_MAX))
