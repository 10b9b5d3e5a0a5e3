"""AWS event streams, as Bedrock sends them (`application/vnd.amazon.eventstream`).

    offset  0  uint32  length of the message, all of it
            4  uint32  length of the headers
            8  uint32  CRC32 of the 8 bytes before (the prelude)
           12  headers …: uint8 length, name, uint8 type, value
           12+h  payload
           last 4     CRC32 of all before

A message whose CRC is wrong is left out and flagged; its length may still be trusted, for that has a CRC of its own.
Where the prelude is wrong, the next one that is right is searched for, byte by byte.
"""

import struct
import zlib
from typing import Final

from llmdump.reading.exchange import Event

PRELUDE_BYTES: Final = 12
# So much garbage is searched in one stream: a checksum for each byte of it costs half a second a megabyte.
SEARCHED_BYTES_MAX: Final = 1024 * 1024
# Lengths of header values by type; None: a uint16 length stands before the value (types 6 bytes and 7 string).
_VALUE_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: None, 7: None, 8: 8, 9: 16}
_OVERHEAD_BYTES: Final = PRELUDE_BYTES + 4
_PRELUDE: Final = struct.Struct(">III")
_NAMES: Final = (":event-type", ":exception-type", ":error-code")


def is_prelude(data: bytes | bytearray, at: int = 0) -> bool:
    """Whether 12 bytes from `at` begin a message."""
    total, headers, crc = _PRELUDE.unpack_from(data, at)
    return bool(headers + _OVERHEAD_BYTES <= total) and zlib.crc32(bytes(data[at : at + 8])) == crc


class EventStream:
    """The messages of one stream."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._buffer = bytearray()
        self._skip_bytes = 0
        self._searched_bytes = 0
        self.problem = ""

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The messages that end in these bytes."""
        if self._searched_bytes >= SEARCHED_BYTES_MAX:
            return []
        self._buffer += data
        events: list[Event] = []
        at = self._skipped(0)
        while self._searched_bytes < SEARCHED_BYTES_MAX and (size := self._next(at, at_us, events)) > 0:
            at = self._skipped(at + size)
        del self._buffer[:at]
        return events

    def finish(self, at_us: int) -> list[Event]:
        """Nothing: what is left of a message cannot be checked."""
        if self._buffer or self._skip_bytes:
            self._buffer.clear()
            self.problem = self.problem or "cut"
        return []

    def _skipped(self, at: int) -> int:
        skipped = min(self._skip_bytes, len(self._buffer) - at)
        self._skip_bytes -= skipped
        return at + skipped

    def _next(self, at: int, at_us: int, events: list[Event]) -> int:
        """How many bytes from `at` are done with; 0: more are needed."""
        if len(self._buffer) - at < PRELUDE_BYTES:
            return 0
        if not is_prelude(self._buffer, at):
            self.problem = self.problem or "damaged"
            return self._to_next_prelude(at)
        total: int
        total, headers, _ = _PRELUDE.unpack_from(self._buffer, at)
        if total > self._event_bytes_max + _OVERHEAD_BYTES:
            return self._cut(at, total, headers, at_us, events)
        if len(self._buffer) - at < total:
            return 0
        message = bytes(self._buffer[at : at + total])
        if zlib.crc32(message[:-4]) == int.from_bytes(message[-4:]):
            events.append(_event(message[12 : 12 + headers], message[12 + headers : -4], at_us))
        else:
            self.problem = self.problem or "damaged"
        return total

    def _cut(self, at: int, total: int, headers: int, at_us: int, events: list[Event]) -> int:
        """A message beyond the limit: what is below it is given unchecked, the rest passed over."""
        if len(self._buffer) - at < self._event_bytes_max:
            return 0
        self.problem = self.problem or "limit"
        message = bytes(self._buffer[at : at + self._event_bytes_max])
        if headers <= self._event_bytes_max - PRELUDE_BYTES:
            events.append(_event(message[12 : 12 + headers], message[12 + headers : total - 4], at_us))
        self._skip_bytes = total - self._event_bytes_max
        return self._event_bytes_max

    def _to_next_prelude(self, at: int) -> int:
        # The last 11 bytes may be the beginning of one.
        last = min(len(self._buffer) - PRELUDE_BYTES, at + SEARCHED_BYTES_MAX - self._searched_bytes)
        offset = next((offset for offset in range(at + 1, last + 1) if is_prelude(self._buffer, offset)), last + 1)
        self._searched_bytes += offset - at
        return offset - at


def _event(headers: bytes, payload: bytes, at_us: int) -> Event:
    fields = _headers(headers)
    name = next((fields[key] for key in _NAMES if key in fields), "")
    is_failure = fields.get(":message-type") in ("exception", "error")
    return Event(payload, name, at_us, "exception" if is_failure else "text")


def _headers(data: bytes) -> dict[str, str]:
    """The string headers; whatever cannot be read ends them."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        kind = data[at] if at < len(data) else -1
        size = _VALUE_BYTES.get(kind, -1)
        at += 1
        if size is None:
            size = int.from_bytes(data[at : at + 2])
            at += 2
        if size < 0:
            break
        if kind == 7:
            fields[name.decode(errors="replace")] = data[at : at + size].decode(errors="replace")
        at += size
    return fields
