"""Traces, a JSON object a line: api-log's, and what `llmdump export --format jsonl` and zip write. Blocking.

Theirs has a body as JSON, as `events` with `t_delta_ms`, or as `body_b64`; ours the same shapes and, beside them, the raw
head, a body that is not JSON as text or base64, and when its reads came. A body is decoded in both, so Content-Encoding is
taken out of the head. Of a stream that is there as events only, these are put into SSE again, one chunk each; comments, ids
and `[DONE]` beyond what `stream_done` says are not in that file.
"""

import itertools
import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, BinaryIO, Final

import msgspec
import orjson

from llmdump.importing import parts
from llmdump.importing.parts import Fields, Item, Made, Part, Problem, UnusableError
from llmdump.metrics import END_REASONS
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY

LINE_BYTES_MAX: Final = 256 * 1024 * 1024
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENDS_BY_ITSELF: Final = ("message_stop", "response.completed", "response.incomplete", "response.failed")


class _Message(msgspec.Struct):
    headers: dict[str, str] | list[tuple[str, str]] = {}
    head: str = ""
    body: msgspec.Raw = msgspec.Raw(b"")
    body_text: str | None = None
    body_b64: str | None = None
    body_problem: str | None = None
    body_truncated: bool = False
    complete: bool = True
    events: list[dict[str, Any]] | None = None
    stream_done: bool = False
    chunks: list[dict[str, Any]] = []
    chunks_total: int = 0


class _Trace(msgspec.Struct):
    id: str
    ts_start: str
    method: str | None
    path: str | None
    req: _Message
    resp: _Message
    ts_end: str | None = None
    client: str | None = None
    upstream: str | None = None
    status: int | None = None
    disconnected: bool = False
    key_hash: str | None = None
    answered_by_proxy: bool = False
    upgraded: bool = False
    end: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    """Ours only; null where the exchange had not ended."""


_DECODER = msgspec.json.Decoder(_Trace)


def read(file: BinaryIO) -> Iterator[Item]:
    """The exchanges of the lines, and those lines that are none. Raises OSError."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX):
        number += 1
        where = f"line {number}"
        if not line.strip() or line.startswith(b'{"llmdump_export":'):
            continue
        try:
            yield _exchange(where, _DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, UnusableError) as err:
            torn = "" if line.endswith(b"\n") else " (the line is cut short)"
            yield Problem(where, f"{err}{torn}")


def _exchange(where: str, trace: _Trace) -> Made:
    began = parts.seconds(trace.ts_start)
    if trace.upgraded:
        raise UnusableError("an upgraded connection is not in this form; export it as cbor, har or wire-jsonl")
    head = _request_head(trace)
    head, found = parts.masked(head)
    made = [Part(began, CLIENT_TO_PROXY, "head", head, _peer(trace, parts.key_hash(trace.key_hash, found)))]
    made += _body(trace.req, CLIENT_TO_PROXY, began, began)
    if not trace.answered_by_proxy:
        made.append(parts.forward(began, head, trace.upstream or ""))
    ended = parts.seconds(trace.ts_end) if trace.ts_end else began
    made += _response(trace, began, ended)
    if trace.end is not None:
        made.append(_end(trace, ended, made))
    return Made(where, _uuid(trace.id), {}, made)


def _request_head(trace: _Trace) -> bytes:
    if trace.req.head:
        return _own_head(trace.req)
    fields = parts.for_body(_fields(trace.req), decoded=trace.req.body_b64 is None)
    return parts.request_head(trace.method or "", trace.path or "", "HTTP/1.1", fields)


def _own_head(message: _Message) -> bytes:
    """The head as it was received, without a coding that is undone."""
    lines = message.head.removesuffix("\r\n\r\n").split("\r\n")
    if message.body_problem is None:
        lines = [line for line in lines if not line.lower().startswith("content-encoding:")]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _fields(message: _Message) -> Fields:
    return list(message.headers.items()) if isinstance(message.headers, dict) else list(message.headers)


def _peer(trace: _Trace, key_hash: str) -> dict[str, Any]:
    return {"x_peer": trace.client or "", "x_key": key_hash}


def _response(trace: _Trace, began: float, ended: float) -> Iterator[Part]:
    message = trace.resp
    if message.head:
        head = _own_head(message)
    elif trace.status:
        fields = parts.for_body(_fields(message), decoded=message.body_b64 is None)
        head = parts.response_head(trace.status, "", "HTTP/1.1", fields)
    else:
        return
    if trace.answered_by_proxy:
        yield Part(ended, 1, "answer", head + _raw(message), {"sc": trace.status})
        return
    yield Part(_first(message, began, ended), BACKEND_TO_PROXY, "head", head, {"sc": trace.status, "ttfb": 0.0})
    yield from _body(message, BACKEND_TO_PROXY, began, ended)


def _first(message: _Message, began: float, ended: float) -> float:
    """When the body began: of the head's own time there is nothing in the file."""
    times = [one.get("t_ms") for one in message.chunks] or [one.get("t_delta_ms") for one in message.events or ()]
    return began + parts.number(times[0]) / 1000 if times and times[0] is not None else ended


