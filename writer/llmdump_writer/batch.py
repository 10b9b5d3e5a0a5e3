"""Whether a batch is what it says: every record where its length puts it, of this instance, numbered, undamaged. Pure.

What passes here is acknowledged and then exists nowhere else, so each record's checksum is verified before. Cost: some
1.5 µs a record (see bench/writer_rate.py).
"""

import struct
from typing import Final

import google_crc32c

from llmdump import record
from llmdump.record import DATA_AT, MAGIC
from llmdump.wire import Batch, ProtocolError

_HEAD = struct.Struct(">5s18xQ6xI")  # magic, seq, data length
_META = struct.Struct(">6sx5sI5sQ5s16s")  # "meta" map, x_l, its value, x_n, its value, x_i, its value
_U32 = struct.Struct(">I")
_META_KEYS: Final = (b"\x64meta\xb8", b"\x63x_l\x1a", b"\x63x_n\x1b", b"\x63x_i\x70")
_RECORD_BYTES_MIN: Final = DATA_AT + _META.size + 42 + 5 + 9


def numbers(batch: Batch, instance: bytes) -> list[int]:
    """The number of each record, rising. Raises ProtocolError where one is not what the batch says."""
    found: list[int] = []
    at, before = 0, batch.first - 1
    for size in batch.lengths:
        number = _number(batch.body, at, size, instance)
        if number <= before:
            raise ProtocolError(f"batch: record {number} comes after {before}")
        found.append(number)
        before = number
        at += size
    if at != len(batch.body) or found[0] != batch.first or found[-1] != batch.last:
        raise ProtocolError(f"batch: records {found[0]} to {found[-1]}, announced were {batch.first} to {batch.last}")
    return found


def _number(body: bytes, at: int, size: int, instance: bytes) -> int:
    if size < _RECORD_BYTES_MIN or at + size > len(body):
        raise ProtocolError(f"batch: no record has {size} bytes")
    magic, seq, data_bytes = _HEAD.unpack_from(body, at)
    meta_at = at + DATA_AT + data_bytes
    if magic != MAGIC or meta_at - at > size - _META.size:
        raise ProtocolError("batch: no record begins where a length says")
    meta, x_l, length, x_n, number, x_i, name = _META.unpack_from(body, meta_at)
    if (meta, x_l, x_n, x_i) != _META_KEYS or length != size:
        raise ProtocolError("batch: a record has another layout or length")
    if name != instance:
        raise ProtocolError(f"batch: a record of instance {name!r}")
    end = at + size
    if seq or google_crc32c.value(body[at : end - 4]) != _U32.unpack_from(body, end - 4)[0]:
        _check_slowly(body[at:end], number)
    return int(number)


def _check_slowly(one: bytes, number: int) -> None:
    """The proxy writes `seq` 0; another value is no fault, only slower."""
    if not record.is_whole(one):
        raise ProtocolError(f"batch: record {number} has a wrong checksum")
