"""The only module of the proxy that touches client and backend sockets: asyncio Protocols, the pool, the dialler."""

import asyncio
import math
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Final, cast

import aiohappyeyeballs

from llmdump import address
from llmdump.admin import count_swallowed
from llmdump.record import entries
from llmdump.settings import Settings
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.ports import Served, Transport, Upstream
from llmdump_proxy.routes import Origin
from llmdump_proxy.session import Session

# RFC 8305 section 5: how long one address is tried before the next is tried beside it.
HAPPY_EYEBALLS_DELAY_S: Final = 0.25
# For what was written to a backend when the exchange ended, if it does not read it.
FLUSH_WITHIN_S: Final = 10.0
# A dead peer of a silent connection (a WebSocket, a slow completion) is noticed after about two minutes.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_READ_BYTES: Final = 262144
# tcp(7), Linux: the first byte is the state of the connection, and this one follows a reset or probes without an answer.
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_TCP_CLOSE: Final = 7
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel probe a silent connection (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class ClientProtocol(asyncio.Protocol):
    """One client connection's events, passed to its session."""

    def __init__(self, engine: Engine, sessions: set[Session]) -> None:
        self._engine = engine
        self._sessions = sessions
        self._session: Session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        peer = client.get_extra_info("peername") or ("", 0)
        self._session = Session(self._engine, client, address.join(*peer[:2]))
        self._sessions.add(self._session)
        keep_alive(client.get_extra_info("socket"))
        if self._engine.capture_full:  # uvloop begins to read after this, whatever is said here
            asyncio.get_running_loop().call_soon(self._wait, client)
        if len(self._sessions) > self._engine.settings.max_connections:
            self._session.turn_away()

    def _wait(self, client: asyncio.Transport) -> None:
        if self._engine.capture_full and not client.is_closing():
            self._session.capture_full()

    def data_received(self, data: bytes) -> None:
        self._session.client_data(data)

    def eof_received(self) -> bool:
        return self._session.client_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sessions.discard(self._session)
        self._session.client_lost()

    def pause_writing(self) -> None:
        self._session.client_full()

    def resume_writing(self) -> None:
        self._session.client_drained()


class UpstreamProtocol(asyncio.Protocol):
    """One backend connection: serves one session at a time, or waits in the pool."""

    transport: asyncio.Transport

    def __init__(self, pool: "Pool", origin: Origin) -> None:
        self._pool = pool
        self._served: Served | None = None
        self.origin = origin
        self.facts = b""
        self.dial_ms = 0.0
        self.uses = 0
        self.left_at = math.inf
        self._said_end = False
        self.plain: socket.socket | None = None
        """The socket itself, if there is no TLS on it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.facts = entries({"x_up": self.origin.text, "x_addr": address.join(*peer[:2])})[0]

    def attach(self, served: Served) -> None:
        """See `ports.Upstream`."""
        self._served = served

    def detach(self) -> None:
        """Serve nobody any more."""
        self._served = None

    def data_received(self, data: bytes) -> None:
        if self._served:
            self._served.upstream_data(data)
        else:
            self.transport.abort()  # a backend that talks unasked cannot be trusted with a request

    def eof_received(self) -> bool:
        self._said_end = True  # over TLS only a close_notify alert comes here
        return self._served is not None and self._served.upstream_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.plain is None and not self._said_end:
            exc = EOFError("TLS ended without close_notify")
        if exc and self.plain:
            self._read_what_is_left(self.plain)
        served, self._served = self._served, None
        self._pool.lost(self)
        if served:
            served.upstream_lost(exc)

    def _read_what_is_left(self, sock: socket.socket) -> None:
        """A backend that answers early and closes resets us as we write on; its answer still waits in the kernel."""
        while self._served:
            try:
                data = sock.recv(_READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._served.upstream_data(data)

    def pause_writing(self) -> None:
        if self._served:
            self._served.upstream_full()

    def resume_writing(self) -> None:
        if self._served:
            self._served.upstream_drained()


class Pool:
    """Connections to backends: the idle ones of each origin, and how new ones are made."""

    def __init__(self, settings: Settings, stats: Stats, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError if the CA file cannot be used."""
        self._settings = settings
        self._stats = stats
        self._loop = loop
        self._idle: dict[Origin, list[UpstreamProtocol]] = {}
        self._all: set[UpstreamProtocol] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context(cafile=settings.upstream_ca_file or None)
        self._tls.set_alpn_protocols(["http/1.1"])

    @property
    def idle(self) -> int:
        """Connections that wait."""
        return sum(map(len, self._idle.values()))

    @property
    def busy(self) -> int:
        """Connections that serve."""
        return len(self._all) - self.idle

    def take(self, origin: Origin) -> Upstream | None:
        """See `ports.Upstreams`."""
        waiting = self._idle.get(origin)
        while waiting:
            upstream = waiting.pop()
            if not upstream.transport.is_closing():
                upstream.left_at = math.inf
                return upstream
        return None

    def leave(self, upstream: Upstream, *, reusable: bool, flush: bool) -> None:
        """See `ports.Upstreams`."""
        assert isinstance(upstream, UpstreamProtocol)
        upstream.detach()
        upstream.left_at = self._loop.time()
        waiting = self._idle.setdefault(upstream.origin, [])
        room = self._settings.upstream_keepalive_s > 0 and len(waiting) < self._settings.upstream_max_idle
        if reusable and room and not upstream.transport.is_closing():
            waiting.append(upstream)
        elif flush:
            upstream.transport.close()
        else:
            upstream.transport.abort()

    def has_died(self, client: Transport) -> bool:
        """See `ports.Upstreams`."""
        sock = cast(asyncio.Transport, client).get_extra_info("socket")
        if _TCP_INFO is None or sock is None or client.is_closing():
            return False
        return bool(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _TCP_CLOSE)

    def reset(self, client: Transport) -> None:
        """See `ports.Upstreams`."""
        sock = cast(asyncio.Transport, client).get_extra_info("socket")
        if sock is not None and not client.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        client.close()

    def lost(self, upstream: UpstreamProtocol) -> None:
        """A connection is gone."""
        self._all.discard(upstream)
        waiting = self._idle.get(upstream.origin, [])
        if upstream in waiting:
            waiting.remove(upstream)

    def tick(self) -> None:
        """Close what has been idle for too long, and drop what does not take our last bytes."""
        now = self._loop.time()
        for waiting in self._idle.values():
            for upstream in waiting:
                if now - upstream.left_at > self._settings.upstream_keepalive_s:
                    upstream.transport.close()
        for upstream in self._all:
            if upstream.transport.is_closing() and now - upstream.left_at > FLUSH_WITHIN_S:
                upstream.transport.abort()

    def close(self) -> None:
        """Close everything."""
        for task in self._dials:
            task.cancel()
        for upstream in list(self._all):
            upstream.transport.abort()

    def dial(self, served: Served, origin: Origin) -> Callable[[], None]:
        """See `ports.Upstreams`."""
        task = self._loop.create_task(self._connect_for(served, origin))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return lambda: None if asyncio.current_task(self._loop) is task else _cancel(task)

    async def _connect_for(self, served: Served, origin: Origin) -> None:
        since = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.upstream_connect_timeout_s):
                upstream = await self._connect(origin)
        except (OSError, RuntimeError) as err:  # TLS, time-out and resolver raise OSErrors, aiohappyeyeballs both
            served.upstream_failed(*failure(err, origin, self._settings.upstream_connect_timeout_s))
            return
        upstream.dial_ms = (time.perf_counter() - since) * 1000
        self._stats.dial_s.observe(upstream.dial_ms / 1000)
        self._all.add(upstream)
        served.upstream_ready(upstream)

    async def _connect(self, origin: Origin) -> UpstreamProtocol:
        addresses = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S, interleave=1, loop=self._loop
        )
        keep_alive(sock)
        tls = origin.scheme == "https"
        try:
            _, protocol = await self._loop.create_connection(
                lambda: UpstreamProtocol(self, origin),
                sock=sock,
                ssl=self._tls if tls else None,
                server_hostname=origin.host if tls else None,
            )
        except BaseException:
            sock.close()
            raise
        protocol.plain = None if tls else sock
        return protocol


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def failure(err: Exception, origin: Origin, timeout_s: float) -> tuple[int, str, str]:
    """Status, code and message for a client whose backend cannot be reached."""
    where = origin.text
    if isinstance(err, TimeoutError):
        return 504, "upstream_connect_timeout", f"{where} could not be reached in {timeout_s:g} s (upstream_connect_timeout_s)"
    if isinstance(err, socket.gaierror):
        return 502, "upstream_name_failure", f"the name in {where} cannot be resolved: {err.strerror}"
    if isinstance(err, ssl.SSLError):
        hint = "; a CA of your own goes into upstream_ca_file" if isinstance(err, ssl.SSLCertVerificationError) else ""
        return 502, "upstream_tls", f"no TLS with {where}: {err}{hint}"
    if isinstance(err, ConnectionRefusedError):
        return 502, "upstream_refused", f"{where} refuses the connection: is it running?"
    if isinstance(err, ConnectionError):
        return 502, "upstream_reset", f"{where} broke the connection: {err}"
    count_swallowed("dial")
    return 502, "upstream_unreachable", f"{where} cannot be reached: {err}"
