"""From records to rows: what is known of an exchange after each of its records. Pure.

For the indexer, which writes rows, and for the api, which tells of exchanges before there is one. An `Exchange` is its
row: every fact that a later record needs is a column, so an exchange that is still open when the indexer stops is taken
up again by reading its row. The one thing beside it is the search for `model` and `stream` in the request body, which is
brought back by showing it the stored records again (`Exchange.remember`). Bodies are never held.

Sizes and counts are summed up from the records as they come and replaced by what the `end` record says, which knows
also of records that were lost. Texts come from strangers: cut at named limits, and always valid Unicode.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.members import Members
from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump.values import integer, micros, text

PATH_CHARS_MAX: Final = 4096
REQUEST_DECODED_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of a compressed request body is decoded to find the model in it."""
NO_KEY: Final = "0" * 16

LOST: Final = "lost"
"""The end reason of an exchange whose proxy died: there is no `end` record, and none will come."""

_CUT_OFF: Final = frozenset({"client_closed", "upstream_closed", "timeout", "shutdown"})
_STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")
_PATH_MODEL = re.compile(r"/models/([^/:]+):")


@dataclass(slots=True)
class Exchange:
    """One exchange: the columns of its row, under their names, and behind them what is not stored."""

    id: str
    instance: str
    started_us: int
    first_record: int
    last_record: int = 0
    ts_end: int | None = None
    client: str | None = None
    method: str | None = None
    path: str | None = None
    route_path: str | None = None
    upstream: str | None = None
    backend: str | None = None
    status: int | None = None
    end_reason: str | None = None
    error_code: str | None = None
    disconnected: bool = False
    truncated_req: bool = False
    truncated_resp: bool = False
    altered: bool = False
    captured: str = "all/all"
    model: str | None = None
    stream: bool | None = None
    key_hash: str = NO_KEY
    req_bytes: int = 0
    resp_bytes: int = 0
    resp_chunks: int = 0
    first_byte_us: int | None = None
    duration_us: int | None = None
    own_first_us: int | None = None
    own_worst_us: int | None = None
    own_sum_us: int | None = None
    records_lost: int = 0

    request: "RequestBody | None" = field(default=None, repr=False, compare=False)
    """The search in the request body, while it goes on."""

    @property
    def ts_start(self) -> int:
        """When the first record was made, ms since 1970."""
        return self.started_us // 1000

    @property
    def failure(self) -> str:
        """What went wrong, from a closed set: our code or reason, else the status of an error, else nothing."""
        if self.end_reason not in {"complete", None}:
            return self.error_code or self.end_reason or ""
        return str(self.status) if self.status and self.status >= 400 else ""

    def apply(self, record: Record) -> None:
        """Take in the next record of this exchange. Kinds that say nothing about a row are passed over."""
        self.last_record = record.number
        if self.end_reason == LOST:
            self.end_reason = self.error_code = None  # its records were still on their way
        kind = record.kind
        if kind == "chunk":
            self._chunk(record)
        elif kind == "head":
            (self._request_head if record.direction == CLIENT_TO_PROXY else self._response_head)(record)
        elif kind == "pipe":
            self._payload(record)
        elif kind == "forward":
            self.upstream = text(record.meta.get("x_up"))
        elif kind == "answer":
            self.status = integer(record.meta.get("sc"))
        elif kind == "end":
            self._end(record)

    def lose(self) -> None:
        """Its proxy died. When exactly it ended, and how, nobody knows."""
        self.end_reason = LOST
        self.request = None

    def remember(self, record: Record) -> None:
        """Bring the search in the request body on by a record that was applied before: only the search changes."""
        if record.direction == CLIENT_TO_PROXY and record.kind == "head":
            self.request = RequestBody.of(heads.parse(record.data)) if record.data else None
        elif record.direction == CLIENT_TO_PROXY and record.kind == "chunk":
            self._search(record)

    def _chunk(self, record: Record) -> None:
        self._payload(record)
        if record.direction == CLIENT_TO_PROXY:
            self._search(record)

    def _payload(self, record: Record) -> None:
        size = len(record.data)
        if record.mentions(b"x_cut"):
            size = self._left_out(record, size)
        if record.mentions(b"x_alt"):
            self.altered = self.altered or bool(record.meta.get("x_alt"))
        if record.direction == CLIENT_TO_PROXY:
            self.req_bytes += size
            return
        if self.first_byte_us is None and size:
            self.first_byte_us = max(0, micros(record.ts) - self.started_us)
        self.resp_bytes += size
        self.resp_chunks += 1

    def _left_out(self, record: Record, kept: int) -> int:
        """The size that the bytes of a record had before some were left out; notes a cut."""
        size: int | None = integer(record.meta.get("x_cut"))
        if size is None:
            return kept
        if not record.meta.get("x_off"):
            self.truncated_req |= record.direction == CLIENT_TO_PROXY
            self.truncated_resp |= record.direction != CLIENT_TO_PROXY
        return size

    def _request_head(self, record: Record) -> None:
        meta = record.meta
        self.client = text(meta.get("x_client")) or text(meta.get("x_peer"))
        self.backend = text(meta.get("be"))
        self.key_hash = text(meta.get("x_key")) or NO_KEY
        self.captured = text(meta.get("x_rule")) or self.captured
        if not record.data:
            return  # left out by a rule
        head = heads.parse(record.data)
        self.method = text(head.start[0])
        self.path = text(head.start[1], PATH_CHARS_MAX)
        self.route_path = text(heads.path_of(head.start[1]), PATH_CHARS_MAX)
        if found := _PATH_MODEL.search(self.route_path or ""):
            self.model = text(found[1])
        self.request = RequestBody.of(head)

    def _response_head(self, record: Record) -> None:
        self.status = integer(record.meta.get("sc"))
        content_type = heads.parse(record.data).first("content-type").lower()
        if content_type.startswith(_STREAM_TYPES):
            self.stream = True
        elif self.stream is None and record.data:
            self.stream = False

    def _end(self, record: Record) -> None:
        meta = record.meta
        self.end_reason = text(meta.get("x_end")) or "unknown"
        self.error_code = text(meta.get("x_err")) or None
        broken = self.end_reason == "upstream_error" and self.resp_chunks > 0
        self.disconnected = broken or self.end_reason in _CUT_OFF
        ended_us = max(micros(record.ts), self.started_us)
        self.ts_end, self.duration_us = ended_us // 1000, ended_us - self.started_us
        self.req_bytes = integer(meta.get("x_req"), self.req_bytes)
        self.resp_bytes = integer(meta.get("tb"), self.resp_bytes)
        self.resp_chunks = integer(meta.get("tc"), self.resp_chunks)
        self.records_lost = integer(meta.get("x_lost"), 0)
        own = meta.get("x_own")
        if isinstance(own, list) and len(own) == 3:
            self.own_first_us, self.own_worst_us, self.own_sum_us = map(integer, own)
        self.request = None

    def _search(self, record: Record) -> None:
        if self.request is None:
            return
        if record.mentions(b"x_cut"):  # what follows a hole cannot be read
            self.request = None
            return
        found = self.request.feed(record.data)
        if found is None:
            return
        self.request = None
        if isinstance(found.get("model"), str):
            self.model = text(found["model"])
        if isinstance(found.get("stream"), bool):
            self.stream = self.stream or found["stream"]


