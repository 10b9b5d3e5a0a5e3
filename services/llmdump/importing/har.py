"""HAR 1.2 logs, as Chrome, Firefox, mitmproxy and we write them: an entry at a time, found by its brackets. Blocking.

Bodies are decoded in a HAR, so Content-Encoding is taken out of heads; base64 is undone. When the reads of a body came is
not in it: a body is one read, at the end; but where it has `_eventSourceMessages` (ours, Chrome's) and no text, the events are
put into SSE again, each at its time. Messages of a WebSocket (`_webSocketMessages`) become frames again.
"""

import re
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import msgspec

from llmdump.importing import parts
from llmdump.importing.parts import Fields, Item, Made, Part, Problem, UnusableError
from llmdump.metrics import END_REASONS
from llmdump.reading.json_pieces import JsonPieces
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY

ENTRY_BYTES_MAX: Final = 256 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_ENTRIES = re.compile(rb'"entries"\s*:\s*(?=\[)')
_ENTRIES_WITHIN_BYTES: Final = 64 * 1024 * 1024
"""Before the entries there may be pages, with nothing much in them."""


class _Field(msgspec.Struct):
    name: str
    value: str = ""


class _PostData(msgspec.Struct, rename={"own_encoding": "_encoding"}):
    text: str | None = None
    encoding: str | None = None
    own_encoding: str | None = None


class _Content(msgspec.Struct, rename={"is_cut": "_truncated"}):
    mimeType: str = ""  # noqa: N815 -- the names in HAR
    text: str | None = None
    encoding: str | None = None
    is_cut: bool = False


class _Request(msgspec.Struct):
    method: str
    url: str
    httpVersion: str = ""  # noqa: N815
    headers: list[_Field] = []
    postData: _PostData | None = None  # noqa: N815


class _Response(msgspec.Struct, rename={"error": "_error"}):
    status: int = 0
    statusText: str = ""  # noqa: N815
    httpVersion: str = ""  # noqa: N815
    headers: list[_Field] = []
    content: _Content = msgspec.field(default_factory=_Content)
    error: str | None = None


class _Message(msgspec.Struct):
    type: str = ""
    time: float = 0.0
    opcode: int = 1
    data: str = ""


class _Entry(msgspec.Struct, rename={"sockets": "_webSocketMessages", "events": "_eventSourceMessages", "told_id": "_id",
                                     "upstream": "_upstream"}):  # fmt: skip
    startedDateTime: str  # noqa: N815
    request: _Request
    response: _Response
    timings: dict[str, Any] = {}
    connection: str | None = None
    sockets: list[_Message] | None = None
    events: list[dict[str, Any]] | None = None
    told_id: str | None = None
    upstream: str | None = None


_DECODER = msgspec.json.Decoder(_Entry)


def read(file: BinaryIO) -> Iterator[Item]:
    """The exchanges of the entries, and those entries that are none. Raises OSError, UnusableError."""
    pieces, number = JsonPieces(ENTRY_BYTES_MAX), 0
    data = _to_entries(file)
    while data:
        for event in pieces.feed(data, 0):
            number += 1
            yield _item(f"entry {number}", event.data)
        data = file.read(_READ_BYTES) if not pieces.is_over else b""
    if not pieces.is_over:
        yield Problem(f"entry {number + 1}", "the file ends before the list of entries does")


def _to_entries(file: BinaryIO) -> bytes:
    """What was read, from the bracket of the list on."""
    looked = b""
    while len(looked) < _ENTRIES_WITHIN_BYTES and (data := file.read(_READ_BYTES)):
        looked += data
        if (found := _ENTRIES.search(looked)) and found.end() < len(looked):
            return looked[found.end() :]
    raise UnusableError("a HAR without log.entries")


def _item(where: str, content: bytes) -> Item:
    try:
        return _exchange(where, _DECODER.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError, UnusableError) as err:
        return Problem(where, str(err))


def _exchange(where: str, entry: _Entry) -> Made:
    began = parts.seconds(entry.startedDateTime)
    url = urlsplit(entry.request.url)
    if not url.netloc:
        raise UnusableError(f"{entry.request.url[:80]!r} is no URL")
    sent, answered, ended = _times(entry, began)
    fields = [("Host", url.netloc), *(one for one in _fields(entry.request.headers) if one[0].lower() != "host")]
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    head = parts.request_head(entry.request.method, target, entry.request.httpVersion, parts.for_body(fields, decoded=True))
    head, key_hash = parts.masked(head)
    made = [Part(began, CLIENT_TO_PROXY, "head", head, {"x_peer": "", "x_key": key_hash})]
    made += parts.body(CLIENT_TO_PROXY, _asked(entry.request.postData), sent)
    made.append(parts.forward(sent, head, entry.upstream or f"{url.scheme.replace('ws', 'http')}://{url.netloc}"))
    made += _response(entry, answered, ended)
    made.append(_end(entry, ended, made))
    common = {"sid": entry.connection} if entry.connection else {}
    return Made(where, _uuid(entry.told_id), common, made)


