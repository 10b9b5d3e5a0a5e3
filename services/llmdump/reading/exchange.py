"""What the parts of a reading hand to one another: the request, the events of the answer, and the reading itself.

    bytes ─ framing ─▶ Event, Event, … ─ reader (a fold, state bounded) ─▶ Reading
    Request ────────────────────────────────┘

A `Reading` says everything twice. `reading` has the provider's own numbers under the names this project uses for all
providers; `normalised` has figures that may be compared and added up between providers. Null is unknown, zero is zero
as reported.
"""

from typing import Any, Literal, NamedTuple

Kind = Literal["text", "binary", "exception"]


class Event(NamedTuple):
    """One piece of an answer that means something by itself."""

    data: bytes
    """The data lines of an SSE event joined by LF, an NDJSON line, an array's element, the payload of an event-stream
    or WebSocket message, or the whole body of a plain answer."""
    name: str = ""
    """Of an SSE event, or `:event-type`/`:exception-type` of an event-stream message; empty if there is none."""
    at_us: int = 0
    """When its last byte had come, since the exchange's first record."""
    kind: Kind = "text"
    """`binary` is a WebSocket message of that kind; `exception` an event-stream message that tells of a failure."""


class Request(NamedTuple):
    """The asking side, as far as a reader needs it."""

    method: str
    target: str
    """As received: path and query."""
    host: str = ""
    provider: str = ""
    """The route's name for its backend."""
    fields: list[tuple[str, str]] = []  # noqa: RUF012 -- never changed
    """Header fields as received, credentials masked."""
    body: bytes = b""
    """Content codings undone; up to a limit."""
    body_whole: bool = True


class Reading(NamedTuple):
    """What an exchange said."""

    reading: dict[str, Any]
    """The provider's own numbers and strings; null where nothing was said."""
    normalised: dict[str, Any]
    """The same for all providers: `input` is the whole prompt, `output` has the reasoning in it."""
    usage_raw: dict[str, Any] | None
    """The usage as the provider sent it."""
    text: str
    """What was to be seen of the answer, first choice only; cut at `text.HELD_CHARS_MAX`."""
    reasoning_text: str
    """Thoughts that were shown; cut at the same limit."""
