"""One exchange as a HAR 1.2 log (W3C web performance draft "HTTP Archive format", as browsers and mitmproxy write it). Pure.

    {"log": {"version": "1.2", "creator": {…}, "entries": [{startedDateTime, time, request, response, cache, timings, …}]}}

Beyond the format, in names that begin with `_` as it wants: `_webSocketMessages` {type, time, opcode, data} and
`_resourceType`, both as Chrome and mitmproxy write them; `_eventSourceMessages` {time, eventName, data} as Chrome does;
`_error` where an exchange did not end as it should; `_truncated` where a text is not all of it.

The request is the client's, so the URL is the proxy's; `_upstream` is where it went. Bodies are decoded, up to a limit.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.reading.exchange import Event
from llmdump.reading.framing import WebSocket
from llmdump.reading.sse import Sse
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_api.trace import INLINE_BYTES_MAX, split_answer

MESSAGES_MAX: Final = 20_000
MESSAGES_CHARS_MAX: Final = 16 * 1024 * 1024
"""Of a WebSocket or an event stream; what comes after is left out, and `_truncated` says so."""
_NOT_APPLICABLE: Final = -1


class _Message:
    """The request or the response while its records pass by."""

    def __init__(self) -> None:
        self.raw_head = b""
        self.head = heads.parse(b"")
        self.bytes = 0
        self.body = bytearray()
        self.truncated = False
        self.last_ts: float | None = None
        self._decoder: Decoder | None = None

    def begin(self, head: bytes) -> None:
        self.raw_head, self.head = head, heads.parse(head)
        codings = self.head.all("content-encoding")
        try:
            self._decoder = Decoder(codings, INLINE_BYTES_MAX) if codings else None
        except ValueError:
            self._decoder = None  # a coding that nobody knows: the bytes as they are

    def feed(self, data: bytes, size: int, ts: float) -> bytes:
        """The next body bytes, of `size` that there were; what they decode to."""
        self.bytes += size
        self.last_ts = ts
        decoded = self._decoder.feed(data) if self._decoder else data
        room = INLINE_BYTES_MAX - len(self.body)
        self.body += decoded[:room]
        self.truncated = self.truncated or len(decoded) > room or size != len(data)
        return decoded

    @property
    def version(self) -> str:
        return next((part for part in (self.head.start[2], self.head.start[0]) if part.startswith("HTTP/")), "")

    @property
    def is_cut(self) -> bool:
        return self.truncated or (self._decoder is not None and self._decoder.problem == "limit")

    def fields(self) -> list[dict[str, str]]:
        return [{"name": name, "value": value} for name, value in self.head.fields]


class _Maker:
    """Takes the records of one exchange, then makes its entry."""

    def __init__(self) -> None:
        self.request, self.response = _Message(), _Message()
        self.began_s = 0.0
        self.answered_s: float | None = None
        self.ended_s = 0.0
        self.forward: Mapping[str, Any] = {}
        self.end: Mapping[str, Any] = {}
        self.messages: list[dict[str, Any]] = []
        self.messages_left_out = False
        self._messages_chars = 0
        self._sse: Sse | None = None
        self._websocket: WebSocket | None = None

    def take(self, record: Record) -> None:
        """The next record."""
        ts = record.ts if math.isfinite(record.ts) else self.ended_s
        self.ended_s = max(self.ended_s, ts)
        if record.kind == "head" and record.direction == CLIENT_TO_PROXY:
            self.began_s = ts
            self.request.begin(record.data)
        elif record.kind == "forward":
            self.forward = record.meta
        elif record.kind == "end":
            self.end = record.meta
        elif record.kind == "pipe":
            self._piped(record, ts)
        elif record.kind in {"head", "answer", "chunk"}:
            self._message(record, ts)

    def _message(self, record: Record, ts: float) -> None:
        if record.kind == "chunk":
            self._body(record.direction, record.data, record.meta.get("x_cut", len(record.data)), ts)
            return
        head, body = split_answer(record) if record.kind == "answer" else (record.data, b"")
        self.answered_s = ts
        self.response.begin(head)
        if self.response.head.start[1] == "101":
            self._websocket = WebSocket(self.response.head.fields)
        elif self.response.head.first("content-type").lower().startswith("text/event-stream"):
            self._sse = Sse(INLINE_BYTES_MAX)
        if body:
            self._body(BACKEND_TO_PROXY, body, len(body), ts)

    def _body(self, direction: int, data: bytes, size: int, ts: float) -> None:
        if direction == CLIENT_TO_PROXY:
            self.request.feed(data, size, ts)
            return
        decoded = self.response.feed(data, size, ts)
        if self._sse:
            self._events(self._sse.feed(decoded, 0), ts)

    def _events(self, events: Iterable[Event], ts: float) -> None:
        for event in events:
            self._told({"time": ts, "eventName": event.name or "message", "data": event.data.decode("utf-8", "replace")})

    def _piped(self, record: Record, ts: float) -> None:
        way = "send" if record.direction == CLIENT_TO_PROXY else "receive"
        side = self.request if way == "send" else self.response
        side.last_ts = ts
        for event in self._websocket.feed(record.direction, record.data, 0) if self._websocket else ():
            opcode, data = (1, event.data.decode("utf-8", "replace")) if event.kind == "text" else (2, _base64(event.data))
            self._told({"type": way, "time": ts, "opcode": opcode, "data": data})

    def _told(self, message: dict[str, Any]) -> None:
        self._messages_chars += len(message["data"])
        if len(self.messages) < MESSAGES_MAX and self._messages_chars <= MESSAGES_CHARS_MAX:
            self.messages.append(message)
        else:
            self.messages_left_out = True

    def entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The entry, once all records were taken."""
        if self._sse:
            self._events(self._sse.finish(0), self.response.last_ts or self.ended_s)
        timings = self._timings()
        error = None if self.end.get("x_end") == "complete" else self.end.get("x_end") or "open"
        return {
            "startedDateTime": _iso(self.began_s),
            "time": round(sum(value for value in timings.values() if value >= 0), 3),
            "request": self._request(),
            "response": self._response() | ({"_error": error} if error else {}),
            "cache": {},
            "timings": timings,
            **_address(self.forward.get("x_addr")),
            **_present(connection=self.forward.get("sid")),
            "_id": row["id"],
            **_present(_upstream=row["upstream"]),
            **self._messages(),
        }

    def _messages(self) -> dict[str, Any]:
        kind = "websocket" if self._websocket else "eventsource" if self._sse else "fetch"
        told: dict[str, Any] = {"_resourceType": kind}
        if kind != "fetch":
            told["_webSocketMessages" if self._websocket else "_eventSourceMessages"] = self.messages
        return told | ({"_truncated": True} if self.messages_left_out else {})

    def _request(self) -> dict[str, Any]:
        message = self.request
        method, target, _ = message.head.start
        made = {
            "method": method, "url": self._url(target), "httpVersion": message.version, "cookies": [],
            "headers": message.fields(), "queryString": _query(target), "headersSize": len(message.raw_head),
            "bodySize": message.bytes,
        }  # fmt: skip
        if message.body:
            text, coding = _text(bytes(message.body))
            made["postData"] = {
                "mimeType": message.head.first("content-type"),
                "text": text,
                **({"_encoding": coding} if coding else {}),
                **({"_truncated": True} if message.is_cut else {}),
            }
        return made

    def _url(self, target: str) -> str:
        if "://" in target.partition("?")[0]:
            return target
        scheme = "ws" if self._websocket else "http"
        path = target if target.startswith("/") else f"/{target}"
        return f"{scheme}://{self.request.head.first('host') or 'unknown.invalid'}{path}"

    def _response(self) -> dict[str, Any]:
        message = self.response
        _, status, reason = message.head.start
        text, coding = _text(bytes(message.body))
        content = {
            "size": len(message.body),
            "compression": len(message.body) - message.bytes,
            "mimeType": message.head.first("content-type") or "x-unknown",
            "text": text,
            **({"encoding": coding} if coding else {}),
            **({"_truncated": True} if message.is_cut else {}),
        }
        return {
            "status": int(status) if status.isascii() and status.isdigit() else 0, "statusText": reason,
            "httpVersion": message.version, "cookies": [], "headers": message.fields(), "content": content,
            "redirectURL": message.head.first("location"), "headersSize": len(message.raw_head) or _NOT_APPLICABLE,
            "bodySize": message.bytes,
        }  # fmt: skip

    def _timings(self) -> dict[str, float]:
        """Ms; what is not negative adds up to the whole."""
        end = max(self.ended_s, self.began_s)
        answered = min(max(self.answered_s if self.answered_s is not None else end, self.began_s), end)
        sent = min(max(self.request.last_ts or self.began_s, self.began_s), answered)
        send, wait, receive = ((b - a) * 1000 for a, b in ((self.began_s, sent), (sent, answered), (answered, end)))
        dial = self.forward.get("x_dial")
        connect: float = _NOT_APPLICABLE
        if self.forward.get("x_new") and isinstance(dial, int | float) and 0 <= dial < math.inf:
            connect = min(float(dial), wait)
            wait -= connect
        found = {"blocked": -1, "dns": -1, "ssl": -1, "connect": connect, "send": send, "wait": wait, "receive": receive}
        return {name: round(value, 3) for name, value in found.items()}


