"""Images, sounds and files of a request, one at a time: from base64 within its JSON, or from a multipart form.

They are numbered from 0 in the order in which they stand in the body, so the numbers never change. Only what came with the
request counts; a link to elsewhere is none of it. What is given out can do no harm in a browser: its type is one of
`SAFE_TYPES`, else octets; it is an attachment in a sandbox (see `gate.HARMLESS`). Pure.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from llmdump.reading.multipart import parameters

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of a request body, decoded, that is looked through."""
NUMBER_MAX: Final = 9999
NODES_MAX: Final = 1_000_000
"""Values of a JSON body that are looked at."""

SAFE_TYPES: Final = {
    "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp", "image/avif": "avif",
    "image/bmp": "bmp", "image/heic": "heic", "audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3",
    "audio/mp3": "mp3", "audio/mp4": "m4a", "audio/aac": "aac", "audio/ogg": "ogg", "audio/flac": "flac",
    "audio/webm": "webm", "audio/opus": "opus", "audio/pcm": "pcm", "video/mp4": "mp4", "video/webm": "webm",
    "video/quicktime": "mov", "application/pdf": "pdf", "text/plain": "txt", "text/csv": "csv",
}  # fmt: skip
"""Types that no browser runs, and the ending of a file of each."""
_OCTETS: Final = "application/octet-stream"

_DATA_URL: Final = re.compile(r"data:([^;,]{0,100})(?:;[^;,]{0,100})*;base64,", re.IGNORECASE)
_FORM_PART: Final = re.compile(rb"\r?\n\r?\n")


class Medium(NamedTuple):
    """One image, sound or file."""

    content_type: str
    """One of `SAFE_TYPES`, or octets."""
    content: bytes

    @property
    def ending(self) -> str:
        """Of its file."""
        return SAFE_TYPES.get(self.content_type, "bin")


def find(body: bytes, content_type: str, number: int) -> Medium | None:
    """The medium of this number; None if there are not so many."""
    return next(itertools.islice(_all(body, content_type), number, None), None)


def _all(body: bytes, content_type: str) -> Iterator[Medium]:
    if content_type.lower().startswith("multipart/"):
        yield from _in_form(body, content_type)
        return
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    for told, text in _in_json(document):
        content = _decoded(text)
        if content is not None:
            yield Medium(_safe(told), content)


def _in_json(document: Any) -> Iterator[tuple[str, str]]:
    """Types and base64 texts, in the order in which they stand."""
    stack, seen = [document], 0
    while stack and seen < NODES_MAX:
        node = stack.pop()
        seen += 1
        if isinstance(node, dict):
            here = _of(node)
            if here is not None:
                yield here
            else:
                stack.extend(reversed(node.values()))
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, str) and (found := _DATA_URL.match(node)):
            yield found[1], node[found.end() :]


def _of(node: Mapping[str, Any]) -> tuple[str, str] | None:
    """The medium that an object is: Anthropic's source, Gemini's inline data, OpenAI's sound; data URLs are texts anywhere."""
    data = node.get("data")
    if not isinstance(data, str) or data.startswith("data:"):
        return None
    if node.get("type") == "base64":
        return str(node.get("media_type", "")), data
    for name in ("mimeType", "mime_type"):
        if isinstance(node.get(name), str):
            return node[name], data
    if isinstance(node.get("format"), str):
        return f"audio/{node['format']}", data
    return None


def _in_form(body: bytes, content_type: str) -> Iterator[Medium]:
    boundary = parameters(content_type).get("boundary", "").encode(errors="replace")
    if not boundary:
        return
    for part in (b"\r\n" + body).split(b"\n--" + boundary)[1:]:
        if part.startswith(b"--"):
            return
        head, _, content = _split(part)
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head.splitlines())}
        if "filename" in parameters(fields.get("content-disposition", "")):
            yield Medium(_safe(fields.get("content-type", "")), content.removesuffix(b"\r"))


def _split(part: bytes) -> tuple[str, bytes, bytes]:
    found = _FORM_PART.search(part)
    if found is None:
        return "", b"", b""
    return part[: found.start()].decode(errors="replace"), found[0], part[found.end() :]


def _decoded(text: str) -> bytes | None:
    try:
        packed = text.encode("ascii").translate(None, b" \t\r\n").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _safe(told: str) -> str:
    named = told.partition(";")[0].strip().lower()
    return named if named in SAFE_TYPES else _OCTETS
