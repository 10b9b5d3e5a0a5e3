"""Entries out of JSONL captures as the buffered format has them: one object a line, 14 keys, twelve directions. No I/O.

    inbound_request C->P   outbound_request P->B   inbound_response, stream_* B->P   outbound_response, outbound_stream_* P->C

Our own JSONL segments have the same keys; their lines that are records are told by their `metadata.x_n` and are read by
`jsonl`, not here.
"""

import base64
import binascii
from typing import Any, Final

from llmdump.captures.entry import (
    BACKEND_TO_PROXY,
    CLIENT_TO_PROXY,
    EXPANDED,
    ITSELF,
    PROXY_TO_BACKEND,
    PROXY_TO_CLIENT,
    Entry,
)
from llmdump.reading.typed import decoded, encoded, mapping

_DIRECTIONS: Final = {
    "system_init": ITSELF, "inbound_request": CLIENT_TO_PROXY, "outbound_request": PROXY_TO_BACKEND,
    "inbound_response": BACKEND_TO_PROXY, "outbound_response": PROXY_TO_CLIENT, "stream_start": BACKEND_TO_PROXY,
    "stream_chunk": BACKEND_TO_PROXY, "stream_end": BACKEND_TO_PROXY, "stream_completion": BACKEND_TO_PROXY,
    "outbound_stream_start": PROXY_TO_CLIENT, "outbound_stream_chunk": PROXY_TO_CLIENT, "outbound_stream_end": PROXY_TO_CLIENT,
}  # fmt: skip
_COMPACT: Final = {expanded: compact for compact, expanded in EXPANDED.items()} | {
    "chunk_number": "ci", "total_chunks": "tc", "total_bytes": "tb",
}  # fmt: skip
_OF_LINE: Final = (("session_id", "sid"), ("backend", "be"), ("model", "mod"), ("key_name", "key"))
UNKNOWN_DIRECTION: Final = 255


def entry(line: bytes, seq: int, file: str, offset: int = -1) -> Entry | None:
    """The entry of a line; None if it is none. `seq` is for a line without its number, the rest as for `Entry`."""
    found = decoded(line)
    if not isinstance(found, dict) or not isinstance(found.get("direction"), str):
        return None
    ts = found.get("timestamp_unix")
    if not isinstance(ts, int | float):
        return None
    direction, own = found["direction"], found.get("sequence")
    return Entry(
        own if isinstance(own, int) else seq,
        float(ts),
        _DIRECTIONS.get(direction, UNKNOWN_DIRECTION),
        b"" if direction.endswith(("_start", "_end", "_completion")) else _data(found.get("payload")),
        _meta(found, direction),
        file,
        offset,
    )


def _data(payload: Any) -> bytes:
    if payload is None:
        return b""
    if isinstance(payload, str):
        return payload.encode("utf-8", "replace")
    if isinstance(payload, dict):
        if payload.get("encoding") == "base64":
            return _from_base64(payload.get("data"))
        raw = mapping(payload.get("raw"))
        if isinstance(raw.get("preview"), str) and not raw.get("truncated"):
            return bytes(raw["preview"].encode("utf-8", "replace"))
        payload = payload.get("parsed", payload)
    return encoded(payload).encode("utf-8", "replace")


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


def _meta(found: dict[str, Any], direction: str) -> dict[str, Any]:
    meta = {compact: found[name] for name, compact in _OF_LINE if isinstance(found.get(name), str)}
    for name, value in mapping(found.get("metadata")).items():
        if value is not None:
            meta[_COMPACT.get(name, name)] = value
    if direction.endswith("stream_start"):
        meta["ss"] = True
    elif direction.endswith("stream_end"):
        meta["se"] = True
        meta |= {_COMPACT[name]: value for name, value in mapping(found.get("payload")).items() if name in _COMPACT}
    elif isinstance(meta.get("eos_metadata"), dict):
        meta = {"eos": True, **{_COMPACT.get(name, name): value for name, value in meta.pop("eos_metadata").items()}, **meta}
    return meta