def build(row: Mapping[str, Any], records: Iterable[Record], version: str) -> dict[str, Any]:
    """The log of one exchange; `row` is its row object, `version` that of the program."""
    return {"log": {"version": "1.2", "creator": creator(version), "entries": [entry(row, records)]}}


def creator(version: str) -> dict[str, str]:
    """Who wrote a log."""
    return {"name": "llmdump", "version": version}


def entry(row: Mapping[str, Any], records: Iterable[Record]) -> dict[str, Any]:
    """One entry of a log; `row` is the exchange's row object."""
    maker = _Maker()
    for record in records:
        maker.take(record)
    return maker.entry(row)


def _text(body: bytes) -> tuple[str, str]:
    """A body as JSON carries it, and its coding, if any."""
    try:
        return body.decode("utf-8"), ""
    except UnicodeDecodeError:
        return _base64(body), "base64"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _query(target: str) -> list[dict[str, str]]:
    pairs = parse_qsl(target.partition("?")[2].partition("#")[0], keep_blank_values=True)
    return [{"name": _valid(name), "value": _valid(value)} for name, value in pairs]


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _present(**facts: Any) -> dict[str, str]:
    return {name: value for name, value in facts.items() if isinstance(value, str)}


def _address(address: Any) -> dict[str, str]:
    return {"serverIPAddress": address.rpartition(":")[0].strip("[]")} if isinstance(address, str) else {}


def _iso(ts: float) -> str:
    try:
        return datetime.fromtimestamp(ts, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00.000000Z"
