"""Bodies: how many bytes of a read belong to the message, and what of them is framing. Pure.

A body is fed with what was read and answers with a `Piece`. Bytes are never changed: what was read is what is written
on. Chunked framing (RFC 9112 section 7.1) is checked strictly, because whoever forwards framing must not disagree with
the other side about it: sizes are 1 to 16 hex digits, lines end with CRLF and nothing less, a chunk's data is followed
by CRLF, trailers are fields and none of them frames or routes. What cannot become a right line is refused before its
end has come, so that nothing wrong is forwarded and nobody waits for it.

Trailers are told (`Piece.framing`) all at once, when the body is done: they may hold credentials, which can only be
found in whole lines.
"""

import functools
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from llmdump_proxy.head import CHUNKED, UNTIL_CLOSE

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"(?!(?i:content-length|transfer-encoding|host):)[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_SIZE_SO_FAR = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?)?")
_END_SO_FAR = re.compile(rb"\r?")
_TRAILER_SO_FAR = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+(?::[\t\x20-\x7e\x80-\xff]*)?)?\r?")
LINE_BYTES_MAX: Final = 4096
"""Longest chunk-size or trailer line."""
TRAILER_BYTES_MAX: Final = 65536

Framing = list[bytes | int]


class BadFramingError(ValueError):
    """The framing of a body breaks RFC 9112 section 7.1; the message says where."""


class Piece(NamedTuple):
    """What one read held of a body."""

    used: int
    """Bytes of the read that belong to this message."""
    payload: bytes
    """The body bytes among them."""
    framing: Framing | None
    """What else was among them, as the record's `x_f`; None: nothing, or just the frame of one plain chunk."""
    done: bool
    """Whether the message ends here."""


_piece: Final[Callable[[tuple[int, bytes, Framing | None, bool]], Piece]] = functools.partial(tuple.__new__, Piece)
"""A piece of its values. No function of Python's, as calling the class is: this is done for each read."""


class LengthBody:
    """A body of a known length; 0 is done before it is fed."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> Piece:
        """Take what belongs to the body."""
        size = len(data)
        if size > self.remaining:
            data, size = data[: self.remaining], self.remaining
        self.remaining -= size
        self.done = done = self.remaining == 0
        return _piece((size, data, None, done))


class UntilCloseBody:
    """A response body that ends with the connection."""

    __slots__ = ()
    done = False

    def feed(self, data: bytes) -> Piece:
        """All of it is body."""
        return Piece(len(data), data, None, False)


class ChunkedBody:
    """A body in chunks. One method a state; `_state` is the one to go on with, at a position of the read."""

    __slots__ = ("_framing", "_gathered", "_line", "_payload", "_remaining", "_state", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._state: Callable[[bytes, int], int] = self._size
        self._remaining = 0
        self._line = b""
        self._trailers = b""
        self._payload: list[bytes] = []
        self._framing: Framing = []
        self._gathered = b""

    def feed(self, data: bytes) -> Piece:
        """Take what belongs to the body. Raises BadFramingError; what was taken before that in this read is lost."""
        if self._state == self._size and not self._line:
            end = data.find(b"\r\n", 0, 18)
            payload = data[end + 2 : -2]
            if payload and data[-2:] == b"\r\n" and b"%x" % len(payload) == data[:end]:
                return _piece((len(data), payload, None, False))
        return self._feed_any(data)

    def _feed_any(self, data: bytes) -> Piece:
        self._payload, self._framing, self._gathered = [], [], b""
        at = 0
        while at < len(data) and not self.done:
            at = self._state(data, at)
        self._framing.append(self._gathered)
        return Piece(at, b"".join(self._payload), self._framing, self.done)

    def _take_line(self, data: bytes, at: int, so_far: re.Pattern[bytes], wrong: str) -> tuple[bytes | None, int]:
        """The line that ends in this read, without CRLF, and the position after it; None while it goes on."""
        end = data.find(b"\n", at) + 1
        self._line += data[at : end or len(data)]
        if len(self._line) > LINE_BYTES_MAX:
            raise BadFramingError(f"a line of chunked framing is longer than {LINE_BYTES_MAX} bytes")
        if not end:
            if not so_far.fullmatch(self._line):
                raise BadFramingError(wrong)
            return None, len(data)
        line, self._line = self._line, b""
        if line[-2:] != b"\r\n":
            raise BadFramingError("a line of chunked framing does not end with CRLF")
        return line[:-2], end

    def _size(self, data: bytes, at: int) -> int:
        wrong = "a chunk does not begin with its size in hex digits"
        line, end = self._take_line(data, at, _SIZE_SO_FAR, wrong)
        self._gathered += data[at:end]
        if line is not None:
            found = _SIZE_LINE.fullmatch(line)
            if not found:
                raise BadFramingError(wrong)
            self._remaining = int(found[1], 16)
            self._state = self._data if self._remaining else self._trailer
        return end

    def _data(self, data: bytes, at: int) -> int:
        payload = data[at : at + self._remaining]
        self._payload.append(payload)
        self._framing += (self._gathered, len(payload))
        self._gathered = b""
        self._remaining -= len(payload)
        if not self._remaining:
            self._state = self._data_end
        return at + len(payload)

    def _data_end(self, data: bytes, at: int) -> int:
        wrong = "a chunk's data is longer than its size"
        line, end = self._take_line(data, at, _END_SO_FAR, wrong)
        self._gathered += data[at:end]
        if line:
            raise BadFramingError(wrong)
        if line is not None:
            self._state = self._size
        return end

    def _trailer(self, data: bytes, at: int) -> int:
        wrong = "a trailer that is not allowed, or too many of them"
        line, end = self._take_line(data, at, _TRAILER_SO_FAR, wrong)
        self._trailers += data[at:end]
        if line == b"":
            self.done = True
            self._gathered += self._trailers
        elif line is not None and (len(self._trailers) > TRAILER_BYTES_MAX or not _TRAILER.fullmatch(line)):
            raise BadFramingError(wrong)
        return end


Body = LengthBody | UntilCloseBody | ChunkedBody


def body_of(length: int) -> Body:
    """The body that a head announces: `RequestHead.body` or `ResponseHead.body`."""
    if length == CHUNKED:
        return ChunkedBody()
    return UntilCloseBody() if length == UNTIL_CLOSE else LengthBody(length)
