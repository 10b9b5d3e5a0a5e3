"""One run of one arm in one cell: everything is started anew, warmed, loaded, read to its end and ended."""

import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from bench import backend, loads, processes
from bench.arms.arm import Account, Arm, Target
from bench.cells import Cell, Streams
from bench.loads import Done
from bench.results import Figures, Run

QUIET_S = 0.3
"""After that, what starting or a load left to do at once is done."""


def run(cell: Cell, arm: Arm, round_: int) -> Run:
    """Blocking, seconds. What fails makes the run void, and it says why."""
    began_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            figures, lost = _run(cell, arm, Path(folder))
    except Exception as err:  # whatever it is, the other runs of the hour go on
        return Run(cell.name, arm.name, round_, {}, f"{type(err).__name__}: {err}")
    return Run(cell.name, arm.name, round_, {**figures, "run_took_s": time.monotonic() - began_s}, lost)


def _run(cell: Cell, arm: Arm, place: Path) -> tuple[Figures, str]:
    with _backend(cell, place) as backend_port, arm.running(backend_port, place) as target:
        warmed = loads.warm(cell, target.port)
        done, figures = _loaded(cell, target, place)
        captured_bytes = warmed.captured_bytes + done.captured_bytes
        if target.kept:
            figures["kept_per_byte"] = _size_bytes(target.kept) / captured_bytes
    lost = _audited(target.account(), warmed.exchanges + done.exchanges, figures) if target.account else ""
    if target.kept and target.seal and cell.is_sealed:
        target.seal()
        figures["sealed_per_byte"] = _size_bytes(target.kept) / captured_bytes
    return figures, lost


def _backend(cell: Cell, place: Path) -> AbstractContextManager[int]:
    return backend.streams(place) if isinstance(cell, Streams) else backend.plain(place)


def _loaded(cell: Cell, target: Target, place: Path) -> tuple[Done, Figures]:
    """The load, and what it cost the processes for each unit of work."""
    if target.catch_up:
        target.catch_up()
    time.sleep(QUIET_S)
    forwarding_s, all_s = processes.cpu_s(target.forwarders), processes.cpu_s(target.pipeline)
    busy = processes.Busy()
    done = loads.run(cell, target.port, place)
    figures = {**done.figures, "busy_percent": busy.percent()}
    time.sleep(QUIET_S)
    if target.forwarders:
        figures["forwarding_us"] = (processes.cpu_s(target.forwarders) - forwarding_s) * 1e6 / done.units
        figures["peak_mb"] = processes.peak_bytes(target.forwarders) / 1e6
    if target.catch_up:
        target.catch_up()
        figures["pipeline_us"] = (processes.cpu_s(target.pipeline) - all_s) * 1e6 / done.units
    return done, figures


def _audited(account: Account, exchanges: int, figures: Figures) -> str:
    """Note what is stored; why the run is void."""
    figures |= {"made": account.made, "stored": account.stored, "indexed": account.indexed, "exchanges": account.exchanges}
    if not account.lost and account.exchanges < exchanges:
        return f"{exchanges} exchanges were seen by the clients, {account.exchanges} are stored"
    return account.lost


def _size_bytes(kept: Path) -> int:
    return sum(path.stat().st_size for path in ([kept] if kept.is_file() else kept.rglob("*")) if path.is_file())
