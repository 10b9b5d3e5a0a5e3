"""One record: one event of one exchange, encoded once where it happened and never re-encoded after.

A record is one CBOR map (RFC 8949) in the V2 capture profile: the keys `ts`, `dir`, `seq`, `data`, `meta`, in this
order. Any CBOR library reads it. Ours are laid out with fixed widths as well, so that a writer patches `seq` and a
reader hops from record to record without parsing a map:

    offset
       0  a5  62 "ts"   fb <float64>        seconds since 1970, when the bytes were read from the socket
      13      63 "dir"  <uint8>             0 client → proxy, 1 proxy → client, 2 proxy → backend, 3 backend → proxy
      18      63 "seq"  1b <uint64>         position in the file; the proxy writes 0, the writer patches bytes 23..31
      31      64 "data" 5a <uint32 n> <n bytes>
    41+n      64 "meta" b8 <uint8 entries>
    48+n      63 "x_l"  1a <uint32>         length of the whole record, bytes
    57+n      63 "x_n"  1b <uint64>         number of the record within its proxy instance: 1, 2, 3 … without a hole
    70+n      63 "x_i"  70 <16 chars>       the proxy instance, hex
    91+n      63 "rid"  78 24 <36 chars>    the exchange, a UUIDv7; the nil UUID for records about the instance itself
   133+n      63 "x_k"  6? <text>           the kind, see below
              …                             entries of the kind; then `sid` (client connection), `be` (backend), if any
   last 9     63 "x_c"  1a <uint32>         CRC32C of the record with `seq` zero, without these last 4 bytes

Kinds, with their direction and the entries they add (`?`: only where it applies):

    hello     0  x_about {version, pid, host, listen}       an instance begins; always its record 1
    head      0  x_peer, x_key, x_rule?, x_bad?, x_client?  request head as received; credentials masked; `x_client` is
                                                            where a trusted proxy says that the client is
    head      3  sc, ttfb                                   response head as received; `sc` status, `ttfb` ms
    interim   3  sc                                         a 1xx head as received
    forward   2  x_up, x_addr, x_dial, x_new                request head as sent to the backend; `x_dial` ms, or 0 reused
    answer    1  sc                                         head and body of a response that the proxy itself made
    chunk   0|3  ci, x_z?, x_f?, x_cut?, x_off?, x_alt?     body bytes of one socket read; `ci` counts from 1
    pipe    0|3  ci                                         bytes after an upgrade
    end       1  se, tc, tb, x_req, x_end, x_err, x_own, x_lost   the exchange is over
    gap       0  x_gap, x_why                               the numbers [[first, last], …] will never come, and why
    bye       0  x_last                                     the instance ends; nothing follows
    footer    0  x_records, x_instances                     the last entry of a sealed segment, the writer's own

A chunk's `data` is body bytes without transfer framing. `x_z` true: the message body ends here. For a chunked body,
`x_f` holds the framing around them: [bytes, size, bytes, size, … bytes], where each size takes that many bytes of
`data`; absent, the read was exactly one chunk, `<size in lower-case hex> CRLF data CRLF`. So the bytes on the wire
can be told exactly, and nobody who reads bodies needs to know about chunks.

`x_off` true: data left out on purpose by a capture rule, `x_cut` is its size. `x_cut` alone: `data` was cut short on
purpose (`capture_truncate_bytes`), and this was its size. `x_alt` true: secrets in it were masked.
"""

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import cbor2
import google_crc32c

CLIENT_TO_PROXY: Final = 0
PROXY_TO_CLIENT: Final = 1
PROXY_TO_BACKEND: Final = 2
BACKEND_TO_PROXY: Final = 3

NO_EXCHANGE: Final = "00000000-0000-0000-0000-000000000000"
MAGIC: Final = b"\xa5\x62ts\xfb"
SEQ_AT: Final = 23
DATA_AT: Final = 41
# One socket read is at most 256 KB under uvloop; imports may hold whole bodies. Beyond this a length is damage.
RECORD_BYTES_MAX: Final = 256 * 1024 * 1024

_HEAD = struct.Struct(">5sd24sI")
_META = struct.Struct(">12sI5sQ")
_CRC = struct.Struct(">5sI")
_FRONT = struct.Struct(">5xd4xB19xI")  # ts, dir, length of data
_NAMES = struct.Struct(">21xQ5x16s6x36s")  # within meta: number, instance, exchange
_U32 = struct.Struct(">I")
_BEGINS = struct.Struct(">5s32xI")  # MAGIC, length of data
_META_BEGINS = struct.Struct(">6sx4sxI")  # "meta" and a map, "x_l", length of the record
_U64 = struct.Struct(">Q")
_INDEX = struct.Struct(">14sI")
_FIXED_META_BYTES: Final = _META.size + 21 + 42
EMPTY_RECORD_BYTES: Final = _HEAD.size + _FIXED_META_BYTES + 4 + _CRC.size
"""No record is shorter."""
_BASE_ENTRIES: Final = 6  # x_l, x_n, x_i, rid, x_k, x_c
_ZERO_SEQ: Final = bytes(8)
_crc32c: Final[Callable[[bytes], int]] = google_crc32c.value
_X_C: Final = b"\x63x_c\x1a"
# What stands between the values of a record's fixed part, by what varies in it: a direction, a count of entries.
_TO_DATA: Final = [b"\x63dir%c\x63seq\x1b%b\x64data\x5a" % (direction, _ZERO_SEQ) for direction in range(4)]
_TO_LENGTH: Final = [b"\x64meta\xb8%c\x63x_l\x1a" % count for count in range(256)]


