"""Content-Encoding undone piece by piece, never beyond a limit: gzip, deflate and zstd (RFC 9110 section 8.4, RFC 8878).

A stack of codings is undone from the last one named to the first. What comes out before damage or a cut is given out.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final

from llmdump.seekable import zstd

KNOWN: Final = frozenset({"gzip", "x-gzip", "deflate", "zstd", "identity"})
# A stack of codings may blow up at each step; nobody who means well sends more than two.
CODINGS_MAX: Final = 4


class Decoder:
    """One message body, decoded as it comes."""

    def __init__(self, codings: Sequence[str], bytes_max: int) -> None:
        """`codings` as in Content-Encoding, lower case. Raises ValueError for one that is not known."""
        unknown = [coding for coding in codings if coding not in KNOWN]
        if unknown or len(codings) > CODINGS_MAX:
            raise ValueError(f"cannot decode content-encoding {', '.join(unknown or codings)}")
        self._steps = [_Step(coding) for coding in reversed(codings) if coding != "identity"]
        self._left = bytes_max
        self.problem = ""
        """Why decoding stopped, if it did: `limit` or `damaged`."""

    def feed(self, data: bytes) -> bytes:
        """What these bytes decode to; nothing more once there is a `problem`."""
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


class _Step:
    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inner: Any = None
        self.damaged = False

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        while data and bytes_max > 0 and not self.damaged:
            if self._inner is None:
                self._inner = _start(self._coding, data)
            try:
                parts.append(self._inner.decompress(data, bytes_max))
            except (zlib.error, zstd.ZstdError):
                self.damaged = True
                break
            bytes_max -= len(parts[-1])
            data = self._rest()
        return b"".join(parts)

    def _rest(self) -> bytes:
        """What is left after the end of one member; another one may follow (RFC 1952 section 2.2, RFC 8878 section 3)."""
        if not self._inner.eof:
            return b""
        rest: bytes = self._inner.unused_data
        self._inner = None
        return rest


def _start(coding: str, data: bytes) -> Any:
    if coding == "zstd":
        return zstd.ZstdDecompressor()
    if coding == "deflate":
        # Zlib's wrapper says deflate in its first byte (RFC 1950); some servers send the bare stream.
        return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
    return zlib.decompressobj(16 + zlib.MAX_WBITS)
