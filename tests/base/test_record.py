"""Records: laid out as drawn, read by any CBOR library, and noticed when a bit is wrong."""

import contextlib
import re
import struct
from pathlib import Path
from typing import Any

import cbor2
import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump import record
from llmdump.record import (
    BACKEND_TO_PROXY,
    CLIENT_TO_PROXY,
    NO_EXCHANGE,
    SEQ_AT,
    DamageError,
    Identity,
    Record,
    decode,
    encode,
    encode_chunk,
    entries,
    is_whole,
    kind_entry,
    measure,
    number_of,
    patch_seq,
)

INSTANCE = "0123456789abcdef"
EXCHANGE = "0192d3c4-aaaa-7bbb-8ccc-123456789abc"
COMMON = {"sid": "s-1", "be": "openai"}
IDENTITY = Identity(INSTANCE, EXCHANGE, COMMON)


def example(data: bytes = b"hello", **more: Any) -> bytes:
    extra, count = entries(more)
    return encode(1.5, BACKEND_TO_PROXY, 7, data, IDENTITY, kind_entry("pipe"), extra, count)


# ---------------------------------------------------------------- the layout


def drawn() -> list[tuple[int, int, bytes]]:
    """The rows of the drawing: the fixed part of an offset, how often the data's length is in it, the CBOR up to a `<`."""
    rows = []
    for at, plus_n, text in re.findall(
        r"^ +(\d+)(\+n)?  +((?:[0-9a-f]{2} +)?[0-9a-f]{2} +\"\w+\".*)$", record.__doc__ or "", re.MULTILINE
    ):
        expected = b""
        for token in re.findall(r'"\w+"|[0-9a-f]{2}(?= )', text.split("<")[0] + " "):
            expected += token.strip('"').encode() if token[0] == '"' else bytes.fromhex(token)
        rows.append((int(at), len(plus_n) // 2, expected))
    return rows


@pytest.mark.parametrize("size", [0, 1, 24, 256, 70_000])
def test_each_entry_stands_where_it_is_drawn(size: int) -> None:
    found = example(b"x" * size, x_more="more")
    rows = drawn()
    assert len(rows) >= 9
    for at, plus_n, expected in rows:
        place = at + plus_n * size
        assert found[place : place + len(expected)] == expected, (at, plus_n)
    assert found[-9:-4] == b"\x63x_c\x1a"


def test_the_values_stand_where_they_are_drawn() -> None:
    found, n = example(b"12345"), 5
    assert struct.unpack_from(">d", found, 5) == (1.5,)
    assert found[17] == BACKEND_TO_PROXY
    assert found[23:31] == bytes(8)
    assert struct.unpack_from(">I", found, 37) == (n,)
    assert found[41 : 41 + n] == b"12345"
    assert struct.unpack_from(">I", found, 53 + n) == (len(found),)
    assert struct.unpack_from(">Q", found, 62 + n) == (7,)
    assert found[75 + n : 91 + n] == INSTANCE.encode()
    assert found[97 + n : 133 + n] == EXCHANGE.encode()
    assert found[133 + n : 142 + n] == b"\x63x_k\x64pipe"
    assert struct.unpack_from(">I", found, len(found) - 4) == (google_crc32c.value(found[:-4]),)


def test_any_cbor_library_reads_a_record() -> None:
    found = cbor2.loads(example(x_more=[1, "two"]))
    assert list(found) == ["ts", "dir", "seq", "data", "meta"]
    assert (found["ts"], found["dir"], found["seq"], found["data"]) == (1.5, BACKEND_TO_PROXY, 0, b"hello")
    assert found["meta"] == {
        "x_l": len(example(x_more=[1, "two"])), "x_n": 7, "x_i": INSTANCE, "rid": EXCHANGE, "x_k": "pipe", "x_more": [1, "two"],
        **COMMON, "x_c": struct.unpack(">I", example(x_more=[1, "two"])[-4:])[0],
    }  # fmt: skip


def test_kinds_that_are_drawn_are_those_that_the_proxy_makes() -> None:
    kinds = set(re.findall(r"^    (\w+) +[0-3](?:\|3)?  ", record.__doc__ or "", re.MULTILINE))
    sources = (Path(__file__).parents[2] / "proxy/llmdump_proxy/recorder.py").read_text()
    made = set(re.findall(r'kind_entry\("(\w+)"\)', sources)) | {"chunk"}
    assert made == kinds - {"footer"}


# ---------------------------------------------------------------- there and back

META = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=6).map(lambda name: f"y_{name}"),
    st.one_of(
        st.integers(-(2**63), 2**64 - 1), st.text(max_size=30), st.binary(max_size=30), st.booleans(), st.lists(st.integers())
    ),
    max_size=10,
)
TIMES = st.floats(allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(
    TIMES, st.integers(0, 3), st.integers(1, 2**64 - 1), st.binary(max_size=300), st.text("abcz", min_size=1, max_size=23), META
)
def test_what_is_encoded_is_decoded(
    ts: float, direction: int, number: int, data: bytes, kind: str, meta: dict[str, Any]
) -> None:
    extra, count = entries(meta)
    raw = encode(ts, direction, number, data, IDENTITY, kind_entry(kind), extra, count)
    found = decode(raw)
    assert found == Record(ts, direction, number, INSTANCE, EXCHANGE, kind, data, {**meta, **COMMON})
    assert measure(raw, 0) == len(raw) and is_whole(raw) and number_of(raw) == number
    assert cbor2.loads(raw)["data"] == data
    assert decode(memoryview(raw)) == found


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 2**32 - 1), st.booleans(), META)
def test_a_chunk_is_decoded_as_it_was_made(data: bytes, index: int, last: bool, meta: dict[str, Any]) -> None:
    extra, count = entries(meta)
    found = decode(encode_chunk(2.0, CLIENT_TO_PROXY, 9, data, IDENTITY, index, last, extra, count))
    assert (found.kind, found.data, found.meta["ci"], found.ends_body) == ("chunk", data, index, last)
    assert found.meta == {"ci": index, **({"x_z": True} if last else {}), **meta, **COMMON}


