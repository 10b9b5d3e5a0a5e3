"""Simulated processes around the product's own classes: what a `main` does, in a simulated process.

ProxyRun    Recorder ─▶ Shipping (outbox, link, spill, orphans), driven as `llmdump_proxy.main.Proxy` does
WriterRun   Writer (recovery, catalog, store, capture, sealer) and Link, driven as `llmdump_writer.main.serve` does
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmdump.data_dir import DataDir
from llmdump.presence import Card, Presence
from llmdump.process import Process as LlmdumpProcess
from llmdump.settings import Settings
from llmdump_proxy.link import Shipping
from llmdump_proxy.main import DRAIN_WITHIN_S, KEEP_WITHIN_S
from llmdump_proxy.outbox import RESERVE_BYTES, Frame
from llmdump_proxy.recorder import Capture, Recorder
from llmdump_proxy.rules import EVERYTHING
from llmdump_proxy.spill import Spill
from llmdump_writer.link import Link
from llmdump_writer.main import Writer
from llmdump_writer.sealer import RETRY_S
from tests.simulation.network import Context, Network
from tests.simulation.truth import Instance, Truth
from tests.simulation.world import Loop, Process, Thread, Violation, World


class FileThread:
    """In the place of `spilling.FileThread`: the same jobs in the same order, in simulated time."""

    def __init__(self, world: World, loop: Loop, spilled: Callable[[Spill, Any], None]) -> None:
        self._world = world
        self._loop = loop
        self._thread = Thread(loop.thread.process)
        self._spilled = spilled

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        future = self._loop.create_future()

        def job() -> None:
            try:
                result = call(*args, **kwargs)
            except Exception as err:  # as the real one does
                self._tell(future, lambda err=err: future.set_exception(err))
            else:
                if getattr(call, "__func__", None) is Spill.write:
                    self._spilled(call.__self__, args[2])  # type: ignore[attr-defined]
                self._tell(future, lambda: future.set_result(result))

        self._world.after(self._world.random.uniform(0, 0.001), job, self._thread)
        return future

    def stop(self) -> None:
        pass

    def _tell(self, future: "asyncio.Future[Any]", call: Callable[[], None]) -> None:
        self._loop.call_soon(lambda: None if future.done() else call())


class Shelf:
    """The shelf that the recorder sees: the product's, and the truth looks on."""

    def __init__(self, shipping: Shipping, truth: Instance) -> None:
        self._shipping = shipping
        self._truth = truth

    @property
    def why(self) -> str:
        return self._shipping.why

    def lane(self, exchange: str) -> Any:
        return self._shipping.lane(exchange)

    def ship(self, lane: Any, number: int, record: bytes, reserve: bool = False) -> bool:
        taken = self._shipping.ship(lane, number, record, reserve=reserve)
        if taken:
            self._truth.records[number] = record
        return taken


class Watched(Recorder):
    """The recorder, and the truth hears of what it drops."""

    def __init__(self, instance: str, shelf: Shelf, truth: Instance) -> None:
        super().__init__(instance, shelf)
        self._truth = truth

    def lose(self, number: int, reason: str) -> None:
        self._truth.dropped[number] = reason
        super().lose(number, reason)


