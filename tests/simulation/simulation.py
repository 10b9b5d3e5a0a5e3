"""One seed: proxies, writers, a network and two disks, faults drawn from the seed, and in the end the reckoning.

    python -m tests.simulation --count 5000            seeds 0 … 4999; the failed ones, and how fast it was
    python -m tests.simulation --seed 1234             one seed with its history

A run has three parts: some seconds of traffic under faults; everything healed, and time until nothing waits any more (if that
never comes, the seed has failed); the files read by the product's own readers (see `truth`).
"""

import gc
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from llmdump import admin, log
from llmdump.data_dir import DataDir
from llmdump.presence import Presence
from llmdump.settings import Settings
from tests.simulation.disk import Disk, Volume
from tests.simulation.network import Network
from tests.simulation.parts import ProxyRun, WriterRun
from tests.simulation.truth import Truth
from tests.simulation.world import Violation, World

DRAINED_WITHIN_S: Final = 120.0
_MEMORY = Path("/dev/shm")


def settings(rng: random.Random, writers: int) -> Settings:
    """Small budgets and files, so that little traffic reaches every limit."""
    return Settings(
        capture_memory_bytes=rng.choice((16, 16, 32, 64, 256)) * 1024,
        capture_spill_bytes=rng.choice((64, 256, 1024, 8192)) * 1024,
        on_overflow=rng.choice(("spill", "spill", "spill", "spill", "drop", "block")),
        writer_endpoints=tuple(f"ipc:///simulated/{slot}" for slot in range(writers)),
        capture_format=rng.choice(("cbor",) * 8 + ("jsonl", "both")),
        capture_flush_interval=rng.choice((0.01, 0.05, 0.1)),
        capture_max_entries_per_flush=rng.choice((1, 5, 1000)),
        capture_buffer_size=rng.choice((2000, 1024 * 1024)),
        fsync=rng.choice(("flush",) * 8 + ("interval", "off")),
        capture_fsync_interval_s=0.2,
        capture_max_bytes=rng.choice((4096, 32 * 1024, 1024 * 1024)),
        capture_rotate_interval_seconds=rng.choice((0, 0, 1)),
        capture_total_max_bytes=0,
        capture_min_free_bytes=0,
        capture_seal=rng.random() < 0.25,
    )


Fault = tuple[str, Callable[[], None]]


