"""CBOR V2 with the four legs of each exchange, for inspectors of that profile, oldest first; and nothing is lost in it.

    {"magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at": …, "session_id": "llmdump-export-…",
     "metadata": {"config_file": null, "x_legs": 1}}

    dir 0  C->P   the request body as the client sent it
    dir 2  P->B   request line, fields, empty line, body, as they went to the backend
    dir 3  B->P   status line, fields, empty line, body; of a stream a marker `ss`, each read with `ci`, a marker `se`
    dir 1  P->C   the body as the client got it; of a stream the same marks and reads
    dir 1         at last an entry without data: usage (`cu`), how it ended (`eos…` where not as it should)
    after an upgrade each message of a WebSocket, or each read of anything else, on two legs

`sid` is the session, `rid` the exchange. What the profile has no place for has names that begin with `x_`, so that
`llmdump import` puts the same records together again:

    x_head    raw head (on dir 0 the request's, on `ss` or the answer of the proxy itself the response's)
    x_reads   [[µs after ts, size, more entries of that chunk], …] of a body that stands in one entry; x_whole: it is all
    x_more    further entries of a chunk
    x_interim [[ts, head], …]; x_up, x_addr, x_dial, x_new, x_peer, x_client, x_key, x_rule, x_sid, x_be, x_end … as in records

Data longer than 128 bytes is compressed where that makes it shorter, as in the profile; longer than `INLINE_BYTES_MAX` it is a
byte string of pieces (RFC 8949 section 3.2.3), read again and written as it is read.
"""

import math
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import cbor2

from llmdump import heads, segment
from llmdump.reading.framing import WebSocket
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND, PROXY_TO_CLIENT, Record
from llmdump_api.export.selection import Exchange, Selection
from llmdump_api.trace import split_answer

INLINE_BYTES_MAX: Final = 4 * 1024 * 1024
READS_MAX: Final = 10_000
"""Of one body, whose sizes and times are told."""
_COMPRESS_BYTES_MIN: Final = 129
_LEVEL: Final = 1
_STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson", "application/jsonl", "application/vnd.amazon.eventstream")
_INTERIM_MAX: Final = 100
_OF_CHUNKS: Final = frozenset({"sid", "be", "ci", "x_z", "x_f", "x_l"})  # what follows from the rest, or is told elsewhere
_INDEFINITE: Final = b"\x5f"
_BREAK: Final = b"\xff"

Bytes = bytes | Callable[[], Iterator[bytes]]
"""Data that is here, or that is read as it is written."""


def stream(selection: Selection) -> Iterator[bytes]:
    """The file. Raises what reading the selection raises."""
    now = time.time()
    metadata = {"config_file": None, "x_legs": 1}
    about = {"magic": segment.V2_MAGIC, "version": segment.V2_VERSION, "created_at": now}
    yield cbor2.dumps({**about, "session_id": f"llmdump-export-{uuid.uuid4().hex[:12]}", "metadata": metadata})
    out = _Out()
    for exchange in selection.oldest_first():
        yield from _Legs(exchange, out).entries()
    told = {f"x_{name}": value for name, value in selection.told.shown().items()}
    yield from out.entry(out.last_ts or now, PROXY_TO_CLIENT, b"", {"x_k": "footer", **told})


class _Out:
    """Entries as bytes, with their places in the file."""

    def __init__(self) -> None:
        self._seq = 0
        self.last_ts = 0.0
        """The latest so far, at which the file ends: readers tell its duration from its last entry."""

    def entry(self, ts: float, direction: int, data: Bytes, meta: Mapping[str, Any]) -> Iterator[bytes]:
        """One entry. Raises what reading the data raises."""
        front = {"ts": float(ts) if math.isfinite(ts) else 0.0, "dir": direction, "seq": self._seq}
        told = {key: value for key, value in meta.items() if value is not None}
        self._seq += 1
        self.last_ts = max(self.last_ts, front["ts"])
        if isinstance(data, bytes):
            packed = zlib.compress(data, _LEVEL) if len(data) >= _COMPRESS_BYTES_MIN else data
            more = {"data": packed, "enc": "zlib"} if len(packed) < len(data) else {"data": data}
            yield cbor2.dumps({**front, **more, "meta": told})
            return
        yield b"\xa5" + cbor2.dumps(front)[1:] + b"\x64data" + _INDEFINITE
        for piece in data():
            yield cbor2.dumps(piece)
        yield _BREAK + b"\x64meta" + cbor2.dumps(told)


