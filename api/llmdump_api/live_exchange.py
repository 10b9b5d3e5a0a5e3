"""One exchange while it is watched: what is known of it so far, and where its records stand. Pure.

What is known grows: with the request head its path, client and key; with the request body the model that is asked for; with
the response head the status; with the end its sizes and times. All else (tokens, cost, session …) only its row tells, once
the index has it. What may still become known is no null: a filter that asks for it is not decided yet.
"""

import base64
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import orjson

from llmdump import heads
from llmdump.assembly import Exchange
from llmdump.positions import Piece, Runs
from llmdump.reading.client import Client, client_of
from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump.segment import Located
from llmdump_api import query
from llmdump_api.trace import split_answer, t_ms

PAYLOADS: Final = frozenset({"chunk", "pipe", "answer"})
"""Records with bytes of a body."""
_READS: Final = frozenset({"chunk", "pipe"})
_FROM_THE_HEAD: Final = ("id", "ts_start", "method", "path", "route_path", "client", "key_hash")
_AS_THEY_COME: Final = ("model", "stream", "status", "upstream", "first_byte_us")
_AT_THE_END: Final = (
    "ts_end", "end_reason", "disconnected", "duration_us", "own_sum_us", "req_bytes", "resp_bytes", "resp_chunks",
    "records_lost", "altered", "status", "upstream", "first_byte_us",
)  # fmt: skip


class LiveExchange:
    """An exchange as far as it has been read."""

    __slots__ = ("_client", "_pieces", "_runs", "_segment", "batch", "exchange", "first_of_batch", "row", "version")

    def __init__(self, exchange: Exchange, pieces: Iterable[Piece] = ()) -> None:
        """`pieces` are where the records stand that were read before."""
        self.exchange = exchange
        self.row: tuple[Any, ...] | None = None
        """As the index has it, of `query.COLUMNS`, once the exchange has ended and been read there."""
        self.version = 0
        """Rises with what is known, of all that a filter may ask for."""
        self.batch = -1
        """The last batch of records in which there was one of it."""
        self.first_of_batch = 0
        """The number of its first record in that batch."""
        self._client: Client | None = None
        self._pieces = list(pieces)
        self._segment = ""
        self._runs = Runs()

    @property
    def id(self) -> str:
        """The exchange's id."""
        return self.exchange.id

    def take(self, segment: str, item: Located, batch: int) -> int:
        """The next record, read in this batch. Where its bytes begin in the body that they are of."""
        record, exchange = item.record, self.exchange
        if batch != self.batch:
            self.batch, self.first_of_batch = batch, record.number
        if segment != self._segment:
            self._pieces = self.pieces()
            self._segment, self._runs = segment, Runs()
        self._runs.add(item.offset, item.size)
        offset = offset_of(exchange, record)
        before = (exchange.model, exchange.stream, exchange.first_byte_us)
        exchange.apply(record)
        if record.kind not in _READS or before != (exchange.model, exchange.stream, exchange.first_byte_us):
            self.version += 1
        if record.kind == "head" and record.direction == CLIENT_TO_PROXY:
            self.asked_by(record)
        return offset

    def asked_by(self, head: Record) -> None:
        """See in the request head which program asks."""
        self._client = client_of(heads.parse(head.data).fields)

    def pieces(self) -> list[Piece]:
        """Where all records that were read stand."""
        return [*self._pieces, Piece(self._segment, self._runs.packed())] if self._runs.count else self._pieces

    def facts(self) -> dict[str, Any]:
        """The columns that are known, as SQLite has them; what is not in it may still become known."""
        if self.row is not None:
            return dict(zip(query.COLUMNS, self.row, strict=True))
        known = {name: getattr(self.exchange, name) for name in _FROM_THE_HEAD}
        known |= {name: found for name in _AS_THEY_COME if (found := getattr(self.exchange, name)) is not None}
        if self._client is not None:
            known |= {"client_kind": self._client.kind, "client_version": self._client.version}
        if self.exchange.end_reason is not None:
            known |= {name: getattr(self.exchange, name) for name in _AT_THE_END}
        return known | {"pinned": 0}

    def shown(self) -> bytes:
        """The members of its row that are known, as JSON; those that are null are left out until the index has the row."""
        if self.row is not None:
            return orjson.dumps(query.row_object(self.row))
        values = {name: getattr(self.exchange, name, None) for name in query.COLUMNS}
        if self._client is not None:
            values |= {"client_kind": self._client.kind, "client_version": self._client.version}
        row = query.row_object(tuple(values.values()))
        return orjson.dumps({name: value for name, value in row.items() if value is not None})


def offset_of(exchange: Exchange, record: Record) -> int:
    """Where the bytes of a record that is not applied yet begin in their body."""
    return exchange.req_bytes if record.direction == CLIENT_TO_PROXY else exchange.resp_bytes


def size_of(record: Record) -> int:
    """How many bytes crossed in this read, kept or not."""
    size = len(record.data)
    return int(record.meta.get("x_cut", size)) if record.mentions(b"x_cut") else size


def chunk(exchange: Exchange, record: Record, offset: int) -> bytes:
    """A read of a body as JSON, its bytes as text if they are."""
    data = split_answer(record)[1] if record.kind == "answer" else record.data
    told: dict[str, Any] = {
        "id": record.exchange,
        "side": "request" if record.direction == CLIENT_TO_PROXY else "response",
        "offset": offset,
        "size": len(data),
        "t_ms": t_ms(record.ts, exchange.ts_start),
        "record": record.number,
    }
    if record.mentions(b"x_cut"):
        told["size"], told["kept"] = size_of(record), len(data)
    try:
        told["text"] = data.decode()
    except UnicodeDecodeError:
        told["b64"] = base64.b64encode(data).decode("ascii")
    return orjson.dumps(told)


def chunks(exchange: Exchange, records: Iterable[Record], directions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """The reads among the records of an exchange, from its first one on: the record's number, and JSON. Reads as it goes."""
    offsets = {True: 0, False: 0}
    for record in records:
        if record.kind not in PAYLOADS:
            continue
        is_request = record.direction == CLIENT_TO_PROXY
        if record.direction in directions:
            yield record.number, chunk(exchange, record, offsets[is_request])
        offsets[is_request] += size_of(record)
