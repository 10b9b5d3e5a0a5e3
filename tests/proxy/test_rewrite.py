"""What is changed in a head, and that nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump_proxy import rewrite

NAME = st.text("abcXYZ-_1", min_size=1, max_size=8).filter(lambda name: name.lower() not in {"host", "connection", "upgrade"})
VALUE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)


def request(*fields: bytes, connection: bytes = b"", upgrade: bytes = b"") -> bytes:
    raw = b"GET /a HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    sent = rewrite.request(raw, b"/b", b"backend", connection, upgrade)
    assert sent.startswith(b"GET /b HTTP/1.1\r\n")
    return sent.removeprefix(b"GET /b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ([b"Host: x"], [b"Host: backend"]),
        ([b"A: 1", b"hOsT:x", b"a:2", b"A : "], [b"A: 1", b"Host: backend", b"a:2", b"A : "]),
        ([b"Host: x", b"Keep-Alive: 5", b"Proxy-Connection: close", b"A:  b  "], [b"Host: backend", b"A:  b  "]),
        ([b"X-Host: x", b"Hosts: y"], [b"X-Host: x", b"Hosts: y"]),
        ([b"Upgrade: h2c", b"A: b"], [b"A: b"]),
    ],
)
def test_only_host_and_hop_by_hop_fields_change(fields: list[bytes], sent: list[bytes]) -> None:
    assert request(*fields) == b"".join(field + b"\r\n" for field in sent) + b"\r\n"


def test_what_connection_names_ends_here_unless_it_frames_or_routes() -> None:
    fields = [
        b"Host: x",
        b"Connection: A, Content-Length, transfer-encoding, host, b",
        b"a: 1",
        b"B: 2",
        b"AB: 3",
        b"Content-Length: 4",
    ]
    named = b"a, content-length, transfer-encoding, host, b"
    assert request(*fields, connection=named) == b"Host: backend\r\nAB: 3\r\nContent-Length: 4\r\n\r\n"


def test_an_upgrade_that_was_asked_for_is_asked_for_again() -> None:
    fields = [b"Host: x", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"]
    sent = request(*fields, connection=b"keep-alive, upgrade", upgrade=b"websocket")
    assert sent == b"Connection: Upgrade\r\nHost: backend\r\nUpgrade: websocket\r\n\r\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAME, VALUE), max_size=8))
def test_fields_of_other_names_are_kept_byte_for_byte(fields: list[tuple[str, str]]) -> None:
    lines = b"".join(f"{name}:{value}\r\n".encode("latin-1") for name, value in fields)
    assert request(lines.removesuffix(b"\r\n")) == lines + b"\r\n" or not lines
    raw = b"HTTP/1.0 200 Fine  enough\r\n" + lines + b"\r\n"
    assert rewrite.response(raw, b"", close=False) == raw
    assert rewrite.response(raw, b"", close=True) == raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def test_a_responses_hop_by_hop_fields_end_here() -> None:
    raw = b"HTTP/1.1 200 OK\r\nconnection: keep-alive, X\r\nKeep-Alive: timeout=5\r\nX: 1\r\nHost: kept\r\nUpgrade: h2\r\n\r\n"
    sent = rewrite.response(raw, b"keep-alive, x", close=False)
    assert sent == b"HTTP/1.1 200 OK\r\nHost: kept\r\nUpgrade: h2\r\n\r\n"
