"""Bytes of a body to events: content codings undone, the framing told from the bytes, the grammar's events given as they end.

    bytes ─▶ content_coding ─▶ sniff ─▶ sse | ndjson | json_pieces | eventstream | whole ─▶ Event, Event, …

JSON comes labelled as SSE, SSE as JSON, NDJSON as JSON, and error pages as anything: `sniff` goes by the first bytes.
A coding that is not known, or not what its name says, is left alone and flagged: the bytes may be plain.

Any split of the input gives the same events. Memory is bounded by the limits below, whatever comes; time is linear.
"""

from collections.abc import Sequence
from typing import Final

from llmdump import record
from llmdump.content_coding import Decoder, begins_like
from llmdump.reading import websocket
from llmdump.reading.eventstream import EventStream
from llmdump.reading.exchange import Event
from llmdump.reading.json_pieces import JsonPieces
from llmdump.reading.ndjson import Ndjson
from llmdump.reading.sniff import BLANKS, framing_of, label_of
from llmdump.reading.sse import BOM, Sse
from llmdump.reading.whole import JsonOrLines, Whole

# A streamed picture (`image_generation.partial_image`) has 2 to 3 MB of base64.
EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
# What the proxy's own users send at most in one JSON body with pictures in it; providers stop at 20 to 32 MB.
BODY_BYTES_MAX: Final = 32 * 1024 * 1024
# All that a coded body may decode to.
DECODED_BYTES_MAX: Final = 64 * 1024 * 1024
# Of one call. A network read has 40,000 at the very most; more come out of a decompression bomb.
EVENTS_AT_ONCE_MAX: Final = 1_000_000
# Blank bytes before a body are kept up to here: some servers send them to keep a connection alive.
BLANKS_BYTES_MAX: Final = 4096

_PIECE_BYTES: Final = 64 * 1024

_Grammar = Sse | Ndjson | JsonPieces | EventStream | JsonOrLines | Whole


