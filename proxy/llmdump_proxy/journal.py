"""What a session tells of its exchange, and the wall between the two: whatever goes wrong with capture stays in here.

Recording may be left out by a rule, may find no room, may even have a fault of its own: the session makes the same calls,
and forwarding does not notice. Heads are masked here, so that no credential gets any further, and times are taken.
"""

import functools
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.secrets import Masked, Secrets
from llmdump_proxy import rewrite
from llmdump_proxy.framing import Framing, Piece
from llmdump_proxy.head import RequestHead, origin_form
from llmdump_proxy.ports import Upstream
from llmdump_proxy.recorder import Capture, Recorder
from llmdump_proxy.routes import Route
from llmdump_proxy.rules import Levels

Told = Callable[[bytes], str]
_P = ParamSpec("_P")


def _walled(tell: Callable[Concatenate["Journal", Capture, _P], None]) -> Callable[Concatenate["Journal", _P], None]:
    """The method as its caller sees it: nothing where nothing is recorded, and an error ends the capture, no more."""

    @functools.wraps(tell)
    def told(self: "Journal", /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        capture = self._capture
        if capture is None:
            return
        made = capture.recorder.made
        try:
            tell(self, capture, *args, **kwargs)
        except Exception as err:  # the wall: no fault of capture may reach forwarding
            count_swallowed("capture")
            log.error("capture_failed", exchange=capture.exchange, error=repr(err))
            capture.broke(made)

    return told


class Journal:
    """One exchange's. No method raises, none blocks."""

    __slots__ = ("_capture", "_masked", "_peer", "_secrets", "_told")

    def __init__(
        self, recorder: Recorder, secrets: Secrets, peer: bytes, told: Told | None, session: str, provider: str, levels: Levels
    ) -> None:
        """Begins to record, unless the rules leave the exchange out wholly. `peer` is the encoded `x_peer` entry; `told`
        gives the client's address, where the peer is a proxy that is believed."""
        self._secrets = secrets
        self._peer = peer
        self._told = told
        self._masked: Masked | None = None
        self._capture: Capture | None = None
        if levels != ("none", "none"):
            try:
                self._capture = recorder.begin(session, provider, levels)
            except Exception as err:  # as in `_walled`
                count_swallowed("capture")
                log.error("capture_failed", session=session, error=repr(err))

    @property
    def recorded(self) -> bool:
        """Whether there are any records of this exchange."""
        return self._capture is not None

    @_walled
    def request(self, capture: Capture, raw: bytes, bad: str = "") -> None:
        """A request head was read; `bad`: and refused, for this reason."""
        masked = self._masked = self._secrets.mask(raw, broken=bool(bad))
        client = self._told(masked.head) if self._told else ""
        secrets = () if bad else masked.secrets
        capture.request(time.time(), masked.head, self._peer, masked.key_hash, secrets, bad, client)

    @_walled
    def forward(self, capture: Capture, sent: bytes, request: RequestHead, route: Route, upstream: Upstream) -> None:
        """The request head was sent on, as `sent`, which may hold credentials."""
        assert self._masked is not None
        head = self._masked.same_in(sent)
        if head is None:
            head = self._made_again(self._masked.head, request, route)
        new = upstream.uses == 0
        capture.forward(time.time(), head, upstream.facts, upstream.dial_ms if new else 0.0, new=new)

    def _made_again(self, masked: bytes, request: RequestHead, route: Route) -> bytes:
        """What would have been sent, had the client sent the masked head."""
        target = route.target(origin_form(masked[: masked.index(b"\n")].split(b" ")[1]))
        return rewrite.request(masked, target, route.host, request.connection, request.upgrade)

    @_walled
    def interim(self, capture: Capture, raw: bytes, status: int) -> None:
        """A 1xx head was read."""
        capture.interim(time.time(), self._secrets.mask(raw).head, status)

    @_walled
    def response(self, capture: Capture, raw: bytes, status: int, ttfb_ms: float) -> None:
        """A response head was read."""
        capture.response(time.time(), self._secrets.mask(raw).head, status, ttfb_ms)

    @_walled
    def body(self, capture: Capture, direction: int, piece: Piece) -> None:
        """A read of a body."""
        framing = self._masked_framing(piece) if piece.done and piece.framing else piece.framing
        capture.chunk(time.time(), direction, piece.payload, framing, last=piece.done)

    @_walled
    def pipe(self, capture: Capture, direction: int, data: bytes) -> None:
        """A read after an upgrade."""
        capture.pipe(time.time(), direction, data)

    @_walled
    def answer(self, capture: Capture, response: bytes, status: int) -> None:
        """We answered in the backend's place."""
        capture.answer(time.time(), response, status)

    @_walled
    def end(
        self,
        capture: Capture,
        reason: str,
        code: str,
        request_bytes: int,
        response_bytes: int,
        own_ns: tuple[int, int, int],
    ) -> None:
        """The exchange is over."""
        capture.end(time.time(), reason, code, request_bytes, response_bytes, own_ns)

    def _masked_framing(self, piece: Piece) -> Framing | None:
        """The framing with the credentials in trailers masked."""
        trailers = piece.framing[-1] if piece.framing else b""
        if isinstance(trailers, bytes) and b":" in trailers and piece.framing:
            return [*piece.framing[:-1], self._secrets.mask(trailers).head]
        return piece.framing
