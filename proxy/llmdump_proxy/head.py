"""Message heads: where they end, whether they are HTTP/1, how their body is framed. Pure; nothing here is rewritten.

llhttp (httptools) judges every head in its strict mode: tokens, obs-fold, bare CR and LF, NUL, doubled or malformed
Content-Length, Content-Length with Transfer-Encoding. What it lets through and we do not, for a proxy must agree with
the backend on where a message ends (RFC 9112 section 11.2): Transfer-Encoding in an HTTP/1.0 request, a transfer coding
other than `chunked` in a request, `chunked` anywhere but once and last in a response, a missing or doubled Host, a
version that is not 1.0 or 1.1, a length of more than 18 digits, `*` for another method than OPTIONS.

llhttp tells nothing about offsets, so the end of a head is found here, and only whole heads are fed to it. What can
never become a head is told at once (`check_request_begins`, `check_response_begins`), so that nobody waits for the end
of a TLS handshake or of an HTTP/0.9 request.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import httptools

CRLF2: Final = b"\r\n\r\n"
_FIELDS = re.compile(rb"(?im)^(host|connection|content-length|transfer-encoding|upgrade|content-type):([^\r\n]*)\r$")
_REQUEST_LINE = re.compile(rb"[A-Z-]+ [^ ]+ HTTP/1\.[01]\r\n")
_REQUEST_LINE_SO_FAR = re.compile(rb"[A-Z-]{1,32}(?: [!-~]*(?: [HTP/1.0]{0,8}\r?)?)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9]\d\d(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_ABSOLUTE_FORM = re.compile(rb"(?i)https?://[^/?#]+")
_LENGTH_DIGITS_MAX: Final = 18
_TLS_HANDSHAKE: Final = b"\x16"

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2


class BadHeadError(Exception):
    """A head that must not be forwarded. `status` is what a client gets for its own mistake (400, 431, 501)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RequestHead(NamedTuple):
    """What forwarding needs to know of a request head. `raw` are its bytes, the closing empty line included."""

    raw: bytes
    method: bytes
    target: bytes
    """The request target as sent, in origin-form or `*` (RFC 9112 section 3.2): an absolute-form's authority is off."""
    path: str
    """The target's path, without the query."""
    body: int
    """Length of the body in bytes, or CHUNKED."""
    keep_alive: bool
    connection: bytes
    """The Connection field's value, lower case, several joined by commas."""
    upgrade: bytes
    """The protocol of a requested upgrade that may be passed on, or nothing."""


class ResponseHead(NamedTuple):
    """What forwarding needs to know of a response head."""

    raw: bytes
    status: int
    body: int
    """Length of the body in bytes, CHUNKED or UNTIL_CLOSE."""
    keep_alive: bool
    connection: bytes
    content_type: bytes


class _Line:
    """Catches the request target that llhttp reports."""

    __slots__ = ("url",)

    def __init__(self) -> None:
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url = url


class _Nothing:
    """llhttp judges; we read the bytes ourselves."""


def end_of_head(buffer: bytes, max_head_bytes: int) -> int:
    """Where the head in `buffer` ends, or 0 if it is not there whole yet. Raises BadHeadError for what never will be."""
    end = buffer.find(CRLF2) + 4
    if end > max_head_bytes or (end == 3 and len(buffer) > max_head_bytes):
        raise BadHeadError(431, "head_too_large", f"the message head is longer than {max_head_bytes} bytes (max_head_bytes)")
    if end > 3:
        return end
    if buffer.count(b"\n") != buffer.count(b"\r\n") or b"\0" in buffer:
        raise BadHeadError(400, "malformed_head", "a line of the message head does not end with CRLF")
    return 0


def check_request_begins(buffer: bytes) -> None:
    """Raises BadHeadError if no request can begin with these bytes, of which there is at least one."""
    if buffer[:1] == _TLS_HANDSHAKE:
        raise BadHeadError(400, "tls_on_plain_port", "this port speaks plain HTTP: begin the base URL with http://")
    if not (_REQUEST_LINE.match(buffer) if b"\n" in buffer else _REQUEST_LINE_SO_FAR.fullmatch(buffer)):
        raise BadHeadError(400, "malformed_head", "the request line is not METHOD SP target SP HTTP/1.0 or 1.1")


def check_response_begins(buffer: bytes) -> None:
    """Raises BadHeadError if no response can begin with these bytes: a port that speaks something else."""
    if buffer[:7] != b"HTTP/1."[: len(buffer)]:
        raise BadHeadError(502, "upstream_malformed", "it does not begin with HTTP/1: is this the right port and scheme?")


