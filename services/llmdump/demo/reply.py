"""What the simulated backend is asked and what it answers, whatever the provider: pure values, no I/O.

An `Ask` is a request as the providers' modules see it, with everything that is not in the request itself (time, a
random tag for ids) already decided. A `Reply` is a list of parts. A plain reply has one part and a length; a streamed
one is written part by part, chunked, with a pause between.
"""

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

REPLY: Final = "This is a simulated backend. It has no model and no key, and it answers every prompt alike. You said: "
PIECES_MAX: Final = 100_000
_ECHO_CHARS_MAX: Final = 80


class Ask(NamedTuple):
    """A request to a simulated model. `tag` is 24 hex digits, new for each request; `now` is seconds since 1970."""

    body: dict[str, Any]
    tag: str
    now: int
    model: str = ""
    pieces: int | None = None
    """Answer in so many pieces of text; None for one piece a word."""

    @property
    def wants_stream(self) -> bool:
        """Whether the body says `"stream": true`."""
        return self.body.get("stream") is True


class Reply(NamedTuple):
    """An answer: the parts are written in order, with a pause before each but the first."""

    content_type: str
    parts: tuple[bytes, ...]
    streamed: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


class RefusedError(ValueError):
    """The request cannot be answered; the message is for the client and says what is missing."""


def compact(value: Any) -> bytes:
    """JSON without blanks, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def json_reply(value: Any, **more: Any) -> Reply:
    """A plain JSON answer."""
    return Reply("application/json", (compact(value),), **more)


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event, with a name if the provider sends one."""
    return (f"event: {event}\n".encode() if event else b"") + b"data: " + compact(data) + b"\n\n"


def required(body: dict[str, Any], name: str) -> Any:
    """A field of the body that has to be there. Raises RefusedError."""
    if not body.get(name):
        raise RefusedError(f"you must provide the field {name!r}")
    return body[name]


def reply_text(prompt: str) -> str:
    """The whole text that a prompt is answered with."""
    return REPLY + prompt[:_ECHO_CHARS_MAX]


def pieces(ask: Ask, prompt: str) -> list[str]:
    """The reply's text as it is streamed: one piece a word, or as many as were asked for."""
    words = [f"{word} " for word in reply_text(prompt).split(" ")]
    words[-1] = words[-1].rstrip()
    if ask.pieces is None:
        return words
    return [words[at % len(words)] for at in range(min(ask.pieces, PIECES_MAX))]


def token_count(value: Any) -> int:
    """A stand-in for a tokeniser: a token for each four bytes of JSON, at least one."""
    return max(1, len(compact(value)) // 4)


def last_text(messages: Any) -> str:
    """The text of the last message that has some, in any of the providers' shapes."""
    if isinstance(messages, str):
        return messages
    for message in reversed(messages if isinstance(messages, list) else []):
        text = "".join(_texts(message))
        if text:
            return text
    return ""


def _texts(message: Any) -> Iterable[str]:
    """Texts within a message: `content` or `parts`, a string or a list of blocks with a `text`."""
    if not isinstance(message, dict):
        return
    for name in ("content", "parts", "text"):
        content = message.get(name)
        if isinstance(content, str):
            yield content
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and isinstance(block.get("text"), str):
                yield block["text"]
