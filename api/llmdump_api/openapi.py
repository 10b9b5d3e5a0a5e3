"""The OpenAPI 3.1 document, made from `described.ROUTES`: nothing of it is written twice. Pure."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from llmdump_api import query, sessions
from llmdump_api.described import ANY, JSON, ROUTES, Route
from llmdump_api.params import Param

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_PERHAPS: Final = {"type": ["string", "null"]}


def _object(**members: Any) -> dict[str, Any]:
    """An object that has these members, and may have others."""
    return {"type": "object", "required": list(members), "properties": members}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _row() -> dict[str, Any]:
    shown = query.row_object(tuple(None for _ in query.COLUMNS))
    known = {"id": _TEXT, "ts_start": _TEXT, "ts_end": _PERHAPS, "key_hash": _TEXT, "session_root_id": _TEXT, "pinned": _FLAG}
    return _object(**{name: known.get(name, {}) for name in shown})


_SERIES: Final = _object(value=_TEXT, total={"type": "object"}, buckets=_list(_object(ts=_TEXT)))
_FACET: Final = _object(values=_list(_object(value=_TEXT, requests=_COUNT)), more=_FLAG, cut=_FLAG)
_OR_NULL: Final = {"type": ["object", "null"]}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Error": _object(error=_TEXT) | {"properties": {"error": _TEXT, "message": _TEXT, "param": _TEXT}},
    "Row": _row(),
    "Traces": _object(traces=_list(_named("Row")), next_cursor=_PERHAPS),
    "Trace": _object(row=_named("Row"), trace=_OR_NULL, reading=_OR_NULL, normalised=_OR_NULL),
    "Session": _object(**{name: {} for name in sessions.SHOWN}),
    "Sessions": _object(sessions=_list(_named("Session")), next_cursor=_PERHAPS),
    "Tree": _object(
        session=_named("Session"), turns=_list(_object(**{name: {} for name in sessions.TURN_SHOWN})), next_cursor=_PERHAPS
    ),
    "Facets": _object(since=_PERHAPS, until=_PERHAPS, facets={"type": "object", "additionalProperties": _FACET}),
    "Stats": _object(step_s=_COUNT, since=_TEXT, until=_TEXT, series=_list(_SERIES)),
    "Ledger": _object(complete=_FLAG, made=_COUNT, indexed=_COUNT, instances=_list({"type": "object"})),
    "Health": _object(status=_TEXT, version=_TEXT, uptime_seconds=_COUNT, counters={"type": "object"}),
    "Har": _object(log=_object(version=_TEXT, entries=_list({"type": "object"}))),
    "Pin": _object(id=_TEXT, pinned=_FLAG),
    "Retention": _object(max_bytes=_COUNT, max_age_days={"type": "number"}, warn_at_percent=_COUNT, source=_TEXT),
}

_EVERY: Final = (403, 421, 500)
"""Statuses that any route may answer."""
_WITH_TOKEN: Final = (400, 401, 429, 503)
"""And those below /api."""


def document(version: str) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    bearer = {"type": "http", "scheme": "bearer", "description": "admin_token or read_token in the data directory"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmdump", "version": version, "summary": "What passed between clients and models"},
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": bearer}},
    }


def _operation(route: Route) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.about,
        "security": [{"token": []}] if route.scope else [],
        "parameters": [*_parameters(route.in_path, "path"), *_parameters(route.query, "query")],
        "responses": _responses(route),
    }
    if route.scope == "admin":
        told["description"] = "Wants the admin token."
    if route.body is not None:
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": route.body}}}
    return told


def _parameters(described: Iterable[Param], where: str) -> list[dict[str, Any]]:
    return [_parameter(param, where) for param in described]


def _parameter(param: Param, where: str) -> dict[str, Any]:
    required = where == "path" or param.is_required
    told = {"name": param.name, "in": where, "required": required, "description": param.about, "schema": param.schema}
    return told | ({"style": "form", "explode": False} if param.schema["type"] == "array" else {})


def _responses(route: Route) -> dict[str, Any]:
    statuses = sorted({*route.statuses, *_EVERY, *(_WITH_TOKEN if route.scope else ())})
    done = [200, *(status for status in statuses if status < 300)]
    failed = {str(status): _response(status, JSON, _named("Error")) for status in statuses if status >= 400}
    if route.path == "/readyz":
        failed["503"] = _response(503, JSON, {"type": "object"})
    return {str(status): _response(status, route.content_type, _schema(route)) for status in done} | failed


def _schema(route: Route) -> dict[str, Any]:
    if route.content_type != JSON:
        return {} if route.content_type == ANY else _TEXT
    return _named(route.answer) if route.answer else {"type": "object"}


def _response(status: int, content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {content_type: {"schema": schema}}}
