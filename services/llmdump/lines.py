"""Records become JSONL lines: which direction a line has, who spoke to whom, which model; and whole bodies for jq.

Pure: records in, bytes out. What a line needs from earlier records of its exchange is kept until the exchange ends,
within the limits below; a line of an exchange whose beginning is not known (a restart, a limit) is still exact, only
plainer. Directions:

    head 0          inbound_request            chunk 0   outbound_request where it is a whole JSON object, else request_chunk
    forward         request_forwarded          head 3    stream_start or response_head, by its content-type
    interim         response_interim           chunk 3   stream_chunk; inbound_response as for requests, else response_chunk
    answer          outbound_response          end       stream_end or exchange_end
    pipe            pipe_from_client, pipe_from_backend
    hello, bye, gap, footer                    proxy_start, proxy_end, records_missing, segment_end

A body in several chunks, or one that cannot stand in a line as it is, comes whole in a derived line `outbound_request`
or `inbound_response`, its payload always an object or null: a JSON object as it is, other JSON as {"value": …}, text
as {"text": …}, anything else as {"encoding": "base64", "data": …}. Content encodings are undone there, never in records.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

from llmdump import jsonl
from llmdump.jsonl import Line, Payload
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, NO_EXCHANGE, Record
from llmdump.seekable import zstd

OPEN_EXCHANGES_MAX: Final = 20_000
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest body, received or decoded, that is put together for a derived line."""
BODIES_BYTES_MAX: Final = 128 * 1024 * 1024
"""All bodies being put together at one time."""

STREAM_TYPES: Final = (
    b"text/event-stream", b"application/x-ndjson", b"application/jsonl", b"application/vnd.amazon.eventstream",
)  # fmt: skip
_UNKNOWN: Final = "unknown"
_FIXED: Final = {
    "forward": "request_forwarded", "interim": "response_interim", "answer": "outbound_response", "hello": "proxy_start",
    "bye": "proxy_end", "gap": "records_missing", "footer": "segment_end",
}  # fmt: skip
_MODEL_IN_PATH = re.compile(rb"/models/([A-Za-z0-9._-]{1,128})[:/? ]")
_MODEL_IN_BODY = re.compile(rb'"model(?:Version)?"\s*:\s*"([^"\\\x00-\x1f]{1,128})"')
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class _Model(msgspec.Struct):
    model: str = ""


_MODEL = msgspec.json.Decoder(_Model)


class _Body:
    """One message body on its way."""

    __slots__ = ("chunks", "cut", "encoding", "note", "parts", "size")

    def __init__(self) -> None:
        self.encoding = b""
        self.parts: list[bytes] = []
        self.size = 0
        self.chunks = 0
        self.cut = False
        """Whether capture left some of it out on purpose."""
        self.note = ""
        """Why it is not put together, if it is not."""


class _Exchange:
    """What lines of an exchange need from the records before."""

    __slots__ = (
        "agent", "backend", "bodies", "client", "has_request_body", "host", "key", "model", "session", "status", "stream",
    )  # fmt: skip

    def __init__(self) -> None:
        self.host: str | None = None
        self.agent: str | None = None
        self.client = "unknown_client"
        self.session: str | None = None
        self.backend = _UNKNOWN
        self.model = _UNKNOWN
        self.key = ""
        self.stream = False
        self.status = 0
        self.has_request_body = True
        self.bodies = {CLIENT_TO_PROXY: _Body(), BACKEND_TO_PROXY: _Body()}


