"""Multipart forms (RFC 7578), as audio transcriptions and image edits are asked for: fields, and files by name and size.

    preamble *( CRLF --boundary [blanks] CRLF *( header CRLF ) CRLF content ) CRLF --boundary-- epilogue

A field's value is kept up to a limit; of a file only its name, type and size are told. Bare LF is taken for CRLF.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

# Prompts are the longest fields.
VALUE_BYTES_MAX: Final = 1024 * 1024
HEADERS_BYTES_MAX: Final = 16 * 1024
PARTS_MAX: Final = 1000
# Each part moves what is left of a piece: small pieces keep that linear.
_PIECE_BYTES: Final = 16 * 1024

_HEADERS_END: Final = re.compile(rb"\A\r?\n|\r?\n\r?\n")
_AFTER_BOUNDARY: Final = re.compile(rb"--|[ \t]{0,64}\r?\n")
_PERHAPS_AFTER_BOUNDARY: Final = re.compile(rb"(?:-|[ \t]{0,64}\r?)\Z")
_PARAMETER: Final = re.compile(r';\s*([\w.-]+\*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;]*)')


class Part(NamedTuple):
    """One field or file."""

    name: str
    filename: str | None
    """None: a field."""
    content_type: str
    size_bytes: int
    value: bytes
    """Of a field, up to `VALUE_BYTES_MAX`; of a file nothing."""


class Form:
    """One form, read as it comes."""

    def __init__(self, content_type: str) -> None:
        """`content_type` names the boundary; without one nothing is found."""
        boundary = parameters(content_type).get("boundary", "").encode(errors="replace")
        self._marker = b"\n--" + boundary
        # As if a line had ended before the body, so that the first boundary is like all others.
        self._buffer = b"\n"
        self._read = self._read_content if boundary else self._read_nothing
        self._part: Part | None = None
        self._size_bytes = 0
        self._value = bytearray()
        self.parts: list[Part] = []
        """Those that have ended; after `finish` also the one that was cut."""
        self.problem = "" if boundary else "damaged"
        """`limit`, `damaged` or `cut`."""

    def feed(self, data: bytes) -> None:
        """Reads on; any split of the body gives the same parts."""
        for at in range(0, len(data), _PIECE_BYTES):
            self._buffer += data[at : at + _PIECE_BYTES]
            while self._read():
                pass

    def finish(self) -> list[Part]:
        """All parts."""
        if self._read != self._read_nothing:
            self.problem = self.problem or "cut"
            if self._read == self._read_content:
                self._keep(self._buffer)
            self._end_part()
        self._read, self._buffer = self._read_nothing, b""
        return self.parts

    def _read_nothing(self) -> bool:
        self._buffer = b""
        return False

    def _read_headers(self) -> bool:
        found = _HEADERS_END.search(self._buffer)
        if not found or found.end() > HEADERS_BYTES_MAX:
            if found or len(self._buffer) > HEADERS_BYTES_MAX:
                self._stop("limit")
            return False
        lines = self._buffer[: found.start()].decode(errors="replace").splitlines()
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        named = parameters(fields.get("content-disposition", ""))
        self._part = Part(named.get("name", ""), named.get("filename"), fields.get("content-type", ""), 0, b"")
        # The line end stays: it may be the one before a boundary, if there is no content.
        self._buffer = self._buffer[found.end() :]
        self._read = self._read_content
        return True

    def _read_content(self) -> bool:
        at = self._buffer.find(self._marker)
        while at >= 0:
            after = at + len(self._marker)
            found = _AFTER_BOUNDARY.match(self._buffer, after)
            if found:
                self._keep(self._buffer[: self._content_end(at)])
                self._end_part()
                self._buffer = self._buffer[found.end() :]
                self._begin_part(is_last=found[0] == b"--")
                return True
            if _PERHAPS_AFTER_BOUNDARY.match(self._buffer, after):
                break
            at = self._buffer.find(self._marker, at + 1)
        # What may be a boundary's beginning waits, with the CR before it.
        until = max(len(self._buffer) - len(self._marker), 0) if at < 0 else self._content_end(at)
        self._keep(self._buffer[:until])
        self._buffer = self._buffer[until:]
        return False

    def _content_end(self, at: int) -> int:
        return at - (self._buffer[at - 1 : at] == b"\r")

    def _begin_part(self, *, is_last: bool) -> None:
        if is_last:
            self._read = self._read_nothing
        elif len(self.parts) >= PARTS_MAX:
            self._stop("limit")
        else:
            self._read = self._read_headers

    def _stop(self, problem: str) -> None:
        self.problem = self.problem or problem
        self._read = self._read_nothing

    def _keep(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._part and self._part.filename is None:
            room = VALUE_BYTES_MAX - len(self._value)
            if len(piece) > room:
                self.problem = self.problem or "limit"
            self._value += piece[: max(room, 0)]

    def _end_part(self) -> None:
        if self._part:
            self.parts.append(self._part._replace(size_bytes=self._size_bytes, value=bytes(self._value)))
        self._part, self._size_bytes, self._value = None, 0, bytearray()


def read(content_type: str, body: bytes) -> list[Part]:
    """The parts of a form that is there as a whole, or as far as it is there."""
    form = Form(content_type)
    form.feed(body)
    return form.finish()


def parameters(value: str) -> dict[str, str]:
    """The parameters of a header value like `form-data; name="x"; filename*=utf-8''y` (RFC 8187), names in lower case."""
    found = {}
    for key, quoted in _PARAMETER.findall(value):
        text = quoted[1:-1].replace('\\"', '"') if quoted.startswith('"') else quoted
        found[key.lower().removesuffix("*")] = unquote(text.rpartition("'")[2]) if key.endswith("*") else text
    return found
