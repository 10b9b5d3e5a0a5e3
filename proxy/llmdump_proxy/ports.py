"""What sessions ask of the world of sockets, and what they are told by it. `transport` is the real thing."""

from collections.abc import Callable
from typing import Protocol

from llmdump_proxy.routes import Origin


class Transport(Protocol):
    """One connection; asyncio's transports have all of it."""

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def can_write_eof(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Served(Protocol):
    """Whoever is served by a backend connection: a session."""

    def upstream_ready(self, upstream: "Upstream") -> None: ...
    def upstream_failed(self, status: int, code: str, message: str) -> None: ...
    def upstream_data(self, data: bytes) -> None: ...
    def upstream_eof(self) -> bool: ...
    def upstream_lost(self, error: Exception | None) -> None:
        """`error` is None for a clean end, EOFError for an end that anybody on the way could have made (TLS)."""

    def upstream_full(self) -> None: ...
    def upstream_drained(self) -> None: ...


class Upstream(Protocol):
    """A connection to a backend that is ready for a request."""

    @property
    def transport(self) -> Transport: ...

    facts: bytes
    """The encoded `x_up` and `x_addr` entries."""
    dial_ms: float
    """What it took to make it."""
    uses: int
    """Exchanges it has been used for, the one that goes on included."""

    def attach(self, served: Served) -> None:
        """From now on what it reads goes to `served`."""


class Upstreams(Protocol):
    """The way to backends."""

    def take(self, origin: Origin) -> Upstream | None:
        """An idle connection, if there is one."""

    def leave(self, upstream: Upstream, *, reusable: bool, flush: bool) -> None:
        """The exchange on it is over. `flush`: what was written is still to arrive, even if the connection is not reusable."""

    def dial(self, served: Served, origin: Origin) -> Callable[[], None]:
        """Make a connection and tell `served` (`upstream_ready` or `upstream_failed`), later; gives what cancels it."""

    def has_died(self, client: Transport) -> bool:
        """Whether a client's connection is broken, though nobody reads it and would be told."""

    def reset(self, client: Transport) -> None:
        """Close a client's connection, after what is written, in a way that it cannot take for a clean end."""