class Converter:
    """Gives the lines of each record, in order. Memory: `BODIES_BYTES_MAX`, and a few hundred bytes an open exchange."""

    def __init__(self) -> None:
        self._open: dict[str, _Exchange] = {}
        self._sequence = 0
        self._bodies_bytes = 0

    def begin_file(self, ts: float, metadata: dict[str, Any]) -> bytes:
        """The first line of a file."""
        line = self._line(ts, "system_init", "wire_capture_service", "file_system", None)
        about = {
            "message": "capture file begins",
            "format_version": "buffered_v1",
            "format_description": "One JSON object a line; metadata.x_n marks the lines that are records.",
        }
        json = orjson.dumps(about)
        nobody = {"client_host": None, "user_agent": None, "request_id": None, "implementation": "llmdump"}
        line = line._replace(backend="system", model="system", key_name="system")
        return jsonl.encode(line, Payload("json", len(json), json), nobody | metadata)

    def lines(self, record: Record) -> list[bytes]:
        """The line of a record, and before it the derived lines that it completes."""
        if record.exchange == NO_EXCHANGE:
            return [self._record_line(record, self._direction(record, None), None, {})]
        exchange = self._exchange(record)
        _learn(exchange, record)
        payload = jsonl.payload_of(record.data)
        direction, lines, told = self._place(record, exchange, payload)
        lines.append(self._record_line(record, direction, exchange, told, payload))
        if record.kind == "end":
            self._close(record.exchange)
        return lines

    def forget(self, exchanges: Iterable[str]) -> None:
        """Drop what is known of these: their last records were not stored and will come again."""
        for exchange in exchanges:
            self._close(exchange)

    # --- state

    def _exchange(self, record: Record) -> _Exchange:
        found = self._open.get(record.exchange)
        if found is None:
            if len(self._open) >= OPEN_EXCHANGES_MAX:
                self._close(next(iter(self._open)))
            found = self._open[record.exchange] = _Exchange()
            if not (record.kind == "head" and record.direction == CLIENT_TO_PROXY):
                for body in found.bodies.values():
                    body.note = "the beginning of this exchange is not known here"
        return found

    def _close(self, exchange: str) -> None:
        found = self._open.pop(exchange, None)
        for body in found.bodies.values() if found else ():
            self._drop(body)

    def _drop(self, body: _Body, note: str = "") -> None:
        self._bodies_bytes -= sum(map(len, body.parts))
        body.parts, body.note = [], note or body.note

    # --- where a record stands in its exchange

    def _place(self, record: Record, exchange: _Exchange, payload: Payload) -> tuple[str, list[bytes], dict[str, Any]]:
        """Direction, derived lines, and what people are told in the metadata."""
        if record.kind == "chunk" and record.direction in exchange.bodies:
            return self._place_chunk(record, exchange, payload)
        lines = []
        if record.kind == "forward" and not exchange.has_request_body:
            lines = [self._derived(record, exchange, CLIENT_TO_PROXY, {})]
        if record.kind == "end":
            return self._place_end(record, exchange)
        return self._direction(record, exchange), lines, {}

    def _place_chunk(self, record: Record, exchange: _Exchange, payload: Payload) -> tuple[str, list[bytes], dict[str, Any]]:
        body = exchange.bodies[record.direction]
        body.chunks += 1
        whole_name, part_name = _BODY_NAMES[record.direction]
        if record.direction == BACKEND_TO_PROXY and exchange.stream:
            return "stream_chunk", [], {}
        if record.ends_body and record.meta.get("ci") == 1 and payload.content_type == "json" and "x_cut" not in record.meta:
            return whole_name, [], {}
        self._add(body, record)
        if not record.ends_body:
            return part_name, [], {}
        if body.note:
            return part_name, [], {"note": body.note}
        return part_name, [self._derived(record, exchange, record.direction, {})], {}

    def _place_end(self, record: Record, exchange: _Exchange) -> tuple[str, list[bytes], dict[str, Any]]:
        reason, code = record.meta.get("x_end", _UNKNOWN), record.meta.get("x_err")
        told = {} if reason == "complete" else {"error": f"{reason}: {code}" if code else str(reason)}
        if exchange.stream:
            return "stream_end", [], told
        body = exchange.bodies[BACKEND_TO_PROXY]
        cut_off = bool(body.parts)
        bodyless = exchange.status not in {0, 101} and not body.chunks and not body.note
        lines = [self._derived(record, exchange, BACKEND_TO_PROXY, told)] if cut_off or bodyless else []
        return "exchange_end", lines, told

    def _direction(self, record: Record, exchange: _Exchange | None) -> str:
        from_client = record.direction == CLIENT_TO_PROXY
        if record.kind == "head":
            streams = exchange is not None and exchange.stream
            return "inbound_request" if from_client else "stream_start" if streams else "response_head"
        if record.kind == "pipe":
            return "pipe_from_client" if from_client else "pipe_from_backend"
        return _FIXED.get(record.kind, record.kind)

    def _add(self, body: _Body, record: Record) -> None:
        body.cut = body.cut or "x_cut" in record.meta
        body.size += len(record.data)
        if body.note:
            return
        self._bodies_bytes += len(record.data)
        body.parts.append(record.data)
        if body.size > BODY_BYTES_MAX:
            self._drop(body, f"body of more than {BODY_BYTES_MAX} bytes: not put together in one line")
        elif self._bodies_bytes > BODIES_BYTES_MAX:
            self._drop(body, "too many bodies under way at once: not put together in one line")

    # --- lines

    def _derived(self, record: Record, exchange: _Exchange, direction: int, told: dict[str, Any]) -> bytes:
        body = exchange.bodies[direction]
        data = b"".join(body.parts)
        self._drop(body)
        payload = object_payload(data, body.encoding)
        if exchange.model == _UNKNOWN:
            exchange.model = _model_in(payload.json)
        metadata = _people(record, exchange) | told | {"x_derived": True, "rid": record.exchange, "x_parts": body.chunks}
        if exchange.status:
            metadata["sc"] = exchange.status
        if body.cut:
            metadata["note"] = "capture rules left part of this body out"
        name = _BODY_NAMES[direction][0]
        return jsonl.encode(self._line(record.ts, name, *_ends(name, direction, exchange), exchange), payload, metadata)

    def _record_line(
        self, record: Record, direction: str, exchange: _Exchange | None, told: dict[str, Any], payload: Payload | None = None
    ) -> bytes:
        line = self._line(record.ts, direction, *_ends(direction, record.direction, exchange), exchange)
        metadata = _people(record, exchange) | told | jsonl.facts(record)
        return jsonl.encode(line, payload or jsonl.payload_of(record.data), metadata)

    def _line(self, ts: float, direction: str, source: str, destination: str, exchange: _Exchange | None = None) -> Line:
        self._sequence += 1
        known = exchange or _NOBODY
        key = known.key or known.backend
        return Line(
            ts, self._sequence, direction, source, destination, known.session, known.backend, known.model, key
        )  # fmt: skip