def _body(message: _Message, direction: int, began: float, ended: float) -> Iterator[Part]:
    data = _raw(message)
    if message.events is not None and not data:
        yield from parts.reads(direction, _events(message, began, ended), whole=True)
        return
    whole = message.complete and not message.body_truncated
    kept = [int(parts.number(one.get("kept", one.get("size")))) for one in message.chunks]
    if len(kept) == message.chunks_total and sum(kept) == len(data):
        pieces = (data[begin:end] for begin, end in pairwise(itertools.accumulate(kept, initial=0)))
        times = (began + parts.number(one.get("t_ms")) / 1000 for one in message.chunks)
        read = parts.reads(direction, zip(times, pieces, strict=True), whole=whole)
        for part, one in zip(read, message.chunks, strict=True):
            part.meta.update({"x_cut": int(parts.number(one.get("size")))} if "kept" in one else {})
        yield from read
        return
    yield from parts.body(direction, data, ended, whole=whole)


def _events(message: _Message, began: float, ended: float) -> list[tuple[float, bytes]]:
    """api-log's events as SSE again, each when it came, if that is known."""
    found = []
    for event in message.events or ():
        delta, name, data = event.get("t_delta_ms"), str(event.get("event") or ""), event.get("data")
        text = data.encode() if isinstance(data, str) else orjson.dumps(data)
        lines = b"".join(b"data: %b\n" % line for line in text.split(b"\n"))
        at = ended if delta is None else began + parts.number(delta) / 1000
        found.append((at, (b"event: %b\n" % name.encode() if name else b"") + lines + b"\n"))
    last = (message.events or [{}])[-1]
    if message.stream_done and last.get("event") not in _ENDS_BY_ITSELF:
        found.append((found[-1][0] if found else ended, b"data: [DONE]\n\n"))
    return found


def _raw(message: _Message) -> bytes:
    """The body's bytes, as far as the file has them."""
    if message.body_b64 is not None:
        return parts.unbase64(message.body_b64)
    if message.body_text is not None:
        return message.body_text.encode()
    data = bytes(message.body)
    return b"" if data == b"null" else data


def _end(trace: _Trace, ended: float, made: list[Part]) -> Part:
    told = trace.end if isinstance(trace.end, dict) else {}
    reason = told.get("reason")
    if reason not in END_REASONS:
        reason = "upstream_closed" if trace.disconnected else "upstream_error" if trace.status is None else "complete"
    own = [told.get(name) for name in ("own_first_us", "own_worst_us", "own_sum_us")]
    return parts.end(ended, made, reason, str(told.get("error_code") or ""), x_own=own)


def _uuid(told: str) -> str:
    """The id if it is a UUID, or a ULID (the same 128 bits in other digits)."""
    try:
        if len(told) == 26:
            value = 0
            for digit in told.upper():
                value = value * 32 + _CROCKFORD.index(digit)
            return str(uuid.UUID(int=value))
        return str(uuid.UUID(told))
    except ValueError:
        return ""
