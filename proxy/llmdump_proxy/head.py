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
from typing import Final, NamedTuple

import httptools

CRLF2: Final = b"\r\n\r\n"
# For heads in lower case: without regard to case it would take twice as long. It begins with a literal, so that the search
# for lines is done in C: a third of the time of `(?m)^`.
_FIELDS = re.compile(
    rb"\n(host|connection|content-length|transfer-encoding|upgrade|keep-alive|proxy-connection):[ \t]*([^\r\n]*)"
)
_REQUEST_LINE = re.compile(rb"([A-Z-]+) ([^ \r\n]+) HTTP/1\.([01])\r\n")
_REQUEST_LINE_SO_FAR = re.compile(rb"[A-Z-]{1,32}(?: [!-~]*(?: [HTP/1.0]{0,8}\r?)?)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_ABSOLUTE_FORM = re.compile(rb"(?i)https?://[^/?#]+")
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection"})
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
    """The protocol of a requested upgrade that may be passed on, lower case, or nothing."""


class ResponseHead(NamedTuple):
    """What forwarding needs to know of a response head."""

    raw: bytes
    status: int
    body: int
    """Length of the body in bytes, CHUNKED or UNTIL_CLOSE."""
    keep_alive: bool
    connection: bytes
    hop_by_hop: bool
    """Whether it has fields that end at this hop (RFC 9110 section 7.6.1)."""


class _Nothing:
    """llhttp judges; we read the bytes ourselves."""


_NOTHING: Final = _Nothing()
_Fields = dict[bytes, bytes]


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
    parser = httptools.HttpRequestParser(_NOTHING)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # the head is well-formed; who upgrades is the backend's to say
    except httptools.HttpParserError as err:
        raise BadHeadError(400, "malformed_head", f"not an HTTP/1.1 request: {err}") from None
    line = _REQUEST_LINE.match(raw)
    if not line:
        raise BadHeadError(400, "malformed_head", "the request line is not METHOD SP target SP HTTP/1.0 or 1.1")
    method, target, minor = line.groups()
    if method == b"CONNECT":
        raise BadHeadError(501, "connect_not_supported", "this is not a forward proxy: set it as the client's base URL")
    fields = _fields(raw)
    _check_host(raw, fields.get(b"host"), minor)
    if target == b"*" and method != b"OPTIONS":
        raise BadHeadError(400, "malformed_head", "the request target * is for OPTIONS only (RFC 9112 section 3.2.4)")
    target = origin_form(target)
    connection = fields.get(b"connection", b"")
    return RequestHead(
        raw,
        method,
        target,
        path=target.partition(b"?")[0].decode("latin-1"),
        body=_request_body(fields, minor),
        keep_alive=_is_kept(minor, connection),
        connection=connection,
        upgrade=_upgrade(fields[b"upgrade"]) if b"upgrade" in fields and parser.should_upgrade() else b"",
    )


def parse_response(raw: bytes, method: bytes) -> ResponseHead:
    """The facts of a whole response head to a request with `method`. Raises BadHeadError."""
    parser = httptools.HttpResponseParser(_NOTHING)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as err:
        raise BadHeadError(502, "upstream_malformed", f"the backend's answer is not HTTP/1.1: {err}") from None
    line = _STATUS_LINE.match(raw)
    if not line:
        raise BadHeadError(502, "upstream_malformed", "its status line is not HTTP/1.0 or 1.1 SP 100 to 999")
    minor, digits = line.groups()
    fields, status = _fields(raw), int(digits)
    connection = fields.get(b"connection", b"")
    body, keep_alive = _response_body(fields, status, method), _is_kept(minor, connection)
    return ResponseHead(raw, status, body, keep_alive, connection, hop_by_hop=not _HOP_BY_HOP.isdisjoint(fields))


def path_of_broken(received: bytes) -> str:
    """The path that a refused head seems to ask for, so that capture rules hold for it too; `/` if none can be told."""
    words = received.partition(b"\n")[0].split()
    target = words[1] if len(words) > 1 else b""
    absolute = _ABSOLUTE_FORM.match(target)
    path = (target[absolute.end() :] if absolute else target).partition(b"?")[0]
    return (path if path[:1] == b"/" else b"/" + path).decode("latin-1")


def _check_host(raw: bytes, host: bytes | None, minor: bytes) -> None:
    if host is None and minor == b"1":
        raise BadHeadError(400, "malformed_head", "no Host field, there must be one (RFC 9112 section 3.2)")
    if host and b"," in host and sum(name == b"host" for name, _ in _FIELDS.findall(raw.lower())) > 1:
        raise BadHeadError(400, "malformed_head", "several Host fields, there must be one (RFC 9112 section 3.2)")


def _fields(raw: bytes) -> _Fields:
    """The fields that matter here, in lower case; several of a name are one list (RFC 9110 section 5.3)."""
    fields: _Fields = {}
    for name, padded in _FIELDS.findall(raw.lower()):
        value = padded.rstrip(b" \t")
        fields[name] = fields[name] + b"," + value if name in fields else value
    return fields


def origin_form(target: bytes) -> bytes:
    """The target without the authority of an absolute-form, which never chooses where a request goes."""
    if target[:1] == b"/" or target == b"*":
        return target
    absolute = _ABSOLUTE_FORM.match(target)
    if not absolute:
        raise BadHeadError(400, "malformed_head", "the request target is not a path")
    rest = target[absolute.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest


def _request_body(fields: _Fields, minor: bytes) -> int:
    coding = fields.get(b"transfer-encoding")
    if not coding:
        return _length(fields, 400, "malformed_head") or 0
    if minor == b"0":
        raise BadHeadError(400, "malformed_head", "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 section 6.1)")
    if coding != b"chunked":
        raise BadHeadError(501, "transfer_coding", "the only transfer coding understood in a request is chunked")
    return CHUNKED


def _response_body(fields: _Fields, status: int, method: bytes) -> int:
    """How long the body is, RFC 9112 section 6.3."""
    if method == b"HEAD" or status in {204, 304} or status < 200:
        return 0
    if coding := fields.get(b"transfer-encoding"):
        return _response_coding(coding)
    length = _length(fields, 502, "upstream_malformed")
    return UNTIL_CLOSE if length is None else length


def _response_coding(coding: bytes) -> int:
    codings = [coding.strip() for coding in coding.split(b",")]
    if b"chunked" in codings[:-1]:
        raise BadHeadError(502, "upstream_malformed", "its Transfer-Encoding has chunked twice, or not as the last")
    return CHUNKED if codings[-1] == b"chunked" else UNTIL_CLOSE


def _length(fields: _Fields, status: int, code: str) -> int | None:
    """Content-Length, which llhttp has found to be one row of digits; None without."""
    digits = fields.get(b"content-length")
    if not digits:
        return None
    if len(digits) > _LENGTH_DIGITS_MAX:
        raise BadHeadError(status, code, f"a Content-Length of more than {_LENGTH_DIGITS_MAX} digits")
    return int(digits)


def _upgrade(wanted: bytes) -> bytes:
    """What is asked for, unless it is HTTP/2: its requests would pass in a pipe, unread and unrecorded (RFC 9113 drops it)."""
    return b"" if b"h2c" in wanted else wanted


def _is_kept(minor: bytes, connection: bytes) -> bool:
    """Whether the sender keeps the connection open. llhttp forgets it as soon as a message without a body is over."""
    if not connection:
        return minor == b"1"
    return minor == b"1" and b"close" not in {option.strip() for option in connection.split(b",")}
