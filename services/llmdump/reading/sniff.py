"""Which framing a body has, from its Content-Type and its first bytes. Content types lie, so the bytes come first.

    first bytes                      framing
    {                                object (a JSON value or NDJSON: `whole` tells later)
    [                                json_array, except in a body labelled as text
    data: event: id: retry: ":"      sse; in a body labelled as text only the first two
    a prelude with its checksum      eventstream
    anything else                    what the label says, if it can be that; else text or binary

Sound, pictures, films and forms are taken at their label's word.
"""

import re
from typing import Final

from llmdump.reading import eventstream
from llmdump.reading.sse import BOM

BLANKS: Final = b" \t\r\n"
# What is looked at of a body that neither its label nor its first bytes tell.
TEXT_BYTES: Final = 64

_JSON: Final = {"application/json", "text/json"}
_LINES: Final = {"application/x-ndjson", "application/ndjson", "application/stream+json", "application/jsonl",
                 "application/x-jsonlines", "application/json-lines"}  # fmt: skip
_MEDIA: Final = re.compile(r"(audio|image|video|font|multipart)/|application/(pdf|zip|gzip|x-protobuf|grpc)")
_SSE_IN_TEXT: Final = (b"data:", b"event:")
_SSE: Final = (*_SSE_IN_TEXT, b"retry:", b"id:", b":")
_ANY_FIELD: Final = re.compile(rb"[\w-]{1,63}[:\r\n]|:")
_NO_FIELD: Final = re.compile(rb"[\w-]{0,63}[^\w:\r\n-]|.{64}", re.DOTALL)
_NO_TEXT: Final = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_JSON_VALUE: Final = re.compile(rb'["0-9tfn-]')


def label_of(content_type: str) -> str:
    """What the Content-Type says: `sse`, `json`, `lines`, `eventstream`, `media`, `text`, or empty for nothing useful."""
    media = content_type.partition(";")[0].strip().lower()
    if media in _LINES:
        return "lines"
    if media in _JSON or media.endswith("+json"):
        return "json"
    if _MEDIA.match(media):
        return "media"
    known = {"text/event-stream": "sse", "application/vnd.amazon.eventstream": "eventstream"}
    return known.get(media, "text" if media.startswith("text/") else "")


def framing_of(label: str, head: bytes, *, is_end: bool) -> str:
    """The framing, `object` for a JSON object or NDJSON; empty while more bytes are needed. `is_end`: there are no more."""
    if label == "media":
        return "binary"
    if not is_end and BOM.startswith(head):
        return ""
    if head[:1] == b"\0" and label in ("eventstream", ""):
        return _of_message(label, head, is_end=is_end)
    text = head.removeprefix(BOM).lstrip(BLANKS)
    if text[:1] == b"{":
        return "object"
    if text[:1] == b"[" and label != "text":
        return "json_array"
    return _of_line(label, text, is_end=is_end) if text else ""


def _of_message(label: str, head: bytes, *, is_end: bool) -> str:
    if label == "eventstream":
        return "eventstream"
    if len(head) < eventstream.PRELUDE_BYTES:
        return "binary" if is_end else ""
    return "eventstream" if eventstream.is_prelude(head) else "binary"


def _of_line(label: str, text: bytes, *, is_end: bool) -> str:
    if label == "sse":
        return _of_labelled_sse(text, is_end=is_end)
    fields = _SSE_IN_TEXT if label == "text" else _SSE
    if text.startswith(fields):
        return "sse"
    if not is_end and any(field.startswith(text) for field in fields):
        return ""
    if label == "json":
        return "json" if _JSON_VALUE.match(text) else "text"
    return {"lines": "ndjson", "text": "text", "eventstream": "eventstream"}.get(label) or _of_nothing(text, is_end=is_end)


def _of_labelled_sse(text: bytes, *, is_end: bool) -> str:
    """Fields that mean nothing are still SSE; an error page is not."""
    if _ANY_FIELD.match(text):
        return "sse"
    return "text" if is_end or _NO_FIELD.match(text) else ""


def _of_nothing(text: bytes, *, is_end: bool) -> str:
    if not is_end and len(text) < TEXT_BYTES:
        return ""
    first = text[:TEXT_BYTES]
    return "binary" if _NO_TEXT.search(first) or _is_undecodable(first) else "text"


def _is_undecodable(data: bytes) -> bool:
    """Whether this is not UTF-8, apart from a character cut at its end."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start < len(data) - 3
    return False
