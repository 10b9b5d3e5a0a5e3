"""The ROUTER socket and the thread that serves it: receive, let `capture` decide and write, send what it has to say.

All file work of capturing is done in this thread, between two messages. So while it writes, messages wait in ZeroMQ and
in the proxies, within the limits of docs/wire.md; and nobody waits for the admin server, nor it for the disk.
"""

import math
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from llmdump import wire
from llmdump.keys import WriterKeys
from llmdump.record import RECORD_BYTES_MAX
from llmdump_writer.capture import Capture
from llmdump_writer.gate import Gate

MESSAGES_A_TURN_MAX: Final = 256
MESSAGE_BYTES_MAX: Final = RECORD_BYTES_MAX + 64 * 1024
RECEIVE_HWM: Final = 64
SEND_HWM: Final = 1000
LINGER_MS: Final = 200
DRAIN_S: Final = 0.3
"""How long a writer that leaves takes what still comes; one silence of `_DRAIN_IDLE_MS` ends it."""
_DRAIN_IDLE_MS: Final = 30


class Link:
    """The socket of one writer and its thread."""

    def __init__(
        self,
        capture: Capture,
        endpoint: str,
        keys: WriterKeys | None,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
    ) -> None:
        """Bind; with `keys` a tcp endpoint is for their owners only. Raises OSError with a line for the user."""
        self._capture = capture
        self._endpoint = endpoint
        self._context = context or zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        self._drain = threading.Event()
        for option, value in (
            (zmq.ROUTER_HANDOVER, 1), (zmq.RCVHWM, RECEIVE_HWM), (zmq.SNDHWM, SEND_HWM), (zmq.LINGER, LINGER_MS),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX), (zmq.IPV6, 1),
        ):  # fmt: skip
            self._socket.setsockopt(option, value)
        self._gate = Gate(self._context, self._socket, keys) if keys and endpoint.startswith("tcp:") else None
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as err:
            raise OSError(err.errno, f"cannot take records at {endpoint}: {err.strerror}") from err

    def run(self) -> None:
        """Serve until `stop`, then drain, leave and close. Blocking: for a thread of its own."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_out, zmq.POLLIN)
        for socket in self._gate.sockets if self._gate else ():
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._drain.is_set():
                poller.poll(math.floor(self._capture.wait_s() * 1000))
                self.turn()
            self._leave()
        finally:
            if self._gate:
                self._gate.close(self._socket)
            self._socket.close(linger=LINGER_MS)
            self._context.term()
            _remove_socket(self._endpoint)

    def turn(self) -> None:
        """All that can be done now. For the thread that runs it."""
        if self._gate:
            self._gate.turn()
        self._receive()
        self._capture.tick()
        self._send()

    @property
    def refused(self) -> int:
        """Connections refused for their keys, or that they had none. For any thread."""
        return self._gate.refused if self._gate else 0

    def stop(self) -> None:
        """Make `run` end: within about `DRAIN_S`, a flush and `LINGER_MS`. For any thread."""
        self._drain.set()
        os.write(self._wake_in, b"\0")

    def _receive(self) -> bool:
        """Whether anything came."""
        for count in range(MESSAGES_A_TURN_MAX):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return count > 0
            self._capture.receive(peer, frames)
            if self._capture.outbox:
                self._send()
        return True

    def _send(self) -> None:
        """Say what there is to say; to a peer that is gone or does not read, nothing: it will ask again."""
        for peer, message in self._capture.outbox:
            try:
                self._socket.send_multipart([peer, *wire.encode(message)], zmq.NOBLOCK)
            except zmq.ZMQError:
                continue
        self._capture.outbox.clear()

    def _leave(self) -> None:
        self._while_coming(self._receive)
        self._capture.leave()
        self._send()
        self._while_coming(self._receive)

    def _while_coming(self, receive: Callable[[], bool]) -> None:
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until and self._socket.poll(_DRAIN_IDLE_MS):
            receive()
            self._send()


def _remove_socket(endpoint: str) -> None:
    """ZeroMQ replaces one that is left over when it binds, but leaves its own behind."""
    path = Path(endpoint.removeprefix("ipc://"))
    if endpoint.startswith("ipc://") and path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
