"""What readers of files hand on: records as they are, exchanges made of parts, and what could not be taken. Pure.

Heads are put together from what a file says of them; credentials in them are masked as the proxy masks them.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND, PROXY_TO_CLIENT, Record
from llmdump.secrets import Secrets

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""Of a body that a file has in one piece; a record holds so much of it."""
_SECRETS: Final = Secrets()
_KEY_HASH = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_REPLACED: Final = frozenset({"content-length", "transfer-encoding"})
_SWITCHING: Final = "101"


class Problem(NamedTuple):
    """Something in a file that could not be taken."""

    where: str
    """`line 3`, `entry 7`, `offset 4096`."""
    what: str


class Part(NamedTuple):
    """One record to be, of an exchange."""

    ts: float
    direction: int
    kind: str
    data: bytes
    meta: dict[str, Any]


class Made(NamedTuple):
    """An exchange put together from what a file says."""

    where: str
    id: str
    """Its id in that file if it is a UUID, else empty."""
    common: dict[str, Any]
    """`sid`, `be`."""
    parts: list[Part]


Item = Record | Made | Problem


class UnusableError(ValueError):
    """This entry of a file cannot be an exchange; the message says why."""


# --- heads


Fields = list[tuple[str, str]]


def masked(head: bytes) -> tuple[bytes, str]:
    """A head without its credentials, and the key hash."""
    found = _SECRETS.mask(head)
    return found.head, found.key_hash


def request_head(method: str, target: str, version: str, fields: Fields) -> bytes:
    """A request's head. Raises UnusableError for what cannot stand in one."""
    if not _TOKEN.fullmatch(method) or not target or any(character <= " " for character in target):
        raise UnusableError(f"no request line can be made of {method[:20]!r} {target[:80]!r}")
    return _head(f"{method} {target} {_version(version)}", fields)


def response_head(status: int, reason: str, version: str, fields: Fields) -> bytes:
    """A response's head."""
    return _head(f"{_version(version)} {status} {_line(reason)}", fields)


def _version(text: str) -> str:
    return text if re.fullmatch(r"HTTP/[0-9](\.[0-9])?", text) else "HTTP/1.1"


def _head(start: str, fields: Fields) -> bytes:
    lines = [start, *(f"{name}: {_line(value)}" for name, value in fields if _TOKEN.fullmatch(name))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _line(value: str) -> str:
    return re.sub(r"[\r\n\0]+", " ", value)


def for_body(fields: Fields, *, decoded: bool) -> Fields:
    """Fields that are true of a body that stands in a file by itself: no framing; `decoded`: no coding either."""
    gone = _REPLACED | ({"content-encoding"} if decoded else set())
    return [(name, value) for name, value in fields if name.lower() not in gone]


def field(fields: Fields, name: str) -> str:
    """The value of the first field of this name (lower case), or an empty text."""
    return next((value for one, value in fields if one.lower() == name), "")


def key_hash(told: Any, found: str) -> str:
    """The key hash that a file tells, if it is one, else the one that was found."""
    return told if isinstance(told, str) and _KEY_HASH.fullmatch(told) else found


# --- parts


def body(direction: int, data: bytes, at: float, *, whole: bool = True) -> Iterator[Part]:
    """Chunks of a body that a file has in one piece."""
    count = -(-len(data) // CHUNK_BYTES_MAX)
    for index in range(count):
        last = {"x_z": True} if whole and index + 1 == count else {}
        piece = data[index * CHUNK_BYTES_MAX : (index + 1) * CHUNK_BYTES_MAX]
        yield Part(at, direction, "chunk", piece, {"ci": index + 1, **last})


def reads(direction: int, pieces: Iterable[tuple[float, bytes]], *, whole: bool) -> list[Part]:
    """Chunks of a body whose reads are known."""
    parts = [Part(at, direction, "chunk", data, {"ci": index}) for index, (at, data) in enumerate(pieces, 1)]
    if parts and whole:
        parts[-1].meta["x_z"] = True
    return parts


def frames(messages: Iterable[tuple[float, int, bool, bytes]]) -> Iterator[Part]:
    """Messages of a WebSocket, (when, direction, is text, data), as the frames they may have come in, not compressed."""
    counts = {CLIENT_TO_PROXY: 0, BACKEND_TO_PROXY: 0}
    for at, direction, is_text, data in messages:
        counts[direction] += 1
        mask = 0x80 if direction == CLIENT_TO_PROXY else 0
        size = len(data)
        if size < 126:
            length = bytes((mask | size,))
        else:
            length = bytes((mask | 126,)) + size.to_bytes(2) if size < 65_536 else bytes((mask | 127,)) + size.to_bytes(8)
        head = bytes((0x81 if is_text else 0x82,)) + length + (bytes(4) if mask else b"")
        yield Part(at, direction, "pipe", head + data, {"ci": counts[direction]})


def end(at: float, parts: list[Part], reason: str, code: str = "", **more: Any) -> Part:
    """The record that ends an exchange, with the sizes of what came before."""
    answered = [part for part in parts if part.kind in {"chunk", "pipe"} and part.direction == BACKEND_TO_PROXY]
    asked = [part for part in parts if part.kind in {"chunk", "pipe"} and part.direction == CLIENT_TO_PROXY]
    sizes = {"tc": len(answered), "tb": sum(map(_size, answered)), "x_req": sum(map(_size, asked))}
    why = {"x_end": reason, "x_err": code, "x_own": [None, None, None], "x_lost": 0}
    last = max([at, *(part.ts for part in parts)])
    return Part(last, PROXY_TO_CLIENT, "end", b"", {"se": True, **sizes, **why, **more})


def _size(part: Part) -> int:
    return int(part.meta.get("x_cut", len(part.data)))


def forward(at: float, head: bytes, upstream: str) -> Part:
    """What went on to the backend."""
    meta = {"x_up": upstream, "x_addr": None, "x_dial": 0, "x_new": False}
    return Part(at, PROXY_TO_BACKEND, "forward", head, {key: value for key, value in meta.items() if value is not None})


# --- values from files


def seconds(text: Any) -> float:
    """Seconds since 1970 of an RFC 3339 time. Raises UnusableError."""
    try:
        when = datetime.fromisoformat(_micros(text))
        if when.tzinfo is None:
            raise ValueError("no zone")
        return when.timestamp()
    except (TypeError, ValueError, OverflowError) as err:
        raise UnusableError(f"{str(text)[:60]!r} is no time with a zone") from err


def _micros(text: Any) -> str:
    """Python reads six digits of a fraction, Go writes nine."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def number(value: Any, default: float = 0.0) -> float:
    """A finite number, or the default."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else default


def unbase64(text: Any) -> bytes:
    """Raises UnusableError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as err:
        raise UnusableError(f"not base64: {err}") from err