class _Body:
    """What is known of one body after a first look at all records."""

    def __init__(self) -> None:
        self.size = 0
        self.chunks = 0
        self.whole = False
        self.first_ts: float | None = None
        self.reads: list[list[Any]] = []
        self.small: list[bytes] | None = []

    def take(self, record: Record) -> None:
        """The next chunk."""
        self.first_ts = record.ts if self.first_ts is None else self.first_ts
        self.size += len(record.data)
        self.chunks += 1
        self.whole = self.whole or record.ends_body
        if self.chunks <= READS_MAX:
            more = _more(record)
            self.reads.append([_us(record.ts, self.first_ts), len(record.data), *([more] if more else [])])
        if self.size > INLINE_BYTES_MAX:
            self.small = None
        elif self.small is not None:
            self.small.append(record.data)

    def told(self) -> dict[str, Any]:
        """For the entry that the body stands in."""
        reads = self.reads if self.chunks <= READS_MAX else None
        return {"x_reads": reads, "x_from": self.first_ts, "x_whole": self.whole or None} if self.chunks else {}


class _Facts(NamedTuple):
    """What is told of an exchange beside its bodies."""

    request: Record | None
    forward: Record | None
    response: Record | None
    """A head, or an answer of the proxy itself."""
    end: Record | None
    interim: list[list[Any]]
    upgraded: bool


