"""The sockets between the outbox and the writers: one DEALER a writer, on the forwarding loop, where nothing may block.

What `outbox` decides is done here. Rules for whoever edits this:

- Every socket call is NOBLOCK. Files are for `spilling`'s thread, a directory is read in a thread, and ZeroMQ's context ends
  in one.
- A ZeroMQ descriptor signals edges, and any call on its socket may consume one: after every send and every read EVENTS is
  looked at again (`_Peer.turn`). Without that, acknowledgements sat unseen in 100 of 100 tries. A slow tick looks
  as well, in case this file is wrong.
- IMMEDIATE: there is no queue to a writer that is not there, so nothing is "sent" that only we hold. Connections and
  their ends come from the socket's monitor; they say when to greet, never what was delivered.
- Memory is the outbox's budget, a window for each writer in ZeroMQ's queues at most, and while spilled records of dead
  instances are sent, `orphans.LANES_AT_ONCE` times `LANE_BYTES`.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from llmdump import keys, log, presence, wire
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump.metrics import Sample
from llmdump.settings import Settings
from llmdump_proxy.orphans import Orphans
from llmdump_proxy.outbox import RESERVE_BYTES, Frame, Lane, Outbox, Session, State
from llmdump_proxy.spill import Room, Spill
from llmdump_proxy.spilling import FileThread, LaneFile

LOOK_FOR_WRITERS_EVERY_S: Final = 0.25
TICK_S: Final = 0.1
STALL_S: Final = 3.0
COALESCE_S: Final = 0.01
"""Least time between messages to a writer: a first record leaves at the end of its turn of the loop, those that follow it
at once leave together. Each message wakes ZeroMQ's thread and, on a machine with few cores, costs the loop its core: with
100 streams of 50 events a second recording a chunk took the proxy 12 to 17 µs of CPU so, and 18 to 20 with 2 ms. It is also
how much a killed proxy has not handed over; the writer's flush interval, ten times as long, counts for all else."""
LINGER_MS: Final = 200
RECONNECT_MS: Final = 50
# A partition that drops packets ends a tcp connection only after minutes; ZMTP's ping finds it in seconds.
PING_MS: Final = 2000
SEND_HWM: Final = 64
FROM_WRITER_BYTES_MAX: Final = 1024
MESSAGES_A_TURN_MAX: Final = 256
"""Read from, or sent to, one writer before the loop gets its turn again."""
LOG_EVERY_S: Final = 60.0

_EVENTS: Final = int(zmq.EVENTS)
_IN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


