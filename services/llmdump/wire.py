"""The protocol between a proxy and a writer: ZeroMQ DEALER to ROUTER.

`docs/wire.md` is the specification, with grammar, order and error rules; this module is its codec and does no I/O.

    proxy → writer   HELLO   "LLMD1" "H" nonce                         begin, or begin again
                     BATCH   "LLMD1" "B" nonce seq first last length*  and a second frame: the records
                     BYE     "LLMD1" "Y"                               this instance is leaving, nothing follows
    writer → proxy   HAVE    "LLMD1" "V" nonce held writer             all records up to `held` are durable here
                     ACK     "LLMD1" "A" nonce held                    the same, while the session runs
                     RESYNC  "LLMD1" "S" nonce                         a batch was not expected or not stored: say HELLO
                     RETIRE  "LLMD1" "R"                               this writer is leaving: keep what is not acknowledged

`seq`, `first`, `last` and `held` are 64-bit, a `length` (one a record) 32-bit, all big-endian. A message is one frame,
a BATCH two: a frame costs 1 µs on either side, so what has a fixed width shares one (six frames took 7.6 µs of CPU a
message, two 1.9), and the records travel apart so that the writer gets them without a copy.

The routing id of a proxy's socket is its instance id, 16 ASCII bytes. A nonce is 8 random bytes that the proxy draws
for each HELLO: it names the session, so that messages still under way from an earlier one cannot be taken for this
one's.
"""

import array
import struct
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from llmdump.record import RECORD_BYTES_MAX

VERSION: Final = b"LLMD1"
NONCE_BYTES: Final = 8
BATCH_BYTES_MAX: Final = 256 * 1024
"""A batch holds no more than this, or it holds a single record."""
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""A proxy sends no more than this, or a single batch, beyond what is acknowledged. A writer that holds half of it of
one proxy flushes without waiting for more, whatever its settings: else both would wait for each other."""

_BATCH = struct.Struct(">5sc8sQQQ")
_HELD = struct.Struct(">5sc8sQ")
_SESSION_BYTES: Final = len(VERSION) + 1 + NONCE_BYTES
_SHORT_BYTES: Final = len(VERSION) + 1
_KIND_AT: Final = len(VERSION)


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


def encode(message: FromProxy | FromWriter) -> list[bytes]:  # noqa: PLR0911 - one line a message
    """The frames of a message, without the routing id that a ROUTER puts before them."""
    match message:
        case Batch(nonce, seq, first, last, lengths, body):
            return [_BATCH.pack(VERSION, b"B", nonce, seq, first, last) + _big_endian(lengths), body]
        case Ack(nonce, held):
            return [_HELD.pack(VERSION, b"A", nonce, held)]
        case Hello(nonce):
            return [VERSION + b"H" + nonce]
        case Have(nonce, held, writer):
            return [_HELD.pack(VERSION, b"V", nonce, held) + writer.encode("ascii")]
        case Resync(nonce):
            return [VERSION + b"S" + nonce]
        case Retire():
            return [VERSION + b"R"]
        case Bye():
            return [VERSION + b"Y"]


def from_proxy(frames: Sequence[bytes]) -> FromProxy:
    """What a proxy said. Raises ProtocolError."""
    match _kind(frames), frames:
        case b"B", [head, body] if len(head) > _BATCH.size:
            return _batch(head, body)
        case b"H", [head] if len(head) == _SESSION_BYTES:
            return Hello(_nonce(head))
        case b"Y", [head] if len(head) == _SHORT_BYTES:
            return Bye()
    raise _unknown(frames)


def from_writer(frames: Sequence[bytes]) -> FromWriter:
    """What a writer said. Raises ProtocolError."""
    match _kind(frames), frames:
        case b"A", [head] if len(head) == _HELD.size:
            return Ack(_nonce(head), _HELD.unpack(head)[3])
        case b"V", [head] if len(head) >= _HELD.size:
            return Have(_nonce(head), _HELD.unpack_from(head)[3], head[_HELD.size :].decode("ascii", "replace"))
        case b"S", [head] if len(head) == _SESSION_BYTES:
            return Resync(_nonce(head))
        case b"R", [head] if len(head) == _SHORT_BYTES:
            return Retire()
    raise _unknown(frames)


def _kind(frames: Sequence[bytes]) -> bytes:
    """The kind of a message of our version, else nothing."""
    return frames[0][_KIND_AT:_SHORT_BYTES] if frames and frames[0].startswith(VERSION) else b""


def _nonce(head: bytes) -> bytes:
    return head[_SHORT_BYTES:_SESSION_BYTES]


def _big_endian(lengths: Sequence[int]) -> bytes:
    return _swap(array.array("I", lengths)).tobytes()


def _swap(lengths: "array.array[int]") -> "array.array[int]":
    if sys.byteorder == "little":
        lengths.byteswap()
    return lengths


def _batch(head: bytes, body: bytes) -> Batch:
    _, _, nonce, seq, first, last = _BATCH.unpack_from(head)
    lengths = array.array("I")
    if (len(head) - _BATCH.size) % 4:
        raise ProtocolError("batch: what follows `last` is not a list of 32-bit lengths")
    lengths.frombytes(head[_BATCH.size :])
    _swap(lengths)
    if 0 in lengths or sum(lengths) != len(body):
        raise ProtocolError(f"batch: {len(lengths)} lengths that add up to {sum(lengths)}, but {len(body)} bytes")
    if len(body) > (BATCH_BYTES_MAX if len(lengths) > 1 else RECORD_BYTES_MAX):
        raise ProtocolError(f"batch: {len(lengths)} records of {len(body)} bytes are more than a batch holds")
    if not seq or not first or last - first < len(lengths) - 1:
        raise ProtocolError(f"batch {seq}: {len(lengths)} records cannot have the numbers {first} to {last}")
    return Batch(nonce, seq, first, last, lengths, body)


def _unknown(frames: Sequence[bytes]) -> ProtocolError:
    if frames and not frames[0].startswith(VERSION):
        return ProtocolError(f"speaks {bytes(frames[0][:5])!r}, this side {VERSION!r}: use one llmdump version on both")
    return ProtocolError(f"unknown message, frames of {[len(frame) for frame in frames]} bytes: {frames[:1]!r:.60}")
