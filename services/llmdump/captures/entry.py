"""One entry of a capture file, whichever format and program it is from: bytes that crossed a boundary, and when.

    direction   0 C->P   1 P->C   2 P->B   3 B->P      as in CBOR V2
                -1 is what a recorder says of itself (hello, gap, bye, footer; the first line of a JSONL file)

`meta` has the compact keys of CBOR V2 (`EXPANDED`), whatever the file calls them; keys that are not known stay as they are.
"""

import re
from typing import Any, Final, NamedTuple

from llmdump.record import NO_EXCHANGE, Record

CLIENT_TO_PROXY: Final = 0
PROXY_TO_CLIENT: Final = 1
PROXY_TO_BACKEND: Final = 2
BACKEND_TO_PROXY: Final = 3
ITSELF: Final = -1

NAMES: Final = {
    CLIENT_TO_PROXY: "client_to_proxy", PROXY_TO_CLIENT: "proxy_to_client", PROXY_TO_BACKEND: "proxy_to_backend",
    BACKEND_TO_PROXY: "backend_to_proxy", ITSELF: "recorder",
}  # fmt: skip
SHORT: Final = {
    CLIENT_TO_PROXY: "C->P", PROXY_TO_CLIENT: "P->C", PROXY_TO_BACKEND: "P->B", BACKEND_TO_PROXY: "B->P", ITSELF: "self",
}  # fmt: skip
EXPANDED: Final = {
    "sid": "session_id", "asid": "a_session_id", "bsid": "b_session_id", "bseq": "b_seq", "be": "backend", "mod": "model",
    "key": "key_name", "host": "client_host", "ua": "user_agent", "rid": "request_id", "ci": "chunk_index",
    "ss": "is_stream_start", "se": "is_stream_end", "ccid": "compression_correlation_id",
    "ws_message_type": "websocket_message_type", "tc": "total_chunks", "tb": "total_bytes", "cu": "canonical_usage",
    "sc": "status_code", "ra": "retry_after_seconds", "rat": "retry_attempt", "rtry": "is_retry", "acct": "account_id",
    "rts": "request_timestamp", "pts": "response_timestamp", "lat": "latency_ms", "ttfb": "ttfb_ms",
    "sdur": "stream_duration_ms", "crc": "compression_records_count", "cdb": "capture_debug", "eos": "eos",
    "eos_sig": "eos_signal", "eos_reason": "eos_reason", "eos_term": "eos_termination_category",
    "eos_err_cls": "eos_error_classification", "eos_err_code": "eos_error_status_code", "event": "protocol_event",
    "http_status": "http_status_code", "http_reason": "http_reason_phrase",
}  # fmt: skip
_ABOUT_ITSELF: Final = frozenset({"hello", "gap", "bye", "footer"})
_HEAD_KINDS: Final = frozenset({"head", "forward", "interim", "answer"})
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
_ESCAPED: Final = re.compile(r"[^\x20-\x7e]")


class Mark(NamedTuple):
    """Where an entry stands, for those who keep it: without its bytes."""

    file: str
    seq: int
    ts: float


class Entry:
    """One entry."""

    __slots__ = ("_meta", "_record", "data", "direction", "file", "flag", "kind", "offset", "rid", "seq", "ts")

    def __init__(
        self, seq: int, ts: float, direction: int, data: bytes, meta: dict[str, Any], file: str = "", offset: int = -1
    ) -> None:
        """`seq` is the number in the file, `ts` seconds since 1970, `file` the file's name, `offset` where in it, if known."""
        self.seq = seq
        self.ts = ts
        self.direction = direction
        self.data = data
        self.file = file
        self.offset = offset
        self.flag = ""
        """What is wrong with it, for people; usually nothing."""
        self.kind = ""
        """The kind of one of our own records (see `record`); empty for others' entries."""
        rid = meta.get("rid")
        self.rid = rid if isinstance(rid, str) else ""
        self._meta: dict[str, Any] | None = meta
        self._record: Record | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """What the file says beside the bytes, by compact keys; of our own records made when it is first asked for."""
        if self._meta is None:
            own = self._record
            assert own is not None, "an entry has the one or the other"
            self._meta = {"rid": own.exchange, "x_k": own.kind, **own.meta, "x_i": own.instance, "x_n": own.number}
        return self._meta

    @property
    def mark(self) -> Mark:
        """Where it stands."""
        return Mark(self.file, self.seq, self.ts)

    @property
    def ends_body(self) -> bool:
        """Whether this is one of our own chunks, and the last of its body."""
        record = self._record
        return record is not None and record.mentions(b"x_z") and record.ends_body

    @property
    def has_head(self) -> bool:
        """Whether `data` is known to begin with a message head."""
        return self.kind in _HEAD_KINDS

    @property
    def is_message(self) -> bool:
        """Whether it is a message on a connection of others that goes on, rather than a request or an answer."""
        if self.kind:
            return False
        meta = self.meta
        return meta.get("transport") == "websocket" or meta.get("event") == "frame" or "ws_message_type" in meta

    @property
    def session(self) -> str:
        """The conversation by the file's own ids: that of the client's leg, else the only one."""
        return text(self.meta.get("asid")) or text(self.meta.get("sid"))

    @property
    def backend(self) -> str:
        """As the entry itself says; empty where it does not."""
        return text(self.meta.get("be"))

    @property
    def status(self) -> int | None:
        """The HTTP status that the entry carries, if it does."""
        for key in ("http_status", "sc"):
            value = self.meta.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 999:
                return value
        line = _STATUS_LINE.match(self.data)
        return int(line[1]) if line else None


def of_record(record: Record, seq: int, file: str) -> Entry:
    """One of our own records as an entry."""
    entry = Entry.__new__(Entry)
    entry.seq, entry.ts, entry.data, entry.file, entry.offset, entry.flag = seq, record.ts, record.data, file, -1, ""
    entry.kind = record.kind
    entry.direction = ITSELF if record.kind in _ABOUT_ITSELF else record.direction
    entry.rid = "" if record.exchange == NO_EXCHANGE else record.exchange
    entry._meta, entry._record = None, record
    return entry


def text(value: Any) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def name_of(direction: int) -> str:
    """As in `--json`: CLIENT_TO_PROXY, Unknown(9)."""
    return NAMES[direction].upper() if direction in NAMES else f"Unknown({direction})"


def short_of(direction: int) -> str:
    """As in a line: C->P, ?9."""
    return SHORT.get(direction, f"?{direction}")


def expanded(meta: dict[str, Any]) -> dict[str, Any]:
    """The same with readable names; keys that are not known stay."""
    return {EXPANDED.get(key, str(key)): value for key, value in meta.items()}


def escaped(value: str) -> str:
    r"""A text that a terminal shows and does not obey: controls as \xNN, what is beyond ASCII as \uXXXX."""
    return _ESCAPED.sub(_escape, value) if not (value.isascii() and value.isprintable()) else value


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0xA0:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def as_text(data: bytes) -> str:
    """Bytes for people, as `escaped`, but with line ends: UTF-8, what is none of it replaced."""
    return "\n".join(escaped(line.removesuffix("\r")) for line in data.decode("utf-8", "replace").split("\n"))
