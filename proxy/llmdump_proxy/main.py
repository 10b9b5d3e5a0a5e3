"""The forwarding process: puts the parts together, keeps the time, and leaves in order.

There are two ways to leave. SIGTERM stops: exchanges have `FINISH_WITHIN_S`, then they are cut. A takeover or SIGQUIT retires:
no more connections, and the process leaves when its last client has gone, at `retire_timeout_s` at the latest.

Either way no connection is closed while its client may be sending a request on it, which would be lost: as long as there is
time, an idle one is kept for one more request, whose response says `Connection: close` (RFC 9112 section 9.6).
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from llmdump import admin, log, process
from llmdump.metrics import Sample, by_label
from llmdump.process import Process
from llmdump.version import __version__
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.handover import HandoverError, Offer, Predecessor, take
from llmdump_proxy.link import Shipping
from llmdump_proxy.listening import Listener, open_socket
from llmdump_proxy.outbox import Frame
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.redact import Redaction, RedactionError
from llmdump_proxy.routes import RouteError
from llmdump_proxy.rules import RuleError
from llmdump_proxy.session import Session
from llmdump_proxy.transport import ClientProtocol, Pool
from llmdump_proxy.trusted import TrustedError

TICK_S: Final = 0.25
# Of the 4 s that stopping may take: for exchanges to finish by themselves, and for records to be acknowledged.
FINISH_WITHIN_S: Final = 1.0
# A client that asks again and again does so sooner; what is silent for longer is taken for idle when there is little time.
QUIET_S: Final = 0.25
DRAIN_WITHIN_S: Final = 1.5
# And for what is not acknowledged by then to be put into the spill file.
KEEP_WITHIN_S: Final = 0.8


class Proxy:
    """One forwarding process."""

    def __init__(self, running: Process, instance: str, loop: asyncio.AbstractEventLoop) -> None:
        """`instance` is 16 hex digits. Raises RouteError, RuleError, TrustedError, RedactionError; OSError (CA file)."""
        settings = running.settings
        self._running = running
        self._loop = loop
        self._sessions: set[Session] = set()
        self.shipping = Shipping(settings, running.data, instance, loop)
        self.recorder = Recorder(instance, self.shipping, settings.capture_truncate_bytes, _redaction(running))
        stats = Stats()
        self._pool = Pool(settings, stats, loop)
        self.engine = Engine(settings, self.recorder, self._pool, stats, loop.time())
        self._retiring: asyncio.Task[None] | None = None
        if settings.on_overflow == "block":
            self.recorder.on_full = self._block
        self.shipping.on_room = self._room
        self.shipping.on_lost = self._lost

    async def serve(self, sock: socket.socket, predecessor: Predecessor | None) -> None:
        """Forward until the process is told to stop; then finish, hand over, and return."""
        running = self._running
        listener = Listener(sock, lambda: ClientProtocol(self.engine, self._sessions), self._loop)
        await listener.open()
        pages = await admin.serve(running.settings.proxy_admin_listen, running.presence, self.samples, self.health)
        ticking = self._loop.create_task(self._tick())
        offer = Offer(running.data.handover_socket(running.presence.card.slot), listener.socket)
        offer.open(partial(self._retire, listener, offer, taken=True))
        self._loop.add_signal_handler(signal.SIGQUIT, partial(self._retire, listener, offer, taken=False))
        self._say_hello(listener.address)
        if predecessor:
            predecessor.retire()
        await running.stopping.wait()
        offer.close()
        await listener.close(taken=False)
        await self._finish_exchanges()
        self.recorder.bye(time.time())
        drained = await self.shipping.drain(DRAIN_WITHIN_S)
        if not drained:
            await self._keep()
        ticking.cancel()
        self._pool.close()
        await self.shipping.close()
        pages.close()

    def _say_hello(self, listen: str) -> None:
        about = {"version": __version__, "pid": os.getpid(), "host": socket.gethostname(), "listen": listen}
        self.recorder.hello(time.time(), about)
        self._running.started(listen=listen, instance=self.recorder.instance)

    def _retire(self, listener: Listener, offer: Offer, *, taken: bool) -> None:
        if not self._retiring and not self._running.stopping.is_set():
            self._running.presence.update(state="retiring")
            self._retiring = self._loop.create_task(self._finish_with_clients(listener, offer, taken=taken))

    async def _finish_with_clients(self, listener: Listener, offer: Offer, *, taken: bool) -> None:
        """Accept no more, go on for the clients there are, and stop when the last has gone or the time is up."""
        running = self._running
        self.engine.leaving = True
        offer.close()
        await listener.close(taken=taken)
        timeout_s = running.settings.retire_timeout_s
        log.info("retiring", process=running.name, clients=len(self._sessions), within_s=f"{timeout_s:g}")
        deadline = self._loop.time() + timeout_s
        while self._sessions and self._loop.time() < deadline and not running.stopping.is_set():
            await asyncio.sleep(TICK_S)
        running.stop()

    async def _keep(self) -> None:
        kept, given_up = await self.shipping.keep(KEEP_WITHIN_S)
        because = "no writer acknowledged them"
        if kept:
            log.warning("records_spilled", records=kept, because=because, next="start a writer; the next proxy sends them")
        if given_up:
            log.error("records_given_up", records=given_up, because=because, next="start a writer first")

    async def _finish_exchanges(self) -> None:
        self.engine.leaving = True
        deadline = self._loop.time() + FINISH_WITHIN_S
        while self._is_busy() and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
            self.engine.clock.now = self._loop.time()
        for session in list(self._sessions):
            session.shut_down()

    def _is_busy(self) -> bool:
        quiet_since = self._loop.time() - QUIET_S
        return bool(self.engine.stats.open_exchanges) or any(one.last_active > quiet_since for one in self._sessions)

    async def _tick(self) -> None:
        while True:
            self.engine.clock.now = self._loop.time()
            for session in list(self._sessions):
                session.tick()
            self._pool.tick()
            await asyncio.sleep(TICK_S)

    def _block(self) -> None:
        # With room left, the record alone is larger than the budget, and waiting would never end.
        if not self.engine.capture_full and not self.shipping.room():
            self.engine.capture_full = True
            for session in list(self._sessions):
                session.capture_full()

    def _room(self) -> None:
        self.recorder.tell_gaps(time.time())
        if self.engine.capture_full:
            self.engine.capture_full = False
            for session in list(self._sessions):
                session.capture_drained()

    def _lost(self, frame: Frame) -> None:
        self.recorder.tell_lost(time.time(), frame.ranges, "spill_unreadable")

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Forwarding works as long as this answers; capture is told beside it."""
        connected = self.shipping.writers_connected
        held_bytes, failing = self.shipping.outbox.held_bytes, self.shipping.spill_failing
        told = {"instance": self.recorder.instance, "writers": connected, "queue_bytes": held_bytes}
        return True, {**told, "spill_error": failing} if failing else told

    def samples(self) -> Iterator[Sample]:
        """The proxy's metrics."""
        yield from self._forwarding_samples()
        yield Sample("llmdump_records_made_total", self.recorder.made)
        yield from by_label("llmdump_records_dropped_total", self.recorder.lost)
        yield from self.shipping.samples()

    def _forwarding_samples(self) -> Iterator[Sample]:
        stats = self.engine.stats
        yield Sample("llmdump_proxy_client_connections", len(self._sessions))
        yield Sample("llmdump_proxy_client_connections_refused_total", stats.refused_connections)
        yield from by_label("llmdump_proxy_upstream_connections", {"busy": self._pool.busy, "idle": self._pool.idle})
        yield Sample("llmdump_proxy_open_exchanges", stats.open_exchanges)
        yield Sample("llmdump_proxy_retiring", int(self._retiring is not None))
        yield from by_label("llmdump_proxy_exchanges_total", stats.ends)
        yield Sample("llmdump_proxy_exchanges_unrecorded_total", stats.unrecorded)
        yield from by_label("llmdump_proxy_bytes_total", {"client": stats.client_bytes, "upstream": stats.upstream_bytes})
        own = {"first": stats.own_first_s, "worst": stats.own_worst_s, "sum": stats.own_sum_s}
        yield from by_label("llmdump_proxy_own_overhead_seconds", own)
        yield Sample("llmdump_proxy_upstream_connect_seconds", stats.dial_s)


