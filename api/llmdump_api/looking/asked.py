"""What the commands ask, in the words of the api's parameters, and which exchange an abbreviation means. Blocking."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import apsw

from llmdump.inspecting import moments
from llmdump_api import filtering, find, query, search
from llmdump_api import params as given
from llmdump_api.index import first, rows
from llmdump_api.params import BadParamError
from llmdump_api.query import Condition

PAGE_ROWS: Final = 200
SHOWN_MAX: Final = 8
"""Candidates that are named where an abbreviation means several."""

_NTH: Final = "SELECT id FROM trace INDEXED BY trace_by_time ORDER BY ts_start DESC, id DESC LIMIT 1 OFFSET ?"
_BY_PREFIX: Final = f"SELECT id FROM trace WHERE id >= ? AND id < ? ORDER BY id LIMIT {SHOWN_MAX}"
_BY_SUFFIX: Final = f"SELECT id FROM trace WHERE substr(id, ?) = ? LIMIT {SHOWN_MAX}"


class AmbiguousError(ValueError):
    """No exchange, or several, are meant; the message says which."""


def times(asked: Mapping[str, str | None]) -> dict[str, str]:
    """`since` and `until` as the api takes them. Raises BadParamError."""
    told = {}
    for name in ("since", "until"):
        value = asked.get(name)
        if value is not None:
            told[name] = _rfc3339(name, value)
    return told


def _rfc3339(name: str, value: str) -> str:
    now_s = time.time()
    try:
        shown = given.rfc3339(round(moments.parse(value, now_s, now_s) * 1000))
    except ValueError as err:
        raise BadParamError(name, str(err)) from err
    if shown is None:
        raise BadParamError(name, f"{value!r} is in no calendar")
    return shown


def conditions(expression: str | None) -> list[Condition]:
    """What a filter expression asks of an exchange; nothing for none. Raises BadParamError."""
    return filtering.conditions(expression, round(time.time() * 1000)) if expression is not None else []


def listed(db: apsw.Connection, params: Mapping[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """Rows of the list, newest first, `limit` of them or (0) all; a page at a time. Raises BadParamError, apsw.Error."""
    cursor: str | None = None
    left = limit or 2**62
    while left:
        page = _page(db, {**params, **({"cursor": cursor} if cursor else {}), "limit": str(min(left, PAGE_ROWS))})
        yield from page["traces"]
        left -= len(page["traces"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _page(db: apsw.Connection, params: Mapping[str, str]) -> dict[str, Any]:
    asked = query.parse(params)
    asked.conditions.extend(conditions(params.get("filter")))
    with db:
        if asked.words is None:
            found = find.page(db, asked)
            return query.page([query.row_object(row) for row in found.rows], found.next_cursor)
        hits = search.page(db, asked, search.expression(asked.words))
    return query.page([search.shown(hit) for hit in hits.hits], hits.next_cursor)


def exchange(db: apsw.Connection, name: str) -> str:
    """The id that is meant: whole, its beginning, its end, or -1 for the last, -2 for the one before. Raises AmbiguousError."""
    if name[:1] == "-" and name[1:].isascii() and name[1:].isdigit() and 0 < int(name[1:]) < 10**9:
        found = rows(db, _NTH, (int(name[1:]) - 1,))
    else:
        part = name.lower().removeprefix("…")
        found = rows(db, _BY_PREFIX, (part, part + "\U0010ffff")) or rows(db, _BY_SUFFIX, (-len(part), part)) if part else []
    if len(found) == 1:
        return str(found[0][0])
    if not found:
        raise AmbiguousError(f"there is no exchange {name!r}; `llmdump ls` lists them")
    raise AmbiguousError(f"{name!r} may be {', '.join(one for (one,) in found)}{' …' if len(found) == SHOWN_MAX else ''}")


def row(db: apsw.Connection, exchange_id: str) -> dict[str, Any]:
    """The row of an exchange that is there."""
    found = first(db, *query.sql_one(exchange_id))
    assert found is not None, "its id came from the index"
    return query.row_object(found)
