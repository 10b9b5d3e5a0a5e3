"""WebSocket messages of both directions of one connection (RFC 6455), compressed ones inflated (RFC 7692).

    byte 0    FIN | RSV1, RSV2, RSV3 | opcode: 0 continuation, 1 text, 2 binary, 8 to 15 control
              (RSV1: the first frame of a compressed message)
    byte 1    MASK | length: 0…125, or 126 and a uint16, or 127 and a uint64
    4 bytes   the mask, if MASK
    payload, each byte XORed with mask[i % 4]

Control frames may stand between the fragments of a message: they are passed over, but a close frame's code is kept.
What breaks the rules so far that frames can no longer be told apart ends the reading of that direction.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final

from llmdump.reading.exchange import Event

_CONTINUATION: Final = 0
_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_PING: Final = 9
_CONTROL_BYTES_MAX: Final = 125
# What the sender of a message leaves off its end (RFC 7692 section 7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"


class WebSocketDirection:
    """The messages that one side sends."""

    def __init__(self, event_bytes_max: int, *, inflates: bool) -> None:
        """`inflates`: permessage-deflate was agreed on."""
        self._event_bytes_max = event_bytes_max
        self._inflates = inflates
        self._inflater: Any = None
        self._head = bytearray()
        self._frame: _Frame | None = None
        self._control = bytearray()
        self._message = bytearray()
        self._opcode = 0
        self._is_compressed = False
        self._is_lost = False
        self._is_cut = False
        self.close_code: int | None = None
        """What the close frame said: 1000 is normal; 1005 if it gave none (RFC 6455 section 7.4)."""
        self.ping: bytes | None = None
        """What the last ping carried; whoever answers it puts None here."""
        self.problem = ""

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The messages that end in these bytes."""
        events: list[Event] = []
        at = 0
        while not self._is_lost and (at < len(data) or self._frame):
            if self._frame is None:
                at = self._begin(data, at)
                if self._frame is None:
                    break
            frame: _Frame = self._frame
            piece = data[at : at + frame.left]
            at += len(piece)
            self._payload(frame, frame.unmask(piece))
            if frame.left:
                break
            self._frame = None
            self._end(frame, at_us, events)
        return events

    def finish(self) -> None:
        """Flags a message that was not finished."""
        if self._head or self._frame or self._opcode:
            self.problem = self.problem or "cut"

    def _begin(self, data: bytes, at: int) -> int:
        """Reads a frame's head; where its payload begins."""
        while (missing := _missing_head_bytes(self._head)) and at < len(data):
            self._head += data[at : at + missing]
            at += missing
        if missing:
            return len(data)
        frame = _Frame(bytes(self._head))
        self._head.clear()
        if not self._is_allowed(frame):
            self._lose()
            return at
        self._frame = frame
        if frame.opcode in (_TEXT, _BINARY):
            self._opcode, self._is_compressed = frame.opcode, frame.rsv == 4
        return at

    def _is_allowed(self, frame: "_Frame") -> bool:
        if frame.opcode >= _CLOSE:
            return frame.rsv == 0 and frame.is_last and frame.left <= _CONTROL_BYTES_MAX
        if frame.opcode == _CONTINUATION:
            return frame.rsv == 0 and self._opcode != 0
        return frame.opcode <= _BINARY and self._opcode == 0 and (frame.rsv == 0 or (frame.rsv == 4 and self._inflates))

    def _payload(self, frame: "_Frame", data: bytes) -> None:
        if frame.opcode >= _CLOSE:
            self._control += data
            return
        room = self._event_bytes_max - len(self._message)
        if len(data) > room:
            self.problem = self.problem or "limit"
            self._is_cut = True
        self._message += data[: max(room, 0)]

    def _end(self, frame: "_Frame", at_us: int, events: list[Event]) -> None:
        if frame.opcode >= _CLOSE:
            if frame.opcode == _CLOSE and self.close_code is None:
                self.close_code = int.from_bytes(self._control[:2]) if len(self._control) > 1 else 1005
            if frame.opcode == _PING:
                self.ping = bytes(self._control)
            self._control.clear()
        elif frame.is_last and not self._is_lost:
            self._end_message(at_us, events)

    def _end_message(self, at_us: int, events: list[Event]) -> None:
        message = self._inflated(bytes(self._message)) if self._is_compressed else bytes(self._message)
        if message is not None:
            events.append(Event(message, "", at_us, "text" if self._opcode == _TEXT else "binary"))
        self._message = bytearray()
        self._opcode, self._is_cut = 0, False

    def _inflated(self, data: bytes) -> bytes | None:
        """The whole message at once, so that its damage is the same however it was cut; None if it is damaged."""
        # The largest window reads all smaller ones, and a window that the sender forgets does no harm: so of what was
        # negotiated nothing more than the fact need be known.
        self._inflater = self._inflater or zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated: bytes = self._inflater.decompress(data + _TAIL, self._event_bytes_max + 1)
        except zlib.error:
            self._lose()
            return None
        if len(inflated) > self._event_bytes_max or self._is_cut:
            # Without the rest of it, the window for later messages is not known; and a bomb is not worth inflating.
            self.problem = self.problem or "limit"
            self._is_lost = True
        if self._inflater.eof:  # a sender may end each message with a final block (RFC 7692 section 7.2.3.4)
            self._inflater = None
        return inflated[: self._event_bytes_max]

    def _lose(self) -> None:
        self.problem = self.problem or "damaged"
        self._is_lost = True
        self._frame = None


class _Frame:
    """A frame's head, and how far its payload has come."""

    def __init__(self, head: bytes) -> None:
        self.is_last = bool(head[0] & 0x80)
        self.rsv = head[0] >> 4 & 7
        self.opcode = head[0] & 15
        length = head[1] & 127
        self.left = length if length < 126 else int.from_bytes(head[2 : 4 if length == 126 else 10])
        self._mask = head[-4:] if head[1] & 0x80 else b""

    def unmask(self, data: bytes) -> bytes:
        """The next bytes of the payload in the clear."""
        self.left -= len(data)
        if not self._mask or not data:
            return data
        mask = (self._mask * (len(data) // 4 + 1))[: len(data)]
        turn = len(data) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        return (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(len(data))


def _missing_head_bytes(head: bytearray) -> int:
    if len(head) < 2:
        return 2 - len(head)
    length = head[1] & 127
    size = 2 + (0 if length < 126 else 2 if length == 126 else 8) + (4 if head[1] & 0x80 else 0)
    return size - len(head)


def is_deflate_agreed(extensions: Sequence[str]) -> bool:
    """Whether the response's Sec-WebSocket-Extensions fields name permessage-deflate."""
    names = (extension.partition(";")[0].strip().lower() for extension in ",".join(extensions).split(","))
    return "permessage-deflate" in names
