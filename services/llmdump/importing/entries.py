"""Files whose entries are legs of exchanges: CBOR V2 of the reference implementation and of our exports, its JSONL. Blocking.

A file is read twice: first which entries belong together and where they stand (8 bytes an entry are held), then an exchange at
a time. What an entry is, and which belong to one request, is as for `llmdump inspect` (`captures`); what is none is told, and
so is one whose data is not what crossed.

How an exchange is made of foreign entries:

    attempts    each dir 2 entry begins one; a retry is an exchange of its own, for it has an answer of its own
    request     the dir 2 entry, HTTP text with head; without one, the dir 0 body and what `meta` says of the head
    answer      dir 3: HTTP text, or of a stream its chunks, with the status of `meta`. Where a stream was captured twice
                (at the boundary, and once more translated) the first is taken. Without dir 3, what the client got
    frames      messages with `event: frame` or `transport: websocket` become WebSocket frames
    end         `eos` of an error, else `se`, else whether the last bytes are those that end a stream

Of our exports (`x_legs`) the same records come out that went in, see `llmdump_api.export.four_legs`.
"""

import uuid
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import cbor2

from llmdump.captures import buffered, v2
from llmdump.captures.belonging import Captures, Requests
from llmdump.captures.entry import BACKEND_TO_PROXY, CLIENT_TO_PROXY, ITSELF, NAMES, PROXY_TO_BACKEND, PROXY_TO_CLIENT, Entry
from llmdump.captures.v2 import BadHeaderError, Cut, Header, Skipped
from llmdump.importing import legs, parts
from llmdump.importing.parts import Fields, Item, Made, Part, Problem, UnusableError

LINE_BYTES_MAX: Final = 256 * 1024 * 1024
_STREAM_ENDS: Final = (b"[DONE]", b"message_stop", b"response.completed", b"response.failed", b"response.incomplete")
_STREAM_BEGINS: Final = (b"data:", b"event:", b":")
_ERRORS: Final = (UnusableError, cbor2.CBORDecodeError, ValueError, KeyError, TypeError, OverflowError)


class _Place(NamedTuple):
    """What the first reading keeps of an exchange."""

    offsets: "array[int]"
    is_ours: bool


def read(file: BinaryIO, form: str) -> Iterator[Item]:
    """The exchanges, in the order in which they begin, and what could not be taken. `form` is `v2` or `buffered`.

    Raises OSError, UnusableError."""
    places: dict[str, _Place] = {}
    found, at = (_items, _entry) if form == "v2" else (_lines, _line)
    yield from _look(found(file), places)
    for request, place in places.items():
        where = f"offset {place.offsets[0]}"
        try:
            entries = [at(file, offset) for offset in place.offsets]
            yield from [legs.exchange(where, entries)] if place.is_ours else _foreign(where, request, entries)
        except _ERRORS as err:
            yield Problem(where, f"{type(err).__name__}: {err}"[:200])


# --- entries


def _look(items: Iterator[v2.Item], places: dict[str, _Place]) -> Iterator[Problem]:
    """Which entries belong together; told is what is none."""
    requests, is_ours = Requests(), False
    for found in v2.in_order(items):
        if isinstance(found, Header):
            is_ours = found.metadata.get("x_legs") == 1
        elif isinstance(found, Entry):
            yield from _place(found, requests, is_ours, places)
        else:
            why = "the file is cut there" if isinstance(found, Cut) else found.why
            yield Problem(f"offset {found.offset}", f"{found.size} bytes are no entry: {why}")


def _place(entry: Entry, requests: Requests, is_ours: bool, places: dict[str, _Place]) -> Iterator[Problem]:
    if entry.direction == ITSELF:
        return
    if entry.direction not in NAMES or entry.flag:
        yield Problem(f"offset {entry.offset}", entry.flag or f"direction {entry.direction} is none")
    elif not entry.meta.get("x_k"):  # such are about the file
        places.setdefault(requests.of(entry), _Place(array("Q"), is_ours)).offsets.append(entry.offset)


def _items(file: BinaryIO) -> Iterator[v2.Item]:
    file.seek(0)
    try:
        header, size, content = v2.begin(file.read)
    except BadHeaderError as err:
        raise UnusableError(str(err)) from err
    yield header
    yield from v2.read(file.read, content, size)


def _entry(file: BinaryIO, offset: int) -> Entry:
    """The entry that was found there. Raises UnusableError."""
    file.seek(offset)
    return _found(v2.entry(cbor2.load(file), offset=offset))


