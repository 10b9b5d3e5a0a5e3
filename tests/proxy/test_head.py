"""Heads: what is accepted, what is not, and that whoever reads them by the book reads them as we do."""

import re

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmdump_proxy import head, rewrite
from llmdump_proxy.framing import BadFramingError, ChunkedBody, LengthBody, UntilCloseBody, body_of
from llmdump_proxy.head import CHUNKED, UNTIL_CLOSE, BadHeadError, parse_request, parse_response
from tests.proxy.probes import HEADS, Probe

HOST = b"Host: client.test\r\n"


def request(line: bytes = b"POST /v1/x HTTP/1.1", *fields: bytes) -> bytes:
    return line + b"\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (request(), {"method": b"POST", "target": b"/v1/x", "path": "/v1/x", "body": 0, "keep_alive": True, "upgrade": b""}),
        (request(b"GET /a?b=c?d HTTP/1.1"), {"target": b"/a?b=c?d", "path": "/a"}),
        (request(b"GET http://u:p@h.test:1/a?b HTTP/1.1"), {"target": b"/a?b", "path": "/a"}),
        (request(b"GET HTTPS://h.test?b HTTP/1.1"), {"target": b"/?b", "path": "/"}),
        (request(b"GET http://h.test HTTP/1.1"), {"target": b"/"}),
        (request(b"GET http://[::1/x HTTP/1.1"), {"target": b"/x"}),
        (request(b"GET //h.test/x HTTP/1.1"), {"target": b"//h.test/x"}),
        (request(b"OPTIONS * HTTP/1.1"), {"target": b"*", "path": "*"}),
        (request(b"POST / HTTP/1.1", b"Content-Length: 007"), {"body": 7}),
        (request(b"POST / HTTP/1.1", b"content-length:\t 999999999999999999 "), {"body": 10**18 - 1}),
        (request(b"POST / HTTP/1.1", b"Transfer-Encoding: Chunked"), {"body": CHUNKED}),
        (request(b"GET / HTTP/1.1", b"Transfer-Encoding:\tchunked "), {"body": CHUNKED}),
        (request(b"GET / HTTP/1.1", b"X-Content-Length: 4"), {"body": 0}),
        (b"GET / HTTP/1.0\r\n\r\n", {"keep_alive": False}),
        (request(b"GET / HTTP/1.1", b"Connection: Close"), {"keep_alive": False, "connection": b"close"}),
        (request(b"GET / HTTP/1.1", b"Connection: a", b"Connection: B"), {"connection": b"a,b"}),
        (request(b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket"), {"upgrade": b"websocket"}),
        (request(b"GET / HTTP/1.1", b"Upgrade: websocket"), {"upgrade": b""}),
    ],
)
def test_what_forwarding_needs_is_read_from_a_good_head(raw: bytes, expected: dict[str, object]) -> None:
    found = parse_request(raw)._asdict()
    assert {name: found[name] for name in expected} == expected
    assert found["raw"] == raw


@pytest.mark.parametrize("probe", [p for p in HEADS if b"\r\n\r\n" in p.request], ids=lambda probe: probe.name)
def test_a_bad_head_is_refused_by_itself(probe: Probe) -> None:
    raw = probe.request[: probe.request.index(b"\r\n\r\n") + 4]
    with pytest.raises(BadHeadError) as caught:
        head.end_of_head(raw, 1024)
        parse_request(raw)
    assert (caught.value.status, caught.value.code) == (probe.status, probe.code)


def test_a_length_of_thousands_of_digits_is_no_crash() -> None:
    with pytest.raises(BadHeadError):
        parse_request(request(b"POST / HTTP/1.1", b"Content-Length: " + b"0" * 5000 + b"2"))
    with pytest.raises(BadHeadError):
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\n", b"GET")


@pytest.mark.parametrize(
    ("fields", "method", "status", "body"),
    [
        (b"", b"GET", 200, UNTIL_CLOSE),
        (b"Content-Length: 3\r\n", b"GET", 200, 3),
        (b"Content-Length: 3\r\n", b"HEAD", 200, 0),
        (b"Transfer-Encoding: chunked\r\n", b"HEAD", 200, 0),
        (b"", b"GET", 204, 0),
        (b"Content-Length: 3\r\n", b"GET", 304, 0),
        (b"", b"GET", 103, 0),
        (b"Transfer-Encoding: chunked\r\n", b"GET", 200, CHUNKED),
        (b"Transfer-Encoding: gzip, Chunked\r\n", b"GET", 200, CHUNKED),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"GET", 200, CHUNKED),
        (b"Transfer-Encoding: gzip\r\n", b"GET", 200, UNTIL_CLOSE),
    ],
)
def test_a_response_has_the_body_that_the_standard_gives_it(fields: bytes, method: bytes, status: int, body: int) -> None:
    found = parse_response(b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, fields), method)
    assert (found.status, found.body) == (status, body)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 20 Short\r\n\r\n",
        b"HTTP/1.1 2000 Long\r\n\r\n",
        b"HTTP/1.1 2x0 Odd\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 \x01\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_malformed_response_head_is_the_backends_fault(raw: bytes) -> None:
    with pytest.raises(BadHeadError) as caught:
        parse_response(raw, b"GET")
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


