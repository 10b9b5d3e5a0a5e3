"""One spelling for equal JSON values, so that equal turns of a conversation have equal hashes.

It is the spelling of Go's encoding/json for a decoded value: keys in order, no blanks, `<`, `>`, `&`, U+2028 and U+2029
escaped, numbers as a float64 is printed (1.0 as 1, 1e-7 as 1e-7, 1e20 in full). So hashes are those that api-log has,
and an archive of it goes on where it ended. One difference is meant: whole numbers keep all of their digits, for two
ids that differ only in the last of 18 are two ids.

Before that, what moves without meaning is taken away: `cache_control` marks, which agents put on ever later messages,
and the list around a content that is one plain text, which is how a text must be written to carry a mark.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

import msgspec
import orjson

# Beyond this nobody means well, and neither json module would follow.
DEPTH_MAX: Final = 200

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def _number(literal: str) -> Decimal:
    """A number with a point or an exponent: the shortest decimal that is the same float64. (One that is too large is 0.)"""
    value = float(literal)
    return Decimal(repr(value)).normalize() if math.isfinite(value) else Decimal(0)


def spelt(number: Decimal) -> orjson.Fragment:
    """A decimal of `decode` as orjson writes it, its `default`."""
    is_plain = Decimal("1e-6") <= abs(number) < Decimal("1e21") or not number
    return orjson.Fragment(format(number, "f" if is_plain else "e"))


_DECODER: Final = msgspec.json.Decoder(float_hook=_number)


def decode(body: bytes) -> Any:
    """The JSON value in a request body, as `encode` wants it; None if there is none, or one nested too deep. Does not raise."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return _decode_lenient(body)


def _decode_lenient(body: bytes) -> Any:
    """Bytes and halves of surrogate pairs that are no text become U+FFFD, as with Go."""
    try:
        text = body.decode("utf-8", "replace")
        value = msgspec.json.decode(text.encode()) if "\\u" not in text else _with_surrogates(text)
        return _DECODER.decode(msgspec.json.encode(value))
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return None


def _with_surrogates(text: str) -> Any:
    # The only one of the three modules here that takes half of a pair.
    return json.loads(_SURROGATE.sub("\ufffd", json.dumps(json.loads(text), ensure_ascii=False)))


def encode(value: Any) -> bytes:
    """The canonical spelling of a decoded value. Raises RecursionError for one nested too deep."""
    try:
        encoded = orjson.dumps(value, default=spelt, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # whole numbers beyond 64 bits, or more than 254 levels: no longer Go's, but still one spelling
        encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=float).encode()
    for plain, escaped in _ESCAPES:
        if plain in encoded:
            encoded = encoded.replace(plain, escaped)
    return encoded


def without_marks(value: Any, depth: int = 0) -> Any:
    """A copy without `cache_control`, at any depth."""
    if depth > DEPTH_MAX:
        return value
    if isinstance(value, dict):
        return {key: without_marks(item, depth + 1) for key, item in value.items() if key != "cache_control"}
    return [without_marks(item, depth + 1) for item in value] if isinstance(value, list) else value


def plain_content(content: Any) -> Any:
    """A content that is one plain text, as this text; any other as it is."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        if part.keys() == {"type", "text"} and part["type"] == "text" and isinstance(part["text"], str):
            return part["text"]
    return content
