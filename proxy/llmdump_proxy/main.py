"""The forwarding process: puts the parts together, keeps the time, and leaves in order."""

import asyncio
import gc
import os
import secrets
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from llmdump import address, admin, log, presence, process
from llmdump.metrics import Sample, by_label
from llmdump.process import Process
from llmdump_proxy.engine import Engine, Stats
from llmdump_proxy.link import Shipping
from llmdump_proxy.outbox import Frame
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.redact import Redaction, RedactionError
from llmdump_proxy.routes import RouteError
from llmdump_proxy.rules import RuleError
from llmdump_proxy.session import Session
from llmdump_proxy.transport import ClientProtocol, Pool

TICK_S: Final = 0.25
# Of the 4 s that stopping may take: for exchanges to finish by themselves, and for records to be acknowledged.
FINISH_WITHIN_S: Final = 1.0
DRAIN_WITHIN_S: Final = 1.5
# And for what is not acknowledged by then to be put into the spill file.
KEEP_WITHIN_S: Final = 0.8


class Proxy:
    """One forwarding process."""

    def __init__(self, running: Process, instance: str, loop: asyncio.AbstractEventLoop) -> None:
        """`instance` is 16 hex digits. Raises RouteError, RuleError, RedactionError; OSError for an unusable CA file."""
        settings = running.settings
        self._running = running
        self._loop = loop
        self._sessions: set[Session] = set()
        self.shipping = Shipping(settings, running.data, instance, loop)
        self.recorder = Recorder(instance, self.shipping, settings.capture_truncate_bytes, _redaction(running))
        stats = Stats()
        self._pool = Pool(settings, stats, loop)
        self.engine = Engine(settings, self.recorder, self._pool, stats, loop.time())
        self._blocked = False
        if settings.on_overflow == "block":
            self.recorder.on_full = self._block
        self.shipping.on_room = self._room
        self.shipping.on_lost = self._lost

    async def serve(self, sock: socket.socket) -> None:
        """Forward until the process is told to stop; then finish, hand over, and return."""
        running, listen = self._running, address.bound(sock)
        server = await self._loop.create_server(lambda: ClientProtocol(self.engine, self._sessions), sock=sock, backlog=4096)
        runner = await admin.serve(running.settings.proxy_admin_listen, running.presence, self.samples, self.health)
        ticking = self._loop.create_task(self._tick())
        about = {"version": version("llmdump"), "pid": os.getpid(), "host": socket.gethostname(), "listen": listen}
        self.recorder.hello(time.time(), about)
        running.started(listen=listen, instance=self.recorder.instance)
        await running.stopping.wait()
        server.close()
        await self._finish_exchanges()
        self.recorder.bye(time.time())
        drained = await self.shipping.drain(DRAIN_WITHIN_S)
        if not drained:
            await self._keep()
        ticking.cancel()
        self._pool.close()
        await self.shipping.close()
        await runner.cleanup()

    async def _keep(self) -> None:
        kept, given_up = await self.shipping.keep(KEEP_WITHIN_S)
        because = "no writer acknowledged them"
        if kept:
            log.warning("records_spilled", records=kept, because=because, next="start a writer; the next proxy sends them")
        if given_up:
            log.error("records_given_up", records=given_up, because=because, next="start a writer first")

    async def _finish_exchanges(self) -> None:
        for session in list(self._sessions):
            session.wind_down()
        deadline = self._loop.time() + FINISH_WITHIN_S
        while self.engine.stats.open_exchanges and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        for session in list(self._sessions):
            session.shut_down()

    async def _tick(self) -> None:
        while True:
            self.engine.clock.now = self._loop.time()
            for session in list(self._sessions):
                session.tick()
            self._pool.tick()
            await asyncio.sleep(TICK_S)

    def _block(self) -> None:
        # With room left, the record alone is larger than the budget, and waiting would never end.
        if not self._blocked and not self.shipping.room():
            self._blocked = True
            for session in list(self._sessions):
                session.capture_full()

    def _room(self) -> None:
        self.recorder.tell_gaps(time.time())
        if self._blocked:
            self._blocked = False
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


def _listen(running: Process) -> socket.socket:
    """The listening socket, shared with the other proxies of this data directory; a port that others serve is refused."""
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


async def serve(running: Process) -> None:
    """The proxy's life."""
    loop = asyncio.get_running_loop()
    try:
        proxy = Proxy(running, secrets.token_hex(8), loop)
    except (RouteError, RuleError, RedactionError) as err:
        process.fail(str(err), process.EXIT_SETTINGS)
    sock = _listen(running)
    if running.settings.capture_secrets == "keep":
        log.warning("credentials_are_recorded", because="capture_secrets is keep", data=running.data.root)
    await proxy.shipping.start()
    # What is here at start stays; the collector need not look at it again.
    gc.freeze()
    await proxy.serve(sock)


def main() -> None:
    """The console script `llmdump-proxy`."""
    process.main("proxy", "Forward LLM traffic, and record every byte of it outside the request path.", serve)
