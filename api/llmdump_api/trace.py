"""One exchange as people read it, put together from its records. Pure.

    {id, ts_start, … the facts of its row …,
     req:  {head, http_version, headers, fields, body | events | body_b64, body_text, body_bytes, complete, chunks, …},
     resp: {…the same, status…},
     interim: [{t_ms, status, head, headers}],  forwarded: {t_ms, head, headers, to, address, dial_ms, new_connection},
     end: {t_ms, reason, …}, missing_segments: []}

Bodies are shown decoded (Content-Encoding undone) and parsed, up to a limit; what exactly crossed is at /request and
/response. A JSON body is spliced into the answer byte for byte, so that numbers, order and doubled keys stay.

The shape holds api-log's within it, which its viewer reads: `headers` as one object, `events` with `stream_done`, and
`body_b64` with `parse_error` for what is no JSON. What that loses is beside it: `fields`, `body_text`, `chunks`.
"""

import base64
from collections.abc import Iterable
from typing import Any, Final

import orjson

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_api.events import Events

INLINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a body, decoded, within the JSON answer; the rest is at /request or /response."""
CHUNKS_MAX: Final = 10_000
"""Chunks listed for each side; `chunks_total` counts all."""
INTERIM_MAX: Final = 100

_FACTS: Final = (
    "id", "ts_start", "ts_end", "client", "method", "path", "upstream", "status", "disconnected", "truncated_req",
    "truncated_resp", "provider", "key_hash",
)  # fmt: skip


class Side:
    """The request or the response while its records pass by."""

    def __init__(self, ts_start_ms: int) -> None:
        self._ts_start_ms = ts_start_ms
        self._head = b""
        self._content_type = ""
        self._body = bytearray()
        self._decoder: Decoder | None = None
        self._undecoded: str | None = None
        self._chunks: list[dict[str, Any]] = []
        self._chunks_total = 0
        self._bytes = 0
        self._kept = 0
        self._complete = False
        self._truncated = False
        self._events: Events | None = None

    def head(self, head: bytes) -> None:
        """The message's head as received."""
        self._head = head
        parsed = heads.parse(head)
        self._content_type = parsed.first("content-type").lower()
        codings = parsed.all("content-encoding")
        try:
            self._decoder = Decoder(codings, INLINE_BYTES_MAX) if codings else None
        except ValueError as err:
            self._undecoded = str(err)
        if self._content_type.startswith("text/event-stream"):
            self._events = Events()

    def payload(self, record: Record) -> None:
        """A chunk, or bytes after an upgrade."""
        meta = record.meta
        size = meta.get("x_cut", len(record.data))
        if len(self._chunks) < CHUNKS_MAX:
            chunk = {
                "t_ms": t_ms(record.ts, self._ts_start_ms), "offset": self._bytes, "size": size, "record": record.number
            }  # fmt: skip
            if size != len(record.data):
                chunk["kept"] = len(record.data)
            self._chunks.append(chunk)
        self._chunks_total += 1
        self._bytes += size
        self._complete = self._complete or bool(meta.get("x_z"))
        self.body(record.data, record.ts)

    def body(self, data: bytes, ts: float) -> None:
        """Body bytes as they crossed, then."""
        self._kept += len(data)
        decoded = self._decoder.feed(data) if self._decoder else data
        room = INLINE_BYTES_MAX - len(self._body)
        self._truncated = self._truncated or len(decoded) > room
        self._body += decoded[:room]
        if self._events and room > 0:
            self._events.feed(decoded[:room], t_ms(ts, self._ts_start_ms))

    def shown(self, where: str) -> dict[str, Any]:
        """This side of the answer; `where` is the path of its raw body."""
        parsed = heads.parse(self._head)
        problem = self._undecoded or (self._decoder.problem if self._decoder else "")
        return {
            "head": self._head.decode("latin-1"),
            "http_version": _version(parsed),
            "headers": joined(parsed.fields, decoded=self._decoder is not None),
            "fields": parsed.fields,
            **self._shown_body(),
            "body_bytes": self._bytes or self._kept,
            "body_truncated": self._truncated or problem == "limit",
            "body_url": where,
            **({"body_problem": problem} if problem not in {"", "limit"} else {}),
            "complete": self._complete,
            "chunks": self._chunks,
            "chunks_total": self._chunks_total,
        }

    def _shown_body(self) -> dict[str, Any]:
        """The body in the form that says most: JSON, else events, else text and base64."""
        body = bytes(self._body)
        if not body:
            return {"body": None}
        if (shown := _json(body, self._content_type)) is not None:
            return {"body": shown}
        events, packed = self._events.shown() if self._events else {}, {"body_b64": base64.b64encode(body).decode("ascii")}
        if events:
            return {**events, **(_text(body) or packed)}
        return {**_text(body), **packed, **self._parse_error()}

    def _parse_error(self) -> dict[str, str]:
        if self._events:
            return {"parse_error": "sse: no event, and no JSON"}
        return {"parse_error": "json: the body is none"} if "json" in self._content_type else {}


