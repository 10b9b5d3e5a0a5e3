"""The list of exchanges: parameters to a checked query, and the query to SQL. Pure.

A page is read in the order (ts_start, id), both falling, from behind the cursor: `<ts_start ms>:<id>` of the last row
before, as unpadded base64url. The order of a row never changes, so pages neither repeat nor skip while rows arrive.

The rows' numbers are found by an index alone and only the rows of the page are read, so that a path prefix, which must
sort what it finds, sorts small things.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 500
PARAM_CHARS_MAX: Final = 4096
PARAMETERS: Final = ("limit", "cursor", "path", "status", "model", "key_hash", "pinned", "since", "until")

_STATUS = re.compile(r"[1-9][0-9]{2}")
_STATUS_CLASS = re.compile(r"[1245]xx")
_KEY_HASH = re.compile(r"[0-9a-f]{16}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LAST_CHARACTER: Final = "\U0010ffff"

COLUMNS: Final = (
    "id", "ts_start", "ts_end", "client", "method", "path", "upstream", "status", "disconnected", "truncated_req",
    "truncated_resp", "model", "stream", "prompt_tokens", "completion_tokens", "total_tokens", "finish_reason",
    "key_hash", "parent_id", "session_root_id", "media_count", "cached_tokens", "cache_creation_tokens",
    "reasoning_tokens", "client_kind", "client_version", "client_project", "provider", "route_path", "end_reason",
    "error_code", "req_bytes", "resp_bytes", "resp_chunks", "first_byte_us", "duration_us", "own_first_us",
    "own_worst_us", "own_sum_us", "instance", "first_record", "last_record", "records_lost", "captured", "altered",
    "pinned",
)  # fmt: skip
_TIMES: Final = ("ts_start", "ts_end")
_FLAGS: Final = ("disconnected", "truncated_req", "truncated_resp", "stream", "altered", "pinned")
_IN_MS: Final = {"first_byte_us": "first_byte_ms", "duration_us": "duration_ms"}


class BadParamError(ValueError):
    """A parameter that cannot be used; the message says what is allowed."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Cursor(NamedTuple):
    """The place behind a row."""

    ts_ms: int
    id: str


class Query(NamedTuple):
    """A checked query: conditions with their values, the cursor, the size of a page."""

    conditions: list[tuple[str, tuple[Any, ...]]]
    cursor: Cursor | None
    limit: int


def parse(params: Mapping[str, str]) -> Query:
    """The query that parameters ask for. Raises BadParamError for the first that is wrong or not known."""
    seen = set()
    for name, value in params.items():
        if name not in PARAMETERS:
            raise BadParamError(name, f"unknown parameter; known are {', '.join(PARAMETERS)}")
        if name in seen:
            raise BadParamError(name, "allowed is once")
        if len(value) > PARAM_CHARS_MAX or "\0" in value or _has_surrogate(value):
            raise BadParamError(name, f"allowed are at most {PARAM_CHARS_MAX} characters of text")
        seen.add(name)
    conditions = [_CONDITIONS[name](params[name]) for name in _CONDITIONS if name in params]
    cursor = _cursor(params["cursor"]) if "cursor" in params else None
    return Query(conditions, cursor, _limit(params.get("limit", str(LIMIT_DEFAULT))))


