"""The proxy's listening socket: opened beside others or alone, and left without resetting those who wait in its queue."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from llmdump import address, presence
from llmdump.admin import count_swallowed
from llmdump.process import Process

_QUEUED_MAX: Final = address.LISTEN_BACKLOG


def open_socket(running: Process) -> socket.socket:
    """A listening socket, shared with the other proxies of this data directory; a port that others serve is refused.

    Blocking. Raises OSError.
    """
    where = running.settings.proxy_listen
    if not _others(running):
        try:
            address.listen(where).close()
        except OSError:
            if not _others(running):  # else one has begun since the first look
                raise
    return address.listen(where, shared=True)


def _others(running: Process) -> bool:
    return any(card.name != running.name for card in presence.living(running.data.run, "proxy"))


class Listener:
    """Accepts clients until it is closed."""

    def __init__(self, sock: socket.socket, serve: Callable[[], asyncio.Protocol], loop: asyncio.AbstractEventLoop) -> None:
        """`serve` makes the protocol of one more connection."""
        self.address = address.bound(sock)
        self.socket = sock.dup()
        """The same socket under a descriptor that stays ours when accepting ends: to hand over, or to empty its queue."""
        self._sock = sock
        self._serve = serve
        self._loop = loop
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Accept from now on."""
        self._server = await self._loop.create_server(self._serve, sock=self._sock, backlog=address.LISTEN_BACKLOG)

    async def close(self, *, taken: bool) -> None:
        """Accept no more. Whoever waits in the queue is served first, unless it is `taken`: then a successor reads it."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if not taken:
            await self._empty_the_queue()
        self.socket.close()

    async def _empty_the_queue(self) -> None:
        for _ in range(_QUEUED_MAX):
            try:
                client, _ = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                count_swallowed("accept")
                return
            client.setblocking(False)
            await self._loop.connect_accepted_socket(self._serve, client)
