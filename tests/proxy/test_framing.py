"""Bodies: where they end, what of them is framing, and that no cut changes it."""

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump_proxy.framing import (
    LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
    BadFramingError,
    ChunkedBody,
    Framing,
    LengthBody,
    UntilCloseBody,
    body_of,
)
from llmdump_proxy.head import CHUNKED, UNTIL_CLOSE
from tests.proxy.probes import BODIES, Probe

GOOD = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"00005\r\nhello\r\n000\r\n\r\n",
    b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    b'5;a=b;c="d e" \t;f\r\nhello\r\n0;last\r\n\r\n',
    b"5\t;a\r\nhel\r\n\r\n0\r\n\r\n",
    b"2\r\n\r\n\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n",
]


def taken(raw: bytes, cuts: list[int]) -> tuple[bytes, bytes, int]:
    """Payload, the wire as told by the framing, and bytes used, of a body read in these pieces."""
    body, payload, wire, used = ChunkedBody(), b"", b"", 0
    places = sorted({0, *cuts, len(raw)})
    for start, end in itertools.pairwise(places):
        if body.done:
            break
        piece = body.feed(raw[start:end])
        payload += piece.payload
        wire += told(piece.payload, piece.framing)
        used += piece.used
        assert piece.done == body.done
        assert piece.used == end - start or piece.done
    assert body.done
    return payload, wire, used


def told(payload: bytes, framing: Framing | None) -> bytes:
    if framing is None:
        return b"%x\r\n%b\r\n" % (len(payload), payload)
    at, wire = 0, b""
    for item in framing:
        if isinstance(item, int):
            wire += payload[at : at + item]
            at += item
        else:
            wire += item
    assert at == len(payload)
    return wire


@pytest.mark.parametrize("raw", GOOD)
def test_a_chunked_body_is_told_exactly_wherever_it_is_cut(raw: bytes) -> None:
    rest = b"GET /next"
    whole, wire, used = taken(raw + rest, [])
    assert (wire, used) == (raw, len(raw))
    for at in range(1, len(raw)):
        for other in range(at, len(raw)):
            assert taken(raw + rest, [at, other]) == (whole, raw, len(raw))
    assert taken(raw + rest, list(range(len(raw)))) == (whole, raw, len(raw))


@pytest.mark.parametrize("raw", [raw for raw in GOOD if b"\t;" not in raw])  # a blank that h11 does not know
def test_a_chunked_body_has_the_payload_that_the_book_gives_it(raw: bytes) -> None:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    payload = b""
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        payload += bytes(event.data) if isinstance(event, h11.Data) else b""
    assert taken(raw, [])[0] == payload


@pytest.mark.parametrize("probe", BODIES, ids=lambda probe: probe.name)
def test_bad_framing_is_refused_wherever_it_is_cut(probe: Probe) -> None:
    raw = probe.request.partition(b"\r\n\r\n")[2]
    for at in range(min(len(raw), 200)):
        with pytest.raises(BadFramingError):
            taken(raw, [at])
    with pytest.raises(BadFramingError):
        taken(raw, list(range(len(raw))))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"", b"g"),
        (b"", b"-"),
        (b"", b"\r"),
        (b"", b"\n"),
        (b"5", b"x"),
        (b"5 ", b"a"),
        (b"5;a", b"\0"),
        (b"5\r", b"h"),
        (b"2\r\nab", b"c"),
        (b"2\r\nab\r", b"c"),
        (b"0\r\n", b" "),
        (b"0\r\n", b":"),
        (b"0\r\nX", b" "),
        (b"0\r\nX: a", b"\0"),
        (b"0\r\nX: a\r", b"b"),
    ],
)
def test_the_first_wrong_byte_is_refused_before_its_line_ends(right: bytes, wrong: bytes) -> None:
    """Otherwise it would be forwarded, and its sender would wait for a time-out."""
    body = ChunkedBody()
    body.feed(right)
    with pytest.raises(BadFramingError):
        body.feed(wrong)


def test_trailers_are_told_in_whole_lines_when_the_body_is_done() -> None:
    """A credential among them can only be masked if it is not in pieces."""
    body = ChunkedBody()
    assert body.feed(b"0\r\nAuthori").framing == [b"0\r\n"]
    assert body.feed(b"zation: Bearer x\r\nY: ").framing == [b""]
    assert body.feed(b"z\r\n\r\n").framing == [b"Authorization: Bearer x\r\nY: z\r\n\r\n"]


def test_lines_and_trailers_have_limits() -> None:
    ChunkedBody().feed(b"2;" + b"a" * (LINE_BYTES_MAX - 4) + b"\r\nab\r\n")
    with pytest.raises(BadFramingError):
        ChunkedBody().feed(b"2;" + b"a" * (LINE_BYTES_MAX - 3) + b"\r\nab\r\n")
    line = b"X: " + b"x" * 95 + b"\r\n"
    ChunkedBody().feed(b"0\r\n" + line * (TRAILER_BYTES_MAX // 100) + b"\r\n")
    with pytest.raises(BadFramingError):
        ChunkedBody().feed(b"0\r\n" + line * (TRAILER_BYTES_MAX // 100 + 1))


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 4096])
def test_one_plain_chunk_needs_no_framing_told(size: int) -> None:
    piece = ChunkedBody().feed(b"%x\r\n%b\r\n" % (size, b"x" * size))
    assert piece.framing is None and len(piece.payload) == size


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from([b"", b";a", b' ;b="c"'])), max_size=5),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_random_chunks_cut_at_random_are_told_exactly(chunks: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks) + b"0\r\n\r\n"
    payload, wire, used = taken(raw + b"rest", [cut for cut in cuts if cut < len(raw)])
    assert (payload, wire, used) == (b"".join(data for data, _ in chunks), raw, len(raw))


def test_a_body_of_a_length_ends_there() -> None:
    body = body_of(5)
    assert isinstance(body, LengthBody)
    assert body.feed(b"he") == (2, b"he", None, False)
    assert body.feed(b"lloGET") == (3, b"llo", None, True)
    assert body.done and body_of(0).done


def test_a_body_until_close_takes_all_and_never_ends() -> None:
    body = body_of(UNTIL_CLOSE)
    assert isinstance(body, UntilCloseBody)
    assert body.feed(b"anything") == (8, b"anything", None, False)
    assert isinstance(body_of(CHUNKED), ChunkedBody)
