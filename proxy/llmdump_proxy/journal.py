"""What a session tells of its exchange, and the wall between the two: whatever goes wrong with capture stays in here.

Recording may be left out by a rule, may find no room, may even have a fault of its own: the session makes the same calls,
and forwarding does not notice. Heads are masked here, so that no credential gets any further, and times are taken.

The same lines stand in each method, and no decorator in their place: a call less is a tenth of what a chunk costs.
"""

import time
from collections.abc import Callable

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.secrets import Secrets
from llmdump_proxy.framing import Framing, Piece
from llmdump_proxy.plans import Plan
from llmdump_proxy.ports import Upstream
from llmdump_proxy.recorder import Capture, Recorder
from llmdump_proxy.rules import Levels

Told = Callable[[bytes], str]
_NOTHING = Levels("none", "none")


class Journal:
    """One exchange's. No method raises, none blocks."""

    __slots__ = ("_capture", "_peer", "_secrets", "_told")

    def __init__(
        self, recorder: Recorder, secrets: Secrets, peer: bytes, told: Told | None, session: str, provider: str, levels: Levels
    ) -> None:
        """Begins to record, unless the rules leave the exchange out wholly. `peer` is the encoded `x_peer` entry; `told`
        gives the client's address, where the peer is a proxy that is believed."""
        self._secrets = secrets
        self._peer = peer
        self._told = told
        self._capture: Capture | None = None
        if levels != _NOTHING:
            try:
                self._capture = recorder.begin(session, provider, levels)
            except Exception as err:  # the wall, as in all methods: no fault of capture may reach forwarding
                count_swallowed("capture")
                log.error("capture_failed", session=session, error=repr(err))

    @property
    def recorded(self) -> bool:
        """Whether there are any records of this exchange."""
        return self._capture is not None

    def request(self, plan: Plan, digits: bytes) -> None:
        """A request head was read; `digits` are those of its Content-Length."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                masked = plan.masked(self._secrets)
                head = b"%b%b%b" % (masked.received.before, digits, masked.received.after)
                client = self._told(head) if self._told else ""
                capture.request(time.time(), head, self._peer, masked.key_hash, masked.secrets, "", client)
            except Exception as err:
                _broke(capture, made, err)

    def refused(self, raw: bytes, bad: str) -> None:
        """A request head was read and refused, for this reason."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                masked = self._secrets.mask(raw, broken=True)
                client = self._told(masked.head) if self._told else ""
                capture.request(time.time(), masked.head, self._peer, masked.key_hash, (), bad, client)
            except Exception as err:
                _broke(capture, made, err)

    def forward(self, plan: Plan, digits: bytes, upstream: Upstream) -> None:
        """The request head was sent on."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                sent, new = plan.masked(self._secrets).sent, upstream.uses == 1
                head = b"%b%b%b" % (sent.before, digits, sent.after)
                capture.forward(time.time(), head, upstream.facts, upstream.dial_ms if new else 0.0, new)
            except Exception as err:
                _broke(capture, made, err)

    def interim(self, raw: bytes, status: int) -> None:
        """A 1xx head was read."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                capture.interim(time.time(), self._secrets.mask(raw).head, status)
            except Exception as err:
                _broke(capture, made, err)

    def response(self, raw: bytes, status: int, ttfb_ms: float) -> None:
        """A response head was read."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                capture.response(time.time(), self._secrets.mask(raw).head, status, ttfb_ms)
            except Exception as err:
                _broke(capture, made, err)

    def body(self, direction: int, piece: Piece) -> None:
        """A read of a body."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                _, payload, framing, done = piece
                if done and framing:
                    framing = self._masked_framing(framing)
                capture.chunk(time.time(), direction, payload, framing, done)
            except Exception as err:
                _broke(capture, made, err)

    def pipe(self, direction: int, data: bytes) -> None:
        """A read after an upgrade."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                capture.pipe(time.time(), direction, data)
            except Exception as err:
                _broke(capture, made, err)

    def answer(self, response: bytes, status: int) -> None:
        """We answered in the backend's place."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                capture.answer(time.time(), response, status)
            except Exception as err:
                _broke(capture, made, err)

    def end(self, reason: str, code: str, request_bytes: int, response_bytes: int, own_ns: tuple[int, int, int]) -> None:
        """The exchange is over."""
        if (capture := self._capture) is not None:
            made = capture.recorder.made
            try:
                capture.end(time.time(), reason, code, request_bytes, response_bytes, own_ns)
            except Exception as err:
                _broke(capture, made, err)

    def _masked_framing(self, framing: Framing) -> Framing:
        """The framing with the credentials in trailers masked."""
        trailers = framing[-1]
        if isinstance(trailers, bytes) and b":" in trailers:
            return [*framing[:-1], self._secrets.mask(trailers).head]
        return framing


def _broke(capture: Capture, made: int, err: Exception) -> None:
    """An error ends the capture, no more. `made`: records numbered before the call."""
    count_swallowed("capture")
    log.error("capture_failed", exchange=capture.exchange, error=repr(err))
    capture.broke(made)
