"""CBOR V2 files whose entries are legs of exchanges: those of the reference implementation, and our own exports. Blocking.

A file is read twice: first which entries belong together and where they stand (8 bytes an entry are held), then an exchange at
a time. Entries belong together by `rid`; those without, by session (`asid`, else `sid`), a new exchange at each dir 0.
What is no entry is passed over up to the next place where one begins, and told.

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
import zlib
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import cbor2

from llmdump.importing import legs, parts
from llmdump.importing.parts import Entry, Fields, Item, Made, Part, Problem, UnusableError
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND, PROXY_TO_CLIENT
from llmdump.segment import V2_MAGIC, V2_VERSION

ENTRY_BYTES_MAX: Final = 256 * 1024 * 1024
INFLATED_BYTES_MAX: Final = 256 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_ENTRY_BEGINS: Final = tuple(bytes((0xA0 | count,)) + b"\x62ts\xfb" for count in range(4, 9))
_STREAM_ENDS: Final = (b"[DONE]", b"message_stop", b"response.completed", b"response.failed", b"response.incomplete")
_STREAM_BEGINS: Final = (b"data:", b"event:", b":")
_ERRORS: Final = (cbor2.CBORDecodeError, ValueError, MemoryError, OverflowError, RecursionError, TypeError, KeyError)


class _Place(NamedTuple):
    """What the first reading keeps of an exchange."""

    offsets: "array[int]"
    rid: str


def read(file: BinaryIO) -> Iterator[Item]:
    """The exchanges, in the order in which they begin, and what could not be taken. Raises OSError, UnusableError."""
    header = _header(file)
    is_ours = isinstance(header.get("metadata"), dict) and header["metadata"].get("x_legs") == 1
    places: dict[Any, _Place] = {}
    yield from _look(file, places)
    for place in places.values():
        where = f"offset {place.offsets[0]}"
        try:
            entries = [_entry_at(file, offset) for offset in place.offsets]
            yield from [legs.exchange(where, entries)] if is_ours else _foreign(where, place.rid, entries)
        except (*_ERRORS, UnusableError) as err:
            yield Problem(where, f"{type(err).__name__}: {err}"[:200])


# --- entries


def _header(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        header = cbor2.load(file)
    except _ERRORS as err:
        raise UnusableError(f"its header cannot be read: {err}") from err
    if not isinstance(header, dict) or header.get("magic") != V2_MAGIC or header.get("version") != V2_VERSION:
        raise UnusableError("it is not a capture file of version 2")
    return header


def _look(file: BinaryIO, places: dict[Any, _Place]) -> Iterator[Problem]:
    """Which entries belong together; told is what is none."""
    size = file.seek(0, 2)
    file.seek(0)
    cbor2.load(file)
    at, turns = file.tell(), dict[str, int]()
    while at < size:
        try:
            entry = _entry_at(file, at)
            after = file.tell()
        except (*_ERRORS, UnusableError) as err:
            after = _next_entry(file, at + 1, size)
            yield Problem(f"offset {at}", f"{after - at} bytes are no entry: {err}"[:200])
            at = after
            continue
        key = _key(entry, turns)
        if key is not None:
            place = places.setdefault(key, _Place(array("Q"), str(entry.meta.get("rid") or "")))
            place.offsets.append(at)
        at = after


def _entry_at(file: BinaryIO, at: int) -> Entry:
    """The entry at an offset; the file then stands behind it. Raises one of `_ERRORS`, UnusableError."""
    file.seek(at)
    item = cbor2.load(file)
    if not isinstance(item, dict):
        raise UnusableError("not a map")
    if "magic" in item:
        return Entry(0.0, PROXY_TO_CLIENT, b"", {"x_k": "header"})  # another capture, put behind the first
    data, meta = item["data"], item.get("meta") or {}
    if not isinstance(data, bytes) or not isinstance(meta, dict) or item["dir"] not in {0, 1, 2, 3}:
        raise UnusableError("no entry: its dir, data or meta is none")
    if item.get("enc") == "zlib":
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(data, INFLATED_BYTES_MAX)
        except zlib.error as err:
            raise UnusableError(f"its data cannot be inflated: {err}") from err
        if not inflater.eof:
            raise UnusableError(f"its data inflates to more than {INFLATED_BYTES_MAX} bytes, or is cut")
    return Entry(parts.number(item["ts"]), item["dir"], data, meta)


def _next_entry(file: BinaryIO, at: int, size: int) -> int:
    """Where an entry may begin, from `at` on."""
    while at < size:
        file.seek(at)
        window = file.read(_READ_BYTES + 8)
        found = [place for begin in _ENTRY_BEGINS if (place := window.find(begin)) >= 0]
        if found:
            return at + min(found)
        at += _READ_BYTES
    return size


def _key(entry: Entry, turns: dict[str, int]) -> Any:
    """What entries of one exchange share; None for an entry that belongs to none."""
    meta = entry.meta
    if meta.get("x_k"):
        return None
    if meta.get("rid"):
        return str(meta["rid"])
    session = str(meta.get("asid") or meta.get("sid") or "")
    if entry.direction == CLIENT_TO_PROXY and not _is_frame(entry):
        turns[session] = turns.get(session, 0) + 1
    return session, turns.get(session, 0)


def _is_frame(entry: Entry) -> bool:
    return entry.meta.get("event") == "frame" or entry.meta.get("transport") == "websocket"


# --- exchanges of others


def _foreign(where: str, rid: str, entries: list[Entry]) -> Iterator[Item]:
    entries = sorted(entries, key=lambda entry: entry.ts)
    if any(_is_frame(entry) and entry.data for entry in entries):
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
    entries = _once(entries)
    with_data = [entry for entry in entries if entry.data]
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


def _once(entries: list[Entry]) -> list[Entry]:
    """Without the second capture of a stream: its legs have another session, or number their chunks anew."""
    with_data = [entry for entry in entries if entry.data]
    if not with_data:
        return entries
    session = with_data[0].meta.get("sid")
    kept, seen = [], set()
    for entry in entries:
        index = entry.meta.get("ci")
        if entry.meta.get("sid", session) != session or (index is not None and index in seen):
            continue
        seen.add(index)
        kept.append(entry)
    return kept


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