def build(row: dict[str, Any], ts_start_ms: int, records: Iterable[Record], missing: list[str]) -> dict[str, Any]:
    """The answer's `trace`. `row` is the row object, `missing` the segments that were deleted."""
    req, resp = Side(ts_start_ms), Side(ts_start_ms)
    sides = {CLIENT_TO_PROXY: req, BACKEND_TO_PROXY: resp}
    interim: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"forwarded": None, "end": None, "upgraded": False, "answered_by_proxy": False}
    for record in records:
        if record.kind in {"chunk", "pipe"}:
            sides[record.direction].payload(record)
            facts["upgraded"] = facts["upgraded"] or record.kind == "pipe"
        elif record.kind == "head":
            sides[record.direction].head(record.data)
        elif record.kind == "interim" and len(interim) < INTERIM_MAX:
            interim.append(_interim(record, ts_start_ms))
        elif record.kind == "forward":
            facts["forwarded"] = _forwarded(record, ts_start_ms)
        elif record.kind == "answer":
            facts["answered_by_proxy"] = True
            head, body = split_answer(record)
            resp.head(head)
            resp.body(body, record.ts)
        elif record.kind == "end":
            facts["end"] = _end(record, ts_start_ms)
    where = f"/api/traces/{row['id']}"
    return {
        **{name: row[name] for name in _FACTS},
        "req": req.shown(f"{where}/request"),
        "resp": resp.shown(f"{where}/response"),
        "interim": interim,
        **facts,
        "missing_segments": missing,
    }


def split_answer(record: Record) -> tuple[bytes, bytes]:
    """Head and body of a response that the proxy itself made."""
    head, separator, body = record.data.partition(b"\r\n\r\n")
    return head + separator, body


def t_ms(ts: float, ts_start_ms: int) -> float:
    """Ms since the exchange began, to the µs."""
    return round(ts * 1000 - ts_start_ms, 3)


def _version(head: heads.Head) -> str | None:
    return next((part for part in (head.start[2], head.start[0]) if part.startswith("HTTP/")), None)


def joined(fields: list[tuple[str, str]], *, decoded: bool = False) -> dict[str, str]:
    """Fields as one object, as api-log has them: names in canonical case, several values with commas between. Of a body that
    was `decoded`, without its coding."""
    found: dict[str, str] = {}
    for name, value in fields:
        key = "-".join(part.capitalize() for part in name.split("-"))
        if not (decoded and key == "Content-Encoding"):
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _json(body: bytes, content_type: str) -> orjson.Fragment | None:
    """The body, if it is JSON, whatever it is called."""
    if "json" not in content_type and body.lstrip()[:1] not in {b"{", b"["}:
        return None
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return None  # mislabelled, cut, or several documents
    return orjson.Fragment(body)


def _text(body: bytes) -> dict[str, str]:
    try:
        return {"body_text": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {}


def _interim(record: Record, ts_start_ms: int) -> dict[str, Any]:
    parsed = heads.parse(record.data)
    return {
        "t_ms": t_ms(record.ts, ts_start_ms),
        "status": record.meta.get("sc"),
        "head": record.data.decode("latin-1"),
        "headers": joined(parsed.fields),
        "fields": parsed.fields,
    }


def _forwarded(record: Record, ts_start_ms: int) -> dict[str, Any]:
    meta, fields = record.meta, heads.parse(record.data).fields
    return {
        "t_ms": t_ms(record.ts, ts_start_ms),
        "to": meta.get("x_up"),
        "address": meta.get("x_addr"),
        "dial_ms": meta.get("x_dial"),
        "new_connection": meta.get("x_new"),
        "head": record.data.decode("latin-1"),
        "headers": joined(fields),
        "fields": fields,
    }


def _end(record: Record, ts_start_ms: int) -> dict[str, Any]:
    meta = record.meta
    own = meta.get("x_own") or [None, None, None]
    return {
        "t_ms": t_ms(record.ts, ts_start_ms),
        "reason": meta.get("x_end"),
        "error_code": meta.get("x_err") or None,
        "own_first_us": own[0],
        "own_worst_us": own[1],
        "own_sum_us": own[2],
        "records_lost": meta.get("x_lost"),
    }