class _Legs:
    """The entries of one exchange."""

    def __init__(self, exchange: Exchange, out: _Out) -> None:
        self._exchange = exchange
        self._out = out
        self._bodies = {CLIENT_TO_PROXY: _Body(), BACKEND_TO_PROXY: _Body()}
        self._facts = self._look()
        row, request = exchange.row, self._facts.request
        fields = heads.parse(request.data) if request else heads.parse(b"")
        self._start = fields.start
        client = row["client"] or ""
        self._common = {
            "sid": row["session_root_id"], "rid": row["id"], "mod": row["model"] or "unknown", "wire_schema": "v2",
            "host": client.rpartition(":")[0].strip("[]") or None, "ua": fields.first("user-agent") or None,
            "transport": "websocket" if self._is_websocket else "http",
        }  # fmt: skip

    def entries(self) -> Iterator[bytes]:
        """All of them. Raises OSError, ValueError."""
        facts = self._facts
        if facts.request is not None:
            yield from self._asked(facts.request)
        if facts.forward is not None:
            yield from self._sent_on(facts.forward)
        if facts.response is not None and facts.response.kind == "answer":
            yield from self._own_answer(facts.response)
        elif facts.response is not None:
            yield from self._answered(facts.response)
        if facts.upgraded:
            yield from self._piped()
        if facts.end is not None:
            yield from self._ended(facts.end)

    def _look(self) -> _Facts:
        request = forward = response = end = None
        interim: list[list[Any]] = []
        upgraded = False
        for record in self._exchange.records():
            if record.kind == "chunk" and record.direction in self._bodies:
                self._bodies[record.direction].take(record)
            elif record.kind == "head" and record.direction == CLIENT_TO_PROXY:
                request = record
            elif record.kind in {"head", "answer"}:
                response = record
            elif record.kind == "forward":
                forward = record
            elif record.kind == "interim" and len(interim) < _INTERIM_MAX:
                interim.append([record.ts, record.data])
            elif record.kind == "end":
                end = record
            upgraded = upgraded or record.kind == "pipe"
        return _Facts(request, forward, response, end, interim, upgraded)

    @property
    def _is_websocket(self) -> bool:
        response = self._facts.response
        return bool(response and heads.parse(response.data).first("upgrade").lower() == "websocket")

    @property
    def _backend(self) -> str:
        return self._exchange.row["backend"] or self._exchange.row["provider"] or "unknown"

    def _client_side(self, **meta: Any) -> dict[str, Any]:
        return {**self._common, "be": "proxy", **meta}

    def _backend_side(self, **meta: Any) -> dict[str, Any]:
        return {**self._common, "be": self._backend, "key": self._exchange.row["key_hash"], **meta}

    # --- the request

    def _asked(self, head: Record) -> Iterator[bytes]:
        method, target, http_version = self._start
        meta = {name: head.meta.get(name) for name in ("x_peer", "x_key", "x_rule", "x_bad", "x_client")}
        meta |= {"x_sid": head.meta.get("sid"), "x_be": head.meta.get("be"), "x_head": head.data}
        told = {"event": "request", "http_method": method, "url": target, "http_version": http_version}
        body = self._bodies[CLIENT_TO_PROXY]
        meta = {**self._common, "be": "client", **told, **meta, **body.told()}
        yield from self._out.entry(head.ts, CLIENT_TO_PROXY, self._data(CLIENT_TO_PROXY), meta)

    def _sent_on(self, forward: Record) -> Iterator[bytes]:
        meta = {name: forward.meta.get(name) for name in ("x_up", "x_addr", "x_dial", "x_new")}
        told = self._backend_side(event="request", x_head_bytes=len(forward.data), **meta)
        yield from self._out.entry(forward.ts, PROXY_TO_BACKEND, self._data(CLIENT_TO_PROXY, forward.data), told)

    # --- the response

    def _answered(self, head: Record) -> Iterator[bytes]:
        fields = heads.parse(head.data)
        status = {"sc": head.meta.get("sc"), "http_status": head.meta.get("sc"), "http_reason": fields.start[2] or None}
        status |= {"event": "response", "x_ttfb": head.meta.get("ttfb"), "x_interim": self._facts.interim or None}
        body = self._bodies[BACKEND_TO_PROXY]
        if fields.first("content-type").lower().startswith(_STREAM_TYPES):
            yield from self._streamed(head, status)
            return
        ttfb = self._since_forward_ms(head.ts)
        meta = self._backend_side(**status, ttfb=ttfb, x_head_bytes=len(head.data), **body.told())
        yield from self._out.entry(head.ts, BACKEND_TO_PROXY, self._data(BACKEND_TO_PROXY, head.data), meta)
        if body.chunks:
            meta = self._client_side(event="response", sc=head.meta.get("sc"))
            yield from self._out.entry(head.ts, PROXY_TO_CLIENT, self._data(BACKEND_TO_PROXY), meta)

    def _streamed(self, head: Record, status: dict[str, Any]) -> Iterator[bytes]:
        entry, sc = self._out.entry, head.meta.get("sc")
        yield from entry(head.ts, BACKEND_TO_PROXY, b"", self._backend_side(**status, ss=True, x_head=head.data))
        yield from entry(head.ts, PROXY_TO_CLIENT, b"", self._client_side(event="response", sc=sc, ss=True))
        index, ended = 0, None
        for record in self._exchange.records():
            if record.kind != "chunk" or record.direction != BACKEND_TO_PROXY:
                continue
            index += 1
            ttfb = {"ttfb": self._since_forward_ms(record.ts)} if index == 1 else {}
            more = {"x_more": _more(record) or None, "x_whole": record.ends_body or None}
            yield from entry(record.ts, BACKEND_TO_PROXY, record.data, self._backend_side(ci=index, **ttfb, **more))
            yield from entry(record.ts, PROXY_TO_CLIENT, record.data, self._client_side(ci=index))
            ended = record.ts if record.ends_body else ended
        if ended is not None:
            yield from self._stream_ends(head, ended)

    def _stream_ends(self, head: Record, ended: float) -> Iterator[bytes]:
        body = self._bodies[BACKEND_TO_PROXY]
        counts = {"se": True, "tc": body.chunks, "tb": body.size, "sdur": _us(ended, head.ts) / 1000}
        meta = self._backend_side(**counts, lat=self._since_forward_ms(ended))
        yield from self._out.entry(ended, BACKEND_TO_PROXY, b"", meta)
        yield from self._out.entry(ended, PROXY_TO_CLIENT, b"", self._client_side(**counts))

    def _own_answer(self, answer: Record) -> Iterator[bytes]:
        head, body = split_answer(answer)
        meta = self._client_side(event="response", sc=answer.meta.get("sc"), http_status=answer.meta.get("sc"), x_head=head)
        yield from self._out.entry(answer.ts, PROXY_TO_CLIENT, body, meta)

    # --- what went through after an upgrade

    def _piped(self) -> Iterator[bytes]:
        response = self._facts.response
        socket = WebSocket(heads.parse(response.data).fields) if response and self._is_websocket else None
        for record in self._exchange.records():
            if record.kind != "pipe":
                continue
            for kind, data in _messages(socket, record):
                meta = {"event": "frame", "ws_message_type": kind}
                first, second = self._client_side(**meta), self._backend_side(**meta)
                if record.direction == CLIENT_TO_PROXY:
                    yield from self._out.entry(record.ts, CLIENT_TO_PROXY, data, {**first, "be": "client"})
                    yield from self._out.entry(record.ts, PROXY_TO_BACKEND, data, second)
                else:
                    yield from self._out.entry(record.ts, BACKEND_TO_PROXY, data, second)
                    yield from self._out.entry(record.ts, PROXY_TO_CLIENT, data, first)

    # --- the end

    def _ended(self, end: Record) -> Iterator[bytes]:
        row = self._exchange.row
        usage = {
            "provider_id": row["provider"], "model_id": row["model"], "request_id": row["id"], "protocol": row["api"],
            "prompt_tokens": row["input_tokens"], "completion_tokens": row["output_tokens"],
            "total_tokens": row["total_tokens"], "cost": row["cost_usd"], **_outcome(row, end),
        }  # fmt: skip
        cu = {name: value for name, value in usage.items() if value is not None}
        own = {name: end.meta.get(name) for name in ("x_end", "x_err", "x_own", "x_lost", "x_req")}
        counts = {"x_tc": end.meta.get("tc"), "x_tb": end.meta.get("tb")}
        meta = self._client_side(cu=cu, **own, **counts, **_end_of_stream(end, row["status"]))
        yield from self._out.entry(end.ts, PROXY_TO_CLIENT, b"", meta)

    # --- bytes and times

    def _data(self, direction: int, head: bytes = b"") -> Bytes:
        """Head and body; a large body is read again."""
        body = self._bodies[direction]
        if body.small is not None:
            return head + b"".join(body.small)
        return lambda: self._pieces(direction, head)

    def _pieces(self, direction: int, head: bytes) -> Iterator[bytes]:
        if head:
            yield head
        for record in self._exchange.records():
            if record.kind == "chunk" and record.direction == direction:
                yield record.data

    def _since_forward_ms(self, ts: float) -> float | None:
        forward = self._facts.forward
        return _us(ts, forward.ts) / 1000 if forward is not None else None


