"""Newline-delimited JSON: each line that is not blank is an event. Ends of line are LF or CR LF.

A line beyond the limit is cut there and flagged. The last line needs no end.
"""

from llmdump.reading.exchange import Event

_BLANKS = b" \t\r\n"


class Ndjson:
    """The lines of one stream."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._line: list[bytes] = []
        self._line_bytes = 0
        self.problem = ""

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The lines that end in these bytes."""
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._keep(data)
            return []
        self._keep(lines[0])
        events = self._dispatch(at_us)
        for line in lines[1:-1]:
            self._keep(line)
            events += self._dispatch(at_us)
        self._keep(lines[-1])
        return events

    def finish(self, at_us: int) -> list[Event]:
        """The last line, if it had no end."""
        return self._dispatch(at_us)

    def _keep(self, piece: bytes) -> None:
        room = self._event_bytes_max - self._line_bytes
        if len(piece) > room:
            self.problem = self.problem or "limit"
        if piece and room > 0:
            self._line.append(piece[:room])
        self._line_bytes += len(piece)

    def _dispatch(self, at_us: int) -> list[Event]:
        line = b"".join(self._line).strip(_BLANKS)
        self._line.clear()
        self._line_bytes = 0
        return [Event(line, "", at_us)] if line else []
