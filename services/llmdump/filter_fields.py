"""The fields of a filter expression: their names, the columns behind them, and what kind of value each takes.

A column holds whole numbers in a small unit (µs, nano-dollars, ms since 1970); people say 2s, $0.05, now-1d. Units are in
`UNITS`, by kind; only a duration must have one. Sizes are decimal (1 KB is 1000 bytes) unless they say KiB.
"""

from collections.abc import Collection, Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["text", "number", "size", "duration", "money", "time", "status", "flag"]

_ORDER: Final = ("=", "!=", "<", "<=", ">", ">=")
OPERATORS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "text": ("=", "!=", "~", "!~"),
    "flag": ("=", "!="),
    **dict.fromkeys(("number", "size", "duration", "money", "time", "status"), _ORDER),
}
SPANS: Final[Mapping[str, int]] = {
    "us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000,
}  # fmt: skip
"""Units of time, in µs."""
SIZES: Final[Mapping[str, int]] = {
    "": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
}  # fmt: skip
EXAMPLES: Final[Mapping[Kind, str]] = {
    "text": 'a word, a beginning as in /v1/*, or "text in quotes"',
    "number": "a number, as in 1000 or 2.5",
    "size": "a size, as in 500, 64KB or 1.5MiB",
    "duration": "a duration with its unit, as in 500ms, 2s, 5m, 1h or 1d",
    "money": "an amount in dollars, as in 0.05 or $2",
    "time": "a time, as in 2026-01-31T12:00:00Z, now or now-2h",
    "status": "a status or a class of them, as in 404 or 5xx",
    "flag": "true or false",
}


class Field(NamedTuple):
    """One field."""

    column: str
    kind: Kind
    about: str


FIELDS: Final[Mapping[str, Field]] = {
    "id": Field("id", "text", "the exchange"),
    "time": Field("ts_start", "time", "when the request came"),
    "ended": Field("ts_end", "time", "when it was over; null while it is open"),
    "method": Field("method", "text", "of the request"),
    "path": Field("route_path", "text", "without query"),
    "target": Field("path", "text", "path with query"),
    "status": Field("status", "status", "what the client got"),
    "end": Field("end_reason", "text", "complete, client_closed, …; null while it is open"),
    "error": Field("error_code", "text", "what exactly went wrong"),
    "error_type": Field("error_type", "text", "what the provider calls it"),
    "disconnected": Field("disconnected", "flag", "cut off before its end"),
    "stream": Field("stream", "flag", "a stream was asked for or came"),
    "altered": Field("altered", "flag", "secrets in bodies were masked"),
    "pinned": Field("pinned", "flag", "there is a copy that retention leaves alone"),
    "client": Field("client_kind", "text", "the program that asked"),
    "version": Field("client_version", "text", "of that program"),
    "project": Field("client_project", "text", "that the client works on"),
    "address": Field("client", "text", "the client's address"),
    "upstream": Field("upstream", "text", "the backend's base URL"),
    "provider": Field("provider", "text", "the backend's name"),
    "key": Field("key_hash", "text", "tells keys apart"),
    "session": Field("session_root_id", "text", "the session's first exchange"),
    "model": Field("model", "text", "from the request, or its path"),
    "api": Field("api", "text", "the provider's, as in openai.chat"),
    "finish": Field("finish_reason", "text", "why the model stopped"),
    "tokens": Field("total_tokens", "number", "in all"),
    "prompt_tokens": Field("prompt_tokens", "number", "asked"),
    "completion_tokens": Field("completion_tokens", "number", "answered"),
    "cached_tokens": Field("cached_tokens", "number", "read from the cache"),
    "reasoning_tokens": Field("reasoning_tokens", "number", "thought"),
    "tokens_per_second": Field("tokens_per_second", "number", "of the answer"),
    "cost": Field("cost_nano_usd", "money", "as the price list has it"),
    "ttft": Field("ttft_us", "duration", "from the request to the first token"),
    "first_byte": Field("first_byte_us", "duration", "from the request to the first byte of the response body"),
    "duration": Field("duration_us", "duration", "from the request to the end"),
    "own": Field("own_sum_us", "duration", "the proxy's own part"),
    "req_bytes": Field("req_bytes", "size", "of the request body"),
    "resp_bytes": Field("resp_bytes", "size", "of the response body"),
    "chunks": Field("resp_chunks", "number", "reads of the response body"),
    "lost": Field("records_lost", "number", "records there was no room for"),
}


def within(columns: Collection[str]) -> dict[str, Field]:
    """The fields that a table with these columns can be asked for."""
    return {name: field for name, field in FIELDS.items() if field.column in columns}
