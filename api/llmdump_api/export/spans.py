"""Exchanges as OpenTelemetry spans, by the semantic conventions of GenAI, in OTLP's JSON. Pure.

    {"resourceSpans": [{"resource": …, "scopeSpans": [{"scope": …, "spans": [span, …]}]}]}      a line, or the body of a POST

A span is one exchange, of kind CLIENT, named by operation and model (`chat gpt-4o`). Where the client sent a `traceparent` the
span is in that trace; else a session is a trace, in which an exchange is the child of the one that it continues. Ids follow
from those of the exchanges, so what is sent twice is the same span. What was said is not in it, only counts, names and times.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from llmdump.version import __version__
from llmdump_api import query
from llmdump_api.export.selection import Selection

SPANS_PER_REQUEST: Final = 256
_CLIENT: Final = 3
_ERROR: Final = 2
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_OPERATIONS: Final = (
    ("embed", "embeddings"), ("count", "count_tokens"), ("gemini.", "generate_content"), ("complet", "text_completion"),
    ("generate", "text_completion"),
)  # fmt: skip
_CHATS: Final = (".chat", ".messages", ".responses", ".converse", "raw_predict", ".realtime", ".interactions")
_PROVIDERS: Final = {
    "google": "gcp.gemini", "google_vertex": "gcp.vertex_ai", "azure": "azure.ai.openai", "bedrock": "aws.bedrock",
    "mistral": "mistral_ai", "xai": "x_ai",
}  # fmt: skip
_TS_START, _END_REASON = (query.COLUMNS.index(name) for name in ("ts_start", "end_reason"))


def stream(selection: Selection) -> Iterator[bytes]:
    """Lines of the form `otlp`. Raises what reading the selection raises."""
    for batch in batches(ended(selection)):
        yield request(batch) + b"\n"


def ended(selection: Selection) -> Iterator[tuple[Any, ...]]:
    """The selected rows of exchanges that are over, counted."""
    for _, row in selection.rows():
        if row[_END_REASON] is not None:
            selection.told.exchanges += 1
            yield row


def batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in lists of `SPANS_PER_REQUEST`."""
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == SPANS_PER_REQUEST:
            yield batch
            batch = []
    if batch:
        yield batch


def request(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """One ExportTraceServiceRequest, of rows (`query.COLUMNS`)."""
    scope = {"name": "llmdump", "version": __version__}
    spans = [_span(query.row_object(row), row[_TS_START]) for row in rows]
    resource = {"attributes": list(_attributes({"service.name": "llmdump"}))}
    return orjson.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]})


def _span(row: Mapping[str, Any], ts_start_ms: int) -> dict[str, Any]:
    trace, parent = _above(row)
    operation, model = _operation(row), row["model"] or row["model_asked"]
    begin_ns = ts_start_ms * 1_000_000
    span = {
        "traceId": trace,
        "spanId": _span_id(row["id"]),
        "name": f"{operation} {model}" if model else operation,
        "kind": _CLIENT,
        "startTimeUnixNano": str(begin_ns),
        "endTimeUnixNano": str(begin_ns + round((row["duration_ms"] or 0) * 1_000_000)),
        "attributes": list(_attributes(_facts(row, operation))),
    }
    error = _error(row)
    status = {"code": _ERROR, "message": (row["error_message"] or error)[:1000]} if error else {}
    return span | {"status": status} | ({"parentSpanId": parent} if parent else {})


def _above(row: Mapping[str, Any]) -> tuple[str, str]:
    """Trace, and the span above, if there is one."""
    if _TRACE_ID.fullmatch(row["traceparent"] or ""):
        return row["traceparent"], ""
    parent = row["parent_id"]
    return uuid.UUID(row["session_root_id"]).hex, _span_id(parent) if parent else ""


def _span_id(exchange: str) -> str:
    return uuid.UUID(exchange).hex[16:]


def _operation(row: Mapping[str, Any]) -> str:
    api = row["api"] or ""
    if any(part in api for part in _CHATS):
        return "chat"
    default = api.partition(".")[2] or row["method"] or "request"
    return next((name for part, name in _OPERATIONS if part in api), default)


def _provider(row: Mapping[str, Any]) -> str | None:
    provider: str | None = row["provider"]
    return _PROVIDERS.get(provider or "", provider)


def _error(row: Mapping[str, Any]) -> str:
    """`error.type`: what the provider calls it, else our code, else the status."""
    status = row["status"] or 0
    failed = status >= 400 or row["error_type"] or row["end_reason"] not in {"complete", "client_closed"}
    return str(row["error_type"] or row["error_code"] or (status if status >= 400 else row["end_reason"])) if failed else ""


def _facts(row: Mapping[str, Any], operation: str) -> dict[str, Any]:
    upstream = urlsplit(row["upstream"] or "")
    finish = row["finish_reason"]
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(row),
        "gen_ai.system": _provider(row),
        "gen_ai.request.model": row["model_asked"],
        "gen_ai.response.model": row["model"],
        "gen_ai.response.id": row["response_id"],
        "gen_ai.response.finish_reasons": None if finish is None else [str(finish)],
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": row["cache_read_tokens"],
        "gen_ai.usage.cache_creation.input_tokens": row["cache_write_tokens"],
        "gen_ai.conversation.id": row["session_root_id"],
        "server.address": _host(upstream.netloc),
        "server.port": _port(upstream.netloc),
        "http.request.method": row["method"],
        "http.response.status_code": row["status"],
        "url.path": row["route_path"],
        "user_agent.name": row["client_kind"],
        "error.type": _error(row) or None,
        "llmdump.exchange.id": row["id"],
        "llmdump.end_reason": row["end_reason"],
        "llmdump.cost_usd": row["cost_usd"],
        "llmdump.ttft_ms": row["ttft_ms"],
        "llmdump.reasoning_tokens": row["reasoning_tokens"],
        "llmdump.client.project": row["client_project"],
        "llmdump.stream": row["stream"],
    }


def _host(netloc: str) -> str | None:
    host = netloc.rpartition("@")[2]
    return (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]) or None


def _port(netloc: str) -> int | None:
    _, _, port = netloc.rpartition("]")[2].rpartition(":")
    return int(port) if ":" in netloc and port.isascii() and port.isdigit() and len(port) < 6 else None


def _attributes(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """As OTLP's JSON has them: whole numbers are texts."""
    for key, value in facts.items():
        if value is not None:
            yield {"key": key, "value": _value(value)}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}