class Shipping:
    """Takes records from the forwarding loop and gets them to the writers. All methods are for the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        instance: str,
        loop: asyncio.AbstractEventLoop,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
        thread: FileThread | None = None,
    ) -> None:
        """`instance`, 16 ASCII characters, is unique to this process: it numbers the records. Raises KeyFileError."""
        self._policy = settings.on_overflow
        self.outbox = Outbox(settings.capture_memory_bytes, spills=self._policy == "spill", wake=self._plan_flush)
        self.ship = self.outbox.add
        """Take a record; numbers rise. False: there is no room, and it was not taken.

        After False, `on_room` is called once there is room; but if `room()` is still true, this record is larger than
        the whole budget, and waiting is in vain. `reserve` may use the room kept for ends, gaps and the bye.
        """
        self.on_room: Callable[[], None] | None = None
        """Called when there is room again after a record was refused."""
        self.on_lost: Callable[[Frame], None] | None = None
        """Called when records that were taken cannot be read back from the spill file."""
        self._loop = loop
        self._run = data.run
        self._instance = instance.encode("ascii")
        self._fixed = settings.writer_endpoints
        self._curve = keys.of_proxy(settings)
        for reason in filter(None, (keys.refusal(one, curve=self._curve is not None) for one in self._fixed)):
            raise keys.KeyFileError(reason)
        # A writer may keep records this long before it flushes; only after that is silence a sign.
        self._stall_s = STALL_S + settings.capture_flush_interval
        self._context = context or zmq.Context()
        self._peers: dict[str, _Peer] = {}
        self._thread = thread or FileThread(loop)
        self._room = Room(settings.capture_spill_bytes, settings.capture_memory_bytes + RESERVE_BYTES)
        self._spill = Spill(data.spill, instance, self._room)
        self._files: dict[Lane, LaneFile] = {}
        self._orphans = Orphans(
            self._thread, data.spill, self._room, self._connect_for, self._new_session, self._open_endpoints
        )
        self._flushed_at = 0.0
        self._empty = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None
        self._searches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to the writers there are, and to those that come. Does not wait for any."""
        for endpoint in self._fixed:
            self._connect(endpoint)
        if not self._fixed:
            await self._look_for_writers()
            self._searches.append(self._loop.create_task(self._keep_looking()))
        self._searches.append(self._loop.create_task(self._orphans.keep_looking()))
        self._on_tick()

    def lane(self, exchange: str) -> Lane:
        """Where the records of an exchange go, for its whole life."""
        return self.outbox.lane(exchange)

    def room(self) -> bool:
        """False from the first refused record until a quarter of the budget is free again."""
        return not self.outbox.full

    @property
    def why(self) -> str:
        """Why the record that was just refused was."""
        if self._policy != "spill" or self.outbox.room_is_too_small or self.spill_failing == "full":
            return "overflow"
        return "spill_error" if self.spill_failing else "spill_slow"

    @property
    def spill_failing(self) -> str:
        """Why the spill file takes nothing: an errno name, or `full`; empty while it does."""
        return next((file.failing for file in self._files.values() if file.failing), "")

    @property
    def writers_connected(self) -> int:
        """Writers in session."""
        return len(self.outbox.in_session)

    async def drain(self, within_s: float) -> bool:
        """Wait until all records are acknowledged, at most so long. Whether they are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.outbox.held_bytes:
                    self._empty.clear()
                    await self._empty.wait()
        return not self.outbox.held_bytes

    async def keep(self, within_s: float) -> tuple[int, int]:
        """Put what is not acknowledged into the spill file, for the next proxy: the records that are there, and those that
        are not. Takes no longer than `within_s`. Nothing may be shipped any more."""
        held, kept = self.outbox.held_records, 0
        on_file = self.outbox.records_on_file
        if self._policy != "drop":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    self._name_files()
                    for file in self._files.values():
                        kept += await file.keep()
        return min(on_file + kept, held), max(0, held - on_file - kept)

    async def close(self) -> None:
        """Say BYE and leave, within LINGER_MS. What is not acknowledged, and not kept, is given up."""
        for search in self._searches:
            search.cancel()
        await asyncio.gather(*self._searches, return_exceptions=True)
        if self._tick:
            self._tick.cancel()
        self._flush()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        try:
            async with asyncio.timeout(LINGER_MS / 1000):
                await self._orphans.close()
                await self._thread.run(self._spill.close)
        except TimeoutError:
            pass
        except OSError:  # what could not be removed is found by the next proxy
            count_swallowed("spill_close")
        self._thread.stop()
        await self._loop.run_in_executor(None, self._context.term)

    def samples(self) -> Iterator[Sample]:
        """The metrics of this part."""
        outbox = self.outbox
        yield Sample("llmdump_records_sent_total", outbox.sent)
        yield Sample("llmdump_records_sent_bytes_total", outbox.sent_bytes)
        yield Sample("llmdump_records_resent_total", outbox.resent)
        yield Sample("llmdump_records_acknowledged_total", outbox.acknowledged)
        yield Sample("llmdump_queue_depth_records", outbox.held_records)
        yield Sample("llmdump_queue_depth_bytes", outbox.held_bytes)
        yield Sample("llmdump_queue_overflow_total", outbox.overflows)
        yield Sample("llmdump_queue_memory_bytes", outbox.memory_bytes)
        yield Sample("llmdump_records_spilled_total", outbox.spilled)
        yield Sample("llmdump_records_dropped_total", outbox.lost + self._orphans.lost, ("spill_unreadable",))
        yield Sample("llmdump_spill_bytes", self._room.used_bytes)
        yield Sample("llmdump_spill_orphaned_bytes", self._orphans.held_bytes)
        yield Sample("llmdump_proxy_writers_connected", self.writers_connected)

    def _plan_flush(self) -> None:
        """At the end of this turn of the loop, but not sooner than COALESCE_S after the last."""
        self.outbox.awake = True
        wait_s = self._flushed_at + COALESCE_S - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.outbox.awake = False
        self._flushed_at = self._loop.time()
        for peer in self._peers.values():
            peer.flush()
        self._look_at_files()

    def _look_at_files(self) -> None:
        if self._policy != "spill":
            return
        for lane in self.outbox.lanes:
            if lane.is_spilling:
                if lane not in self._files or lane.unnamed:
                    self._name_files()
                self._files[lane].look(self._loop.time())

    def _name_files(self) -> None:
        """A file for every lane, by its number; and which writer's it is."""
        for lane in self.outbox.lanes[len(self._files) :]:
            file = LaneFile(self._thread, self._spill, self.outbox, lane, len(self._files), self._spill_changed)
            file.on_lost = self._lost
            self._files[lane] = file
        for endpoint, peer in self._peers.items():
            if peer.lane:
                self._files[peer.lane].belongs_to(endpoint)

    def _spill_changed(self) -> None:
        self._released()
        if not self.outbox.awake:
            self._plan_flush()

    def _lost(self, frame: Frame) -> None:
        if self.on_lost:
            self.on_lost(frame)

    def _released(self) -> None:
        """Records were acknowledged: tell who waits for that."""
        if not self.outbox.held_bytes:
            self._empty.set()
        if self.outbox.was_full and not self.outbox.full:
            self.outbox.was_full = False
            if self.on_room:
                self.on_room()

    def _acknowledged(self) -> None:
        self._released()
        self._look_at_files()

    def _on_tick(self) -> None:
        for peer in self._peers.values():
            peer.turn()
        if self._files:
            self._name_files()
        self._look_at_files()
        self._orphans.tick()
        self._tick = self._loop.call_later(TICK_S, self._on_tick)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_FOR_WRITERS_EVERY_S)
            await self._look_for_writers()

    async def _look_for_writers(self) -> None:
        try:
            cards = await self._loop.run_in_executor(None, presence.living, self._run, "writer")
        except OSError:
            count_swallowed("look_for_writers")
            return
        for card in cards:
            if card.listen:
                self._connect(card.listen)

    def _connect(self, endpoint: str) -> None:
        """A writer's socket is kept for good: the next writer at this endpoint has the files of the last."""
        if endpoint not in self._peers:
            session = self._new_session(self.outbox)
            self._peers[endpoint] = self._connect_for(endpoint, self._instance, session, self._acknowledged)

    def _connect_for(self, endpoint: str, instance: bytes, session: Session, released: Callable[[], None]) -> "_Peer":
        options = partial(_set_options, endpoint=endpoint, instance=instance, curve=self._curve)
        return _Peer(self._loop, self._context, endpoint, options, session, released)

    def _new_session(self, outbox: Outbox) -> Session:
        return Session(outbox, _draw_nonce, self._stall_s)

    def _open_endpoints(self) -> list[str]:
        return [endpoint for endpoint, peer in self._peers.items() if peer.is_open]