def test_what_an_entry_is_called_can_be_asked_without_decoding() -> None:
    found = decode(example(x_more=1))
    assert found.mentions(b"x_more") and found.mentions(b"sid") and not found.mentions(b"x_other")
    assert found.meta and found.mentions(b"x_more") and not found.mentions(b"x_other")


def test_records_are_equal_by_what_they_hold() -> None:
    assert decode(example()) == decode(example()) != decode(example(b"other"))
    assert decode(example()) != decode(example(x_more=1)) and decode(example()) != "record"
    assert "7 pipe dir=3 5 B" in repr(decode(example()))


@pytest.mark.parametrize(("instance", "exchange"), [("short", EXCHANGE), (INSTANCE, "short"), ("x" * 17, EXCHANGE)])
def test_an_identity_has_its_width(instance: str, exchange: str) -> None:
    with pytest.raises(ValueError, match="16 characters and exchange 36"):
        Identity(instance, exchange)


def test_a_record_about_the_instance_has_the_nil_exchange() -> None:
    raw = encode(1.0, 0, 1, b"", Identity(INSTANCE), kind_entry("hello"), b"", 0)
    assert decode(raw).exchange == NO_EXCHANGE and decode(raw).meta == {}


def test_entries_beyond_a_one_byte_head_are_refused() -> None:
    entries({str(n): n for n in range(23)})
    with pytest.raises(ValueError, match="at most 23"):
        entries({str(n): n for n in range(24)})


def test_the_writer_may_number_a_record_and_nothing_else_changes() -> None:
    raw = bytearray(b"before" + example())
    patch_seq(raw, 6, 2**40)
    assert cbor2.loads(bytes(raw[6:]))["seq"] == 2**40
    assert is_whole(bytes(raw[6:])) and decode(bytes(raw[6:])) == decode(example())
    assert bytes(raw[:6]) == b"before"


# ---------------------------------------------------------------- damage


def test_every_bit_that_flips_is_noticed() -> None:
    """But in `seq`, which the writer sets and nobody relies on."""
    raw = example(x_more="more")
    whole = decode(raw)
    for at in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[at] ^= 1 << bit
            if SEQ_AT <= at < SEQ_AT + 8:
                assert decode(flipped) == whole
                continue
            with pytest.raises(DamageError):
                size = measure(flipped, 0)
                if size != len(raw):
                    raise DamageError("another length")
                decode(flipped)
            with pytest.raises(DamageError):
                decode(flipped)


def test_a_record_that_is_cut_is_never_taken_for_a_whole_one() -> None:
    raw = example()
    for size in range(len(raw)):
        assert measure(raw[:size], 0) in {0, len(raw)}
        with pytest.raises(DamageError):
            decode(raw[:size])
    assert measure(raw + b"more", 0) == len(raw)
    with pytest.raises(DamageError):
        decode(raw + b"m")


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, b"\xa6", "no record begins"),
        (37, b"\xff\xff\xff\xff", "data length"),
        (46, b"\0", "no meta"),
        (58, b"\0\0\0\1", "record length"),
        (58, b"\xff\xff\xff\xff", "record length"),
    ],
)
def test_what_cannot_be_a_record_is_told_from_what_is_not_there_yet(at: int, value: bytes, says: str) -> None:
    raw = bytearray(example())
    raw[at : at + len(value)] = value
    with pytest.raises(DamageError, match=says):
        measure(bytes(raw), 0)


@settings(max_examples=400, deadline=None)
@given(st.binary(min_size=0, max_size=400), st.integers(0, 400), st.booleans())
def test_whatever_is_read_no_other_error_escapes(noise: bytes, at: int, signed: bool) -> None:
    """Also not where a captured body holds what has a good checksum and was made to confuse us."""
    raw = bytearray(example(b"x" * 50))
    at = min(at, len(raw))
    raw[at : at + len(noise)] = noise
    if signed and len(raw) > 40:
        body = bytes(raw[:SEQ_AT]) + bytes(8) + bytes(raw[SEQ_AT + 8 : -4])
        raw[-4:] = struct.pack(">I", google_crc32c.value(body))
    with contextlib.suppress(DamageError):
        measure(bytes(raw), 0)
    try:
        found = decode(bytes(raw))
        assert isinstance(found.meta, dict)
    except DamageError as err:
        assert str(err)
