"""Who may connect to a writer over tcp://: the keys on its ROUTER, and the answers to ZeroMQ's questions (ZAP, RFC 27).

A peer without CURVE, or with another writer's key, fails in ZeroMQ's handshake; one whose own key is not admitted is
asked about here and refused. None of them gets a message through. ZeroMQ tells of each refused connection on the
socket's monitor; a stranger who goes on trying is counted each time.
"""

import time
from typing import Final

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from llmdump import log
from llmdump.keys import WriterKeys

_ZAP: Final = "inproc://zeromq.zap.01"
_REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_LOG_EVERY_S: Final = 60.0


class Gate:
    """Guards one ROUTER. All methods are for the thread that serves it; none blocks."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", router: "zmq.Socket[bytes]", keys: WriterKeys) -> None:
        """Before `router` is bound."""
        self.refused = 0
        """Connections refused; for any thread."""
        self._admitted = keys.admitted
        self._log_again_at = 0.0
        self._questions = context.socket(zmq.REP)
        self._questions.setsockopt(zmq.LINGER, 0)
        self._questions.bind(_ZAP)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        router.setsockopt(zmq.ZAP_DOMAIN, b"llmdump")
        self._monitor = router.get_monitor_socket(_REFUSED)
        self.sockets = (self._questions, self._monitor)
        """To be polled; `turn` when there is something to read."""

    def turn(self) -> None:
        """Answer and count all there is."""
        try:
            while True:
                self._answer(self._questions.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        try:
            while True:
                self._count(self._monitor.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass

    def close(self, router: "zmq.Socket[bytes]") -> None:
        """Before the context ends."""
        router.disable_monitor()
        for socket in self.sockets:
            socket.close(linger=0)

    def _answer(self, question: list[bytes]) -> None:
        version, request, _, _, _, mechanism, *credentials = question
        known = mechanism == b"CURVE" and bool(credentials) and z85.encode(credentials[0]) in self._admitted
        status = (b"200", b"") if known else (b"400", b"this key is not in curve_proxy_public_keys_file")
        self._questions.send_multipart([version, request, *status, b"", b""], zmq.NOBLOCK)

    def _count(self, event: list[bytes]) -> None:
        if not parse_monitor_message(event)["event"] & _REFUSED:
            return
        self.refused += 1
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + _LOG_EVERY_S
            log.warning("stranger_refused", refused=self.refused, because="its key, or that it has none")