def parse_request(raw: bytes) -> RequestHead:
    """The facts of a whole request head. Raises BadHeadError."""
    line = _Line()
    parser = httptools.HttpRequestParser(line)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # the head is well-formed; who upgrades is the backend's to say
    except httptools.HttpParserError as err:
        raise BadHeadError(400, "malformed_head", f"not an HTTP/1.1 request: {err}") from None
    method, version = parser.get_method(), parser.get_http_version()
    fields = _FIELDS.findall(raw)
    if not _REQUEST_LINE.match(raw):
        raise BadHeadError(400, "malformed_head", "the request line is not METHOD SP target SP HTTP/1.0 or 1.1")
    if method == b"CONNECT":
        raise BadHeadError(501, "connect_not_supported", "this is not a forward proxy: set it as the client's base URL")
    _check_host(fields, version)
    if line.url == b"*" and method != b"OPTIONS":
        raise BadHeadError(400, "malformed_head", "the request target * is for OPTIONS only (RFC 9112 section 3.2.4)")
    target = origin_form(line.url)
    connection = _connection(fields)
    return RequestHead(
        raw=raw,
        method=method,
        target=target,
        path=target.partition(b"?")[0].decode("latin-1"),
        body=_request_body(fields, version),
        keep_alive=_is_kept(version, connection),
        connection=connection,
        upgrade=_upgrade(fields) if parser.should_upgrade() else b"",
    )


def parse_response(raw: bytes, method: bytes) -> ResponseHead:
    """The facts of a whole response head to a request with `method`. Raises BadHeadError."""
    parser = httptools.HttpResponseParser(_Nothing())
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as err:
        raise BadHeadError(502, "upstream_malformed", f"the backend's answer is not HTTP/1.1: {err}") from None
    if not _STATUS_LINE.match(raw):
        raise BadHeadError(502, "upstream_malformed", "its status line is not HTTP/1.0 or 1.1 SP 100 to 999")
    fields = _FIELDS.findall(raw)
    status = parser.get_status_code()
    connection = _connection(fields)
    return ResponseHead(
        raw=raw,
        status=status,
        body=_response_body(fields, status, method),
        keep_alive=_is_kept(parser.get_http_version(), connection),
        connection=connection,
        content_type=_value(fields, b"content-type").lower(),
    )


def path_of_broken(received: bytes) -> str:
    """The path that a refused head seems to ask for, so that capture rules hold for it too; `/` if none can be told."""
    words = received.partition(b"\n")[0].split()
    target = words[1] if len(words) > 1 else b""
    absolute = _ABSOLUTE_FORM.match(target)
    path = (target[absolute.end() :] if absolute else target).partition(b"?")[0]
    return (path if path[:1] == b"/" else b"/" + path).decode("latin-1")


def _check_host(fields: list[tuple[bytes, bytes]], version: str) -> None:
    hosts = sum(name.lower() == b"host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadHeadError(400, "malformed_head", f"{hosts} Host fields, there must be one (RFC 9112 section 3.2)")


def origin_form(target: bytes) -> bytes:
    """The target without the authority of an absolute-form, which never chooses where a request goes."""
    if target[:1] == b"/" or target == b"*":
        return target
    absolute = _ABSOLUTE_FORM.match(target)
    if not absolute:
        raise BadHeadError(400, "malformed_head", "the request target is not a path")
    rest = target[absolute.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest


def _request_body(fields: list[tuple[bytes, bytes]], version: str) -> int:
    coding = b",".join(_values(fields, b"transfer-encoding"))
    if not coding:
        return _length(fields, 400, "malformed_head") or 0
    if version == "1.0":
        raise BadHeadError(400, "malformed_head", "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 section 6.1)")
    if coding.lower() != b"chunked":
        raise BadHeadError(501, "transfer_coding", "the only transfer coding understood in a request is chunked")
    return CHUNKED


def _response_body(fields: list[tuple[bytes, bytes]], status: int, method: bytes) -> int:
    """How long the body is, RFC 9112 section 6.3."""
    if method == b"HEAD" or status in {204, 304} or status < 200:
        return 0
    codings = [coding.strip() for coding in b",".join(_values(fields, b"transfer-encoding")).lower().split(b",")]
    if b"chunked" in codings[:-1]:
        raise BadHeadError(502, "upstream_malformed", "its Transfer-Encoding has chunked twice, or not as the last")
    if codings != [b""]:
        return CHUNKED if codings[-1] == b"chunked" else UNTIL_CLOSE
    length = _length(fields, 502, "upstream_malformed")
    return UNTIL_CLOSE if length is None else length


def _length(fields: list[tuple[bytes, bytes]], status: int, code: str) -> int | None:
    """Content-Length, which llhttp has found to be one row of digits; None without."""
    digits = _value(fields, b"content-length")
    if len(digits) > _LENGTH_DIGITS_MAX:
        raise BadHeadError(status, code, f"a Content-Length of more than {_LENGTH_DIGITS_MAX} digits")
    return int(digits) if digits else None


def _connection(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b",".join(_values(fields, b"connection")).lower()


def _upgrade(fields: list[tuple[bytes, bytes]]) -> bytes:
    """What is asked for, unless it is HTTP/2: its requests would pass in a pipe, unread and unrecorded (RFC 9113 drops it)."""
    wanted = _value(fields, b"upgrade")
    return b"" if b"h2c" in wanted.lower() else wanted


def _is_kept(version: str, connection: bytes) -> bool:
    """Whether the sender keeps the connection open. llhttp forgets it as soon as a message without a body is over."""
    return version == "1.1" and b"close" not in {option.strip() for option in connection.split(b",")}


def _value(fields: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next(_values(fields, name), b"")


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> Iterator[bytes]:
    return (value.strip(b" \t") for field, value in fields if field.lower() == name)
