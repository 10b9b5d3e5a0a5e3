"""Content-Encoding undone piece by piece, never beyond a limit: gzip, deflate, br and zstd (RFC 9110 section 8.4, 7932, 8878).

A stack of codings is undone from the last one named to the first. What comes out before damage or a cut is given out,
to the byte of the coded body in which the damage was found, however the body was cut into pieces.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final

import brotli

from llmdump.seekable import zstd

KNOWN: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "identity"})
# A stack of codings may blow up at each step; nobody who means well sends more than two.
CODINGS_MAX: Final = 4
# Of a member's coded bytes so many are kept, to find the byte at which it broke. A longer one loses its last piece then.
REPLAYED_BYTES_MAX: Final = 256 * 1024

# For pieces whose output has been within the limit before.
_NO_LIMIT: Final = 1 << 40
# Zstd: of a frame's magic number, and of a skippable frame's (RFC 8878 section 3.1).
_FIRST_BYTES: Final = {"gzip": {0x1F}, "x-gzip": {0x1F}, "zstd": {0x28, *range(0x50, 0x60)}}
_ERRORS: Final = (zlib.error, zstd.ZstdError, brotli.error)


class Decoder:
    """One message body, decoded as it comes."""

    def __init__(self, codings: Sequence[str], bytes_max: int) -> None:
        """`codings` as in Content-Encoding, lower case. Raises ValueError for one that is not known."""
        unknown = [coding for coding in codings if coding not in KNOWN]
        if unknown or len(codings) > CODINGS_MAX:
            raise ValueError(f"cannot decode content-encoding {', '.join(unknown or codings)}")
        self._steps = [_Step(coding) for coding in reversed(codings) if coding != "identity"]
        self._left = bytes_max
        self.has_begun = False
        self.problem = ""
        """Why decoding stopped, if it did: `limit` or `damaged`."""

    @property
    def is_cut(self) -> bool:
        """Whether more coded bytes would have to come before the body is whole."""
        return any(step.is_open for step in self._steps)

    def feed(self, data: bytes) -> bytes:
        """What these bytes decode to; nothing more once there is a `problem`."""
        self.has_begun = True
        if self.problem:
            return b""
        for step in self._steps:
            # One byte more than is left, so that a body of exactly the limit is not taken for one beyond it.
            data = step.decode(data, self._left + 1)
            if step.damaged:
                self.problem = "damaged"
            if len(data) > self._left:
                data, self.problem = data[: self._left], "limit"
        self._left -= len(data)
        return data


def begins_like(coding: str, first: int) -> bool:
    """Whether a body of this coding may begin with this byte. Deflate and br have no mark of their own: always true."""
    return first in _FIRST_BYTES.get(coding, range(256))


class _Step:
    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inner: Any = None
        self._fed: list[bytes] = []
        self._fed_bytes = 0
        self.damaged = False

    @property
    def is_open(self) -> bool:
        return self._inner is not None and not self._inner.eof and not self.damaged

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        while data and bytes_max > 0 and not self.damaged:
            if self._inner is None:
                self._inner = _start(self._coding, data)
            try:
                parts.append(self._inner.decompress(data, bytes_max))
            except _ERRORS:
                self.damaged = True
                parts.append(self._before_damage(data, bytes_max))
                break
            bytes_max -= len(parts[-1])
            data = self._rest(data)
        return b"".join(parts)

    def _rest(self, data: bytes) -> bytes:
        """What is left after the end of one member; another one may follow (RFC 1952 section 2.2, RFC 8878 section 3).

        But not with brotli (RFC 7932): what follows there is damage, and the finished decompressor says so.
        """
        if self._inner.eof and self._coding != "br":
            rest: bytes = self._inner.unused_data
            self._inner, self._fed, self._fed_bytes = None, [], 0
            return rest
        self._fed_bytes += len(data)
        if self._fed_bytes <= REPLAYED_BYTES_MAX:
            self._fed.append(data)
        else:
            self._fed.clear()
        return b""

    def _before_damage(self, data: bytes, bytes_max: int) -> bytes:
        """What the piece gave before its bad byte: the libraries tell of damage, and keep what they had decoded until then."""
        if self._fed_bytes + len(data) > REPLAYED_BYTES_MAX:
            return b""
        inner = _start(self._coding, self._fed[0] if self._fed else data)
        for piece in self._fed:
            inner.decompress(piece, _NO_LIMIT)
        parts: list[bytes] = []
        try:
            for at in range(len(data)):
                parts.append(inner.decompress(data[at : at + 1], bytes_max))
                bytes_max -= len(parts[-1])
                if bytes_max <= 0:
                    break
        except _ERRORS:
            pass
        return b"".join(parts)


def _start(coding: str, data: bytes) -> Any:
    if coding == "zstd":
        return zstd.ZstdDecompressor()
    if coding == "br":
        return _Brotli()
    if coding == "deflate":
        # Zlib's wrapper says deflate in its first byte (RFC 1950); some servers send the bare stream.
        return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


class _Brotli:
    """Brotli with the face that zlib's and zstd's decompressors have."""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self.eof = False

    def decompress(self, data: bytes, bytes_max: int) -> bytes:
        """At least `bytes_max` if there is as much; the library rounds it up to its window's pieces."""
        out: bytes = self._inner.process(data, output_buffer_limit=bytes_max)
        self.eof = self._inner.is_finished()
        return out
