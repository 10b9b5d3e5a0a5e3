"""What a client is told whose request fits no recording: an error in its provider's shape, with the nearest and how it differs.

Pure. Every SDK shows the message to its user; programs find the same under `llmdump`, a key that no provider has:

    {"error": {"message": "llmdump: …", "type": "not_found_error", …}, "llmdump": {"code": …, "nearest": {…}, "differs": […]}}
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from llmdump_api.alike import Asked

SHOWN_CHARS_MAX: Final = 60
DIFFERENCES_SHOWN: Final = 3
DIFFERENCES_MAX: Final = 50
"""Counted when requests are compared; beyond they are just different."""
DEPTH_MAX: Final = 40
_ABSENT: Final = object()


class Difference(NamedTuple):
    """A place in which a request differs from a recorded one."""

    at: str
    """`messages.2.content`; or `method`, `query`, `body`."""
    asked: str
    """As JSON, cut; `absent` if there is nothing."""
    recorded: str


def differences(asked: Asked, recorded: Asked) -> list[Difference]:
    """How a request differs from a recorded one, in the order of its body; empty if only in what is not compared."""
    found: list[Difference] = []
    for at, one, other in _places(asked, recorded):
        found.append(Difference(at, *_shown(one, other)))
        if len(found) == DIFFERENCES_MAX:
            break
    return found


def _places(asked: Asked, recorded: Asked) -> Iterator[tuple[str, Any, Any]]:
    if asked.query != recorded.query:
        yield "query", dict(asked.query), dict(recorded.query)
    if asked.document is not None and recorded.document is not None:
        yield from _in(asked.document, recorded.document, "", 0)
    elif asked.body != recorded.body:
        yield "body", asked.body.decode("utf-8", "replace"), recorded.body.decode("utf-8", "replace")


def _in(one: Any, other: Any, at: str, depth: int) -> Iterator[tuple[str, Any, Any]]:
    if depth < DEPTH_MAX and isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *(key for key in other if key not in one)):
            yield from _in(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{at}.{key}".lstrip("."), depth + 1)
    elif depth < DEPTH_MAX and isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            mine, theirs = (items[index] if index < len(items) else _ABSENT for items in (one, other))
            yield from _in(mine, theirs, f"{at}.{index}".lstrip("."), depth + 1)
    elif one is _ABSENT or other is _ABSENT or one != other:
        yield at, one, other


def _shown(one: Any, other: Any) -> tuple[str, str]:
    """Both as JSON; of long texts the part in which they begin to differ."""
    texts = [_json(one), _json(other)]
    same = next((index for index, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), 0)
    begin = max(0, same - SHOWN_CHARS_MAX // 3) if max(map(len, texts)) > SHOWN_CHARS_MAX else 0
    cut = [("…" if begin else "") + text[begin : begin + SHOWN_CHARS_MAX] for text in texts]
    return tuple(  # type: ignore[return-value]
        part + ("…" if len(text) > begin + SHOWN_CHARS_MAX else "") for part, text in zip(cut, texts, strict=True)
    )


def _json(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False, default=float)


class Refused(NamedTuple):
    """Why a request is not answered from a recording."""

    code: str
    """`not_recorded`, `used_up`, `not_readable` or `too_many`."""
    status: int
    message: str
    nearest: str = ""
    """The id of the recorded exchange that is most like it."""
    differs: Sequence[Difference] = ()


def not_recorded(
    method: str, path: str, nearest: str, differs: Sequence[Difference], places: Sequence[tuple[str, str, int]]
) -> Refused:
    """No recording fits."""
    message = f"no recording fits this {method} {path}"
    if nearest:
        told = "; ".join(f"{one.at} is {one.asked}, recorded {one.recorded}" for one in differs[:DIFFERENCES_SHOWN])
        more = f", and {len(differs) - DIFFERENCES_SHOWN} more" if len(differs) > DIFFERENCES_SHOWN else ""
        message += f". The nearest is {nearest}: {told or 'the same turns, with other settings'}{more}"
    elif places:
        message += ". Recorded are " + ", ".join(f"{one} {at} ({count})" for one, at, count in places)
    else:
        message += ": nothing is recorded here"
    return Refused("not_recorded", 404, message, nearest, differs)


def body(api: str | None, refused: Refused) -> bytes:
    """The answer's body."""
    message = f"llmdump: {refused.message}"
    more = {
        "code": refused.code,
        "nearest": refused.nearest or None,
        "differs": [one._asdict() for one in refused.differs],
    }
    return json.dumps({**_shape(api or "", message, refused), "llmdump": more}, ensure_ascii=False).encode()


def event(refused: Refused) -> bytes:
    """The same as an event of a WebSocket, in the form of OpenAI's, whose APIs alone are spoken so."""
    told = json.loads(body("openai.responses", refused))
    return json.dumps({"type": "error", "status": refused.status, **told}, ensure_ascii=False).encode()


def _shape(api: str, message: str, refused: Refused) -> dict[str, Any]:
    family = api.partition(".")[0]
    if family == "anthropic":
        return {"type": "error", "error": {"type": _TYPES.get(refused.status, "api_error"), "message": message}}
    if family in {"gemini", "vertex"}:
        status = {404: "NOT_FOUND", 503: "UNAVAILABLE"}.get(refused.status, "INTERNAL")
        return {"error": {"code": refused.status, "message": message, "status": status}}
    if family in {"ollama", "llama"}:
        return {"error": message}
    if family in {"cohere", "bedrock", "rerank"}:
        return {"message": message}
    kind = _TYPES.get(refused.status, "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": refused.code}}


_TYPES: Final = {404: "not_found_error", 503: "overloaded_error"}
