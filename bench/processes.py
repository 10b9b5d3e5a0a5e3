"""The processes of a bench: started, waited for, looked at through /proc, and always ended."""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN_S = 60.0
LEAVES_WITHIN_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def raise_file_limit() -> int:
    """As many open files as the machine lets us have, here and in all children; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A loopback port that nobody holds now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def started(*commands: list[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[list[int]]:
    """Processes while the block lasts; gives their ids. All get SIGTERM at the same moment, and who stays SIGKILL."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with log.open("ab") as out:
                running.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            _wait(process)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(LEAVES_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_port(port: int, pid: int, log: Path) -> None:
    """Wait until somebody listens. Raises RuntimeError with the log if the process leaves or is late."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not listens(port):
        if has_left(pid) or time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on port {port}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def has_left(pid: int) -> bool:
    """Whether a child of ours has ended; it is a zombie until it is waited for."""
    return _stat(pid)[0] == "Z"


def family(pid: int) -> list[int]:
    """The process and all below it, as nginx's workers are."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes, all their threads."""
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:13]) / TICKS_PER_S


def peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that was resident, of the one process that had most."""
    return max(_status_kib(pid, "VmHWM") for pid in pids) * 1024


def _status_kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _stat(pid: int) -> list[str]:
    """Fields of proc_pid_stat(5) from the state on: what stands before may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Busy:
    """How much of all cores was used since it was made, by whomever."""

    def __init__(self) -> None:
        self._before = _machine_ticks()

    def percent(self) -> float:
        """Of their time."""
        (idle_before, all_before), (idle, all_) = self._before, _machine_ticks()
        return 100 - 100 * (idle - idle_before) / max(1, all_ - all_before)


def _machine_ticks() -> tuple[int, int]:
    """Idle, and all: fields of the first line of proc_stat(5). Guests' time is part of user time."""
    ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