def _times(entry: _Entry, began: float) -> tuple[float, float, float]:
    """When the request was sent, the response began, and it ended."""
    waits = {name: max(0.0, parts.number(value)) / 1000 for name, value in entry.timings.items()}
    sent = began + sum(waits.get(name, 0.0) for name in ("blocked", "dns", "connect", "send"))
    answered = sent + waits.get("wait", 0.0)
    return sent, answered, answered + waits.get("receive", 0.0)


def _fields(headers: list[_Field]) -> Fields:
    """As they were, without those that HTTP/2 has instead of lines."""
    return [(one.name, one.value) for one in headers if not one.name.startswith(":")]


def _asked(post: _PostData | None) -> bytes:
    if post is None or post.text is None:
        return b""
    coding = post.own_encoding or post.encoding
    return parts.unbase64(post.text) if coding == "base64" else post.text.encode("utf-8", "surrogatepass")


def _response(entry: _Entry, answered: float, ended: float) -> Iterator[Part]:
    response = entry.response
    if not 100 <= response.status <= 999:
        return
    fields = _fields(response.headers)
    if not parts.field(fields, "content-type") and response.content.mimeType not in {"", "x-unknown"}:
        fields.append(("Content-Type", response.content.mimeType))
    is_socket = response.status == 101
    fields = [one for one in parts.for_body(fields, decoded=True) if one[0].lower() != "sec-websocket-extensions"]
    if is_socket and not parts.field(fields, "upgrade"):
        fields.append(("Upgrade", "websocket"))
    head = parts.response_head(response.status, response.statusText, response.httpVersion, fields)
    yield Part(answered, BACKEND_TO_PROXY, "head", head, {"sc": response.status, "ttfb": 0.0})
    if is_socket:
        yield from parts.frames(_messages(entry))
    else:
        yield from _content(entry, ended)


def _content(entry: _Entry, ended: float) -> Iterator[Part]:
    content = entry.response.content
    if content.text is None and entry.events:
        yield from parts.reads(BACKEND_TO_PROXY, _events(entry.events), whole=True)
        return
    text = content.text or ""
    data = parts.unbase64(text) if content.encoding == "base64" else text.encode("utf-8", "surrogatepass")
    pieces = list(parts.body(BACKEND_TO_PROXY, data, ended, whole=not content.is_cut))
    if content.is_cut and pieces:
        pieces[-1].meta["x_cut"] = len(pieces[-1].data) + 1  # how much more there was, nobody knows
    yield from pieces


def _events(events: list[dict[str, Any]]) -> Iterator[tuple[float, bytes]]:
    for event in events:
        name, lines = str(event.get("eventName") or "message"), str(event.get("data") or "").split("\n")
        told = (f"event: {name}\n" if name != "message" else "") + "".join(f"data: {line}\n" for line in lines)
        yield parts.number(event.get("time")), f"{told}\n".encode("utf-8", "replace")


def _messages(entry: _Entry) -> Iterator[tuple[float, int, bool, bytes]]:
    for message in entry.sockets or ():
        way = CLIENT_TO_PROXY if message.type == "send" else BACKEND_TO_PROXY
        is_text = message.opcode == 1
        data = message.data.encode("utf-8", "surrogatepass") if is_text else parts.unbase64(message.data)
        if message.opcode in {1, 2}:
            yield message.time, way, is_text, data


def _end(entry: _Entry, ended: float, made: list[Part]) -> Part:
    error, answered = entry.response.error, any(part.direction == BACKEND_TO_PROXY for part in made)
    if error in END_REASONS:
        return parts.end(ended, made, str(error))
    if not answered:
        return parts.end(ended, made, "upstream_error", (error or "no_response")[:100])
    return parts.end(ended, made, "upstream_closed" if error else "complete", (error or "")[:100])


def _uuid(told: str | None) -> str:
    try:
        return str(uuid.UUID(told or ""))
    except ValueError:
        return ""
