"""The routes, as /openapi.json tells them and the gate keeps them: parameters, answers, who may ask. Pure.

    ROUTES ─▶ gate: what a request may ask, by `check`
           ─▶ openapi: the document
           ─▶ tests: the router and docs/api.md have the same routes

A parameter's schema is what its value is held against, so what the document says is what is refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from llmdump_api import live_asked, media, query, sessions, sums
from llmdump_api import params as given
from llmdump_api.params import Param

Scope = Literal["", "read", "admin"]
"""Which token a route wants; empty: none."""

ID: Final = Param("id", "the exchange's id", given.UUID_SCHEMA)
ROOT: Final = Param("id", "the session's first exchange", given.UUID_SCHEMA)
NUMBER: Final = Param("n", "which one, from 0 on", {"type": "integer", "minimum": 0, "maximum": media.NUMBER_MAX})
SPEED: Final = Param("speed", "how much faster than recorded", {"type": "number", "exclusiveMinimum": 0, "maximum": 100})
NODELAY: Final = Param("nodelay", "no gaps at all", {"type": "string", "enum": ["1", "true", "0", "false"]})
OWN: Final = Param("scope", "`own`: the metrics of this process only", {"type": "string", "enum": ["own", "all"]})

COMPARED: Final = tuple(Param(name, "an exchange's id, wanted", given.UUID_SCHEMA) for name in ("a", "b"))
_SWITCH: Final = {"type": "string", "enum": ["1", "true", "0", "false"]}
FORMATS: Final = ("jsonl", "wire-jsonl", "cbor", "har", "openai-finetune", "anthropic-finetune", "parquet", "otlp", "zip")
EXPORT: Final = (
    *(param for param in query.PARAMS if param is not given.LIMIT),
    Param("format", "what is made", {"type": "string", "enum": list(FORMATS), "default": "zip"}),
    Param("limit", "how many at most", {"type": "integer", "minimum": 1, "maximum": given.EXPORTED_MAX}),
    Param("turns", "`last`: only what no other continues", {"type": "string", "enum": ["all", "last"], "default": "all"}),
    Param("skip_missing", "leave out what has no file", _SWITCH),
    Param("all", "a zip of any number of exchanges", _SWITCH),
    Param("bytes_all", "a zip of any size", _SWITCH),
)

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
ANY: Final = "*/*"


class Route(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    about: str
    scope: Scope = "read"
    answer: str = ""
    """Name of the schema of its JSON; empty: any object."""
    content_type: str = JSON
    query: tuple[Param, ...] = ()
    statuses: tuple[int, ...] = ()
    """Beside 200 and what every route of its scope may answer."""
    body: Mapping[str, Any] | None = None
    """Schema of what is sent."""
    code: str = "bad_param"
    """Of the error where a parameter cannot be used."""

    @property
    def in_path(self) -> tuple[Param, ...]:
        """The parameters within the path."""
        known = (ROOT if self.path.startswith("/api/sessions") else ID, NUMBER)
        return tuple(param for param in known if f"{{{param.name}}}" in self.path)

    @property
    def operation(self) -> str:
        """A name for it: `get_api_traces_id_chunks`."""
        words = re.findall(r"\w+", self.path)
        return "_".join([self.method.lower(), *words])

    def check(self, matched: Mapping[str, str], asked: Mapping[str, str]) -> None:
        """Raises BadParamError for the first parameter that is not as described."""
        for param in self.in_path:
            param.check(matched[param.name])
        given.check(asked, [param.name for param in self.query])
        for param in self.query:
            if param.name in asked:
                param.check(asked[param.name])


_RETENTION: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "max_bytes": {"type": ["integer", "null"], "minimum": 0, "maximum": 2**53},
        "max_age_days": {"type": ["number", "null"], "minimum": 0, "maximum": 1_000_000},
        "warn_at_percent": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    },
}
_GONE: Final = (400, 404, 410)
_TRACE: Final = "/api/traces/{id}"

ROUTES: Final = (
    Route("GET", "/", "Where things are.", ""),
    Route("GET", "/healthz", "Whether this process answers, and counters.", "", "Health"),
    Route("GET", "/readyz", "Whether all four roles work.", "", statuses=(503,)),
    Route("GET", "/metrics", "Prometheus text.", "", content_type="text/plain", query=(OWN,), statuses=(400,)),
    Route("GET", "/openapi.json", "This document.", ""),
    Route("GET", "/api/traces", "A page of exchanges.", answer="Traces", query=query.PARAMS, statuses=(400,)),
    Route("GET", _TRACE, "One exchange, put together.", answer="Trace", statuses=(400, 404)),
    Route("GET", f"{_TRACE}/request", "The request body, raw.", content_type=OCTETS, statuses=_GONE),
    Route("GET", f"{_TRACE}/response", "The response body, raw.", content_type=OCTETS, statuses=_GONE),
    Route("GET", f"{_TRACE}/replay", "The recorded stream once more, in its time.", content_type=ANY, query=(SPEED, NODELAY),
          statuses=_GONE, code="invalid_param"),
    Route("GET", f"{_TRACE}/chunks", "Each read of both bodies.", content_type="application/x-ndjson", statuses=_GONE),
    Route("GET", f"{_TRACE}/har", "A HAR 1.2 log.", answer="Har", statuses=_GONE),
    Route("GET", f"{_TRACE}/curl", "A command that sends it again.", content_type="text/plain", statuses=(*_GONE, 409)),
    Route("PUT", f"{_TRACE}/pin", "Keep it, whatever the caps delete.", "admin", "Pin", statuses=(201, *_GONE, 409, 507)),
    Route("DELETE", f"{_TRACE}/pin", "And no longer.", "admin", "Pin", statuses=(400,)),
    Route("GET", "/api/media/{id}/{n}", "An image, sound or file of a request.", content_type=ANY, statuses=(*_GONE, 413)),
    Route("GET", "/api/sessions", "A page of sessions.", answer="Sessions", query=sessions.PARAMS, statuses=(400,)),
    Route("GET", "/api/sessions/{id}", "A session as a tree.", answer="Tree", query=sessions.TREE_PARAMS, statuses=(400, 404)),
    Route("GET", "/api/facets", "The values to filter by.", answer="Facets", query=sums.FACET_PARAMS, statuses=(400,)),
    Route("GET", "/api/stats", "Time series.", answer="Stats", query=sums.SERIES_PARAMS, statuses=(400,)),
    Route("GET", "/api/live", "Exchanges as they open, stream and end.", content_type="text/event-stream",
          query=live_asked.PARAMS, statuses=(400, 404)),
    Route("GET", "/api/diff", "What changed between two requests.", query=COMPARED, statuses=_GONE),
    Route("GET", "/api/export", "Exchanges for other tools.", content_type=ANY, query=EXPORT, statuses=(400, 410, 413, 501)),
    Route("GET", "/api/ledger", "Whether anything is missing.", answer="Ledger"),
    Route("GET", "/api/config/retention", "The limits in force.", "admin", "Retention"),
    Route("PUT", "/api/config/retention", "Change them.", "admin", "Retention", statuses=(400,), body=_RETENTION),
    Route("GET", "/api/config/media", "Whether media are to be had.", "admin"),
    Route("GET", "/api/config/plugins", "The plugins that run.", "admin"),
    Route("GET", "/api/plugins/types", "The plugins that there are."),
)  # fmt: skip

BY_PATH: Final = {(route.method, route.path): route for route in ROUTES}