class Identity:
    """What all records of one exchange share, encoded once: who recorded it, which exchange, connection, backend."""

    __slots__ = ("_instance", "entries", "prefix", "size_bytes", "suffix")

    def __init__(self, instance: str, exchange: str = NO_EXCHANGE, common: Mapping[str, Any] | None = None) -> None:
        """`instance` is 16 ASCII characters, `exchange` 36; `common` goes into the meta of every record."""
        if len(instance) != 16 or len(exchange) != 36:
            raise ValueError(f"instance must be 16 characters and exchange 36, not {instance!r} and {exchange!r}")
        self._instance = b"\x63x_i\x70" + instance.encode("ascii") + b"\x63rid\x78\x24"
        self.prefix = self._instance + exchange.encode("ascii")
        own, count = entries(common or {})
        self.suffix = own + _X_C
        self.entries = _BASE_ENTRIES + count
        self.size_bytes = EMPTY_RECORD_BYTES - 4 + len(own)
        """Of a record, without its data, kind and extra entries."""

    def of(self, exchange: str) -> "Identity":
        """The same of another exchange, a UUID; what they share is not encoded again."""
        other = Identity.__new__(Identity)
        other._instance, other.suffix = self._instance, self.suffix
        other.entries, other.size_bytes = self.entries, self.size_bytes
        other.prefix = self._instance + exchange.encode("ascii")
        return other


def entries(values: Mapping[str, Any]) -> tuple[bytes, int]:
    """The CBOR of a map's entries without its head, and their count; at most 23 entries."""
    if len(values) > 23:
        raise ValueError(f"{len(values)} entries, at most 23 fit a one-byte map head")
    return cbor2.dumps(dict(values))[1:], len(values)


def kind_entry(kind: str) -> bytes:
    """The `x_k` entry of a kind, to be put before the kind's own entries."""
    return b"\x63x_k" + bytes((0x60 + len(kind),)) + kind.encode("ascii")


chunk_kind: Final[Callable[[int], bytes]] = functools.partial(_INDEX.pack, kind_entry("chunk") + b"\x62ci\x1a")
"""The `x_k` entry of the chunk with this index, and after it `ci`. No function of Python's: this is done for each chunk."""
ENDS_BODY: Final = b"\x63x_z\xf5"
"""The entry `x_z` of a body's last chunk, to be put behind its `chunk_kind`."""


def encode(
    ts: float, direction: int, number: int, data: bytes, identity: Identity, kind: bytes, extra: bytes, count: int
) -> bytes:
    """One whole record. `kind` is a `kind_entry`; `extra` are `count` CBOR entries, as `entries` gives them."""
    size = identity.size_bytes + len(data) + len(kind) + len(extra)
    record = b"".join(
        (
            _HEAD.pack(MAGIC, ts, _TO_DATA[direction], len(data)),
            data,
            _META.pack(_TO_LENGTH[identity.entries + count], size, b"\x63x_n\x1b", number),
            identity.prefix,
            kind,
            extra,
            identity.suffix,
        )
    )
    return record + _U32.pack(_crc32c(record))


def encode_chunk(
    ts: float,
    direction: int,
    number: int,
    data: bytes,
    identity: Identity,
    index: int,
    last: bool,
    extra: bytes = b"",
    count: int = 0,
) -> bytes:
    """A `chunk` record, the one made most often. `extra` are `count` more CBOR entries (`x_f`, `x_cut` …)."""
    kind = chunk_kind(index) + (ENDS_BODY if last else b"")
    return encode(ts, direction, number, data, identity, kind, extra, 1 + last + count)