def _draw_nonce() -> bytes:
    return os.urandom(wire.NONCE_BYTES)


class _Peer:
    """The socket to one writer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        set_options: Callable[["zmq.Socket[bytes]"], None],
        session: Session,
        released: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._session = session
        self._released = released
        self._log_again_at = 0.0
        self._socket = context.socket(zmq.DEALER)
        set_options(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._fds = (int(self._socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD)))
        for fd in self._fds:
            loop.add_reader(fd, self.turn)
        self._socket.connect(endpoint)
        self.turn()

    @property
    def lane(self) -> Lane | None:
        """The lane of this writer, once it has one."""
        return self._session.lane

    @property
    def is_open(self) -> bool:
        """Whether the writer takes records now."""
        return self._session.state is State.OPEN

    def turn(self) -> None:
        """Read, greet, send: all that can be done now without blocking."""
        if self._socket.closed:
            return  # a turn that was planned before `close`
        now = self._loop.time()
        self._read(now)
        # After the messages: those that are there came over the connection that may have ended.
        self._read_monitor(now)
        self._greet(now)
        self._send(now)
        self._look_again()

    def flush(self) -> None:
        """Send what waits, as far as the writer's window and ZeroMQ take it."""
        self._send(self._loop.time())
        self._look_again()

    def _look_again(self) -> None:
        """Sending may have consumed the edge of an answer that came meanwhile."""
        if _events(self._socket) & _IN:
            self._loop.call_soon(self.turn)

    def close(self) -> None:
        """Say BYE, if the writer is there, and close."""
        for fd in self._fds:
            self._loop.remove_reader(fd)
        if self._session.state is not State.AWAY:
            self._put(wire.encode(wire.Bye()))
        self._session.disconnected()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=LINGER_MS)

    def _read(self, now: float) -> None:
        acknowledged = False
        for _ in range(MESSAGES_A_TURN_MAX):
            if not _events(self._socket) & _IN:
                break
            acknowledged = True
            self._receive(now)
        if acknowledged:
            self._released()

    def _receive(self, now: float) -> None:
        try:
            self._session.receive(wire.from_writer(self._socket.recv_multipart(_NOBLOCK)), now)
        except zmq.Again:
            pass
        except wire.ProtocolError as err:
            count_swallowed("writer_protocol")
            if now >= self._log_again_at:
                self._log_again_at = now + LOG_EVERY_S
                log.error("writer_breaks_protocol", endpoint=self._endpoint, error=err)

    def _read_monitor(self, now: float) -> None:
        while _events(self._monitor) & _IN:
            event = parse_monitor_message(self._monitor.recv_multipart(_NOBLOCK))["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._session.connected(now)
            else:
                log.info("writer_gone", endpoint=self._endpoint, writer=self._session.writer or "unknown")
                self._session.disconnected()

    def _greet(self, now: float) -> None:
        hello = self._session.hello(now)
        if hello and self._put(wire.encode(hello)):
            self._session.said(hello, now)

    def _send(self, now: float) -> None:
        for _ in range(MESSAGES_A_TURN_MAX):
            batch = self._session.batch()
            if batch is None or not self._put(wire.encode(batch)):
                return
            self._session.sent(now)
        self._loop.call_soon(self.turn)

    def _put(self, frames: list[bytes]) -> bool:
        """Whether ZeroMQ took the message. If not, the descriptor tells when it will."""
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, _MORE)
            self._socket.send(frames[-1], _NOBLOCK)
        except zmq.Again:
            return False
        return True


def _events(socket: "zmq.Socket[bytes]") -> int:
    return socket.get(_EVENTS)  # type: ignore[return-value]  # this option is always a number


def _set_options(socket: "zmq.Socket[bytes]", endpoint: str, instance: bytes, curve: keys.ProxyKeys | None) -> None:
    socket.setsockopt(zmq.ROUTING_ID, instance)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.SNDHWM, SEND_HWM)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, FROM_WRITER_BYTES_MAX)
    if endpoint.startswith("tcp:"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    if endpoint.startswith("tcp:") and curve:
        socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public)
        socket.setsockopt(zmq.CURVE_SERVERKEY, curve.writer)