def _lines(file: BinaryIO) -> Iterator[v2.Item]:
    offset = seq = 0
    file.seek(0)
    while line := file.readline(LINE_BYTES_MAX):
        entry = buffered.entry(line, seq, "", offset)
        if entry is not None:
            seq = entry.seq + 1
            yield entry
        elif line.strip():
            yield Skipped(offset, len(line), "a line that is no entry")
        offset += len(line)


def _line(file: BinaryIO, offset: int) -> Entry:
    """The entry of the line that was found there. Raises UnusableError."""
    file.seek(offset)
    return _found(buffered.entry(file.readline(LINE_BYTES_MAX), 0, "", offset))


def _found(entry: object) -> Entry:
    if not isinstance(entry, Entry):
        raise UnusableError("the file was changed meanwhile")
    entry.ts = parts.number(entry.ts)
    return entry


# --- exchanges of others


def _foreign(where: str, rid: str, entries: list[Entry]) -> Iterator[Item]:
    entries = sorted(entries, key=lambda entry: entry.ts)
    if any(entry.is_message and entry.data for entry in entries):
        yield _socket(where, rid, entries)
        return
    asked = next((entry for entry in entries if entry.direction == CLIENT_TO_PROXY), None)
    starts = [index for index, entry in enumerate(entries) if entry.direction == PROXY_TO_BACKEND]
    for number, start in enumerate(starts or [-1]):
        stop = starts[number + 1] if number + 1 < len(starts) else len(entries)
        answer = [entry for entry in entries[max(start, 0) : stop] if entry.direction == BACKEND_TO_PROXY]
        to_client = [entry for entry in entries[max(start, 0) : stop] if entry.direction == PROXY_TO_CLIENT]
        sent = entries[start] if start >= 0 else None
        yield _attempt(where, rid if number == 0 else "", asked if number == 0 else None, sent, answer or to_client)


def _attempt(where: str, rid: str, asked: Entry | None, sent: Entry | None, answer: list[Entry]) -> Made:
    first = asked or sent or (answer[0] if answer else None)
    if first is None:
        raise UnusableError("nothing but marks")
    meta = {**(asked.meta if asked else {}), **(sent.meta if sent else {})}
    head, body = _request(sent.data if sent else (asked.data if asked else b""), meta)
    head, key_hash = parts.masked(head)
    asking = _as_asked(head, meta)
    made = [Part(first.ts, CLIENT_TO_PROXY, "head", asking, {"x_peer": str(meta.get("host") or ""), "x_key": key_hash})]
    made += parts.body(CLIENT_TO_PROXY, body, first.ts)
    if sent is not None:
        made.append(parts.forward(sent.ts, head, _upstream(head)))
    made += _answer(answer)
    reason, code = _outcome(answer)
    made.append(parts.end(first.ts, made, reason, code))
    return Made(where, _uuid(rid), _common(meta), made)


def _common(meta: dict[str, Any]) -> dict[str, Any]:
    session = meta.get("asid") or meta.get("sid")
    common = {"sid": str(session)[:200]} if session else {}
    return {**common, "be": str(meta.get("be") or "imported")[:200]}


def _request(data: bytes, meta: dict[str, Any]) -> tuple[bytes, bytes]:
    """Head and body; the head is made up where there is only a body."""
    head, separator, body = data.partition(b"\r\n\r\n")
    start = head.split(b"\r\n", 1)[0].split(b" ")
    if separator and len(start) == 3 and start[2].startswith(b"HTTP/"):
        return head + separator, body
    fields: Fields = [("Host", str(meta.get("be") or "unknown.invalid")), ("Content-Type", "application/json")]
    if meta.get("ua"):
        fields.append(("User-Agent", str(meta["ua"])))
    target = str(meta.get("url") or "/")
    return parts.request_head(str(meta.get("http_method") or "POST"), target, str(meta.get("http_version") or ""), fields), data


def _as_asked(head: bytes, meta: dict[str, Any]) -> bytes:
    """The head that was sent on with the client's own name, which stands in `meta` only."""
    agent = str(meta.get("ua") or "")
    if not agent.isprintable() or not agent.isascii() or not agent:
        return head
    lines = [line for line in head.removesuffix(b"\r\n\r\n").split(b"\r\n") if not line.lower().startswith(b"user-agent:")]
    return b"\r\n".join([*lines, b"User-Agent: " + agent.encode()]) + b"\r\n\r\n"


def _upstream(head: bytes) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "host":
            return f"https://{value.strip()}"
    return ""