class Body:
    """One request or response body, read as it comes."""

    def __init__(
        self,
        content_type: str,
        codings: Sequence[str] = (),
        *,
        event_bytes_max: int = EVENT_BYTES_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
        decoded_bytes_max: int = DECODED_BYTES_MAX,
    ) -> None:
        """`codings` as in Content-Encoding, in its order; the Content-Type may be empty."""
        self._label = label_of(content_type)
        self._limits = (event_bytes_max, body_bytes_max)
        self._codings = [name for name in (coding.strip().lower() for coding in codings) if name not in ("", "identity")]
        self._decoder: Decoder | None = None
        self._problem = ""
        self._begin_decoding(decoded_bytes_max)
        self._head = b""
        self._framing = ""
        self._grammar: _Grammar | None = None

    @property
    def framing(self) -> str:
        """`sse`, `ndjson`, `json_array`, `eventstream`, `json`, `text`, `binary` or `empty`, as far as it is known by now."""
        if isinstance(self._grammar, JsonOrLines):
            return self._grammar.framing
        return self._framing or "empty"

    @property
    def problem(self) -> str:
        """What was wrong: `limit`, `damaged`, `cut` (within a coding or a message), `unknown_coding`; or empty."""
        in_coding = self._decoder.problem if self._decoder else ""
        return self._problem or in_coding or (self._grammar.problem if self._grammar else "")

    def feed(self, data: bytes, at_us: int) -> list[Event]:
        """The events that end in these bytes, which came at `at_us`."""
        if self._codings and data:
            data = self._decoded(data)
        if len(data) <= _PIECE_BYTES:
            return self._events(data, at_us) if data else []
        events: list[Event] = []
        for at in range(0, len(data), _PIECE_BYTES):
            events += self._events(data[at : at + _PIECE_BYTES], at_us)
            if len(events) > EVENTS_AT_ONCE_MAX:
                self._stop("limit")
        return events

    def finish(self, at_us: int) -> list[Event]:
        """What the end completes: the last event without its end, or a body that is one event."""
        events = self._begin(at_us, is_end=True) if self._head else []
        if self._grammar:
            events += self._grammar.finish(at_us)
        if self._decoder and self._decoder.is_cut and not self.problem:
            self._problem = "cut"
        return events

    def _begin_decoding(self, decoded_bytes_max: int) -> None:
        if self._codings:
            try:
                self._decoder = Decoder(self._codings, decoded_bytes_max)
            except ValueError:
                self._problem, self._codings = "unknown_coding", []

    def _decoded(self, data: bytes) -> bytes:
        if self._decoder is None:
            return data
        if not self._decoder.has_begun and not begins_like(self._codings[-1], data[0]):
            self._decoder, self._codings, self._problem = None, [], "unknown_coding"
            return data
        return self._decoder.feed(data)

    def _events(self, data: bytes, at_us: int) -> list[Event]:
        if self._grammar:
            return self._grammar.feed(data, at_us)
        if self._framing:  # binary: nothing to say of it
            return []
        self._head += data
        return self._begin(at_us, is_end=False)

    def _begin(self, at_us: int, *, is_end: bool) -> list[Event]:
        """Decides the framing if the first bytes tell it, and reads them."""
        head = self._head
        framing = framing_of(self._label, head, is_end=is_end)
        text = head.removeprefix(BOM).lstrip(BLANKS)
        if framing == "object" or len(head) - len(text) > BLANKS_BYTES_MAX:
            head = text
        if not framing:
            self._head = head
            return []
        self._head, self._framing = b"", framing
        self._grammar = self._grammar_of(framing)
        if framing not in ("sse", "eventstream"):
            head = head.removeprefix(BOM)
        return self._grammar.feed(head, at_us) if self._grammar else []

    def _grammar_of(self, framing: str) -> _Grammar | None:
        event_bytes_max, body_bytes_max = self._limits
        if framing == "sse":
            return Sse(event_bytes_max)
        if framing == "json_array":
            return JsonPieces(event_bytes_max)
        if framing == "eventstream":
            return EventStream(event_bytes_max)
        if framing == "object":
            return JsonOrLines(is_lines=self._label == "lines", event_bytes_max=event_bytes_max, body_bytes_max=body_bytes_max)
        if framing == "ndjson":
            return Ndjson(event_bytes_max)
        return Whole("json" if framing == "json" else "text", body_bytes_max) if framing in ("json", "text") else None

    def _stop(self, problem: str) -> None:
        self._problem = self._problem or problem
        self._framing, self._grammar = self.framing, None


class WebSocket:
    """The messages of a connection that was switched to WebSocket, in both directions."""

    def __init__(self, response_fields: Sequence[tuple[str, str]], event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        """`response_fields` of the 101: they say which compression was agreed on."""
        extensions = [value for name, value in response_fields if name.lower() == "sec-websocket-extensions"]
        inflates = websocket.is_deflate_agreed(extensions)
        self._directions = {
            direction: websocket.WebSocketDirection(event_bytes_max, inflates=inflates)
            for direction in (record.CLIENT_TO_PROXY, record.BACKEND_TO_PROXY)
        }

    @property
    def problem(self) -> str:
        """The first direction's that has one."""
        return next((direction.problem for direction in self._directions.values() if direction.problem), "")

    @property
    def close_code(self) -> int | None:
        """Of the close frame, the backend's before the client's; None if there was none."""
        codes = [direction.close_code for direction in reversed(self._directions.values())]
        return next((code for code in codes if code is not None), None)

    def feed(self, direction: int, data: bytes, at_us: int) -> list[Event]:
        """The messages that end in these bytes of a pipe record of this `dir`."""
        return self._directions[direction].feed(data, at_us)

    def finish(self) -> None:
        """Flags a message that was not finished."""
        for direction in self._directions.values():
            direction.finish()
