"""WebSocket messages as a real library frames and compresses them, however they are cut and mixed with control frames."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from llmdump import record
from llmdump.reading.exchange import Event
from llmdump.reading.framing import WebSocket
from llmdump.reading.websocket import WebSocketDirection, is_deflate_agreed
from tests.reading.pieces import CUTS, each_byte, pieces

MESSAGES = st.lists(
    st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), st.binary(max_size=300), st.integers(1, 4)), max_size=5
)


def framed(messages: list[tuple[Opcode, bytes, int]], *, mask: bool, deflate: PerMessageDeflate | None = None) -> bytes:
    """The messages as frames, each in so many fragments, with a ping between any two fragments."""
    wire = b""
    for opcode, data, count in messages:
        parts = [data[at * len(data) // count : (at + 1) * len(data) // count] for at in range(count)]
        for at, part in enumerate(parts):
            frame = Frame(opcode if at == 0 else Opcode.CONT, part, fin=at == count - 1)
            wire += frame.serialize(mask=mask, extensions=[deflate] if deflate else [])
            wire += Frame(Opcode.PING, b"are you there").serialize(mask=mask)
    return wire


def flagged(bits: int, frame: Frame) -> bytes:
    """The frame with these bits set in its first byte."""
    wire = frame.serialize(mask=True)
    return bytes([wire[0] | bits]) + wire[1:]


def read(direction: WebSocketDirection, wire: bytes, cuts: list[int]) -> list[tuple[bytes, str]]:
    """Data and kind of each message."""
    events = [event for piece in pieces(wire, cuts) for event in direction.feed(piece, 1)]
    direction.finish()
    return [(event.data, event.kind) for event in events]


def kinds(messages: list[tuple[Opcode, bytes, int]]) -> list[tuple[bytes, str]]:
    return [(data, "text" if opcode == Opcode.TEXT else "binary") for opcode, data, _ in messages]


@given(MESSAGES, st.booleans(), CUTS)
def test_fragments_and_pings_in_any_pieces(messages: list[tuple[Opcode, bytes, int]], mask: bool, cuts: list[int]) -> None:
    direction = WebSocketDirection(1000, inflates=False)
    assert read(direction, framed(messages, mask=mask), cuts) == kinds(messages)
    assert direction.problem == ""


@given(MESSAGES, st.booleans(), st.integers(9, 15), CUTS)
def test_compressed_messages(messages: list[tuple[Opcode, bytes, int]], forgets: bool, bits: int, cuts: list[int]) -> None:
    deflate = PerMessageDeflate(
        remote_no_context_takeover=False,
        local_no_context_takeover=forgets,
        remote_max_window_bits=15,
        local_max_window_bits=bits,
    )
    # Twice the same, so that a window that is kept is used.
    wire = framed(messages * 2, mask=True, deflate=deflate)
    direction = WebSocketDirection(1000, inflates=True)
    assert read(direction, wire, cuts) == kinds(messages * 2)
    assert direction.problem == ""


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 200_000])
def test_each_form_of_length(size: int) -> None:
    direction = WebSocketDirection(1_000_000, inflates=False)
    assert read(direction, framed([(Opcode.BINARY, b"x" * size, 1)], mask=True), [3, 7, 5000]) == [(b"x" * size, "binary")]


def test_a_message_is_dated_by_its_last_byte() -> None:
    wire = Frame(Opcode.TEXT, b"hello").serialize(mask=False)
    direction = WebSocketDirection(1000, inflates=False)
    assert direction.feed(wire[:-1], 1) == []
    assert direction.feed(wire[-1:], 2) == [Event(b"hello", "", 2)]


def test_the_close_code_is_kept() -> None:
    for payload, code in ((b"\x03\xe8bye", 1000), (b"", 1005), (b"\x03\xf1", 1009)):
        direction = WebSocketDirection(1000, inflates=False)
        assert read(direction, Frame(Opcode.CLOSE, payload).serialize(mask=True), each_byte(b"x" * 12)) == []
        assert (direction.close_code, direction.problem) == (code, "")


@given(st.integers(0, 60), st.booleans(), CUTS)
def test_a_message_beyond_the_limit_is_cut_and_flagged(size: int, compressed: bool, cuts: list[int]) -> None:
    deflate = PerMessageDeflate(False, False, 15, 15) if compressed else None
    wire = framed([(Opcode.TEXT, b"x" * size, 2)], mask=True, deflate=deflate)
    direction = WebSocketDirection(20, inflates=compressed)
    assert read(direction, wire, cuts) == [(b"x" * min(size, 20), "text")]
    assert direction.problem == ("limit" if size > 20 else "")


def test_a_bomb_is_not_inflated() -> None:
    compressor = zlib.compressobj(wbits=-15)
    bomb = (compressor.compress(bytes(200_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    wire = flagged(0x40, Frame(Opcode.TEXT, bomb))
    direction = WebSocketDirection(1000, inflates=True)
    assert read(direction, wire, [1000, 50_000]) == [(bytes(1000), "text")]
    assert direction.problem == "limit"
    assert direction.feed(framed([(Opcode.TEXT, b"more", 1)], mask=True), 1) == []


@pytest.mark.parametrize(
    "wire",
    [
        Frame(Opcode.CONT, b"nothing to go on with").serialize(mask=True),
        flagged(0x40, Frame(Opcode.TEXT, b"not agreed on")),
        flagged(0x20, Frame(Opcode.TEXT, b"unknown bit")),
        b"\x83\x00",  # a kind of frame that does not exist
        b"\x09\x00",  # a ping in fragments
        b"\x89\x7e\x00\x80",  # a long ping
        Frame(Opcode.TEXT, b"one", fin=False).serialize(mask=True) + Frame(Opcode.TEXT, b"two").serialize(mask=True),
    ],
    # The masks are random, and so would be the names.
    ids=[
        "continuation of nothing",
        "not agreed on",
        "unknown bit",
        "unknown opcode",
        "ping in fragments",
        "long ping",
        "message in a message",
    ],
)
@pytest.mark.parametrize("cuts", [[], [1], [3]])
def test_broken_rules_end_the_reading(wire: bytes, cuts: list[int]) -> None:
    direction = WebSocketDirection(1000, inflates=False)
    assert read(direction, framed([(Opcode.TEXT, b"first", 1)], mask=True) + wire, cuts) == [(b"first", "text")]
    assert direction.problem == "damaged"
    assert direction.feed(framed([(Opcode.TEXT, b"later", 1)], mask=True), 1) == []


def test_damaged_compression_ends_the_reading() -> None:
    direction = WebSocketDirection(1000, inflates=True)
    assert read(direction, flagged(0x40, Frame(Opcode.TEXT, b"\xff\xff\xff")), []) == []
    assert direction.problem == "damaged"


@pytest.mark.parametrize("size", [10, 63, 64, 65, 66, 400])
def test_damage_near_the_limit_is_the_same_in_any_pieces(size: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"x" * size) + compressor.flush(zlib.Z_SYNC_FLUSH) + b"\x07"
    wire = flagged(0x40, Frame(Opcode.TEXT, data))
    whole, cut = (WebSocketDirection(64, inflates=True) for _ in range(2))
    assert read(whole, wire, []) == read(cut, wire, each_byte(wire))
    assert whole.problem == cut.problem == ("damaged" if size <= 64 else whole.problem)
    assert whole.problem in ("damaged", "limit")


@pytest.mark.parametrize("keep", [1, 3, 8, 10])
def test_a_cut_message_is_told(keep: int) -> None:
    direction = WebSocketDirection(1000, inflates=False)
    assert read(direction, Frame(Opcode.TEXT, b"hello").serialize(mask=True)[:keep], []) == []
    assert direction.problem == "cut"


@given(st.binary(max_size=200), st.booleans(), CUTS)
def test_any_bytes_in_any_pieces_are_the_same(wire: bytes, inflates: bool, cuts: list[int]) -> None:
    whole, cut = (WebSocketDirection(50, inflates=inflates) for _ in range(2))
    assert read(whole, wire, []) == read(cut, wire, cuts)
    assert (whole.problem, whole.close_code) == (cut.problem, cut.close_code)


def test_compression_is_what_the_answer_agrees_to() -> None:
    assert not is_deflate_agreed([])
    assert not is_deflate_agreed(["x-permessage-deflate; a=1"])
    assert is_deflate_agreed(["x-other; a=1", 'Permessage-Deflate; server_max_window_bits="10"'])


def test_a_message_may_end_with_a_final_block() -> None:
    compressor = zlib.compressobj(wbits=-15)
    final = compressor.compress(b"hello") + compressor.flush()
    direction = WebSocketDirection(1000, inflates=True)
    assert read(direction, flagged(0x40, Frame(Opcode.TEXT, final + b"\0")) * 2, [7]) == [(b"hello", "text")] * 2
    assert direction.problem == ""


def test_each_direction_has_its_own_window() -> None:
    fields = [("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover")]
    socket = WebSocket(fields)
    client, server = PerMessageDeflate(False, False, 15, 15), PerMessageDeflate(False, True, 15, 15)
    messages = [(Opcode.TEXT, b"the same words " * 9, 1)] * 3
    asked = socket.feed(record.CLIENT_TO_PROXY, framed(messages, mask=True, deflate=client), 1)
    answered = socket.feed(record.BACKEND_TO_PROXY, framed(messages, mask=False, deflate=server), 2)
    assert [event.data for event in asked + answered] == [b"the same words " * 9] * 6
    socket.feed(
        record.BACKEND_TO_PROXY,
        Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=False) + Frame(Opcode.PONG, b"").serialize(mask=False),
        3,
    )
    socket.feed(record.CLIENT_TO_PROXY, Frame(Opcode.TEXT, b"half", fin=False).serialize(mask=True), 4)
    assert socket.problem == ""
    socket.finish()
    assert (socket.problem, socket.close_code) == ("cut", 1001)