def _answer(entries: list[Entry]) -> Iterator[Part]:
    captures = Captures()
    with_data = [entry for entry in entries if entry.data and captures.is_first(entry)]
    told = (entry.meta.get(name) for entry in entries for name in ("http_status", "sc"))
    status = next((sc for sc in told if isinstance(sc, int) and 100 <= sc <= 999), 0)
    if not with_data:
        if status:
            yield Part(
                entries[0].ts, BACKEND_TO_PROXY, "head", parts.response_head(status, "", "", []), {"sc": status, "ttfb": 0.0}
            )
        return
    first = with_data[0]
    if first.data.startswith(b"HTTP/") and b"\r\n\r\n" in first.data:
        yield from _http_text(with_data)
        return
    is_stream = any("ss" in entry.meta or "ci" in entry.meta for entry in entries) or first.data.startswith(_STREAM_BEGINS)
    kind = "text/event-stream" if is_stream and not first.data.startswith((b"{", b"[")) else "application/json"
    head = parts.response_head(status or 200, "", "", [("Content-Type", kind)])
    yield Part(entries[0].ts, BACKEND_TO_PROXY, "head", head, {"sc": status or 200, "ttfb": 0.0})
    yield from parts.reads(
        BACKEND_TO_PROXY, [(entry.ts, entry.data) for entry in with_data], whole=_outcome(entries)[0] == "complete"
    )


def _http_text(entries: list[Entry]) -> Iterator[Part]:
    """A whole response; its body stands there decoded, whatever the head says."""
    first = entries[0]
    head, _, body = first.data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-encoding:", b"transfer-encoding:"))]
    code = lines[0].split(b" ")[1] if b" " in lines[0] else b""
    status = int(code) if code.isdigit() else 200
    masked, _ = parts.masked(b"\r\n".join(lines) + b"\r\n\r\n")
    yield Part(first.ts, BACKEND_TO_PROXY, "head", masked, {"sc": status, "ttfb": 0.0})
    yield from parts.body(BACKEND_TO_PROXY, b"".join((body, *(entry.data for entry in entries[1:]))), first.ts)


def _outcome(entries: list[Entry]) -> tuple[str, str]:
    """How it ended, and why."""
    for entry in entries:
        meta = entry.meta
        if meta.get("eos") and (meta.get("eos_term") == "error" or meta.get("eos_signal") == "client_termination"):
            reason = "client_closed" if meta.get("eos_signal") == "client_termination" else "upstream_closed"
            return reason, str(meta.get("eos_reason") or meta.get("eos_err_cls") or "")[:100]
    if not entries:
        return "upstream_error", "no_response"
    is_stream = any("ss" in entry.meta or "ci" in entry.meta for entry in entries)
    tail = b"".join(entry.data for entry in entries if entry.data)[-4096:]
    if not is_stream or any(entry.meta.get("se") for entry in entries) or any(end in tail for end in _STREAM_ENDS):
        return "complete", ""
    return "upstream_closed", "no_end_of_stream"


def _socket(where: str, rid: str, entries: list[Entry]) -> Made:
    """Messages of a WebSocket: those between client and proxy if they are there, else those of the backend's side."""
    ways = {entry.direction for entry in entries if entry.data}
    up = PROXY_TO_BACKEND if PROXY_TO_BACKEND in ways else CLIENT_TO_PROXY
    down = BACKEND_TO_PROXY if BACKEND_TO_PROXY in ways else PROXY_TO_CLIENT
    first, meta = entries[0], {key: value for entry in reversed(entries) for key, value in entry.meta.items()}
    upgrade: Fields = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    fields = [("Host", str(meta.get("be") or "unknown.invalid")), *upgrade]
    head = parts.request_head("GET", str(meta.get("url") or "/"), "", fields)
    head, key_hash = parts.masked(head)
    made = [Part(first.ts, CLIENT_TO_PROXY, "head", head, {"x_peer": str(meta.get("host") or ""), "x_key": key_hash})]
    made.append(parts.forward(first.ts, head, ""))
    answer = parts.response_head(101, "Switching Protocols", "", upgrade)
    made.append(Part(first.ts, BACKEND_TO_PROXY, "head", answer, {"sc": 101, "ttfb": 0.0}))
    made += parts.frames(
        (entry.ts, CLIENT_TO_PROXY if entry.direction == up else BACKEND_TO_PROXY,
         entry.meta.get("ws_message_type") != "binary", entry.data)
        for entry in entries if entry.data and entry.direction in {up, down}
    )  # fmt: skip
    made.append(parts.end(first.ts, made, "complete"))
    return Made(where, _uuid(rid), _common(meta), made)


def _uuid(told: str) -> str:
    try:
        return str(uuid.UUID(told))
    except ValueError:
        return ""
