"""What a proxy must change in a head, and nothing else: Host, and the fields that end at this hop. Pure.

RFC 9110 section 7.6.1: Connection and what it names, Keep-Alive and Proxy-Connection are for one connection only, and
so is an Upgrade (section 7.8) that is not asked of the backend too. A
field that frames or routes the message is never dropped, whatever Connection names. All other bytes stay as they are.
"""

import re
from typing import Final

# Each begins with a literal, so that the search for lines is done in C. A match is a line with the line end before it.
_HOP: Final = rb"connection|keep-alive|proxy-connection"
_REQUEST = re.compile(rb"(?i)\n(host|upgrade|" + _HOP + rb"):[^\n]*")
_RESPONSE = re.compile(rb"(?i)\n(?:" + _HOP + rb"):[^\n]*")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_NEVER_DROPPED: Final = frozenset({b"close", b"host", b"content-length", b"transfer-encoding", b"upgrade", b"keep-alive"})


def request(raw: bytes, target: bytes, host: bytes, connection: bytes, upgrade: bytes) -> bytes:
    """The head to send to the backend: another target and Host, without the client's hop-by-hop fields.

    `connection` is the Connection field's value in lower case; `upgrade`, if any, is asked of the backend too.
    """
    line_end = raw.index(b"\n")
    method, _, version = raw[:line_end].split(b" ")
    host_line = b"\nHost: " + host + b"\r"

    def instead(line: re.Match[bytes]) -> bytes:
        name = line[1]
        if len(name) == 4:
            return host_line
        return line[0] if upgrade and len(name) == 7 else b""

    fields = _REQUEST.sub(instead, raw[line_end:])
    if connection:
        fields = _without(fields, connection)
    return b"%b %b %b%b%b" % (method, target, version, b"\nConnection: Upgrade\r" if upgrade else b"", fields)


def response(raw: bytes, connection: bytes, *, close: bool) -> bytes:
    """The head to send to the client: without the backend's hop-by-hop fields, with `Connection: close` if `close`."""
    line_end = raw.index(b"\n")
    fields = _RESPONSE.sub(b"", raw[line_end:])
    if connection:
        fields = _without(fields, connection)
    return raw[:line_end] + (b"\nConnection: close\r" + fields if close else fields)


def _without(fields: bytes, connection: bytes) -> bytes:
    """The fields without those that Connection names."""
    named = set(_TOKEN.findall(connection)) - _NEVER_DROPPED
    if not named:
        return fields
    return b"".join(line for line in fields.splitlines(keepends=True) if line.partition(b":")[0].lower() not in named)
