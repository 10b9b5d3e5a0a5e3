"""Bodies that are one event: a JSON value, or text.

Where the first line of a JSON body is a whole object and another object follows, the body is NDJSON after all. Servers
label NDJSON as JSON and the other way round, so the label decides only what cannot be seen: whether a single line is a
stream of one.
"""

from typing import Final, Literal

import orjson

from llmdump.reading.exchange import Event
from llmdump.reading.ndjson import Ndjson

_BLANKS: Final = b" \t\r\n"


class Whole:
    """A body given as one event at its end; cut and flagged beyond the limit."""

    def __init__(self, framing: Literal["json", "text"], body_bytes_max: int) -> None:
        self.framing: str = framing
        self._pieces: list[bytes] = []
        self._room = body_bytes_max
        self.problem = ""

    def feed(self, data: bytes, _at_us: int) -> list[Event]:
        """Nothing yet."""
        if len(data) > self._room:
            self.problem = "limit"
            data = data[: self._room]
        if data:
            self._pieces.append(data)
            self._room -= len(data)
        return []

    def finish(self, at_us: int) -> list[Event]:
        """The body."""
        return [Event(self.take(), "", at_us)]

    def joined(self) -> bytes:
        """What is held so far."""
        self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def take(self) -> bytes:
        """What was held, which is held no longer."""
        body = self.joined()
        self._pieces.clear()
        return body


class JsonOrLines:
    """A body that begins with a brace."""

    def __init__(self, *, is_lines: bool, event_bytes_max: int, body_bytes_max: int) -> None:
        """`is_lines`: it is labelled as NDJSON."""
        self._is_lines = is_lines
        self._lines = Ndjson(event_bytes_max)
        self._whole = Whole("json", body_bytes_max)
        self._first_line_us: int | None = None
        self._decided: Ndjson | Whole | None = None

    @property
    def framing(self) -> str:
        """As far as it is known by now."""
        return "ndjson" if self._decided is self._lines or (self._decided is None and self._is_lines) else "json"

    @property
    def problem(self) -> str:
        """The grammar's."""
        return self._lines.problem or self._whole.problem

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The lines that end in these bytes, once it is known that they are lines."""
        if self._decided:
            return self._decided.feed(data, at_us)
        self._whole.feed(data, at_us)
        if self._first_line_us is None:
            if b"\n" not in data:
                return []
            self._first_line_us = at_us
        elif not data.strip(_BLANKS):
            return []
        return self._decide(self._first_line_us, at_us)

    def finish(self, at_us: int) -> list[Event]:
        """The last line, or the body."""
        if not self._decided and self._is_lines:
            return self._as_lines(self._whole.take(), at_us) + self._lines.finish(at_us)
        return (self._decided or self._whole).finish(at_us)

    def _decide(self, first_us: int, at_us: int) -> list[Event]:
        line, _, rest = self._whole.joined().partition(b"\n")
        if not line.rstrip(_BLANKS).endswith(b"}"):
            self._decided = self._whole
        elif self._is_lines or (rest.lstrip(_BLANKS)[:1] == b"{" and _is_json(line)):
            self._whole.take()
            return self._as_lines(line + b"\n", first_us) + self._lines.feed(rest, at_us)
        elif rest.strip(_BLANKS):
            self._decided = self._whole
        return []

    def _as_lines(self, data: bytes, at_us: int) -> list[Event]:
        self._decided = self._lines
        return self._lines.feed(data, at_us)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
