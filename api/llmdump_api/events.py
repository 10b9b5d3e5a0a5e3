"""Events of a stream as api-log's traces have them: `{event, data, t_delta_ms}`, and whether the stream said that it is over.

`data` is what the data lines say as JSON, spliced in byte for byte, else their text. The `[DONE]` of chat streams is no event
but the end; others have an event for that. What comes behind a limit is left out and counted.
"""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from llmdump.reading.exchange import Event
from llmdump.reading.sse import Sse

EVENTS_MAX: Final = 20_000
"""Shown of one stream."""
EVENT_BYTES_MAX: Final = 8 * 1024 * 1024

_LAST: Final = frozenset({"message_stop", "response.completed", "response.failed", "response.incomplete"})


class Events:
    """The events of one stream while its bytes pass by."""

    def __init__(self) -> None:
        self._sse = Sse(EVENT_BYTES_MAX)
        self._shown: list[dict[str, Any]] = []
        self._count = 0
        self._done = False
        self._last_t_ms = 0.0

    def feed(self, data: bytes, t_ms: float) -> None:
        """Decoded bytes that came then, ms since the exchange began."""
        self._last_t_ms = t_ms
        self._take(self._sse.feed(data, 0))

    def shown(self) -> dict[str, Any]:
        """`events`, `events_total` and `stream_done`; nothing, if there was no event. Ends the stream."""
        self._take(self._sse.finish(0))
        if not self._count and not self._done:
            return {}
        return {"events": self._shown, "events_total": self._count, "stream_done": self._done}

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.data == b"[DONE]" and not event.name:
                self._done = True
                continue
            self._done = self._done or _type(event) in _LAST
            self._count += 1
            if len(self._shown) < EVENTS_MAX:
                self._shown.append({"event": event.name, "data": _data(event.data), "t_delta_ms": self._last_t_ms})


def _type(event: Event) -> str:
    """Its name; without one, the word that is the `type` of its data, if it begins with that."""
    if event.name or not event.data.startswith(b'{"type":"'):
        return event.name
    return event.data[9 : event.data.find(b'"', 9)].decode("utf-8", "replace")


def _data(data: bytes) -> Any:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "replace")
    return orjson.Fragment(data)
