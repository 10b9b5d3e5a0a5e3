"""What happens becomes numbered records, handed over at once. No I/O, no clock: times come in, records go to a `Shelf`.

Every record that is made takes the next number of this proxy instance, whether there is room for it or not. Where there
is none, the rest of its exchange is dropped with it, the numbers are remembered, and a `gap` record names them as soon
as anything can be taken again: a hole in the numbers that no gap record explains is a loss that nobody intended.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import uuid_utils

from llmdump.record import (
    BACKEND_TO_PROXY,
    CLIENT_TO_PROXY,
    PROXY_TO_BACKEND,
    PROXY_TO_CLIENT,
    Identity,
    chunk_kind,
    encode,
    entries,
    kind_entry,
)
from llmdump_proxy.framing import Framing
from llmdump_proxy.redact import BodyRedactor, Held, Redaction
from llmdump_proxy.rules import EVERYTHING, Levels

_HELLO: Final = kind_entry("hello")
_HEAD: Final = kind_entry("head")
_INTERIM: Final = kind_entry("interim")
_FORWARD: Final = kind_entry("forward")
_ANSWER: Final = kind_entry("answer")
_PIPE: Final = kind_entry("pipe")
_END: Final = kind_entry("end")
_GAP: Final = kind_entry("gap")
_BYE: Final = kind_entry("bye")

_KEY = b"\x65x_key\x70"
_STATUS = struct.Struct(">4sH")
_STATUS_TTFB = struct.Struct(">4sH6sd")
_DIAL = struct.Struct(">8sd6sc")
_INDEX = struct.Struct(">4sI")
_END_FIELDS = struct.Struct(">4s4sI4sQ7sQ8sIsIsI8sQ")
_U32_MAX: Final = 0xFFFFFFFF
_NO_REDACTORS: Final = (None, None, None, None)


class Shelf(Protocol):
    """Where records go: the outbox towards the writers."""

    why: str
    """Why there was no room, after `ship` said so: a label of the metric of dropped records."""

    def lane(self, exchange: str) -> Any:
        """The writer an exchange goes to, all of it."""

    def ship(self, lane: Any, number: int, record: bytes, reserve: bool = False) -> bool:
        """Take a record, or say that there is no room. `reserve` may use the room kept for gaps and ends."""


class Recorder:
    """Makes the records of one proxy instance."""

    def __init__(self, instance: str, shelf: Shelf, truncate_bytes: int = 0, redaction: Redaction | None = None) -> None:
        """`instance` is 16 hex digits. `truncate_bytes` 0 keeps all of every payload."""
        self.instance = instance
        self.shelf = shelf
        self.truncate_bytes = truncate_bytes
        self.redaction = redaction
        self.made = 0
        """Records numbered so far: the number of the last one."""
        self.lost: dict[str, int] = {"overflow": 0, "error": 0}
        """Numbers whose record will never come, by reason: no room (the shelf says why), or a fault of capture itself."""
        self.on_full: Callable[[], None] | None = None
        """With `block`: called instead of dropping; the record is taken all the same, and reading must stop."""
        self._own = Identity(instance)
        self._gaps: dict[str, list[list[int]]] = {}

    def begin(self, session: str, backend: str, levels: Levels = EVERYTHING) -> "Capture":
        """A new exchange. `session` names the client connection, `backend` the provider."""
        return Capture(self, str(uuid_utils.uuid7()), session, backend, levels)

    def hello(self, ts: float, about: dict[str, Any]) -> None:
        """The first record of the instance."""
        extra, count = entries({"x_about": about})
        self._own_record(ts, _HELLO, extra, count)

    def bye(self, ts: float) -> None:
        """The last record of the instance, after any gap that is not told yet."""
        self.tell_gaps(ts)
        extra, count = entries({"x_last": self.made + 1})
        self._own_record(ts, _BYE, extra, count)

    def tell_gaps(self, ts: float) -> None:
        """Name the numbers that were dropped since the last time, if there is room to."""
        if not self._gaps:
            return
        gaps, self._gaps = self._gaps, {}
        for reason, numbers in gaps.items():
            extra, count = entries({"x_gap": numbers, "x_why": reason})
            if not self._own_record(ts, _GAP, extra, count):
                self._gaps[reason] = numbers + self._gaps.get(reason, [])

    def refused(self, lane: Any, number: int, record: bytes) -> bool:
        """There was no room for a record. Whether it was taken all the same, or else had to be dropped."""
        if self.on_full:
            self.on_full()
            if self.shelf.ship(lane, number, record, True):
                return True
        self.lose(number, self.shelf.why)
        return False

    @property
    def dropped(self) -> int:
        """All numbers whose record will never come."""
        return sum(self.lost.values())

    def lose(self, number: int, reason: str) -> None:
        """Remember a number whose record will never come."""
        self.lost[reason] = self.lost.get(reason, 0) + 1
        gaps = self._gaps.setdefault(reason, [])
        if gaps and gaps[-1][1] == number - 1:
            gaps[-1][1] = number
        else:
            gaps.append([number, number])

    def tell_lost(self, ts: float, ranges: list[tuple[int, int]], reason: str) -> None:
        """Name numbers that were handed over and have been lost since; who lost them counts them."""
        self._gaps.setdefault(reason, []).extend([first, last] for first, last in ranges)
        self.tell_gaps(ts)

    def _own_record(self, ts: float, kind: bytes, extra: bytes, count: int) -> bool:
        self.made = number = self.made + 1
        record = encode(ts, CLIENT_TO_PROXY, number, b"", self._own, kind, extra, count)
        lane = self.shelf.lane(self.instance)
        return self.shelf.ship(lane, number, record, True) or self.refused(lane, number, record)


class Capture:
    """The records of one exchange. Methods are called in the order in which things happened; times are seconds."""

    __slots__ = (
        "_as_is",
        "_identity",
        "_lane",
        "_levels",
        "_payload_kind",
        "_redactors",
        "_whole_heads",
        "exchange",
        "indexes",
        "lost",
        "recorder",
    )

    def __init__(self, recorder: Recorder, exchange: str, session: str, backend: str, levels: Levels) -> None:
        self.exchange = exchange
        """The exchange's id, a UUIDv7."""
        self.lost = 0
        """Records of this exchange that will never come."""
        self.indexes = [0, 0, 0, 0]
        """Chunks so far, by direction."""
        self.recorder = recorder
        self._lane = recorder.shelf.lane(exchange)
        self._identity = _shared(recorder.instance, session, backend).of(exchange)
        self._levels = levels
        self._whole_heads = levels == EVERYTHING
        # Bodies are recorded whole and at once: then a chunk takes the short way.
        self._as_is = self._whole_heads and not recorder.truncate_bytes and recorder.redaction is None
        self._payload_kind = b""
        self._redactors: Sequence[BodyRedactor | None] = _NO_REDACTORS

    def broke(self, made: int) -> None:
        """Capture failed in a call before which `made` was the last number: the rest of the exchange is dropped."""
        self.lost += 1
        if self.recorder.made > made:
            self.recorder.lose(self.recorder.made, "error")

    def request(
        self, ts: float, head: bytes, peer: bytes, key_hash: str, secrets: tuple[bytes, ...], bad: str = "", client: str = ""
    ) -> None:
        """The request head as received, masked. `peer` is the encoded `x_peer` entry, `bad` why it was refused; `client`
        where a proxy before this one says that the client is."""
        if self.recorder.redaction:
            redaction = self.recorder.redaction.with_secrets(secrets)
            self._redactors = [BodyRedactor(redaction), None, None, BodyRedactor(redaction)]
        more: dict[str, Any] = {"x_bad": bad} if bad else {}
        if client:
            more["x_client"] = client
        if not self._whole_heads:
            more["x_rule"] = "/".join(self._levels)
        extra, count = entries(more) if more else (b"", 0)
        fields = peer + _KEY + key_hash.encode("ascii") + extra
        self._head(ts, CLIENT_TO_PROXY, head, self._levels.request, _HEAD, fields, 2 + count)

    def forward(self, ts: float, head: bytes, facts: bytes, dial_ms: float, new: bool) -> None:
        """The request head as sent to the backend, masked. `facts` are the encoded `x_up` and `x_addr` entries."""
        fields = facts + _DIAL.pack(b"\x66x_dial\xfb", dial_ms, b"\x65x_new", b"\xf5" if new else b"\xf4")
        self._head(ts, PROXY_TO_BACKEND, head, self._levels.request, _FORWARD, fields, 4)

    def response(self, ts: float, head: bytes, status: int, ttfb_ms: float) -> None:
        """The response head as received, masked; `ttfb_ms` since the request head was sent on."""
        fields = _STATUS_TTFB.pack(b"\x62sc\x19", status, b"\x64ttfb\xfb", ttfb_ms)
        self._head(ts, BACKEND_TO_PROXY, head, self._levels.response, _HEAD, fields, 2)

    def interim(self, ts: float, head: bytes, status: int) -> None:
        """A 1xx head as received."""
        fields = _STATUS.pack(b"\x62sc\x19", status)
        self._head(ts, BACKEND_TO_PROXY, head, self._levels.response, _INTERIM, fields, 1)

    def answer(self, ts: float, response: bytes, status: int) -> None:
        """A whole response that the proxy itself made."""
        self._put(ts, PROXY_TO_CLIENT, response, _ANSWER, _STATUS.pack(b"\x62sc\x19", status), 1)

    def pipe(self, ts: float, direction: int, data: bytes) -> None:
        """Bytes after an upgrade."""
        if not self._payload_kind:
            self._flush_redactors()
            self._payload_kind = _PIPE
        self._redacted(Held(ts, data, None, False), direction)

    def chunk(self, ts: float, direction: int, data: bytes, framing: Framing | None, last: bool) -> None:
        """The body bytes of one read."""
        if framing is None and self._as_is:
            index = self.indexes[direction] = self.indexes[direction] + 1
            self._put(ts, direction, data, chunk_kind(index, last), b"", 2 if last else 1)
        else:
            self._redacted(Held(ts, data, framing, last), direction)

    def end(
        self, ts: float, reason: str, code: str, request_bytes: int, response_bytes: int, own_ns: tuple[int, int, int]
    ) -> None:
        """The exchange is over; `own_ns` is our own time: first response bytes, worst read, sum."""
        self._flush_redactors()
        first, worst, total = [ns // 1000 for ns in own_ns]
        if total > _U32_MAX:
            first, worst, total = (min(one, _U32_MAX) for one in (first, worst, total))
        fields = _END_FIELDS.pack(
            b"\x62se\xf5", b"\x62tc\x1a", self.indexes[BACKEND_TO_PROXY], b"\x62tb\x1b", response_bytes,
            b"\x65x_req\x1b", request_bytes, b"\x65x_own\x83\x1a", first, b"\x1a", worst, b"\x1a", total,
            b"\x66x_lost\x1b", self.lost,
        )  # fmt: skip
        self._put(ts, PROXY_TO_CLIENT, b"", _END, fields + _outcome(reason, code), 8, True)
        self.recorder.tell_gaps(ts)

    def _head(self, ts: float, direction: int, head: bytes, level: str, kind: bytes, fields: bytes, count: int) -> None:
        if self._whole_heads or level in {"all", "heads"}:
            self._put(ts, direction, head, kind, fields, count)
        else:
            extra, more = _left_out(len(head) if level == "sizes" else 0)
            self._put(ts, direction, b"", kind, fields + extra, count + more)

    def _redacted(self, held: Held, direction: int) -> None:
        redactor = self._redactors[direction]
        for safe in redactor.feed(held) if redactor else (held,):
            self._payload(safe, direction)

    def _payload(self, held: Held, direction: int) -> None:
        """A chunk or pipe record, as much of it as the rules leave."""
        level = self._levels.response if direction == BACKEND_TO_PROXY else self._levels.request
        if level == "none":
            return
        self.indexes[direction] += 1
        data, extra, count = held.data, b"", 0
        if level != "all":
            data, (extra, count) = b"", _left_out(len(held.data))
        elif self.recorder.truncate_bytes and len(data) > self.recorder.truncate_bytes:
            extra, count = entries({"x_cut": len(data)})
            data = data[: self.recorder.truncate_bytes]
        elif held.framing is not None:
            extra, count = entries({"x_f": held.framing})
        if held.altered:
            extra, count = extra + b"\x65x_alt\xf5", count + 1
        if self._payload_kind:
            kind, entries_of_kind = self._payload_kind + _INDEX.pack(b"\x62ci\x1a", self.indexes[direction]), 1
        else:
            kind, entries_of_kind = chunk_kind(self.indexes[direction], held.last), 1 + held.last
        self._put(held.ts, direction, data, kind, extra, entries_of_kind + count)

    def _put(
        self, ts: float, direction: int, data: bytes, kind: bytes, fields: bytes, count: int, reserve: bool = False
    ) -> None:
        if self.lost and not reserve:
            self._skip()
            return
        recorder = self.recorder
        recorder.made = number = recorder.made + 1
        record = encode(ts, direction, number, data, self._identity, kind, fields, count)
        if not recorder.shelf.ship(self._lane, number, record, reserve):
            self.lost += not recorder.refused(self._lane, number, record)

    def _skip(self) -> None:
        self.lost += 1
        self.recorder.made += 1
        self.recorder.lose(self.recorder.made, self.recorder.shelf.why)

    def _flush_redactors(self) -> None:
        if self._redactors is _NO_REDACTORS:
            return
        for direction, redactor in enumerate(self._redactors):
            for held in redactor.flush() if redactor else ():
                self._payload(held, direction)


@functools.lru_cache(maxsize=4096)
def _shared(instance: str, session: str, backend: str) -> Identity:
    """What the exchanges of one client connection have in common."""
    return Identity(instance, common={"sid": session, "be": backend})


@functools.lru_cache(maxsize=256)
def _outcome(reason: str, code: str) -> bytes:
    return entries({"x_end": reason, "x_err": code})[0]


def _left_out(size: int) -> tuple[bytes, int]:
    return entries({"x_off": True, "x_cut": size})