class ProxyRun:
    """One run of one proxy."""

    def __init__(self, world: World, network: Network, truth: Truth, data: DataDir, settings: Settings) -> None:
        self.instance = world.random.randbytes(8).hex()
        self.process = Process(f"proxy {self.instance[:4]}")
        self.truth = truth.of(self.instance)
        self.stopping = False
        self.kept = 0
        """Records that it has put into its spill file to stop."""
        self.blocked = False
        self._world = world
        self._all = truth
        self._settings = settings
        self._data = data
        self._loop = Loop(world, self.process)
        self._loop.on_reader = self._look_at_reader
        self._edges: dict[int, Any] = {}
        self._network = network
        self._captures: list[Capture] = []
        self.presence: Presence | None = None
        world.after(0.0, self._start, self._loop.thread)

    def _start(self) -> None:
        context: Any = _Wired(self._network, self._loop.thread, self._edges)
        thread: Any = FileThread(self._world, self._loop, self._spilled)
        self.shipping = Shipping(self._settings, self._data, self.instance, self._loop, context, thread)
        self.recorder = Watched(self.instance, Shelf(self.shipping, self.truth), self.truth)
        self.shipping.on_room = self._room
        self.shipping.on_lost = self._lost
        if self._settings.on_overflow == "block":
            self.recorder.on_full = self._block
        self._loop.create_task(self.shipping.start())
        self.recorder.hello(time.time(), {"version": "0"})

    # --- what Proxy does

    def _block(self) -> None:
        if not self.shipping.room():
            self.blocked = True

    def _room(self) -> None:
        self.recorder.tell_gaps(time.time())
        self.blocked = False

    def _lost(self, frame: Frame) -> None:
        for first, last in frame.ranges:
            self.truth.unreadable.update(range(first, last + 1))
        self.recorder.tell_lost(time.time(), frame.ranges, "spill_unreadable")

    def stop(self) -> None:
        """As after SIGTERM."""
        if not self.stopping and self.process.alive:
            self.stopping = True
            self._world.after(0.0, self._end_captures, self._loop.thread)

    def _end_captures(self) -> None:
        for capture in self._captures:
            capture.end(time.time(), "shutdown", "", 0, 0, (0, 0, 0))
        self._captures.clear()
        self._loop.create_task(self._leave())

    async def _leave(self) -> None:
        self.recorder.bye(time.time())
        self.truth.state = "ended"
        if not await self.shipping.drain(DRAIN_WITHIN_S):
            self.kept, self.truth.given_up = await self.shipping.keep(KEEP_WITHIN_S)
        await self.shipping.close()
        self._world.note(f"{self.process.name} has left, {self.truth.given_up} given up")
        self._world.after(0.0, self.process.end)

    def kill(self) -> None:
        """As by kill -9."""
        self.process.end()
        if not hasattr(self, "recorder") or self.truth.state == "living" or self.recorder.made not in self.truth.records:
            self.truth.state = "died"
        elif self.truth.state == "ended":
            self.truth.given_up = len(self.truth.records)

    # --- traffic

    def work(self, size_bytes: int) -> None:
        """Something happens in some exchange."""
        if self.process.alive and not self.stopping and not self.blocked:
            self._world.after(0.0, lambda: self._happens(size_bytes), self._loop.thread)

    def _happens(self, size_bytes: int) -> None:
        rng = self._world.random
        if self.stopping or self.blocked:
            return
        if not self._captures or (len(self._captures) < 6 and rng.random() < 0.2):
            exchange = f"01900000-0000-7000-8000-{rng.getrandbits(48):012x}"
            capture = Capture(self.recorder, exchange, "s", "openai", EVERYTHING)
            self._captures.append(capture)
            capture.request(time.time(), b"POST /v1/x HTTP/1.1\r\n\r\n", b"\x66x_peer\x61p", "0" * 16, ())
        else:
            capture = rng.choice(self._captures)
            data = rng.randbytes(8) * (size_bytes // 8 + 1)
            capture.chunk(time.time(), rng.choice((0, 3)), data, None, last=False)
            if rng.random() < 0.1:
                self._captures.remove(capture)
                capture.end(time.time(), "ok", "", 1, 1, (1, 1, 1))
        self.check_memory()

    def finish(self) -> None:
        """End what is open, and tell all gaps."""
        self._world.after(0.0, self._tell, self._loop.thread)

    def _tell(self) -> None:
        for capture in self._captures:
            capture.end(time.time(), "ok", "", 1, 1, (1, 1, 1))
        self._captures.clear()
        self.recorder.tell_gaps(time.time())

    # --- looking on

    def check_memory(self) -> None:
        """No budget is ever exceeded."""
        outbox = self.shipping.outbox
        limit = self._settings.capture_memory_bytes + RESERVE_BYTES
        # One batch a lane may be read back above the budget.
        if outbox.memory_bytes > limit + len(outbox.lanes) * 256 * 1024:
            self._world.fail(Violation(f"{outbox.memory_bytes} bytes in memory, the limit is {limit}"))
        if outbox.memory_bytes < 0 or outbox.unread_bytes < 0:
            self._world.fail(Violation(f"{outbox.memory_bytes=} {outbox.unread_bytes=}"))

    @property
    def is_drained(self) -> bool:
        """Nothing waits here any more."""
        samples = {sample.name: sample.value for sample in self.shipping.samples()}
        waiting = self.shipping.outbox.held_bytes or samples["llmdump_spill_bytes"] or samples["llmdump_spill_orphaned_bytes"]
        return not waiting and self.shipping.writers_connected > 0

    def _spilled(self, spill: Spill, packed: Any) -> None:
        self._all.of(spill.instance).spilled.update(packed.numbers)

    def _look_at_reader(self, fd: int) -> None:
        edge = self._edges.get(fd)
        if edge:
            edge.plan()


class _Wired(Context):
    """A context whose sockets' descriptors the loop knows."""

    def __init__(self, network: Network, thread: Thread, edges: dict[int, Any]) -> None:
        super().__init__(network, thread)
        self._edges = edges

    def socket(self, kind: int) -> Any:
        made = super().socket(kind)
        for edge in made.edges:
            self._edges[edge.fd] = edge
        return made


class WriterRun:
    """One run of one writer."""

    def __init__(
        self, world: World, network: Network, data: DataDir, settings: Settings, slot: int, ended: Callable[[str], None]
    ) -> None:
        """`ended` hears when it has left of itself, and why."""
        self.process = Process(f"writer {slot}")
        self._world = world
        self._thread = Thread(self.process)
        self._context = Context(network, self._thread)
        self._settings = settings
        self._slot = slot
        self._data = data
        self._ended = ended
        self._turn_at = float("inf")
        self._stopping = False
        self._link: Link | None = None
        world.after(0.0, self._start, self._thread)

    def _start(self) -> None:
        card = Card(role="writer", slot=self._slot, pid=0, started_at=0.0)
        presence = Presence(-1, Path("none"), card)
        try:
            self.writer = Writer(LlmdumpProcess(self._settings, self._data, presence))
        except OSError as err:
            self._leave(f"cannot start: {err}")
            return
        context: Any = self._context
        self._link = Link(self.writer.capture, self._settings.writer_endpoints[self._slot], None, context)
        self._context.router.on_message = lambda: self._plan(self._world.now)
        self._turn()

    def stop(self) -> None:
        """As after SIGTERM, when no proxy stops."""
        if self._link and not self._stopping:
            self._stopping = True
            self._world.after(0.0, self._stop, self._thread)

    def _stop(self) -> None:
        assert self._link is not None
        self._link.stop()
        self._link.run()
        self._leave("stopped")

    def _turn(self) -> None:
        if self._link is None or self._stopping:
            return
        self._turn_at = float("inf")
        self._link.turn()
        self._seal()
        self._plan(self._world.now + max(0.0005, self.writer.capture.wait_s()))

    def _plan(self, when: float) -> None:
        """A turn at that time, or earlier."""
        if when < self._turn_at:
            self._turn_at = when
            self._world.at(when, self._turn_if_due, self._thread)

    def _turn_if_due(self) -> None:
        if self._world.now >= self._turn_at:
            self._turn()

    def _seal(self) -> None:
        """The sealer has no thread of its own here: it works between two turns, and the world goes on meanwhile."""
        waiting = self.writer.sealer._queue
        for _ in range(waiting.qsize()):
            name = waiting.get()
            if name is not None and not self.writer.sealer.attempt(name):
                self._world.after(RETRY_S, lambda name=name: waiting.put(name), self._thread)

    def _leave(self, why: str) -> None:
        self._world.note(f"{self.process.name}: {why}")
        self._world.after(0.0, lambda: self._end(why))

    def _end(self, why: str) -> None:
        if self.process.alive:
            self.process.end()
            self._ended(why)