_NOBODY: Final = _Exchange()
_BODY_NAMES: Final = {
    CLIENT_TO_PROXY: ("outbound_request", "request_chunk"),
    BACKEND_TO_PROXY: ("inbound_response", "response_chunk"),
}


def _people(record: Record, exchange: _Exchange | None) -> dict[str, Any]:
    known = exchange or _NOBODY
    request_id = record.exchange if exchange else None
    return {"client_host": known.host, "user_agent": known.agent, "request_id": request_id}


def _ends(name: str, direction: int, exchange: _Exchange | None) -> tuple[str, str]:
    """Source and destination."""
    if exchange is None:
        return "proxy", "file_system"
    if name == "outbound_request":
        return exchange.client, exchange.backend
    client, backend = exchange.client, exchange.backend
    return ((client, "proxy"), ("proxy", client), ("proxy", backend), (backend, client))[direction & 3]


def _learn(exchange: _Exchange, record: Record) -> None:
    """Take from a record what the lines of its exchange say about it."""
    meta = record.meta
    exchange.session = _text(meta.get("sid")) or exchange.session
    exchange.backend = _text(meta.get("be")) or exchange.backend
    if record.kind == "head" and record.direction == CLIENT_TO_PROXY:
        _learn_request(exchange, record)
    elif record.kind == "head":
        _learn_response(exchange, record)
    elif record.kind == "chunk" and exchange.model == _UNKNOWN:
        exchange.model = _model_in(record.data)


def _learn_request(exchange: _Exchange, record: Record) -> None:
    fields = _fields(record.data)
    peer = _text(record.meta.get("x_peer"))
    exchange.host = peer.rpartition(":")[0].strip("[]") or peer or None
    agent = fields.get(b"user-agent", b"").decode("latin-1")
    exchange.agent = agent or None
    exchange.client = (exchange.host or "unknown_host") + (f"({agent})" if agent else "")
    exchange.key = _text(record.meta.get("x_key"))
    exchange.bodies[CLIENT_TO_PROXY].encoding = _encoding(fields)
    framed = b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip(b"0")
    exchange.has_request_body = bool(framed) or not record.data
    in_path = _MODEL_IN_PATH.search(record.data.split(b"\r\n", 1)[0])
    if in_path:
        exchange.model = in_path[1].decode("ascii")


def _learn_response(exchange: _Exchange, record: Record) -> None:
    fields = _fields(record.data)
    exchange.stream = fields.get(b"content-type", b"").lower().split(b";")[0].strip() in STREAM_TYPES
    exchange.bodies[BACKEND_TO_PROXY].encoding = _encoding(fields)
    status = record.meta.get("sc")
    exchange.status = status if isinstance(status, int) else 0


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Header fields by lower-case name, for looking at only: of repeated ones the last."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _encoding(fields: dict[bytes, bytes]) -> bytes:
    encoding = fields.get(b"content-encoding", b"").lower()
    return b"" if encoding == b"identity" else encoding


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _model_in(body: bytes) -> str:
    """The model that a JSON body names; of a body that is not whole JSON, the first that is named at all."""
    try:
        found = _MODEL.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = ""
    if not found:
        named = _MODEL_IN_BODY.search(body[:4096])
        found = named[1].decode("utf-8", "replace") if named else ""
    return found or _UNKNOWN


def object_payload(data: bytes, encoding: bytes = b"") -> Payload:
    """A whole body as an object or null, so that every jq path into it works."""
    body = _decoded(data, encoding)
    if not body:
        return Payload("json", len(data), b"null")
    flat = body.strip().translate(_LINE_ENDS)  # within JSON strings there is neither, so this changes no value
    if jsonl.can_splice(flat):
        return Payload("json", len(data), flat)
    try:
        if not jsonl.nests_too_deep(orjson.loads(flat)):
            return Payload("json", len(data), b'{"value":' + flat + b"}")
    except orjson.JSONDecodeError:
        pass
    try:
        return Payload("json", len(data), orjson.dumps({"text": body.decode("utf-8")}))
    except UnicodeDecodeError:
        return Payload("bytes", len(data), orjson.dumps(jsonl.as_base64(body)))


def _decoded(data: bytes, encoding: bytes) -> bytes:
    """The body without its content encoding; as it is where we do not know that or it is damaged or too large."""
    try:
        if encoding in {b"gzip", b"x-gzip", b"deflate"}:
            return _inflated(data, zlib.MAX_WBITS | 32)
        if encoding == b"zstd":
            decoder = zstd.ZstdDecompressor()
            plain = decoder.decompress(data, max_length=BODY_BYTES_MAX)
            return plain if decoder.eof else data
    except (zlib.error, zstd.ZstdError):
        pass
    return data


def _inflated(data: bytes, wbits: int) -> bytes:
    decoder = zlib.decompressobj(wbits)
    plain = decoder.decompress(data, BODY_BYTES_MAX)
    return plain if decoder.eof else data
