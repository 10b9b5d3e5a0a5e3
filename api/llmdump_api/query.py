"""The list of exchanges: parameters to conditions, rows to answers. Pure; how rows are found is `find`.

A page is in the order (ts_start, id), both falling, from behind the cursor: `<ts_start ms>:<id>` of the last row before,
as unpadded base64url. The order of a row never changes, so pages neither repeat nor skip while rows arrive.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from llmdump_api import params as given
from llmdump_api.params import BadParamError, Cursor, Param

TOKENS_MAX: Final = 1e10
COST_USD_MAX: Final = 1e4
TTFT_MS_MAX: Final = 1e9

_STATUS = re.compile(r"[1-9][0-9]{2}")
_STATUS_CLASS = re.compile(r"[1245]xx")
_LAST_CHARACTER: Final = "\U0010ffff"

COLUMNS: Final = (
    "id", "ts_start", "ts_end", "client", "method", "path", "upstream", "status", "disconnected", "truncated_req",
    "truncated_resp", "model", "stream", "prompt_tokens", "completion_tokens", "total_tokens", "finish_reason",
    "key_hash", "parent_id", "session_root_id", "media_count", "cached_tokens", "cache_creation_tokens",
    "reasoning_tokens", "client_kind", "client_version", "client_project", "provider", "route_path", "end_reason",
    "error_code", "req_bytes", "resp_bytes", "resp_chunks", "first_byte_us", "duration_us", "own_first_us",
    "own_worst_us", "own_sum_us", "instance", "first_record", "last_record", "records_lost", "captured", "altered",
    "backend", "api", "framing", "model_asked", "input_tokens", "input_uncached_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "cost_nano_usd", "prompt_per_second", "tokens_per_second",
    "output_tokens_per_second", "ttft_us", "last_token_us", "gap_p50_us", "gap_p99_us", "gap_worst_us", "event_count",
    "complete", "cut_by", "response_id", "previous_response_id", "n_choices", "tool_calls", "refusal", "error_type",
    "error_message", "problem", "user_hint", "session_hint", "traceparent", "prefix_hash", "prefix_len", "depth",
    "pinned",
)  # fmt: skip
_TIMES: Final = ("ts_start", "ts_end")
_FLAGS: Final = ("disconnected", "truncated_req", "truncated_resp", "stream", "altered", "complete", "pinned")
_IN_MS: Final = {
    name: name.replace("_us", "_ms")
    for name in ("first_byte_us", "duration_us", "ttft_us", "last_token_us", "gap_p50_us", "gap_p99_us", "gap_worst_us")
}


class Condition(NamedTuple):
    """What a row must be like, and by which of its columns it can be found."""

    sql: str
    values: tuple[Any, ...]
    column: str
    """Indexed together with the order of the list, in `trace_by_<column>`; and a dimension of `usage`. Empty: no row can be
    found by this."""
    low: Any
    high: Any = None
    """The column has values from `low` to before `high`; None: only `low`."""


class Query(NamedTuple):
    """A checked query."""

    conditions: list[Condition]
    since_ms: int | None
    until_ms: int | None
    cursor: Cursor | None
    limit: int
    words: str | None = None
    """Full text that is searched for."""


def parse(params: Mapping[str, str]) -> Query:
    """The query that parameters ask for. Raises BadParamError for the first that is wrong or not known."""
    given.check(params, PARAMETERS)
    return Query(
        [_CONDITIONS[name](name, params[name]) for name in _CONDITIONS if name in params],
        given.time_ms("since", params["since"]) if "since" in params else None,
        given.time_ms("until", params["until"]) if "until" in params else None,
        given.cursor(params),
        given.limit(params),
        params.get("q"),
    )


def _equal(column: str, check: Callable[[str], str] = str) -> Callable[[str, str], Condition]:
    return lambda _, value: Condition(f"{column} = ?", (check(value),), column, value)


def _path(_: str, value: str) -> Condition:
    """Exact, or with a trailing `*` whatever begins so: a range, for in a range no character is a wildcard."""
    if value.endswith("*"):
        low, high = value[:-1], value[:-1] + _LAST_CHARACTER
        return Condition("route_path >= ? AND route_path < ?", (low, high), "route_path", low, high)
    return Condition("route_path = ?", (value,), "route_path", value)


def _status(_: str, value: str) -> Condition:
    if _STATUS_CLASS.fullmatch(value):
        low = 100 * int(value[0])
        return Condition("status >= ? AND status < ?", (low, low + 100), "status", low, low + 100)
    if _STATUS.fullmatch(value):
        return Condition("status = ?", (int(value),), "status", int(value))
    raise BadParamError("status", "allowed is a status (404) or a class of them (1xx, 2xx, 4xx, 5xx)")


def _at_least(column: str, by: str, scale: float, class_scale: float, most: float) -> Callable[[str, str], Condition]:
    """A column of at least `scale` times the value, found by its magnitude."""

    def condition(name: str, value: str) -> Condition:
        least = given.number(name, value, most)
        low = int(least * class_scale).bit_length()
        return Condition(f"{column} >= ?", (round(least * scale),), by, low, MAGNITUDES_MAX)

    return condition


def _at_most(column: str, by: str, scale: float, class_scale: float, most: float) -> Callable[[str, str], Condition]:
    def condition(name: str, value: str) -> Condition:
        greatest = given.number(name, value, most)
        high = int(greatest * class_scale).bit_length() + 1
        return Condition(f"{column} <= ?", (round(greatest * scale),), by, 0, high)

    return condition


def _key_hash(_: str, value: str) -> Condition:
    low, high = given.key_hash(value)
    if high is None:
        return Condition("key_hash = ?", (low,), "key_hash", low)
    return Condition("key_hash >= ? AND key_hash < ?", (low, high), "key_hash", low, high)


def _pinned(name: str, value: str) -> Condition:
    if value not in {"true", "false"}:
        raise BadParamError(name, "allowed is true or false")
    return Condition("pinned = ?", (int(value == "true"),), "pinned", int(value == "true"))


MAGNITUDES_MAX: Final = 64
"""No magnitude that is stored is greater."""
_TOKENS: Final = ("total_tokens", "tokens_class", 1, 1, TOKENS_MAX)
_COST: Final = ("cost_nano_usd", "cost_class", 1e9, 1e6, COST_USD_MAX)
_TTFT: Final = ("ttft_us", "ttft_class", 1e3, 1, TTFT_MS_MAX)

_CONDITIONS: Final[dict[str, Callable[[str, str], Condition]]] = {
    "path": _path,
    "status": _status,
    "model": _equal("model"),
    "provider": _equal("provider"),
    "api": _equal("api"),
    "client": _equal("client_kind"),
    "project": _equal("client_project"),
    "key_hash": _key_hash,
    "session_root_id": _equal("session_root_id", lambda value: given.uuid("session_root_id", value)),
    "end_reason": _equal("end_reason"),
    "finish_reason": _equal("finish_reason"),
    "error": _equal("error_type"),
    "min_tokens": _at_least(*_TOKENS),
    "max_tokens": _at_most(*_TOKENS),
    "min_cost_usd": _at_least(*_COST),
    "max_cost_usd": _at_most(*_COST),
    "min_ttft_ms": _at_least(*_TTFT),
    "max_ttft_ms": _at_most(*_TTFT),
    "pinned": _pinned,
}
_SCHEMAS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "path": ("without query; a trailing * is whatever begins so", given.text("a path")),
    "status": ("a status, or a class", {
        "type": "string", "pattern": f"^({_STATUS.pattern}|{_STATUS_CLASS.pattern})$",
        "description": "a status (404) or a class of them (1xx, 2xx, 4xx, 5xx)"}),
    "key_hash": ("the hash of the client's key", given.KEY_HASH_SCHEMA),
    "session_root_id": ("the session's first exchange", given.UUID_SCHEMA),
    "pinned": ("whether there is a copy", {"type": "string", "enum": ["true", "false"]}),
    **{f"{least}_{name}": (f"of {what}", {"type": "number", "minimum": 0, "maximum": most})
       for name, what, most in (("tokens", "total_tokens", TOKENS_MAX), ("cost_usd", "cost_usd", COST_USD_MAX),
                                ("ttft_ms", "ttft_ms", TTFT_MS_MAX)) for least in ("min", "max")},
}  # fmt: skip
PARAMS: Final = (
    *(Param(name, *_SCHEMAS.get(name, ("exact", given.text("text")))) for name in _CONDITIONS), given.SINCE, given.UNTIL,
    Param("q", "words that are in the turn", given.text("words", given.PARAM_CHARS_MAX)),
    given.FILTER, given.LIMIT, given.CURSOR,
)  # fmt: skip
PARAMETERS: Final = tuple(param.name for param in PARAMS)


def row_object(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as the answers have it: times as RFC 3339, flags as booleans, durations in ms, cost in dollars."""
    values = dict(zip(COLUMNS, row, strict=True))
    for name in _TIMES:
        values[name] = given.rfc3339(values[name])
    for name in _FLAGS:
        values[name] = None if values[name] is None else bool(values[name])
    for name, shown in _IN_MS.items():
        micros = values.pop(name)
        values[shown] = None if micros is None else micros / 1000
    cost = values.pop("cost_nano_usd")
    values["cost_usd"] = None if cost is None else cost / 1e9
    values["tool_calls"] = None if values["tool_calls"] is None else orjson.loads(values["tool_calls"])
    return values


def sql_one(exchange: str) -> tuple[str, tuple[Any, ...]]:
    """The statement for one exchange's row."""
    return f"SELECT {', '.join(COLUMNS)} FROM trace WHERE id = ?", (exchange,)


def page(rows: list[dict[str, Any]], next_cursor: Cursor | None) -> dict[str, Any]:
    """The answer for rows and the place to go on from."""
    return {"traces": rows, "next_cursor": None if next_cursor is None else given.encode_cursor(*next_cursor)}