def test_the_end_of_a_head_is_found_and_its_limit_kept() -> None:
    raw = request()
    assert [head.end_of_head(raw[:size], 1000) for size in range(len(raw))] == [0] * len(raw)
    assert head.end_of_head(raw + b"more", 1000) == len(raw)
    assert head.end_of_head(raw, len(raw)) == len(raw)
    for buffer in (raw, raw[:-1]):
        with pytest.raises(BadHeadError) as caught:
            head.end_of_head(buffer, len(raw) - 2)
        assert caught.value.status == 431


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: x\n\n", b"GET /\0"])
def test_what_can_never_be_a_whole_head_is_told_at_once(raw: bytes) -> None:
    with pytest.raises(BadHeadError):
        head.end_of_head(raw, 1000)


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"M-SEARCH /x?y HTTP/1.0\r\n"])
def test_a_request_line_that_is_not_there_whole_is_waited_for(line: bytes) -> None:
    for size in range(1, len(line) + 1):
        head.check_request_begins(line[:size])


def test_a_status_line_that_is_not_there_whole_is_waited_for() -> None:
    for size in range(1, 20):
        head.check_response_begins(b"HTTP/1.1 200 OK\r\nX: y"[:size])
    for raw in (b"S", b"\x15\x03", b"HTTP/2", b"http/1.1"):
        with pytest.raises(BadHeadError):
            head.check_response_begins(raw)


@pytest.mark.parametrize(
    ("received", "path"),
    [
        (b"", "/"),
        (b"GET", "/"),
        (b"GET /v1/x?key=1 HTTP/1.1\r\n", "/v1/x"),
        (b"GET http://h/v1/x HTTP/1.1\r\n", "/v1/x"),
        (b"GET  /v1/x\r\n", "/v1/x"),
        (b"GET v1 HTTP/1.1", "/v1"),
        (b"\xff\xfe \xfd", "/\xfd"),
    ],
)
def test_the_path_of_a_refused_head_is_told_as_well_as_may_be(received: bytes, path: str) -> None:
    assert head.path_of_broken(received) == path


# ---------------------------------------------------------------- by the book: h11 reads what we forward as we do

TOKEN = st.text("abcXYZ019-_!#", min_size=1, max_size=8).map(str.encode)
VALUE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=12).map(lambda t: t.encode("latin-1"))
FRAMING = st.sampled_from(
    [b"Content-Length: 3", b"Content-Length: 4", b"content-length:5", b"Content-Length: +3", b"Content-Length: 3, 3",
     b"Content-Length: 0x3", b"Content-Length:", b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED",
     b"transfer-encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked",
     b"Transfer-Encoding:", b"Transfer-Encoding : chunked", b"Content-Length : 3", b"Host: other", b"Host : x",
     b"Connection: close", b"Connection: Content-Length", b"Connection: transfer-encoding, host", b"X: a\r\n b",
     b"X: a\rContent-Length: 9", b"X: a\nContent-Length: 9", b"X: \0", b": x", b"Upgrade: h2c"]
)  # fmt: skip
PLAIN = st.builds(lambda name, value: name + b": " + value, TOKEN, st.text("abc,;=/", max_size=12).map(str.encode))
GOOD_FRAMING = st.sampled_from(
    [b"Content-Length: 3", b"content-length:\t5", b"Transfer-Encoding: chunked", b"Connection: close"]
)
FIELD = st.one_of(FRAMING, PLAIN, st.builds(lambda name, value: name + b": " + value, TOKEN, VALUE))


