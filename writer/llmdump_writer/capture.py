"""From what proxies say to what is on disk, and back to what they are told. No socket, no thread, no clock of its own.

    receive ─▶ session ─▶ batch verified ─▶ buffer ──flush──▶ store ─▶ held ─▶ ACK
                                              │ would not fit: close the segment, begin the next
                                              ▼ OSError: give up, RESYNC all; silence to HELLO until a probe succeeds

What is to be sent lies in `outbox` after each call. The caller calls `tick` at least as often as `wait_s` says.
"""

from collections.abc import Callable, Sequence
from typing import Final

from llmdump import log, record, wire
from llmdump.admin import count_swallowed
from llmdump.segment import Name
from llmdump.settings import Settings
from llmdump.wire import Ack, Batch, Bye, FromWriter, Have, Hello, ProtocolError, Resync, Retire
from llmdump_writer import batch as batches
from llmdump_writer.buffer import Buffer
from llmdump_writer.flush import FlushRule
from llmdump_writer.sessions import INSTANCES_MAX, Instance, Sessions, Verdict
from llmdump_writer.store import Store, error_name

PAUSE_S: Final = 0.05
PAUSE_S_MAX: Final = 2.0
_LOG_EVERY_S: Final = 60.0
_IDLE_S: Final = 1.0


class Counts:
    """What the metrics tell. Plain numbers, read from another thread."""

    def __init__(self) -> None:
        self.records = 0
        self.duplicates = 0
        self.resyncs = 0
        self.flushes: dict[str, int] = {}
        self.rotations: dict[str, int] = {}
        self.errors: dict[str, int] = {}