def _redaction(running: Process) -> Redaction | None:
    settings = running.settings
    if not settings.capture_redact_bodies:
        return None
    literals = [text.encode() for text in settings.capture_redact_literals]
    return Redaction(literals, [text.encode() for text in settings.capture_redact_patterns])


async def serve(running: Process) -> None:
    """The proxy's life."""
    loop = asyncio.get_running_loop()
    try:
        proxy = Proxy(running, secrets.token_hex(8), loop)
    except (RouteError, RuleError, TrustedError, RedactionError) as err:
        process.fail(str(err), process.EXIT_SETTINGS)
    predecessor = await _predecessor(running)
    sock = predecessor.listening if predecessor else open_socket(running)
    if running.settings.capture_secrets == "keep":
        log.warning("credentials_are_recorded", because="capture_secrets is keep", data=running.data.root)
    await proxy.shipping.start()
    # What is here at start stays; the collector need not look at it again.
    gc.freeze()
    await proxy.serve(sock, predecessor)


async def _predecessor(running: Process) -> Predecessor | None:
    if not running.settings.takeover:
        return None
    try:
        return await take(running)
    except HandoverError as err:
        process.fail(str(err))


def main() -> None:
    """The console script `llmdump-proxy`."""
    process.main("proxy", "Forward LLM traffic, and record every byte of it outside the request path.", serve)
