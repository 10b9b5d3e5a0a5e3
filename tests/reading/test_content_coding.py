"""Content codings: what was decoded before a cut or damage is kept, whatever the pieces."""

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.content_coding import REPLAYED_BYTES_MAX, Decoder, begins_like
from llmdump.seekable import zstd
from tests.reading.pieces import CUTS, pieces

ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
TEXT = b"".join(b'data: {"n":%d}\n\n' % n for n in range(300))


def decoded(coding: str, coded: bytes, cuts: list[int]) -> tuple[bytes, str, bool]:
    """What came out, the problem, whether the end is missing."""
    decoder = Decoder([coding], 1_000_000)
    return b"".join(decoder.feed(piece) for piece in pieces(coded, cuts)), decoder.problem, decoder.is_cut


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_cut_body_gives_what_is_there(coding: str) -> None:
    coded = ENCODERS[coding](TEXT)
    assert decoded(coding, coded, [10, 50]) == (TEXT, "", False)
    for keep in range(1, len(coded)):
        out, problem, is_cut = decoded(coding, coded[:keep], [keep // 2])
        assert TEXT.startswith(out)
        assert (problem, is_cut) == ("", True)
    assert len(decoded(coding, coded[:-4], [])[0]) >= (len(TEXT) if coding in ("gzip", "x-gzip", "deflate") else 0)


@given(st.sampled_from(sorted(ENCODERS)), st.integers(0, 5000), st.integers(1, 255), CUTS)
def test_damage_is_found_at_the_same_place_in_any_pieces(coding: str, place: int, flip: int, cuts: list[int]) -> None:
    coded = bytearray(ENCODERS[coding](TEXT))
    coded[place % len(coded)] ^= flip
    assert decoded(coding, bytes(coded), cuts) == decoded(coding, bytes(coded), [])


def test_damage_late_in_one_piece_loses_nothing_before_it() -> None:
    coded = gzip.compress(TEXT)
    out, problem, _ = decoded("gzip", coded[:-8] + b"wrong crc", [])
    assert (out, problem) == (TEXT, "damaged")


def test_damage_far_into_a_long_body_loses_one_piece() -> None:
    body = bytes(range(256)) * 2000
    compressor = zlib.compressobj(level=0)
    coded = compressor.compress(body) + compressor.flush()
    assert len(coded) > REPLAYED_BYTES_MAX
    out, problem, _ = decoded("deflate", coded[:-4] + b"oops", [len(coded) - 9])
    assert problem == "damaged"
    assert body.startswith(out)
    assert len(out) > len(body) - 10


@pytest.mark.parametrize("cuts", [[], [30]])
def test_nothing_may_follow_brotli_and_members_may_follow_gzip(cuts: list[int]) -> None:
    assert decoded("br", brotli.compress(b"one") + b"two", cuts)[:2] == (b"one", "damaged")
    assert decoded("gzip", gzip.compress(b"one") + gzip.compress(b"two"), cuts) == (b"onetwo", "", False)


def test_the_first_byte_tells_a_wrong_name() -> None:
    for coding, encode in ENCODERS.items():
        assert begins_like(coding, encode(b"x")[0])
    assert not begins_like("gzip", ord("{"))
    assert not begins_like("zstd", ord("{"))
    assert begins_like("br", ord("{"))
