"""How a listening socket passes from a running proxy to the one that takes its place, and nobody who connects is lost.

Each proxy waits at a unix socket of its own (`DataDir.handover_socket`, in a directory of the owner's alone). Its successor
asks there before it forwards anything; the messages, each way:

    predecessor ──▶ successor   HELLO, with the descriptor of the listening socket (SCM_RIGHTS, unix(7))
    successor   ──▶ predecessor SERVING, once it accepts on that socket itself and says `running` on its card

On SERVING the predecessor accepts no more and retires. A successor that fails before that changes nothing: the connection
ends without SERVING, and the predecessor serves on and may be asked again.

Why not a second socket on the same port (SO_REUSEPORT), and the first one closed: the kernel gives each such socket a queue of
its own, and resets whoever waits in the queue of one that is closed, and whoever is still shaking hands with it
(net.ipv4.tcp_migrate_req is off everywhere). Here there is one queue all the time, whoever reads it.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llmdump import address, log, presence
from llmdump.admin import count_swallowed
from llmdump.presence import Card
from llmdump.process import Process

HELLO: Final = b"llmdump handover 1\n"
SERVING: Final = b"serving\n"
HAND_OVER_WITHIN_S: Final = 30.0
"""A successor's time from the descriptor to SERVING, which it needs to start; one that hangs keeps others waiting so long."""
TAKE_WITHIN_S: Final = 40.0
"""How long a successor tries, for it may not be the only one."""
_TRY_AGAIN_S: Final = 0.02
_SUCCESSORS_WAITING_MAX: Final = 16


class HandoverError(RuntimeError):
    """A running proxy at this address did not hand its port over; the message says which, why, and what to do."""


class Offer:
    """The predecessor's side: hands the listening socket to whoever asks, until one of them serves."""

    def __init__(self, path: Path, listening: socket.socket) -> None:
        """The socket stays the caller's."""
        self._path = path
        self._listening = listening
        self._door: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, taken: Callable[[], None]) -> None:
        """Let successors ask from now on; `taken` is called once, when one serves. Where there can be no unix socket, none
        can ask, and that is logged."""
        try:
            self._door = _listen(self._path)
        except OSError as err:
            log.warning(
                "no_handover", path=self._path, because=err.strerror or err, next="a new proxy cannot take over the port"
            )
            return
        self._task = asyncio.get_running_loop().create_task(self._answer(self._door, taken))

    def close(self) -> None:
        """Hand nothing over any more."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._door is not None:
            self._door.close()
            self._door = None
            self._path.unlink(missing_ok=True)

    async def _answer(self, door: socket.socket, taken: Callable[[], None]) -> None:
        loop, serves = asyncio.get_running_loop(), False
        while not serves:
            successor, _ = await loop.sock_accept(door)
            with successor:
                serves = await self._hand_over(successor)
        taken()

    async def _hand_over(self, successor: socket.socket) -> bool:
        try:
            socket.send_fds(successor, [HELLO], [self._listening.fileno()])
            async with asyncio.timeout(HAND_OVER_WITHIN_S):
                return await asyncio.get_running_loop().sock_recv(successor, len(SERVING)) == SERVING
        except (OSError, TimeoutError):
            count_swallowed("handover")
            return False


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # the slot is ours, so whoever left this has died
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(os.fspath(path))
        door.listen(_SUCCESSORS_WAITING_MAX)
        door.setblocking(False)
    except OSError:
        door.close()
        raise
    return door


class Predecessor:
    """The successor's side: a proxy whose listening socket has come over, and that waits to hear that we serve."""

    def __init__(self, card: Card, connection: socket.socket, listening: socket.socket) -> None:
        self.card = card
        self.listening = listening
        self._connection = connection

    def retire(self) -> None:
        """Tell it that we serve; it accepts no more from then on."""
        try:
            with self._connection:
                self._connection.sendall(SERVING)
        except OSError as err:  # it has died, or does not wait any more
            log.warning("not_taken_over", process=self.card.name, pid=self.card.pid, because=err.strerror or err,
                        next="if it still runs, it shares the port: retire it with SIGQUIT")  # fmt: skip


async def take(running: Process) -> Predecessor | None:
    """The running proxy at our address that began first, with its listening socket; None if none runs there.

    Takes at most `TAKE_WITHIN_S`, and ends with None when the process is told to stop. Raises HandoverError; OSError if
    `proxy_listen` cannot be resolved.
    """
    where = address.resolved(running.settings.proxy_listen)
    deadline = time.monotonic() + TAKE_WITHIN_S
    while not running.stopping.is_set() and (card := _first_at(running, where)):
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await _ask(card, running.data.handover_socket(card.slot))
        except OSError as err:  # another successor was first, or it is about to leave: then its card says so
            has_no_door = isinstance(err, FileNotFoundError) and card == _first_at(running, where)
            if has_no_door or time.monotonic() > deadline:
                raise HandoverError(_refusal(card, err)) from err
        await asyncio.sleep(_TRY_AGAIN_S)
    return None


def _first_at(running: Process, where: str) -> Card | None:
    there = [
        card
        for card in presence.living(running.data.run, "proxy")
        if card.state == "running" and card.listen == where and card.name != running.name
    ]
    return min(there, key=lambda card: card.started_at, default=None)


def _refusal(card: Card, err: OSError) -> str:
    because = err.strerror or str(err) or f"no answer in {TAKE_WITHIN_S:g} s"
    return (
        f"{card.name} (pid {card.pid}) does not hand over {card.listen}: {because}; "
        "stop it, or start without --takeover to share the port with it"
    )


async def _ask(card: Card, path: Path) -> Predecessor:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(os.fspath(path))
        said, descriptors = await _received(connection)
        if said != HELLO or not descriptors:
            raise OSError(f"it says {said!r}" if said else "it closes the connection")
        os.set_inheritable(descriptors[0], False)
        return Predecessor(card, connection, socket.socket(fileno=descriptors[0]))
    except BaseException:
        connection.close()
        raise


async def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    while True:
        try:
            said, descriptors, _, _ = socket.recv_fds(connection, len(HELLO), 1)
        except BlockingIOError:  # no transport reads descriptors, so we look
            await asyncio.sleep(_TRY_AGAIN_S)
        else:
            return said, descriptors
