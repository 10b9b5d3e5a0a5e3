"""A JSON array that comes in pieces: each element is an event as soon as its last byte is there.

The Gemini API streams so where `alt=sse` is not asked for. Only brackets, commas and strings are looked at: what an
element says is the reader's affair. Nesting is a number, so its depth costs nothing.
"""

import re
from typing import Final

from llmdump.reading.exchange import Event

_BLANKS: Final = b" \t\r\n"
_IN_ARRAY: Final = re.compile(rb'["{}\[\],]')
_IN_ELEMENT: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


class JsonPieces:
    """The elements of one array."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._element: list[bytes] = []
        self._element_bytes = 0
        self._closed = False
        self.problem = ""

    @property
    def is_over(self) -> bool:
        """Whether the array's closing bracket has come."""
        return self._closed

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The elements that end in these bytes. The first byte of the body is its opening bracket, or blank."""
        events: list[Event] = []
        start = at = 0
        while not self._closed:
            at = self._next(data, at)
            if at < 0:
                self._keep(data[start:])
                return events
            byte = data[at - 1]
            if byte in b"[{":
                self._depth += 1
                start = at if self._depth == 1 else start
            elif byte in b"]}":
                self._depth -= 1
                if self._depth <= 1:
                    # An object or array ends with its bracket; a scalar with the comma or bracket that is not its own.
                    self._keep(data[start : at if self._depth else at - 1])
                    start = at
                    self._dispatch(at_us, events)
                    self._closed = self._depth <= 0
            else:
                self._keep(data[start : at - 1])
                start = at
                self._dispatch(at_us, events)
        if data[at:].strip(_BLANKS):
            self.problem = self.problem or "damaged"
        return events

    def finish(self, at_us: int) -> list[Event]:
        """The element that was not finished."""
        events: list[Event] = []
        self._dispatch(at_us, events)
        if not self._closed:
            self.problem = self.problem or "cut"
        return events

    def _next(self, data: bytes, at: int) -> int:
        """Just after the next byte of structure outside strings, from `at`; -1 if these bytes have none."""
        while True:
            if self._in_string:
                at = self._after_string(data, at)
                if self._in_string:
                    return -1
            found = (_IN_ARRAY if self._depth <= 1 else _IN_ELEMENT).search(data, at)
            if not found:
                return -1
            at = found.end()
            if data[at - 1] != 0x22:
                return at
            self._in_string = True

    def _after_string(self, data: bytes, at: int) -> int:
        while at < len(data):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = _IN_STRING.search(data, at)
            if not found:
                break
            at = found.end()
            if data[at - 1] == 0x22:
                self._in_string = False
                return at
            self._escaped = True
        return at

    def _keep(self, piece: bytes) -> None:
        room = self._event_bytes_max - self._element_bytes
        if len(piece) > room:
            self.problem = self.problem or "limit"
        if piece and room > 0:
            self._element.append(piece[:room])
        self._element_bytes += len(piece)

    def _dispatch(self, at_us: int, events: list[Event]) -> None:
        element = b"".join(self._element).strip(_BLANKS)
        self._element.clear()
        self._element_bytes = 0
        if element:
            events.append(Event(element, "", at_us))
