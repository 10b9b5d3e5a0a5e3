"""The codec of docs/wire.md: both directions of every message, and what is refused."""

import contextlib
import re
from pathlib import Path

import pytest

from llmdump import wire
from llmdump.wire import Ack, Batch, Bye, Have, Hello, ProtocolError, Resync, Retire

NONCE = b"\x00\x01nonce!"
BATCH = Batch(NONCE, 1, 7, 9, [3, 1], b"abcd")
BATCH_HEAD = b"LLMD1B" + NONCE + b"".join(n.to_bytes(8) for n in (1, 7, 9))

FROM_PROXY = [
    (Hello(NONCE), [b"LLMD1H" + NONCE]),
    (BATCH, [BATCH_HEAD + b"\0\0\0\3\0\0\0\1", b"abcd"]),
    (Bye(), [b"LLMD1Y"]),
]
FROM_WRITER = [
    (Have(NONCE, 2**64 - 1, "w0"), [b"LLMD1V" + NONCE + b"\xff" * 8 + b"w0"]),
    (Ack(NONCE, 258), [b"LLMD1A" + NONCE + bytes(6) + b"\1\2"]),
    (Resync(NONCE), [b"LLMD1S" + NONCE]),
    (Retire(), [b"LLMD1R"]),
]


def plain(message: object) -> object:
    """A message with its lengths as a list, so that equal ones are equal."""
    return message._replace(lengths=list(message.lengths)) if isinstance(message, Batch) else message


@pytest.mark.parametrize(("message", "frames"), FROM_PROXY)
def test_what_a_proxy_says_is_these_bytes_and_back(message: wire.FromProxy, frames: list[bytes]) -> None:
    assert wire.encode(message) == frames
    assert plain(wire.from_proxy(frames)) == message


@pytest.mark.parametrize(("message", "frames"), FROM_WRITER)
def test_what_a_writer_says_is_these_bytes_and_back(message: wire.FromWriter, frames: list[bytes]) -> None:
    assert wire.encode(message) == frames
    assert wire.from_writer(frames) == message


@pytest.mark.parametrize("frames", [frames for _, frames in FROM_PROXY + FROM_WRITER])
def test_a_message_cut_anywhere_or_with_a_frame_more_is_refused_or_another_valid_one(frames: list[bytes]) -> None:
    for read in (wire.from_proxy, wire.from_writer):
        for cut in range(len(frames[0])):
            with contextlib.suppress(ProtocolError):
                assert wire.encode(read([frames[0][:cut], *frames[1:]])) == [frames[0][:cut], *frames[1:]]
        for more in ([*frames, b""], [], frames[1:]):
            with pytest.raises(ProtocolError):
                read(more)


@pytest.mark.parametrize("read", [wire.from_proxy, wire.from_writer])
def test_another_version_is_refused_with_what_to_do(read: object) -> None:
    with pytest.raises(ProtocolError, match=r"speaks b'LLMD2'.*use one llmdump version"):
        read([b"LLMD2H" + NONCE])  # type: ignore[operator]


def head(seq: int, first: int, last: int, *lengths: int) -> bytes:
    return b"LLMD1B" + NONCE + b"".join(n.to_bytes(8) for n in (seq, first, last)) + b"".join(n.to_bytes(4) for n in lengths)


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([head(1, 1, 1, 4)[:-1], b"abcd"], "32-bit lengths"),
        ([head(1, 1, 1), b""], "unknown message"),
        ([head(1, 1, 1, 5), b"abcd"], "add up to 5, but 4"),
        ([head(1, 1, 2, 4, 0), b"abcd"], "lengths"),
        ([head(0, 1, 1, 4), b"abcd"], "batch 0"),
        ([head(1, 0, 1, 4), b"abcd"], "cannot have the numbers 0 to 1"),
        ([head(1, 5, 4, 4), b"abcd"], "cannot have the numbers 5 to 4"),
        ([head(1, 5, 6, 2, 1, 1), b"abcd"], "3 records cannot have the numbers 5 to 6"),
        ([head(1, 1, 2, 1, wire.BATCH_BYTES_MAX), bytes(wire.BATCH_BYTES_MAX + 1)], "more than a batch holds"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(frames: list[bytes], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        wire.from_proxy(frames)


def test_a_single_record_may_be_larger_than_a_batch() -> None:
    body = bytes(wire.BATCH_BYTES_MAX + 1)
    assert wire.from_proxy([head(1, 5, 5, len(body)), body]) is not None


def test_the_specification_gives_every_message_the_letter_the_codec_has() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    drawn = dict(re.findall(r'^    (\w+) += version %s"(\w)"', text, re.MULTILINE))
    coded = {type(message).__name__.lower(): chr(frames[0][5]) for message, frames in FROM_PROXY + FROM_WRITER}
    assert drawn == coded