def _has_surrogate(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def _limit(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= LIMIT_MAX:
        raise BadParamError("limit", f"allowed is 1 to {LIMIT_MAX}")
    return int(value)


def _cursor(value: str) -> Cursor:
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


def _path(value: str) -> tuple[str, tuple[Any, ...]]:
    """Exact, or with a trailing `*` whatever begins so: a range, for in a range no character is a wildcard."""
    if value.endswith("*"):
        return "route_path >= ? AND route_path < ?", (value[:-1], value[:-1] + _LAST_CHARACTER)
    return "route_path = ?", (value,)


def _status(value: str) -> tuple[str, tuple[Any, ...]]:
    if _STATUS_CLASS.fullmatch(value):
        return "status / 100 = ?", (int(value[0]),)
    if _STATUS.fullmatch(value):
        return "status = ?", (int(value),)
    raise BadParamError("status", "allowed is a status (404) or a class of them (1xx, 2xx, 4xx, 5xx)")


def _key_hash(value: str) -> tuple[str, tuple[Any, ...]]:
    if not _KEY_HASH.fullmatch(value):
        raise BadParamError("key_hash", "allowed are 16 hex digits, lower case")
    return "key_hash = ?", (value,)


def _pinned(value: str) -> tuple[str, tuple[Any, ...]]:
    if value not in {"true", "false"}:
        raise BadParamError("pinned", "allowed is true or false")
    return ("pinned" if value == "true" else "NOT pinned"), ()


def _time(name: str, value: str) -> int:
    """Ms since 1970; of a fraction of a ms the next whole one, which is the first that is not before it."""
    try:
        when = datetime.fromisoformat(value)
    except ValueError as err:
        raise BadParamError(name, "allowed is RFC 3339, as in 2026-01-31T12:00:00Z") from err
    if when.tzinfo is None or "T" not in value.upper():
        raise BadParamError(name, "allowed is RFC 3339 with a zone, as in 2026-01-31T12:00:00Z")
    micros = (when - _EPOCH) // _MICROSECOND
    return -(-micros // 1000)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = datetime.resolution

_CONDITIONS: Final[dict[str, Callable[[str], tuple[str, tuple[Any, ...]]]]] = {
    "path": _path,
    "status": _status,
    "model": lambda value: ("model = ?", (value,)),
    "key_hash": _key_hash,
    "pinned": _pinned,
    "since": lambda value: ("ts_start >= ?", (_time("since", value),)),
    "until": lambda value: ("ts_start < ?", (_time("until", value),)),
}


def sql(query: Query) -> tuple[str, tuple[Any, ...]]:
    """The statement of a query and its values; it gives one row more than the page holds, if there is one."""
    conditions = list(query.conditions)
    if query.cursor:
        conditions.append(("(ts_start, id) < (?, ?)", tuple(query.cursor)))
    where = " AND ".join(text for text, _ in conditions)
    numbers = f"SELECT number FROM trace {'WHERE ' + where if where else ''} ORDER BY ts_start DESC, id DESC LIMIT ?"
    columns = ", ".join(f"trace.{name}" for name in COLUMNS)
    statement = (
        f"SELECT {columns} FROM ({numbers}) AS page CROSS JOIN trace ON trace.number = page.number "
        "ORDER BY trace.ts_start DESC, trace.id DESC"
    )
    return statement, (*(value for _, values in conditions for value in values), query.limit + 1)


def sql_one(exchange: str) -> tuple[str, tuple[Any, ...]]:
    """The statement for one exchange's row."""
    return f"SELECT {', '.join(COLUMNS)} FROM trace WHERE id = ?", (exchange,)


def page(rows: list[tuple[Any, ...]], limit: int) -> dict[str, Any]:
    """The answer for the rows that `sql` gave."""
    here = rows[:limit]
    last = dict(zip(COLUMNS, here[-1], strict=True)) if len(rows) > limit else None
    return {
        "traces": [row_object(row) for row in here],
        "next_cursor": encode_cursor(last["ts_start"], last["id"]) if last else None,
    }


def row_object(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as the answers have it: times as RFC 3339, flags as booleans, durations in ms."""
    values = dict(zip(COLUMNS, row, strict=True))
    for name in _TIMES:
        values[name] = rfc3339(values[name])
    for name in _FLAGS:
        values[name] = None if values[name] is None else bool(values[name])
    for name, shown in _IN_MS.items():
        micros = values.pop(name)
        values[shown] = None if micros is None else micros / 1000
    return values


def rfc3339(ts_ms: int | None) -> str | None:
    """As in 2026-01-31T12:00:00.000Z; None for None and for a time that no calendar has."""
    if ts_ms is None:
        return None
    try:
        when = datetime.fromtimestamp(ts_ms // 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ts_ms % 1000:03d}Z"
