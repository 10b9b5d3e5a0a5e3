"""The views of `llmdump inspect` as JSON values, and a large answer written as it is made. Pure."""

import base64
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from llmdump.captures.entry import expanded, name_of
from llmdump.captures.v2 import Header
from llmdump.inspecting.issues import Issue
from llmdump.inspecting.pairing import Paired
from llmdump.reading.exchange import Event
from llmdump.reading.framing import Body
from llmdump.reading.typed import BROKEN, decoded

PREVIEW_BYTES: Final = 500
EVENTS_MAX: Final = 10_000
"""Of one entry."""


def header(found: Header | None) -> dict[str, Any]:
    """The first header of the files."""
    if found is None:
        return {"session_id": None, "created_at": None, "metadata": {}}
    return {"session_id": found.session_id, "created_at": found.created_at, "metadata": found.metadata}


def entry(paired: Paired, files: int) -> dict[str, Any]:
    """One entry with its bytes and all events that are whole in it."""
    one = paired.entry
    told: dict[str, Any] = {
        "seq": one.seq,
        "direction": name_of(one.direction),
        "timestamp": one.ts,
        "data_length": len(one.data),
        "metadata": expanded(one.meta),
    }
    if files > 1:
        told["file"] = one.file
    if paired.backend:
        told["backend"] = paired.backend
    events = _events(one.data)
    if events:
        told["parsed"] = events[0]
    elif one.data:
        told["data_preview"] = one.data[:PREVIEW_BYTES].decode("utf-8", "replace")
    return {**told, "data": base64.b64encode(one.data).decode("ascii"), "events": events}


def _events(data: bytes) -> list[Any]:
    """The documents of the SSE events or the JSON in these bytes."""
    if data.startswith(b"HTTP/1.") or b" HTTP/1." in data[:8192].partition(b"\n")[0]:
        data = data.partition(b"\r\n\r\n")[2]
    body = Body("")
    found: list[Event] = [*body.feed(data, 0), *body.finish(0)]
    documents = [decoded(event.data) for event in found[:EVENTS_MAX]]
    return [document for document in documents if document is not BROKEN and isinstance(document, dict | list)]


def issue(found: Issue) -> dict[str, Any]:
    """One issue; `entry` is null where it is about a file."""
    return {
        "kind": found.kind, "severity": found.severity, "text": found.text, "file": found.at.file,
        "entry": found.at.seq if found.at.seq >= 0 else None, "timestamp": found.at.ts or None, "exchange": found.exchange,
    }  # fmt: skip


def document(members: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """A JSON object in pieces: ASCII, indented by 2. A member's value may be an iterator: it becomes an array, item by item."""
    separator = "{\n"
    for name, value in members:
        yield f"{separator}  {json.dumps(name)}: "
        yield from _array(value) if isinstance(value, Iterator) else [_dumped(value, 1)]
        separator = ",\n"
    yield "\n}\n" if separator == ",\n" else "{}\n"


def _array(items: Iterator[Any]) -> Iterator[str]:
    separator = "[\n    "
    for item in items:
        yield separator + _dumped(item, 2)
        separator = ",\n    "
    yield "[]" if separator.startswith("[") else "\n  ]"


def _dumped(value: Any, depth: int) -> str:
    try:
        shown = json.dumps(value, indent=2, default=_other, allow_nan=False)
    except ValueError:
        shown = json.dumps(_finite(value), indent=2, default=_other)
    return shown.replace("\n", "\n" + "  " * depth)


def _other(value: Any) -> Any:
    """What CBOR has and JSON has not."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
