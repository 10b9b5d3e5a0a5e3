"""Why a connection is not read at the moment. Sans I/O.

There may be several reasons at once, each with a bit of its own; it is read again when the last has gone.
"""

from typing import Final

from llmdump_proxy.ports import Transport

UPSTREAM_FULL: Final = 1
BACKLOG: Final = 2
PENDING: Final = 4
CAPTURE: Final = 8
CLIENT_FULL: Final = 16
ANY: Final = ~0


class Brake:
    """Pauses and resumes the reading of one side, whichever connection that is at the moment."""

    __slots__ = ("_transport", "why")

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport = transport
        self.why = 0
        """The reasons there are; 0 while it is read."""

    def attach(self, transport: Transport) -> None:
        """From now on this connection; reasons that are there hold for it too."""
        self._transport = transport
        if self.why:
            transport.pause_reading()

    def detach(self) -> None:
        """No connection any more; the last one is left as one that is read. Reasons stay."""
        transport, self._transport = self._transport, None
        if self.why and transport and not transport.is_closing():
            transport.resume_reading()

    def hold(self, why: int) -> None:
        """One more reason not to read."""
        if self._transport and not self.why:
            self._transport.pause_reading()
        self.why |= why

    def release(self, why: int) -> None:
        """These reasons have gone."""
        held, self.why = self.why, self.why & ~why
        if held and not self.why and self._transport and not self._transport.is_closing():
            self._transport.resume_reading()