class Record:
    """One record as read back. `meta` holds the entries beyond those that have an attribute of their own."""

    __slots__ = ("_meta", "_raw_meta", "data", "direction", "exchange", "instance", "kind", "number", "ts")

    def __init__(
        self,
        ts: float,
        direction: int,
        number: int,
        instance: str,
        exchange: str,
        kind: str,
        data: bytes,
        meta: dict[str, Any] | None = None,
        raw_meta: bytes = b"",
    ) -> None:
        self.ts = ts
        self.direction = direction
        self.number = number
        self.instance = instance
        self.exchange = exchange
        self.kind = kind
        self.data = data
        self._meta = meta
        self._raw_meta = raw_meta

    @property
    def meta(self) -> dict[str, Any]:
        """The kind's own entries with `sid` and `be`; decoded at first use, for most chunks are never asked.

        Raises DamageError for what has a good checksum and was never ours.
        """
        if self._meta is None:
            try:
                found = cbor2.loads(self._raw_meta)
            except (cbor2.CBORDecodeError, ValueError) as err:
                raise DamageError("the checksum holds, but meta is not CBOR") from err
            if not isinstance(found, dict):
                raise DamageError("the checksum holds, but meta is no map")
            self._meta = {k: v for k, v in found.items() if k not in _OWN_ATTRIBUTES}
        return self._meta

    def mentions(self, name: bytes) -> bool:
        """Whether `meta` may have this entry; False is certain. Far cheaper than `meta`, which need not be decoded."""
        return name in self._raw_meta if self._meta is None else name.decode("ascii") in self._meta

    @property
    def ends_body(self) -> bool:
        """Whether this chunk is the last of its message body (`x_z`)."""
        return self.kind == "chunk" and bool(self.meta.get("x_z"))

    def __repr__(self) -> str:
        return f"Record({self.instance}/{self.number} {self.kind} dir={self.direction} {len(self.data)} B)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def _key(self) -> tuple[object, ...]:
        return (
            self.ts, self.direction, self.number, self.instance, self.exchange, self.kind, self.data, self.meta
        )  # fmt: skip


_OWN_ATTRIBUTES: Final = frozenset({"x_l", "x_n", "x_i", "rid", "x_k", "x_c"})


class DamageError(ValueError):
    """Bytes that should be a record are not: wrong layout, impossible length, or wrong checksum."""


def measure(buffer: bytes | memoryview, at: int) -> int:
    """The length in bytes of the record that begins at `at`, or 0 where `buffer` ends before that can be told.

    Looks at the layout only, not at the checksum, and a length may reach beyond the buffer.
    Raises DamageError where no record of ours begins.
    """
    room = len(buffer) - at
    if room < DATA_AT:
        if bytes(buffer[at : at + 5]) != MAGIC[: max(0, room)]:
            raise DamageError("no record begins here")
        return 0
    magic, data_bytes = _BEGINS.unpack_from(buffer, at)
    if magic != MAGIC:
        raise DamageError("no record begins here")
    meta_at = DATA_AT + data_bytes
    if meta_at > RECORD_BYTES_MAX:
        raise DamageError("impossible data length")
    if room < meta_at + _META_BEGINS.size:
        return 0
    meta, name, size = _META_BEGINS.unpack_from(buffer, at + meta_at)
    if meta != b"\x64meta\xb8" or name != b"\x63x_l":
        raise DamageError("no meta after the data")
    if not meta_at + _FIXED_META_BYTES <= size <= RECORD_BYTES_MAX:
        raise DamageError("impossible record length")
    return int(size)


def is_whole(record: bytes | memoryview) -> bool:
    """Whether the checksum of exactly one record's bytes holds, whatever its `seq` is."""
    record = bytes(record)
    crc = google_crc32c.extend(_crc32c(record[:SEQ_AT] + _ZERO_SEQ), record[SEQ_AT + 8 : -4])
    return bool(crc == _U32.unpack_from(record, len(record) - 4)[0])


def decode(record: bytes | memoryview) -> Record:
    """The record in exactly these bytes, its checksum checked. Raises DamageError."""
    record = bytes(record)  # once: each slice of a view would be an object more
    if len(record) < EMPTY_RECORD_BYTES or not is_whole(record):
        raise DamageError("checksum does not match")
    try:
        return _read(record)
    except (struct.error, IndexError, UnicodeDecodeError) as err:
        raise DamageError("the checksum holds, but this is not our layout") from err


def _read(record: bytes) -> Record:
    ts, direction, size = _FRONT.unpack_from(record)
    meta_at = DATA_AT + size
    number, instance, exchange = _NAMES.unpack_from(record, meta_at)
    kind_at = meta_at + _FIXED_META_BYTES + 5
    return Record(
        ts,
        direction,
        number,
        instance.decode("ascii"),
        exchange.decode("ascii"),
        record[kind_at : kind_at + (record[kind_at - 1] & 0x1F)].decode("ascii"),
        record[DATA_AT:meta_at],
        None,
        record[meta_at + 5 :],
    )


def number_of(record: bytes | memoryview) -> int:
    """The record number (`x_n`) of one record's bytes, without decoding or checking the rest."""
    number: int = _U64.unpack_from(record, DATA_AT + _U32.unpack_from(record, 37)[0] + 21)[0]
    return number


def seq_of(record: bytes | memoryview, at: int) -> int:
    """The `seq` of the record that begins at `at`."""
    seq: int = _U64.unpack_from(record, at + SEQ_AT)[0]
    return seq


def patch_seq(buffer: bytearray, at: int, seq: int) -> None:
    """Write `seq` into the record that begins at `at`."""
    _U64.pack_into(buffer, at + SEQ_AT, seq)
