"""The protocol between a proxy and a writer: ZeroMQ DEALER to ROUTER, every message a list of frames.

`docs/wire.md` is the specification, with grammar, order and error rules; this module is its codec and does no I/O.

    proxy → writer   HELLO   "LLMD1" "hello" nonce                    begin, or begin again
                     BATCH   "LLMD1" "batch" nonce head lengths body  head = seq u64, first u64, last u64 (big-endian)
                     BYE     "LLMD1" "bye"                            this instance is leaving, nothing follows
    writer → proxy   HAVE    "LLMD1" "have" nonce held u64 writer     all records up to `held` are durable here
                     ACK     "LLMD1" "ack" nonce held u64             the same, while the session runs
                     RESYNC  "LLMD1" "resync" nonce                   a batch was not expected or not stored: say HELLO
                     RETIRE  "LLMD1" "retire"                         this writer is leaving: keep what is not acknowledged

The routing id of a proxy's socket is its instance id, 16 ASCII bytes. `lengths` is one u32 a record, `body` the records
themselves, in rising order of their numbers. A nonce is 8 random bytes that the proxy draws for each HELLO: it names
the session, so that messages still under way from an earlier one cannot be taken for this one's.
"""

import array
import struct
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

VERSION: Final = b"LLMD1"
NONCE_BYTES: Final = 8
_HEAD = struct.Struct(">QQQ")
_U64 = struct.Struct(">Q")


class ProtocolError(ValueError):
    """The other side sent frames that this protocol does not have; the message says which."""


class Hello(NamedTuple):
    """A proxy begins a session, at its start or after anything went wrong."""

    nonce: bytes


class Batch(NamedTuple):
    """Records `first` to `last` (numbers, rising, holes where another writer has them), `seq` within the session."""

    nonce: bytes
    seq: int
    first: int
    last: int
    lengths: Sequence[int]
    body: bytes


class Bye(NamedTuple):
    """A proxy instance leaves for good."""


class Have(NamedTuple):
    """Everything up to record `held` of this instance that was meant for this writer is durable; 0 for nothing."""

    nonce: bytes
    held: int
    writer: str


class Ack(NamedTuple):
    """As `Have`, while a session runs."""

    nonce: bytes
    held: int


class Resync(NamedTuple):
    """The session is over for the writer; what it has not acknowledged must be sent again in a new one."""

    nonce: bytes


class Retire(NamedTuple):
    """The writer leaves; it takes nothing more."""


FromProxy = Hello | Batch | Bye
FromWriter = Have | Ack | Resync | Retire


def _swap(lengths: array.array[int]) -> array.array[int]:
    if sys.byteorder == "little":
        lengths.byteswap()
    return lengths


def encode(message: FromProxy | FromWriter) -> list[bytes]:  # noqa: PLR0911 - one line a message
    """The frames of a message, without the routing id that a ROUTER puts before them."""
    match message:
        case Batch(nonce, seq, first, last, lengths, body):
            sizes = _swap(array.array("I", lengths)).tobytes()
            return [VERSION, b"batch", nonce, _HEAD.pack(seq, first, last), sizes, body]
        case Ack(nonce, held):
            return [VERSION, b"ack", nonce, _U64.pack(held)]
        case Hello(nonce):
            return [VERSION, b"hello", nonce]
        case Have(nonce, held, writer):
            return [VERSION, b"have", nonce, _U64.pack(held), writer.encode()]
        case Resync(nonce):
            return [VERSION, b"resync", nonce]
        case Retire():
            return [VERSION, b"retire"]
        case Bye():
            return [VERSION, b"bye"]


def from_proxy(frames: Sequence[bytes]) -> FromProxy:
    """What a proxy said. Raises ProtocolError."""
    match frames:
        case [version, b"batch", nonce, head, sizes, body] if _session(version, nonce) and len(head) == _HEAD.size:
            return _batch(nonce, head, sizes, body)
        case [version, b"hello", nonce] if _session(version, nonce):
            return Hello(nonce)
        case [version, b"bye"] if version == VERSION:
            return Bye()
    raise _unknown(frames)


def from_writer(frames: Sequence[bytes]) -> FromWriter:
    """What a writer said. Raises ProtocolError."""
    match frames:
        case [version, b"ack", nonce, held] if _session(version, nonce) and len(held) == 8:
            return Ack(nonce, _U64.unpack(held)[0])
        case [version, b"have", nonce, held, writer] if _session(version, nonce) and len(held) == 8:
            return Have(nonce, _U64.unpack(held)[0], writer.decode("ascii", "replace"))
        case [version, b"resync", nonce] if _session(version, nonce):
            return Resync(nonce)
        case [version, b"retire"] if version == VERSION:
            return Retire()
    raise _unknown(frames)


def _session(version: bytes, nonce: bytes) -> bool:
    return version == VERSION and len(nonce) == NONCE_BYTES


def _batch(nonce: bytes, head: bytes, sizes: bytes, body: bytes) -> Batch:
    lengths = array.array("I")
    if len(sizes) % 4:
        raise ProtocolError("batch: the lengths frame is not a list of 32-bit numbers")
    lengths.frombytes(sizes)
    _swap(lengths)
    if not lengths or sum(lengths) != len(body):
        raise ProtocolError(f"batch: {len(lengths)} lengths that add up to {sum(lengths)}, but {len(body)} bytes")
    seq, first, last = _HEAD.unpack(head)
    return Batch(nonce, seq, first, last, lengths, body)


def _unknown(frames: Sequence[bytes]) -> ProtocolError:
    if frames and frames[0] != VERSION:
        return ProtocolError(f"speaks {bytes(frames[0][:16])!r}, this side {VERSION!r}: use one llmdump version on both")
    return ProtocolError(f"unknown message {[bytes(frame[:16]) for frame in frames[1:2]]} of {len(frames)} frames")
