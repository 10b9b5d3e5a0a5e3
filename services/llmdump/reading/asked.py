"""What the request says that a reading of the answer needs: the model asked for, and the shape of the question.

Only a few fields are decoded: a request may be a megabyte of history. A body that was cut is searched for its model.
"""

import re
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from llmdump.reading.exchange import Request
from llmdump.reading.typed import clean, text

MODEL_CHARS_MAX: Final = 512
# A form's field; forms of audio and images name the model in one.
_FORM_MODEL: Final = re.compile(rb'name="?model"?\r\n(?:[^\r\n]{1,1024}\r\n){0,8}\r\n([^\r\n]{1,512})\r\n')
_CUT_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,512})"')
# /models/NAME:verb (Gemini, Vertex), /model/NAME/verb (Bedrock), /deployments/NAME/… (Azure)
_URL_MODEL: Final = (
    re.compile(r"/models/([^/:?]+):[A-Za-z]+$"),
    re.compile(r"/model/([^/]+)/[a-z-]+$"),
    re.compile(r"/deployments/([^/]+)/"),
)
# Realtime has no body.
_QUERY_MODEL: Final = re.compile(r"[?&]model=([^&#]+)")


class Asked(NamedTuple):
    """What was asked for."""

    model: str | None = None
    """In a JSON body or in the path."""
    form_model: str | None = None
    """In a form."""
    keys: frozenset[str] = frozenset()
    """Which of the telling keys are there."""


class _Body(msgspec.Struct):
    model: Any = None
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    message: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    contents: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    system: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_DECODER: Final = msgspec.json.Decoder(_Body)
_TELLING: Final = ("messages", "message", "input", "prompt", "contents", "system", "max_tokens")


def asked(request: Request, path: str) -> Asked:
    """What the request asks for; `path` is without query."""
    named = _in_path(path) or _in_query(request.target)
    body = request.body
    if not body:
        return Asked(named)
    if body[:2] == b"--":
        found = _FORM_MODEL.search(body)
        return Asked(named, found[1].decode("utf-8", "replace") if found else None)
    try:
        decoded = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _CUT_MODEL.search(body)
        return Asked(found[1].decode("utf-8", "replace") if found else named)
    keys = frozenset(key for key in _TELLING if getattr(decoded, key) is not msgspec.UNSET)
    model = text(decoded.model)
    return Asked(clean(model, MODEL_CHARS_MAX) if model else named, None, keys)


def _in_path(path: str) -> str | None:
    for pattern in _URL_MODEL:
        if found := pattern.search(path):
            return unquote(found[1])[:MODEL_CHARS_MAX]
    return None


def _in_query(target: str) -> str | None:
    found = _QUERY_MODEL.search(target)
    return unquote(found[1])[:MODEL_CHARS_MAX] if found else None
