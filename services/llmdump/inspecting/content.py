"""What the entries of one leg carry: message heads taken off, bodies to events, whatever pieces they come in. Pure.

entries of a leg ─▶ captures (the same stream recorded twice counts once) ─▶ head, Body | messages ─▶ Event, Event, …
"""

from typing import Final

from llmdump import heads
from llmdump.captures.belonging import Captures
from llmdump.captures.entry import Entry
from llmdump.reading.exchange import Event
from llmdump.reading.framing import Body, WebSocket

NOTHING: Final = 0
FAILURES_BYTES_MAX: Final = 64 * 1024
"""Of a plain body or an event, where only failures are looked for."""
WHOLE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Where all of it is read."""
_HTTP: Final = b"HTTP/1."


class Content:
    """The messages of one leg."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max`: of a body or an event that is read; 0: none is."""
        self._limit = bytes_max
        self._body: Body | None = None
        self._socket: WebSocket | None = None
        self.fields: list[tuple[str, str]] = []
        """Header fields, where there is a head."""
        self.is_stream = False
        """SSE or the like was seen."""
        self.problem = ""
        self.is_again = False
        """The entry taken last is of a second capture."""
        self._captures = Captures()

    def take(self, entry: Entry, at_us: int) -> list[Event]:
        """The events that end in this entry; nothing for one of a second capture."""
        if not entry.kind:
            return self._of_others(entry, at_us) if entry.data else []
        if not self._limit:
            return []
        if entry.kind in {"head", "answer", "interim"}:
            head, _, rest = entry.data.partition(b"\r\n\r\n")
            self._begin(head)
            return self._feed(rest, at_us) if rest else []
        if entry.kind == "pipe":
            return self._socket.feed(entry.direction, entry.data, at_us) if self._socket else []
        events = self._feed(entry.data, at_us)
        return events + self.finish(at_us) if entry.ends_body else events

    def finish(self, at_us: int) -> list[Event]:
        """What the end completes."""
        body, self._body = self._body, None
        if body is None:
            return []
        events = body.finish(at_us)
        self._look(body)
        return events

    def _of_others(self, entry: Entry, at_us: int) -> list[Event]:
        if entry.is_message:
            return [Event(entry.data, "", at_us)]
        self.is_again = not self._captures.is_first(entry)
        if self.is_again or not self._limit:
            return []
        data = entry.data
        if data.startswith(_HTTP) and b"\r\n\r\n" in data:
            head, _, data = data.partition(b"\r\n\r\n")
            self._begin(head)
        events = self._feed(data, at_us)
        # Without `ci` it is no piece of a stream, but a whole message.
        return events if "ci" in entry.meta or self.is_stream else events + self.finish(at_us)

    def _begin(self, head: bytes) -> None:
        parsed = heads.parse(head)
        self.fields = parsed.fields
        is_socket = parsed.start[1] == "101" and parsed.first("upgrade").lower() == "websocket"
        self._socket = WebSocket(parsed.fields) if is_socket else None
        self._body = self._new(parsed.first("content-type"), parsed.all("content-encoding"))

    def _new(self, content_type: str, codings: list[str]) -> Body:
        return Body(content_type, codings, event_bytes_max=self._limit, body_bytes_max=self._limit)

    def _feed(self, data: bytes, at_us: int) -> list[Event]:
        if self._body is None:
            self._body = self._new("", [])
        events = self._body.feed(data, at_us)
        self._look(self._body)
        return events

    def _look(self, body: Body) -> None:
        self.is_stream = self.is_stream or body.framing in {"sse", "ndjson", "eventstream"}
        self.problem = self.problem or body.problem