def lines(methods: list[bytes], targets: st.SearchStrategy[bytes], versions: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(st.sampled_from(methods), targets, st.sampled_from(versions)).map(b" ".join)


GOOD_TARGET = st.text("abc/?=&%~.-_:@", max_size=12).map(lambda text: b"/" + text.encode())
GOOD_LINE = lines([b"GET", b"POST", b"PUT", b"OPTIONS"], GOOD_TARGET, [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"])
ODD_LINE = lines(
    [b"GET", b"POST", b"HEAD", b"OPTIONS", b"get", b"PRI", b"M-SEARCH"],
    st.one_of(
        st.sampled_from([b"/", b"*", b"/v1/x?y", b"http://h/x", b"http://h", b"h:80", b"/a b", b"/\xff", b"/%0d%0a"]),
        VALUE.map(lambda value: b"/" + value),
    ),
    [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 "],
)


def heads(line: st.SearchStrategy[bytes], field: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    host = st.sampled_from([HOST, HOST, HOST, HOST, b"", HOST * 2])
    return st.builds(
        lambda line, host, fields: line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n",
        line,
        host,
        st.lists(field, max_size=4),
    )


HEAD = st.one_of(heads(GOOD_LINE, PLAIN | GOOD_FRAMING), heads(GOOD_LINE, PLAIN | FIELD), heads(ODD_LINE, FIELD))
MUTATION = st.tuples(st.sampled_from(["insert", "replace", "delete"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=3))


def mutated(raw: bytes, mutations: list[tuple[str, int, bytes]]) -> bytes:
    for how, place, what in mutations:
        at = place % len(raw)
        if how == "insert":
            raw = raw[:at] + what + raw[at:]
        elif len(raw) > 4:
            raw = raw[:at] + (what if how == "replace" else b"") + raw[at + 1 :]
    return raw


def forwarded(raw: bytes) -> tuple[bytes, int] | None:
    """The head that a backend gets, with the length of its body; None if it is refused."""
    try:
        if not head.end_of_head(raw, 65536):
            return None
        found = parse_request(raw[: raw.index(b"\r\n\r\n") + 4])
    except BadHeadError:
        return None
    return rewrite.request(found.raw, found.target, b"backend.test", found.connection, found.upgrade), found.body


def by_the_book(raw: bytes) -> int:
    """The length of a request's body as h11 reads it. Raises h11.RemoteProtocolError."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=10**7)
    reader.receive_data(raw)
    found = reader.next_event()
    assert isinstance(found, h11.Request), found
    framing = reader._reader
    if type(framing).__name__ == "ChunkedReader":
        return CHUNKED
    lengths = [int(value) for name, value in found.headers if name == b"content-length"]
    return lengths[0] if lengths else 0


@settings(max_examples=700, deadline=None)
@given(HEAD, st.one_of(st.just([]), st.lists(MUTATION, max_size=1)))
@example(request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Connection: transfer-encoding"), [])
def test_what_is_forwarded_is_a_request_by_the_book_with_the_same_framing(raw: bytes, mutations: list) -> None:  # type: ignore[type-arg]
    passed = forwarded(mutated(raw, mutations))
    if passed is None:
        return
    sent, body = passed
    assert by_the_book(sent) == body
    assert len(re.findall(rb"(?im)^host:", sent)) == (0 if b" HTTP/1.0\r\n" in sent and b"Host" not in sent else 1)
    assert sent.count(b"\r\n\r\n") == 1 and sent.endswith(b"\r\n\r\n")


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.binary(max_size=200), HEAD.flatmap(lambda raw: st.lists(MUTATION, max_size=4).map(lambda m: mutated(raw, m))))
)
def test_whatever_comes_a_head_is_parsed_or_refused(raw: bytes) -> None:
    """No other error may escape: it would kill the connection without an answer or a record."""
    for judge in (
        lambda: head.end_of_head(raw, 100),
        lambda: head.check_request_begins(raw),
        lambda: head.check_response_begins(raw),
        lambda: parse_request(raw),
        lambda: parse_response(raw, b"GET"),
        lambda: head.path_of_broken(raw),
    ):
        try:
            judge()
        except BadHeadError as err:
            assert err.status in {400, 431, 501, 502} and str(err)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"]), st.integers(90, 610), st.lists(FIELD, max_size=4))
def test_a_response_that_is_passed_on_is_one_by_the_book(version: bytes, status: int, fields: list[bytes]) -> None:
    raw = b"%b %d Fine\r\n%b\r\n" % (version, status, b"".join(field + b"\r\n" for field in fields))
    try:
        found = parse_response(raw, b"GET")
    except BadHeadError:
        return
    bodiless = found.status < 200 or found.status in {204, 304}
    codings = re.findall(rb"(?im)^transfer-encoding:[ \t]*(.*?)[ \t]*\r$", raw)
    if bodiless or version == b"HTTP/1.0" or {coding.lower() for coding in codings} - {b"chunked"}:
        return  # h11 refuses codings even where there is no body, knows no chunks in HTTP/1.0, and no other coding
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    reader.receive_data(rewrite.response(found.raw, found.connection, close=False))
    event = reader.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse) and event.status_code == found.status
    if isinstance(event, h11.Response):
        kind = {"ContentLengthReader": LengthBody, "ChunkedReader": ChunkedBody, "Http10Reader": UntilCloseBody}
        book = kind[type(reader._reader).__name__]
        assert type(body_of(found.body)) is book


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=100), st.integers(1, 7))
def test_whatever_comes_a_chunked_body_is_taken_or_refused(raw: bytes, step: int) -> None:
    body = ChunkedBody()
    try:
        for at in range(0, len(raw), step):
            if not body.done:
                body.feed(raw[at : at + step])
    except BadFramingError as err:
        assert str(err)