class Capture:
    """One writer's work. Methods block while they write."""

    def __init__(
        self,
        settings: Settings,
        writer: str,
        store: Store,
        held: dict[str, int],
        clock: Callable[[], float],
        closed: Callable[[Sequence[Name]], None],
    ) -> None:
        """`clock` is monotonic, seconds. `closed` hears of each segment that was closed."""
        self.outbox: list[tuple[bytes, FromWriter]] = []
        self.counts = Counts()
        self.failing = ""
        """The error that keeps records from being stored; empty while all is well."""
        self.reason = ""
        """The same in words."""
        self._rule = FlushRule.of(settings)
        self._lines = settings.capture_format != "cbor"
        self._writer = writer
        self._store = store
        self._sessions = Sessions(held)
        self._clock = clock
        self._closed = closed
        self._buffer: Buffer | None = None
        self._begun_at = 0.0
        self._sync_every_s = settings.capture_fsync_interval_s if settings.fsync == "interval" else 0.0
        self._sync_at: float | None = None
        self._hellos: dict[str, bytes] = {}
        self._pause_s = PAUSE_S
        self._probe_at = 0.0
        self._leaving = False
        self._log_again_at = 0.0

    # --- what proxies say

    def receive(self, peer: bytes, frames: list[bytes]) -> None:
        """One message. Never raises for what a peer sends."""
        if len(peer) != 16 or not peer.isascii():
            count_swallowed("writer_peer_name")
            return
        if self._leaving:
            self.outbox.append((peer, Retire()))
            return
        try:
            match wire.from_proxy(frames):
                case Batch() as batch:
                    self._on_batch(peer, batch)
                case Hello(nonce):
                    self._on_hello(peer.decode("ascii"), nonce)
                case Bye():
                    self._on_bye(peer.decode("ascii"))
        except ProtocolError as err:
            self._complain(err)

    def _on_hello(self, name: str, nonce: bytes) -> None:
        if self._buffer and name in self._buffer.last_waiting:
            self.flush("hello")
        if self.failing:
            if len(self._hellos) < INSTANCES_MAX:
                self._hellos[name] = nonce
            return
        self._open(name, nonce)

    def _open(self, name: str, nonce: bytes) -> None:
        instance = self._sessions.get(name)
        instance.open(nonce)
        self._say(name, Have(nonce, instance.held, self._writer))

    def _on_bye(self, name: str) -> None:
        self._hellos.pop(name, None)
        self._sessions.get(name).close()

    def _on_batch(self, peer: bytes, batch: Batch) -> None:
        name = peer.decode("ascii")
        instance = self._sessions.get(name)
        verdict = instance.judge(batch.nonce, batch.seq, self._clock())
        if verdict is Verdict.RESYNC:
            self._resync(name, batch.nonce)
        if verdict is not Verdict.TAKE:
            return
        try:
            numbers = batches.numbers(batch, peer)
        except ProtocolError:
            instance.close()
            self._resync(name, batch.nonce)
            raise
        self._take(name, instance, batch, numbers)

    def _resync(self, name: str, nonce: bytes) -> None:
        self.counts.resyncs += 1
        self._say(name, Resync(nonce))

    def _complain(self, err: ProtocolError) -> None:
        count_swallowed("writer_protocol")
        if self._clock() >= self._log_again_at:
            self._log_again_at = self._clock() + _LOG_EVERY_S
            log.error("proxy_breaks_protocol", error=err)

    def _say(self, name: str, message: FromWriter) -> None:
        self.outbox.append((name.encode("ascii"), message))

    # --- taking records

    def _take(self, name: str, instance: Instance, batch: Batch, numbers: list[int]) -> None:
        """The records of a good batch, without those that were taken before (numbers rise: the first ones)."""
        known = sum(number <= instance.taken for number in numbers)
        self.counts.duplicates += known
        if known == len(numbers):
            if instance.taken == instance.held:
                self._say(name, Ack(batch.nonce, instance.held))
            return
        lengths, body = batch.lengths[known:], batch.body
        if known:
            numbers, body = numbers[known:], body[sum(batch.lengths[:known]) :]
        if self._lines or not self._fits({"cbor": len(body)}):
            self._take_singly(name, instance, numbers, lengths, body)
        else:
            self._active().add(name, numbers, lengths, body, self._clock())
            instance.taken = numbers[-1]
        self._flush_if_due()

    def _take_singly(self, name: str, instance: Instance, numbers: Sequence[int], lengths: Sequence[int], body: bytes) -> None:
        at = 0
        for number, size in zip(numbers, lengths, strict=True):
            one = body[at : at + size]
            at += size
            lines, exchange = b"", ""
            if self._lines:
                decoded = record.decode(one)
                lines, exchange = b"".join(self._store.converter.lines(decoded)), decoded.exchange
            if not self._fits({"cbor": size, "jsonl": len(lines)}) and not self._rotate("size"):
                self._store.converter.forget([exchange])
                return
            self._active().add(name, [number], [size], one, self._clock(), lines, exchange)
            instance.taken = number

    def _active(self) -> Buffer:
        if self._buffer is None:
            self._buffer = self._store.begin()
            self._begun_at = self._clock()
        return self._buffer

    def _fits(self, more: dict[str, int]) -> bool:
        """Whether these bytes fit into the segment, which takes one record at least."""
        buffer = self._active()
        return not buffer.records or self._store.catalog.limits.fits(buffer.sizes_with(more))

    # --- files

    def _flush_if_due(self) -> None:
        if self._buffer:
            trigger = self._rule.trigger(self._buffer.state, self._clock())
            if trigger:
                self.flush(trigger)

    def flush(self, trigger: str) -> bool:
        """Store what waits and acknowledge it. False if that failed: then it is given up."""
        buffer = self._buffer
        if buffer is None or not buffer.state.entries:
            return True
        entries, last = buffer.state.entries, buffer.last_waiting
        self.counts.flushes[trigger] = self.counts.flushes.get(trigger, 0) + 1
        try:
            self._store.write(buffer)
        except OSError as err:
            self._give_up(buffer, err)
            return False
        self.counts.records += entries
        self._pause_s = PAUSE_S
        if self._sync_every_s and self._sync_at is None:
            self._sync_at = self._clock() + self._sync_every_s
        for name, number in last.items():
            instance = self._sessions.get(name)
            instance.held = number
            if instance.nonce:
                self._say(name, Ack(instance.nonce, number))
        return True

    def _rotate(self, trigger: str) -> bool:
        """Flush, close the active segment with a footer. False if the flush failed."""
        if not self.flush("rotation"):
            return False
        if self._buffer and self._buffer.records:
            self.counts.rotations[trigger] = self.counts.rotations.get(trigger, 0) + 1
            self._closed(self._store.close(self._buffer))
        self._buffer = self._sync_at = None
        return True

    def _sync(self, buffer: Buffer) -> None:
        """With `fsync: interval`. A file whose sync failed is left alone; what was not acknowledged is sent again."""
        self._sync_at = None
        try:
            self._store.sync(buffer)
        except OSError as err:
            self._give_up(buffer, err)

    def _give_up(self, buffer: Buffer, err: OSError) -> None:
        self._store.converter.forget(buffer.exchanges)
        self._store.fail(buffer)
        self._buffer = self._sync_at = None
        self._fails(err)
        for name, nonce in self._sessions.give_up():
            self._resync(name, nonce)

    def _fails(self, err: OSError) -> None:
        name = error_name(err)
        self.counts.errors[name] = self.counts.errors.get(name, 0) + 1
        if not self.failing:
            log.error("disk_refuses_writes", error=name, reason=err.strerror, directory=self._store.catalog.directory)
        self.failing, self.reason = name, err.strerror or ""
        self._probe_at = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    # --- time

    def wait_s(self) -> float:
        """How long nothing needs to be done, if nobody says anything."""
        now, waits = self._clock(), [_IDLE_S]
        if self.failing:
            waits.append(self._probe_at - now)
        if self._buffer:
            due = self._rule.wait_s(self._buffer.state, now)
            closes_at = self._store.catalog.limits.closes_at(self._begun_at)
            waits += [due] if due is not None else []
            waits += [at - now for at in (closes_at, self._sync_at) if at is not None]
        return max(0.0, min(waits))

    def tick(self) -> None:
        """Do what time asks for: flush, sync, close a segment for its age, try a disk that failed."""
        self._flush_if_due()
        self._store.catalog.look()
        now = self._clock()
        if self._buffer and self._sync_at is not None and now >= self._sync_at:
            self._sync(self._buffer)
        closes_at = self._store.catalog.limits.closes_at(self._begun_at) if self._buffer else None
        if closes_at is not None and now >= closes_at:
            self._rotate("age")
        if self.failing and now >= self._probe_at:
            self._probe()

    def _probe(self) -> None:
        try:
            self._store.probe()
        except OSError as err:
            self._fails(err)
            return
        log.info("disk_takes_writes_again", after=self.failing)
        self.failing = self.reason = ""
        hellos, self._hellos = self._hellos, {}
        for name, nonce in hellos.items():
            self._open(name, nonce)

    def lag_s(self) -> float:
        """Age of the oldest record that waits. For another thread."""
        buffer = self._buffer
        since = buffer.waiting_since if buffer else None
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def leave(self) -> None:
        """Flush, acknowledge, close the segment, and tell everybody to keep what comes from now on."""
        names = self._sessions.in_session()
        self._rotate("stop")
        self._store.leave()
        self._leaving = True
        for name in dict.fromkeys([*names, *self._hellos]):
            self._say(name, Retire())