class Simulation:
    """One seed's."""

    def __init__(self, seed: int, root: Path) -> None:
        self.world = World(seed)
        rng = self.world.random
        self.data = DataDir(root).create()
        self.settings = settings(rng, rng.choice((1, 1, 2)))
        self.network = Network(self.world)
        self.disk = Disk(self.world, root, self.data.segments, self.data.spill)
        formats = {"both": ("jsonl", "cbor")}.get(self.settings.capture_format, (self.settings.capture_format,))
        names = {endpoint: f"w{slot}" for slot, endpoint in enumerate(self.settings.writer_endpoints)}
        self.truth = Truth(self.world, self.segments, self.settings.fsync, formats, names)
        self.network.on_sent, self.network.on_said = self.truth.sent, self.truth.said
        self.healed = False
        self.writers: dict[int, WriterRun] = {}
        self.proxies: list[ProxyRun] = []
        self.runs: list[ProxyRun] = []
        self._size_bytes = rng.choice((50, 300, 300, 2000, self.settings.capture_memory_bytes // 8))
        for key, value in msgspec.structs.asdict(self.settings).items():
            if value != getattr(Settings(), key):
                self.world.note(f"{key} = {value}")

    @property
    def segments(self) -> Volume:
        return self.disk.volumes[0]

    @property
    def spill(self) -> Volume:
        return self.disk.volumes[1]

    def run(self) -> None:
        """All of it. Raises Violation, or what the product raised."""
        rng, world = self.world.random, self.world
        for slot in range(len(self.settings.writer_endpoints)):
            world.after(rng.choice((0.0, rng.uniform(0, 2))), lambda slot=slot: self.start_writer(slot))
        for _ in range(rng.choice((1, 1, 2, 3))):
            world.after(rng.uniform(0, 0.2), self.start_proxy)
        traffic_s = rng.uniform(1, 6)
        self._plan_traffic(traffic_s)
        self._plan_faults(traffic_s)
        world.run(world.now + traffic_s)
        self._heal()
        if not world.run(world.now + DRAINED_WITHIN_S, self._is_drained):
            raise Violation(f"not drained within {DRAINED_WITHIN_S} s: {self._waiting()}")
        self._finish(rng.random() < 0.5)

    def judge(self) -> None:
        """After `run`, with the system's own calls. Raises Violation."""
        living = {run.instance for run in self.proxies if run.process.alive}
        left = sorted(path.name for path in self.data.spill.iterdir() if path.name[:16] not in living)
        if left:
            raise Violation(f"all is stored, and left in the spill directory: {left}")
        cards = []
        for proxy in self.proxies:
            if proxy.process.alive:
                cards.append(Presence.claim(self.data.run, "proxy"))
                cards[-1].update(instance=proxy.instance)
        try:
            self.truth.judge(self.data)
        finally:
            for card in cards:
                card.release()

    # --- processes

    def start_writer(self, slot: int) -> None:
        if slot not in self.writers:
            self.world.note(f"writer {slot} starts")
            self.writers[slot] = WriterRun(
                self.world, self.network, self.data, self.settings, slot, lambda why: self._writer_left(slot)
            )

    def start_proxy(self) -> None:
        run = ProxyRun(self.world, self.network, self.truth, self.data, self.settings)
        self.world.note(f"{run.process.name} starts")
        self.proxies.append(run)
        self.runs.append(run)

    def _writer_left(self, slot: int) -> None:
        del self.writers[slot]
        self._later(lambda: self.start_writer(slot))

    def _later(self, call: Callable[[], None]) -> None:
        self.world.after(0.01 if self.healed else self.world.random.choice((0.01, self.world.random.uniform(0, 3))), call)

    def _kill_writer(self, slot: int) -> None:
        run = self.writers.pop(slot, None)
        if run:
            run.process.end()
            self._later(lambda: self.start_writer(slot))

    def _stop_writer(self, slot: int) -> None:
        if slot in self.writers:
            self.writers[slot].stop()

    def _kill_proxy(self) -> None:
        if self.proxies:
            run = self.world.random.choice(self.proxies)
            self.proxies.remove(run)
            run.kill()
            self._later(self.start_proxy)

    def _stop_proxy(self) -> None:
        if self.proxies:
            run = self.world.random.choice(self.proxies)
            self.proxies.remove(run)
            run.stop()
            self._later(self.start_proxy)

    # --- the plan

    def _plan_traffic(self, traffic_s: float) -> None:
        """Bursts, of which some are larger than all budgets."""
        rng = self.world.random
        begin, bursts = self.world.now, rng.randint(1, 5)
        events = rng.choice((20, 60, 200))
        for _ in range(bursts):
            at, width = rng.uniform(0, traffic_s), rng.choice((0.01, 0.3, traffic_s))
            self._plan_burst(begin + at, min(width, traffic_s - at), events // bursts)

    def _plan_burst(self, begin: float, width_s: float, events: int) -> None:
        rng = self.world.random
        for _ in range(events):
            size = rng.choice((self._size_bytes, rng.randint(0, 2 * self._size_bytes)))
            self.world.at(begin + rng.uniform(0, width_s), lambda size=size: self._work(size))

    def _work(self, size_bytes: int) -> None:
        if self.proxies:
            self.world.random.choice(self.proxies).work(size_bytes)

    def _plan_faults(self, traffic_s: float) -> None:
        """A few kinds, several of each: what goes wrong together differs from seed to seed."""
        rng = self.world.random
        kinds = rng.sample(self._process_faults(), k=rng.randint(0, 4)) + rng.sample(
            self._network_faults(), k=rng.randint(0, 2)
        )
        kinds += rng.sample(self._disk_faults(self.segments, "segments"), k=rng.choice((0, 0, 1, 3)))
        kinds += rng.sample(self._disk_faults(self.spill, "spill"), k=rng.choice((0, 0, 1, 3)))
        for _ in range(rng.choice((3, 6, 12, 24)) if kinds else 0):
            name, fault = rng.choice(kinds)
            self.world.after(rng.uniform(0, traffic_s), lambda name=name, fault=fault: self._fault(name, fault))

    def _fault(self, name: str, fault: Callable[[], None]) -> None:
        if not self.healed:
            self.world.note(name)
            fault()

    def _process_faults(self) -> list[Fault]:
        slots = range(len(self.settings.writer_endpoints))
        choice = self.world.random.choice
        found: list[Fault] = [
            ("kill a writer", lambda: self._kill_writer(choice(slots))),
            ("stop a writer", lambda: self._stop_writer(choice(slots))),
            ("kill a proxy", self._kill_proxy),
            ("kill all proxies", self._kill_all_proxies),
            ("no writer for some time", self._no_writer),
            ("stop a proxy", self._stop_proxy),
            ("stop all", self._stop_all),
            ("clock step", self._step_clock),
            ("power cut at the proxies", self._power_cut_at_proxies),
        ]
        return found + ([("power cut at the writers", self._power_cut_at_writers)] if self.settings.fsync == "flush" else [])

    def _network_faults(self) -> list[Fault]:
        rng = self.world.random
        return [
            ("a connection breaks", self._break_connection),
            ("a connection is half open", self._half_open),
            ("partition", lambda: self.network.cut(rng.choice(self.settings.writer_endpoints), rng.uniform(0.1, 4))),
            ("slow network", self._slow_network),
            ("messages are lost", lambda: setattr(self.network, "loss", 0.1)),
        ]

    def _disk_faults(self, volume: Volume, where: str) -> list[Fault]:
        calls = ("write", "fsync", "open", "unlink", "ftruncate", *(("read",) if volume is self.spill else ()))
        found: list[Fault] = [(f"{call} fails in {where}", lambda call=call: self._calls_fail(volume, call)) for call in calls]
        return [
            *found,
            (f"{where} full", lambda: self._full(volume)),
            (f"{where} slow", lambda: self._slow_disk(volume)),
            (f"short writes in {where}", lambda: self._short_writes(volume)),
        ]

    def _kill_all_proxies(self) -> None:
        while self.proxies:
            self._kill_proxy()

    def _no_writer(self) -> None:
        """What comes meanwhile must be spilled, or dropped."""
        back_at = self.world.now + self.world.random.uniform(0.5, 3)
        for slot in [*self.writers]:
            self.writers.pop(slot).process.end()
            self.world.at(back_at, lambda slot=slot: self.start_writer(slot))
        self._plan_burst(self.world.now, back_at - self.world.now, self.world.random.randint(20, 100))

    def _stop_all(self) -> None:
        """As honcho does: everybody at the same moment."""
        while self.proxies:
            self._stop_proxy()
        for slot in [*self.writers]:
            self._stop_writer(slot)

    def _break_connection(self) -> None:
        living = self.network.living()
        if living:
            self.world.random.choice(living).end()

    def _half_open(self) -> None:
        living = self.network.living()
        if living:
            connection = self.world.random.choice(living)
            connection.half_open = True
            self.world.after(self.world.random.uniform(0.2, 6), connection.end)

    def _slow_network(self) -> None:
        self.network.slow_s = self.world.random.choice((0.01, 0.2))

    def _step_clock(self) -> None:
        self.world.wall_offset_s += self.world.random.choice((-3600.0, -1.0, 1.0, 86400.0))

    def _power_cut_at_writers(self) -> None:
        for slot in [*self.writers]:
            self._kill_writer(slot)
        self.disk.power_cut(self.segments)
        for mark in self.data.run.glob("*.durable"):  # of another boot, if it is there at all: nobody heeds it
            mark.unlink()

    def _power_cut_at_proxies(self) -> None:
        for run in self.runs:
            if run.process.alive:
                run.kill()
                self._later(self.start_proxy)
        self.proxies.clear()
        self.disk.power_cut(self.spill)
        for one in self.truth.instances.values():
            one.spilled.clear()
            one.given_up = len(one.records)

    def _for_a_while(self, back: Callable[[], None]) -> None:
        self.world.after(self.world.random.choice((0.05, self.world.random.uniform(0, 4))), back)

    def _calls_fail(self, volume: Volume, call: str) -> None:
        volume.fails[call] = self.world.random.choice((0.1, 0.5, 1.0))
        self._for_a_while(lambda: volume.fails.pop(call, None))

    def _full(self, volume: Volume) -> None:
        volume.room = self.world.random.choice((0, self.world.random.randint(0, 3000)))
        self._for_a_while(lambda: setattr(volume, "room", None))

    def _slow_disk(self, volume: Volume) -> None:
        volume.slow_s = self.world.random.choice((0.005, 0.1, 1.0))
        self._for_a_while(lambda: setattr(volume, "slow_s", 0.0))

    def _short_writes(self, volume: Volume) -> None:
        volume.short = 0.5
        self._for_a_while(lambda: setattr(volume, "short", 0.0))

    # --- the end

    def _heal(self) -> None:
        self.world.note("healed")
        self.healed = True
        self.network.heal()
        for volume in self.disk.volumes:
            volume.heal()
        for slot in range(len(self.settings.writer_endpoints)):
            self.world.after(0.5, lambda slot=slot: self.start_writer(slot))
        if not self.proxies:
            self.start_proxy()
        self._look_at = self.world.now + 4.0

    def _is_drained(self) -> bool:
        """Looked at ten times a second; orphans are looked for once a second, so not in the first seconds."""
        if self.world.now < self._look_at:
            return False
        self._look_at = self.world.now + 0.1
        return not self._waiting()

    def _waiting(self) -> list[str]:
        waiting = [run.process.name for run in self.runs if run.process.alive and (run.stopping or not run.is_drained)]
        return waiting + ([] if len(self.writers) == len(self.settings.writer_endpoints) else ["a writer is not there"])

    def _finish(self, stop: bool) -> None:
        """The last records: goodbyes, or the gaps that are not told yet."""
        self.world.note("drained")
        for run in self.proxies:
            run.stop() if stop else run.finish()
        if stop:
            self.world.run(self.world.now + 10.0, lambda: not any(run.process.alive for run in self.proxies))
            if any(run.kept for run in self.proxies):
                self.start_proxy()  # what could not be handed over in time is for the next one
        self._look_at = self.world.now + 1.0
        if not self.world.run(self.world.now + DRAINED_WITHIN_S, self._is_drained):
            raise Violation(f"not drained at the end: {self._waiting()}")
        if self.world.random.random() < 0.5:
            for run in self.writers.values():
                run.stop()
            self.healed = True
            self.world.run(self.world.now + 1.0)


def run(seed: int) -> Simulation:
    """Run a seed. The simulation has the failure, if there is one."""
    directory = tempfile.mkdtemp(prefix="llmdump-sim-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
    simulation = Simulation(seed, Path(directory))
    swallowed = dict(admin.swallowed)
    try:
        with simulation.world.clocks(), simulation.disk.calls():
            try:
                simulation.run()
            except BaseException as err:
                simulation.world.fail(err)
        if simulation.world.failure is None:
            try:
                simulation.judge()
            except (Exception, Violation) as err:
                simulation.world.fail(err)
    finally:
        for process in [*(one.process for one in simulation.runs), *(one.process for one in simulation.writers.values())]:
            process.end()
        admin.swallowed.clear()
        admin.swallowed.update(swallowed)
        shutil.rmtree(directory, ignore_errors=True)
    return simulation


@contextmanager
def quiet() -> Iterator[None]:
    """Without log lines."""
    before = log._LOGGER.level
    log._LOGGER.setLevel("CRITICAL")
    try:
        yield
    finally:
        log._LOGGER.setLevel(before)
        gc.collect()
