"""When two requests ask the same: the keys under which a recorded request is found again. Pure.

    exact          method, path, query and body, the body spelt canonically (order of keys, blanks and the spelling of
                   numbers do not count; of a form its boundary does not,
                   and Google's fields may be written in either of the two ways it takes)
    conversation   the same model is asked to go on with the same turns, as a stream or not; what else is set may differ.
                   Turns are compared as sessions do it: as they are, then without what moves (dates in system texts …)
    any-model      as conversation, whatever the model
    path           method and path, as a stream or not: the next one that was recorded there

Each level takes what the ones before it take. Credentials in the query are never compared: they were masked.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from llmdump import heads
from llmdump.reading import sessions
from llmdump.reading.canonical import DEPTH_MAX, decode, encode
from llmdump.reading.exchange import Request
from llmdump.reading.hints import Hints
from llmdump.reading.reader import Reader

LEVELS: Final = ("exact", "conversation", "any-model", "path")
WEBSOCKET: Final = "WEBSOCKET"
"""In place of the method of a request for a WebSocket; its body is the first message then, empty if the backend spoke first."""
KEY_BYTES: Final = 16
PARAMETERS_MAX: Final = 200
SECRET_QUERY: Final = frozenset(
    ("key", "api_key", "api-key", "apikey", "access_token", "token", "sig", "x-amz-signature", "x-amz-security-token",
     "x-goog-signature")
)  # fmt: skip
"""Parameters that the proxy masks; settings may name more."""
_SNAKE: Final = re.compile(r"(?<=[a-z0-9])_([a-z])")
_BYTES: Final = frozenset(("data", "thoughtSignature", "imageBytes", "videoBytes"))
_URL_SAFE: Final = str.maketrans("-_", "+/")
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)


class Asked(NamedTuple):
    """A request, as far as it is compared."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    api: str | None
    """By its path and question alone, for of a request that comes no more is known."""
    document: Any
    """The JSON value of the body; None if it is none."""
    body: bytes
    """In its canonical spelling."""
    streams: bool
    model: str
    turns: list[Any]
    history: tuple[str, ...]
    """Hashes of the turns, the strict one first, with what it goes on from; empty if there are none."""


def asked(request: Request, secret_query: frozenset[str] = SECRET_QUERY) -> Asked:
    """What a request asks. Its body's content codings are undone already."""
    api = Reader(request._replace(host="", provider=""), None, []).api
    document = decode(request.body) if request.body else None
    document = _as_google_says(document) if (api or "").startswith("gemini.") else document
    fields = document if isinstance(document, dict) else {}
    query = _query(request.target, secret_query)
    told = sessions.conversation(api, document, Hints())
    previous = next((one.key for one in told.candidates if one.by == "response_id"), "")
    return Asked(
        request.method, path_of(request.target), query, api, document, _spelt(request, document),
        fields.get("stream") is True or ("alt", "sse") in query, str(fields.get("model") or ""), told.turns,
        tuple(f"{key} {previous}" for key in told.keys[:2]) if told.prefix_hash else (),
    )  # fmt: skip


def wants_websocket(fields: Sequence[tuple[str, str]]) -> bool:
    """Whether a request with these fields asks for a WebSocket."""
    return any(name.lower() == "upgrade" and value.lower() == "websocket" for name, value in fields)


def path_of(target: str) -> str:
    """The path of a request target, its percent-encoding undone: clients differ in what they encode."""
    return unquote(heads.path_of(target), "latin-1")


def _as_google_says(value: Any, depth: int = 0) -> Any:
    """Names in camel case and bytes in the usual base64: Google's clients write either, and the other for each."""
    if isinstance(value, dict) and depth < DEPTH_MAX:
        named = ((_SNAKE.sub(lambda found: found[1].upper(), key), item) for key, item in value.items())
        return {key: _plain_base64(item) if key in _BYTES else _as_google_says(item, depth + 1) for key, item in named}
    return [_as_google_says(item, depth + 1) for item in value] if isinstance(value, list) and depth < DEPTH_MAX else value


def _plain_base64(value: Any) -> Any:
    return value.translate(_URL_SAFE) if isinstance(value, str) else value


def _query(target: str, secret: frozenset[str]) -> tuple[tuple[str, str], ...]:
    text = target.partition("?")[2].partition("#")[0]
    found = parse_qsl(text, keep_blank_values=True, encoding="latin-1", max_num_fields=None)[:PARAMETERS_MAX]
    return tuple(sorted(pair for pair in found if pair[0].lower() not in secret))


def _spelt(request: Request, document: Any) -> bytes:
    """The body in the spelling that all bodies share that say the same."""
    if document is not None:
        try:
            return encode(document)
        except RecursionError:
            return request.body
    boundary = next((_BOUNDARY.search(value) for name, value in request.fields if name.lower() == "content-type"), None)
    if boundary is None:
        return request.body
    return request.body.replace((boundary[1] or boundary[2]).encode("latin-1"), b"boundary")


def keys(request: Asked, level: str, path: str) -> Iterator[bytes]:
    """The keys of a request at this level, the best first, as if it had asked at `path`."""
    place = (request.method, path)
    how = "stream" if request.streams else "whole"
    if level == "exact":
        yield _key(level, *place, repr(request.query), request.body)
    elif level == "path":
        yield _key(level, *place, how)
    else:
        model = request.model if level == "conversation" else ""
        yield from (_key(level, *place, how, model, history) for history in request.history)


def _key(*parts: str | bytes) -> bytes:
    made = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        made.update(b"%d:" % len(data) + data)
    return made.digest()


def paths(path: str, prefixes: Sequence[str]) -> list[str]:
    """The paths under which a request may have been recorded: its own, and without a prefix that a route takes off."""
    found = [path]
    for prefix in prefixes:
        rest = path.removeprefix(prefix)
        if prefix and path.startswith(prefix + "/") and rest not in found:
            found.append(rest)
    return found
