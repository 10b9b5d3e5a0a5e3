"""Sessions: a page of them by their last exchange, and one of them as a tree. Blocking but for what is parsed."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import apsw

from llmdump_api import params as given
from llmdump_api.index import first, rows
from llmdump_api.params import BadParamError, Cursor, Param
from llmdump_api.query import Condition

COLUMNS: Final = (
    "root", "key_hash", "n_turns", "first_ts", "last_ts", "last_path", "last_status", "last_model", "client_kind",
    "client_project", "session_hint", "ok_count", "err_count", "input_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "reasoning_tokens", "cost_nano_usd", "priced",
)  # fmt: skip
TURN_COLUMNS: Final = (
    "id", "ts_start", "parent_id", "depth", "path", "status", "end_reason", "model", "client_kind", "input_tokens",
    "cache_read_tokens", "output_tokens", "cost_nano_usd", "duration_us", "finish_reason", "error_type", "prefix_len",
)  # fmt: skip
PROMPT_CHARS: Final = 200
"""Of what is new in a turn, in the tree."""

_INDEXES: Final = {"key_hash": "session_by_key", "client_project": "session_by_project", "client_kind": "session_by_client"}
_FILTERS: Final = {"key_hash": "key_hash", "project": "client_project", "client": "client_kind"}
PARAMS: Final = (
    Param("key_hash", "the hash of the client's key", given.KEY_HASH_SCHEMA),
    *(Param(name, "exact", given.text("text")) for name in ("project", "client")),
    given.SINCE, given.UNTIL, given.FILTER, given.LIMIT, given.CURSOR,
)  # fmt: skip
TREE_PARAMS: Final = (given.LIMIT, given.CURSOR)
PARAMETERS: Final = tuple(param.name for param in PARAMS)
TREE_PARAMETERS: Final = tuple(param.name for param in TREE_PARAMS)

ONE: Final = f"SELECT {', '.join(COLUMNS)} FROM session WHERE root = ?"
MODELS: Final = "SELECT model FROM session_model WHERE root = ? ORDER BY turns DESC, model LIMIT 20"
TURNS: Final = (
    f"SELECT {', '.join(f'trace.{name}' for name in TURN_COLUMNS)}, substr(turn_text.prompt, 1, {PROMPT_CHARS}), "
    f"substr(turn_text.answer, 1, {PROMPT_CHARS}) FROM trace INDEXED BY trace_by_session "
    "LEFT JOIN turn_text ON turn_text.trace = trace.number "
    "WHERE session_root_id = ? AND (ts_start, id) > (?, ?) ORDER BY ts_start, id LIMIT ?"
)


PASSES: Final = (
    "SELECT 1 FROM (SELECT * FROM trace INDEXED BY trace_by_session WHERE session_root_id = ? "
    "ORDER BY ts_start DESC, id DESC LIMIT ?) WHERE {fits} LIMIT 1"
)
EXAMINED_MAX: Final = 10_000
"""Exchanges that are looked at for a page with a filter; of a longer session its newest ones."""
_NOT_SHOWN: Final = frozenset({"root", "cost_nano_usd", "priced", "duration_us"})
SHOWN: Final = (*(name for name in COLUMNS if name not in _NOT_SHOWN), "session_root_id", "models", "cost_usd", "unpriced")
"""Members of a session in the answers."""
TURN_SHOWN: Final = (*(name for name in TURN_COLUMNS if name not in _NOT_SHOWN), "cost_usd", "duration_ms", "prompt", "answer")
"""Members of a turn in the answers."""


class Asked(NamedTuple):
    """Which sessions are asked for."""

    filters: list[tuple[str, str]]
    """At most one: a column and its value."""
    since_ms: int | None
    until_ms: int | None
    cursor: Cursor | None
    limit: int


def parse(params: Mapping[str, str]) -> Asked:
    """What parameters ask for. Raises BadParamError. Pure."""
    given.check(params, PARAMETERS)
    if "key_hash" in params and given.key_hash(params["key_hash"])[1] is not None:
        raise BadParamError("key_hash", "allowed here are all 16 hex digits")
    filters = [name for name in _FILTERS if name in params]
    if len(filters) > 1:
        raise BadParamError(filters[1], f"allowed is one of {', '.join(_FILTERS)}")
    return Asked(
        [(_FILTERS[name], params[name]) for name in filters],
        given.time_ms("since", params["since"]) if "since" in params else None,
        given.time_ms("until", params["until"]) if "until" in params else None,
        given.cursor(params),
        given.limit(params),
    )


def parse_tree(params: Mapping[str, str]) -> tuple[Cursor | None, int]:
    """Where the turns of a session go on, and how many are asked for. Raises BadParamError. Pure."""
    given.check(params, TREE_PARAMETERS)
    return given.cursor(params), given.limit(params)


def statement(asked: Asked) -> tuple[str, list[Any]]:
    """The statement for a page; it gives one row more than the page holds, if there is one."""
    parts = [f"{column} = ?" for column, _ in asked.filters]
    values: list[Any] = [value for _, value in asked.filters]
    for part, value in (("last_ts >= ?", asked.since_ms), ("last_ts < ?", asked.until_ms)):
        if value is not None:
            parts.append(part)
            values.append(value)
    if asked.cursor is not None:
        parts.append("(last_ts, root) < (?, ?)")
        values += asked.cursor
    index = _INDEXES[asked.filters[0][0]] if asked.filters else "session_by_time"
    where = "WHERE " + " AND ".join(parts) if parts else ""
    return (
        f"SELECT {', '.join(COLUMNS)} FROM session INDEXED BY {index} {where} ORDER BY last_ts DESC, root DESC LIMIT ?",
        [*values, asked.limit + 1],
    )


def page(db: apsw.Connection, asked: Asked, conditions: list[Condition]) -> dict[str, Any]:
    """The answer of /api/sessions: those in which an exchange meets all conditions. Raises apsw.Error."""
    found = rows(db, *statement(asked))
    here = found[: asked.limit]
    passing, looked_at = (here, len(here)) if not conditions else _passing(db, here, conditions)
    last = here[looked_at - 1] if looked_at < len(found) else None
    cursor = given.encode_cursor(last[COLUMNS.index("last_ts")], last[0]) if last else None
    return {"sessions": [_shown(db, row) for row in passing], "next_cursor": cursor}


def _passing(
    db: apsw.Connection, found: list[tuple[Any, ...]], conditions: list[Condition]
) -> tuple[list[tuple[Any, ...]], int]:
    """The sessions with an exchange that meets all conditions; and how many could be looked at, one at least."""
    fits = " AND ".join(condition.sql for condition in conditions)
    values = [value for condition in conditions for value in condition.values]
    passing: list[tuple[Any, ...]] = []
    left = EXAMINED_MAX
    for looked_at, row in enumerate(found):
        turns = min(row[COLUMNS.index("n_turns")], EXAMINED_MAX)
        if looked_at and turns > left:
            return passing, looked_at
        left -= turns
        if first(db, PASSES.format(fits=fits), (row[0], EXAMINED_MAX, *values)) is not None:
            passing.append(row)
    return passing, len(found)


def tree(db: apsw.Connection, root: str, cursor: Cursor | None, limit: int) -> dict[str, Any] | None:
    """The answer of /api/sessions/{id}; None if there is no such session. Raises apsw.Error."""
    row = first(db, ONE, (root,))
    if row is None:
        return None
    session = _shown(db, row)
    found = rows(db, TURNS, (root, *(cursor or (-1, "")), limit + 1))
    last = found[limit - 1] if len(found) > limit else None
    return {
        "session": session,
        "turns": [_turn(row) for row in found[:limit]],
        "next_cursor": given.encode_cursor(last[1], last[0]) if last else None,
    }


def _shown(db: apsw.Connection, row: tuple[Any, ...]) -> dict[str, Any]:
    values = dict(zip(COLUMNS, row, strict=True))
    shown = {"session_root_id": values.pop("root"), **values}
    shown["first_ts"], shown["last_ts"] = given.rfc3339(values["first_ts"]), given.rfc3339(values["last_ts"])
    shown["models"] = [model for (model,) in rows(db, MODELS, (row[0],))]
    shown["distinct_key_count"] = 1  # keys do not share sessions
    shown["cost_usd"] = shown.pop("cost_nano_usd") / 1e9
    shown["unpriced"] = shown["n_turns"] - shown.pop("priced")
    return shown


def _turn(row: tuple[Any, ...]) -> dict[str, Any]:
    *columns, prompt, answer = row
    turn = dict(zip(TURN_COLUMNS, columns, strict=True))
    turn["ts_start"] = given.rfc3339(turn["ts_start"])
    cost, duration_us = turn.pop("cost_nano_usd"), turn.pop("duration_us")
    turn["cost_usd"] = None if cost is None else cost / 1e9
    turn["duration_ms"] = None if duration_us is None else duration_us / 1000
    return {**turn, "prompt": prompt, "answer": answer}