def _messages(socket: WebSocket | None, record: Record) -> Iterable[tuple[str, bytes]]:
    if socket is None:
        return [("binary", record.data)]
    return [
        ("text" if event.kind == "text" else "binary", event.data) for event in socket.feed(record.direction, record.data, 0)
    ]


def _more(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.meta.items() if key not in _OF_CHUNKS}


def _outcome(row: Mapping[str, Any], end: Record) -> dict[str, Any]:
    if end.meta.get("x_end") == "complete":
        return {"completion_outcome": "complete"}
    why = {"client_closed": "client_disconnect", "upstream_closed": "backend_error", "upstream_error": "backend_error"}
    reason = why.get(str(row["end_reason"]), "timeout" if row["end_reason"] == "timeout" else "unknown")
    return {"completion_outcome": "incomplete", "incomplete_reason": reason}


def _end_of_stream(end: Record, status: int | None) -> dict[str, Any]:
    """`eos…` of an exchange that did not end as it should."""
    reason = end.meta.get("x_end")
    if reason == "complete":
        return {}
    signal = "client_termination" if reason == "client_closed" else "error_termination"
    of_backend = reason in {"upstream_closed", "upstream_error"}
    kind = "transport_error" if of_backend else "unknown_error"
    told = {"eos": True, "eos_signal": signal, "eos_reason": end.meta.get("x_err") or str(reason), "eos_term": "error"}
    return {**told, "eos_err_cls": kind, "eos_err_code": status if status and status >= 400 else None}


def _us(ts: float, after: float) -> int:
    """µs between two times, 0 where one is no time."""
    difference = ts - after
    return max(0, round(difference * 1e6)) if abs(difference) < 1e9 else 0
