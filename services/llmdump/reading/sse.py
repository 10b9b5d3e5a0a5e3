"""Server-sent events, the whole grammar (WHATWG HTML section 9.2.6), whatever pieces they come in.

    stream  = [BOM] *event
    event   = *( comment | field ) end-of-line          dispatched by its empty line, if it has data
    field   = name [":" [SPACE] value] end-of-line      data (several are joined by LF), event; id and retry mean nothing here
    comment = ":" … end-of-line
    end-of-line = CR LF | CR | LF

Two departures: an event that the end of the stream leaves unfinished is given all the same, for a recorder wants to see
it; and an event beyond the limit is cut there, flagged, and what follows is read on.

Line ends become LF first, so that what is between two empty lines can be had in one split. Only an event that comes in
several pieces goes line by line.
"""

from functools import lru_cache
from typing import Final

from llmdump.reading.exchange import Event

BOM: Final = b"\xef\xbb\xbf"
# A name is a word of the API. Longer ones are cut.
NAME_BYTES_MAX: Final = 200
# What stands before the value in a line that matters: `event: `, `data: `.
_PREFIX_BYTES: Final = 7

_new = tuple.__new__


class Sse:
    """The events of one stream."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._bom: bytes | None = b""
        self._after_cr = False
        self._line: list[bytes] = []
        self._line_room = event_bytes_max + _PREFIX_BYTES
        self._data = bytearray()
        self._name = b""
        self.problem = ""

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The events that end in these bytes."""
        data = self._plain_line_ends(data if self._bom is None else self._without_bom(data))
        events: list[Event] = []
        if data and (self._line or self._data or self._name):
            data = self._by_line(data, at_us, events)
        end = data.rfind(b"\n\n") + 2
        if end > 1:
            self._whole(data[:end], at_us, events)
            data = data[end:]
        while data:
            data = self._by_line(data, at_us, events)
        return events

    def finish(self, at_us: int) -> list[Event]:
        """The event that the end left unfinished, if it has data."""
        events: list[Event] = []
        if self._line:
            self._take(b"".join(self._line))
            self._line = []
        self._dispatch(at_us, events)
        return events

    def _without_bom(self, data: bytes) -> bytes:
        data = (self._bom or b"") + data
        if len(data) < len(BOM) and BOM.startswith(data):
            self._bom = data
            return b""
        self._bom = None
        return data.removeprefix(BOM)

    def _plain_line_ends(self, data: bytes) -> bytes:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _whole(self, data: bytes, at_us: int, events: list[Event]) -> None:
        """The events of bytes that begin with an event and end with an empty line."""
        if data.startswith(b"data:") and len(data) <= self._event_bytes_max:
            start = b"data: " if data.startswith(b"data: ") else b"data:"
            payloads = data[len(start) : -2].split(b"\n\n" + start)
            # Two line ends for each, so none of them has a line end within: nothing but events of one data line.
            if data.count(b"\n") == 2 * len(payloads):
                if start == b"data:":
                    payloads = [payload.removeprefix(b" ") for payload in payloads]
                events += [_new(Event, (payload, "", at_us, "text")) for payload in payloads]
                return
        for block in data[:-2].split(b"\n\n"):
            name, _, line = block.partition(b"\n")
            if name[:7] == b"event: " and line[:6] == b"data: " and b"\n" not in line and len(line) <= self._event_bytes_max:
                events.append(_new(Event, (line[6:], _text(name[7:]), at_us, "text")))
            else:
                self._block(block, at_us, events)

    def _block(self, block: bytes, at_us: int, events: list[Event]) -> None:
        for line in block.split(b"\n"):
            self._take(line)
        self._dispatch(at_us, events)

    def _by_line(self, data: bytes, at_us: int, events: list[Event]) -> bytes:
        """What is left after the first empty line."""
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            line = data[at:end]
            at = end + 1
            if self._line:
                self._keep(line)
                line = b"".join(self._line)
                self._line, self._line_room = [], self._event_bytes_max + _PREFIX_BYTES
            if not line:
                self._dispatch(at_us, events)
                return data[at:]
            self._take(line)
        if at < len(data):
            self._keep(data[at:])
        return b""

    def _keep(self, piece: bytes) -> None:
        if piece and self._line_room > 0:
            self._line.append(piece[: self._line_room])
        self._line_room -= len(piece)

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            room = self._event_bytes_max + 1 - len(self._data)
            if len(value) >= room:
                self.problem = self.problem or "limit"
            # With the LF that joins it to the next one; the last one's is taken off, as the standard says.
            self._data += value[: max(room - 1, 0)]
            self._data += b"\n"[: max(room, 0)]
        elif field == b"event":
            self._name = value[:NAME_BYTES_MAX]

    def _dispatch(self, at_us: int, events: list[Event]) -> None:
        if self._data:
            events.append(Event(bytes(self._data[:-1]), _text(self._name), at_us))
            self._data = bytearray()
        self._name = b""


@lru_cache(maxsize=256)
def _text(name: bytes) -> str:
    return name[:NAME_BYTES_MAX].decode(errors="replace")