class RequestBody:
    """The search for `model` and `stream` in a request body: JSON, perhaps compressed."""

    __slots__ = ("_decoder", "_members")

    def __init__(self, decoder: Decoder | None) -> None:
        self._decoder = decoder
        self._members = Members()

    @classmethod
    def of(cls, head: heads.Head) -> "RequestBody | None":
        """For the body that follows this head; None if it cannot be JSON that we can read."""
        if "json" not in (head.first("content-type").lower() or "json"):
            return None
        codings = head.all("content-encoding")
        try:
            return cls(Decoder(codings, REQUEST_DECODED_BYTES_MAX) if codings else None)
        except ValueError:
            return None

    def feed(self, data: bytes) -> dict[str, Any] | None:
        """What was found, once there is nothing more to find; None while there is."""
        self._members.feed(self._decoder.feed(data) if self._decoder else data)
        over = self._members.done or (self._decoder is not None and bool(self._decoder.problem))
        return self._members.found if over else None


COLUMNS: Final = tuple(name for name in Exchange.__dataclass_fields__ if name != "request")
"""Those of a row that an `Exchange` is made from."""
_FLAGS: Final = ("disconnected", "truncated_req", "truncated_resp", "altered")


def restored(values: Sequence[Any]) -> Exchange:
    """The exchange of a row, from the values of `COLUMNS`."""
    columns: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
    for flag in _FLAGS:
        columns[flag] = bool(columns[flag])
    columns["stream"] = None if columns["stream"] is None else bool(columns["stream"])
    return Exchange(**columns)


def begin(record: Record) -> Exchange:
    """The exchange whose first record this is, before it is applied."""
    return Exchange(id=record.exchange, instance=record.instance, started_us=micros(record.ts), first_record=record.number)
