"""JSONL segments: the same records as lines for eyes and jq, and read back from them bit for bit.

Every line is one JSON object with 14 keys, in this order: `timestamp_iso`, `timestamp_unix`, `sequence`, `direction`,
`source`, `destination`, `session_id`, `backend`, `model`, `key_name`, `content_type`, `content_length`, `payload`,
`metadata`. Three sorts of line:

    a record       metadata has `x_n`. Exactly one line for each record; `scan` gives the records back.
    derived        no `x_n`; a whole body put together from several records, for jq; it stands just before the record
                   that completes it, so that a file cut after a record is right for both. Never read as a record.
    system_init    no `x_n`; the first line of a file.

How the `data` of a record stands in `payload`, by `content_type`:

    json    the bytes themselves, spliced into the line: they begin with `{`, end with `}`, are valid JSON, hold no CR
            or LF, and nest less deep than jq can follow. The reader takes the raw bytes of the value.
    text    null for no bytes at all, else a string: the bytes are its UTF-8
    bytes   {"encoding": "base64", "data": "…"}

`metadata` begins with `client_host`, `user_agent`, `request_id` and, where there is one, `error` or `note`: for people.
Then follow the record's own facts: `x_n` number, `x_i` instance, `x_k` kind, `x_dir` direction, `rid` exchange, and
the meta entries of the record under their names (`sid`, `be`, `sc`, `ci`, `x_end` …; the keys in `RESERVED` cannot
be theirs). What JSON cannot carry exactly (bytes, huge integers, other keys) is in `x_more`: base64 of a CBOR map.

Each line ends with its checksum, 19 bytes of fixed form:

    … ,"x_c":"89abcdef"}} LF        CRC32C, hex, of the line's bytes before `,"x_c":`

Reading rules as for CBOR (see `segment`): a line without its LF is not there yet; a line that is damaged costs itself.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

import cbor2
import google_crc32c
import msgspec
import orjson

from llmdump.record import DamageError, Record
from llmdump.segment import Damage, Located

JSON_DEPTH_MAX: Final = 100
"""How deep a spliced payload nests at most: jq 1.6 reads 127 objects within each other, the line among them."""
RESERVED: Final = frozenset(
    {"client_host", "user_agent", "request_id", "error", "note", "x_n", "x_i", "x_k", "x_dir", "rid", "x_more", "x_c"}
)

_CRC_BYTES: Final = 19
_CRC = re.compile(rb',"x_c":"([0-9a-f]{8})"\}\}')
_SEAM = re.compile(rb'"x_c":"[0-9a-f]{8}"\}\}.(?=\{"timestamp_iso":)', re.DOTALL)
"""Where a line ends and the next begins, whatever byte is between them."""
_KEY_N: Final = b'"x_n":'
_INT_MAX: Final = 2**63


class Line(NamedTuple):
    """What a line says beside its record: the 14 keys without those that follow from others."""

    ts: float
    sequence: int
    direction: str
    source: str
    destination: str
    session_id: str | None
    backend: str
    model: str
    key_name: str


class Payload(NamedTuple):
    """The JSON of `payload`, with its `content_type`, and the size of the bytes it stands for."""

    content_type: str
    content_length: int
    json: bytes


def encode(line: Line, payload: Payload, metadata: Mapping[str, Any]) -> bytes:
    """One whole line with its checksum and LF. `metadata` is not empty and JSON can carry it."""
    head = {
        "timestamp_iso": _iso(line.ts),
        "timestamp_unix": line.ts,
        "sequence": line.sequence,
        "direction": line.direction,
        "source": line.source,
        "destination": line.destination,
        "session_id": line.session_id,
        "backend": line.backend,
        "model": line.model,
        "key_name": line.key_name,
        "content_type": payload.content_type,
        "content_length": payload.content_length,
    }
    body = b"".join((orjson.dumps(head)[:-1], b',"payload":', payload.json, b',"metadata":', orjson.dumps(dict(metadata))[:-1]))
    return body + b',"x_c":"%08x"}}\n' % google_crc32c.value(body)


def is_sealed(line: bytes) -> bool:
    """Whether a line ends with a checksum, right or wrong: then it is one of ours. It may have its line end."""
    line = line.rstrip(b"\r\n")
    return bool(_CRC.fullmatch(line, max(0, len(line) - _CRC_BYTES)))


def payload_of(data: bytes) -> Payload:
    """How the data of a record stands in its line, exactly."""
    if not data:
        return Payload("text", 0, b"null")
    if can_splice(data):
        return Payload("json", len(data), data)
    try:
        return Payload("text", len(data), orjson.dumps(data.decode("utf-8")))
    except UnicodeDecodeError:
        return Payload("bytes", len(data), orjson.dumps(as_base64(data)))


def as_base64(data: bytes) -> dict[str, str]:
    """Bytes as JSON carries them."""
    return {"encoding": "base64", "data": base64.b64encode(data).decode("ascii")}


def can_splice(data: bytes) -> bool:
    """Whether these bytes, as they are, may stand as a JSON object within a line."""
    if data[:1] != b"{" or data[-1:] != b"}" or b"\n" in data or b"\r" in data:
        return False
    try:
        return not nests_too_deep(orjson.loads(data))
    except orjson.JSONDecodeError:
        return False


def nests_too_deep(value: Any) -> bool:
    """Whether jq might refuse a line that holds this value, and with it the whole file."""
    level = [value]
    for _ in range(JSON_DEPTH_MAX):
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def facts(record: Record) -> dict[str, Any]:
    """The metadata from which a record is read back: its own facts, and its meta entries."""
    found: dict[str, Any] = {
        "x_n": record.number,
        "x_i": record.instance,
        "x_k": record.kind,
        "x_dir": record.direction,
        "rid": record.exchange,
    }
    more = {}
    for key, value in record.meta.items():
        if type(key) is str and key not in RESERVED and _is_exact(value) and _is_exact(key):
            found[key] = value
        else:
            more[key] = value
    if more:
        found["x_more"] = base64.b64encode(cbor2.dumps(more)).decode("ascii")
    return found


def _is_exact(value: Any) -> bool:
    """Whether a value comes back from JSON as it was."""
    kind: type = type(value)
    if kind is str:
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    if kind is int:
        return bool(-_INT_MAX <= value < _INT_MAX)
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(_is_exact(item) for item in value) and not nests_too_deep(value)
    if kind is dict:
        exact = all(type(key) is str and _is_exact(key) and _is_exact(item) for key, item in value.items())
        return exact and not nests_too_deep(value)
    return value is None or kind is bool


def scan(content: bytes, base: int = 0, *, closed: bool = False) -> Iterator[Located | Damage]:
    """The records in `content`, which begins at offset `base` of a JSONL segment, just at a line.

    As `segment.scan`: ends at the last whole line, unless `closed`. Derived and system lines are passed over. Does no I/O.
    """
    at = 0
    while (end := content.find(b"\n", at) + 1) > 0:
        try:
            found = decode(content[at : end - 1])
            if found is not None:
                yield Located(base + at, end - at, found)
        except DamageError:
            yield from _lines_run_together(content[at:end], base + at)
        at = end
    if closed and at < len(content):
        yield from _last_line(content[at:], base + at)


def _last_line(line: bytes, base: int) -> Iterator[Located | Damage]:
    """A line without its LF, behind which nothing comes: whole, if its checksum says so."""
    try:
        found = decode(line)
        if found is not None:
            yield Located(base, len(line), found)
    except DamageError:
        yield Damage(base, len(line))


def _lines_run_together(line: bytes, base: int) -> Iterator[Located | Damage]:
    """What is left of lines whose end was damaged, so that they look like one; else damage."""
    begins = [0, *(seam.end() for seam in _SEAM.finditer(line))]
    if len(begins) == 1:
        yield Damage(base, len(line))
        return
    for begin, end in pairwise([*begins, len(line)]):
        try:
            found = decode(line[begin : end - 1])
        except DamageError:
            yield Damage(base + begin, end - begin)
            continue
        own_end = end if end == len(line) else end - 1
        if found is not None:
            yield Located(base + begin, own_end - begin, found)
        if own_end < end:
            yield Damage(base + own_end, 1)


class _Object(msgspec.Struct, frozen=True):
    timestamp_unix: float | None
    content_type: str
    payload: msgspec.Raw
    metadata: dict[str, Any]


_OBJECT = msgspec.json.Decoder(_Object)
_TEXT = msgspec.json.Decoder(str | None)
_BYTES = msgspec.json.Decoder(dict[str, str])


def decode(line: bytes) -> Record | None:
    """The record of a line without its LF, or None where the line is derived or not ours. Raises DamageError."""
    seal = _CRC.fullmatch(line, max(0, len(line) - _CRC_BYTES))
    if seal and int(seal[1], 16) != google_crc32c.value(line[: seal.start()]):
        raise DamageError("checksum does not match")
    if seal and _KEY_N not in line:
        return None
    try:
        found = _OBJECT.decode(line)
        if "x_n" not in found.metadata:
            return None
        whole = _record(found) if seal else None
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, cbor2.CBORDecodeError) as err:
        raise DamageError(f"not a line of a capture file: {err}") from err
    if whole is None:
        raise DamageError("a record without its checksum")
    return whole


def _record(found: _Object) -> Record:
    meta = {key: value for key, value in found.metadata.items() if key not in RESERVED}
    own = found.metadata
    if "x_more" in own:
        meta |= cbor2.loads(base64.b64decode(own["x_more"], validate=True))
    return Record(
        ts=math.nan if found.timestamp_unix is None else found.timestamp_unix,
        direction=own["x_dir"],
        number=own["x_n"],
        instance=own["x_i"],
        exchange=own["rid"],
        kind=own["x_k"],
        data=_data(found.content_type, bytes(found.payload)),
        meta=meta,
    )


def _data(content_type: str, payload: bytes) -> bytes:
    if content_type == "json":
        return payload
    if content_type == "text":
        return (_TEXT.decode(payload) or "").encode("utf-8")
    if content_type == "bytes":
        try:
            return base64.b64decode(_BYTES.decode(payload)["data"], validate=True)
        except binascii.Error as err:
            raise DamageError(f"payload: {err}") from err
    raise DamageError(f"unknown content_type {content_type!r}")


def _iso(ts: float) -> str | None:
    """As in 2026-01-01T00:00:00.000000+00:00; None for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(ts, UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError, OSError):
        return None
