"""Disks that refuse, under the processes of a pipeline: calls that fail under strace, a small disk that fills, limits."""

import contextlib
import re
import resource
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from needs import missing, needs_root, needs_tool

from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

SEGMENTS_MAX: Final = 150


class Under(Pipeline):
    """A pipeline of which some processes run under a command, by role."""

    def __init__(self, place: Path, commands: dict[str, list[str]], **settings: object) -> None:
        super().__init__(place, **settings)
        self.commands = commands

    def _popen(self, command: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
        role = Path(command[0]).name.removeprefix("llmdump-")
        return super()._popen([*self.commands.get(role, []), *command], log)


def failing(paths: list[Path], told: Path, *faults: str) -> list[str]:
    """A command under which calls on these files, or on any, fail. A fault is `calls:what`, as strace says it; strace writes
    to `told` what it sees."""
    strace = needs_tool("strace")
    calls = sorted({call for fault in faults for call in fault.partition(":")[0].split(",")})
    files = [word for path in paths for word in ("-P", str(path))]
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    traced = ["-e", f"trace={','.join(calls)}", "--seccomp-bpf"]
    return [str(strace), "-D", "-f", "-qq", "-o", str(told), *traced, *files, *injected]


def failed(told: Path) -> Counter[str]:
    """How often each call was made to fail, as `failing` was told."""
    seen = re.findall(r"^\d+ +(?:<\.\.\. )?(\w+).*\(INJECTED", told.read_text(errors="replace"), re.MULTILINE)
    return Counter(seen)


def writers_files(data: Path) -> list[Path]:
    """All that a first writer opens for writing or syncs, sealed files, mark and the directory included."""
    plain = [data / "segments" / f"w0-{number:08d}.{one}" for number in range(1, SEGMENTS_MAX) for one in ("cbor", "jsonl")]
    sealed = [path.with_name(f"{path.name}.zst{more}") for path in plain[:60] for more in ("", ".tmp")]
    return [data / "segments", *plain, *sealed, data / "segments" / "w0.probe.tmp", data / "run" / "w0.durable"]


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size at `at`."""
    needs_root()
    at.mkdir(parents=True, mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "llmdump", str(at)], capture_output=True, check=False
    )
    if done.returncode:
        missing(f"needs to mount a tmpfs: {done.stderr!r}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill(directory: Path) -> Path:
    """Take all room there is; what to remove to give it back."""
    ballast = directory / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return ballast


def remount(directory: Path, how: str) -> None:
    """`ro` or `rw`; refused while a file is open for writing, so it is tried until none is."""
    command = ["mount", "-o", f"remount,{how}", str(directory)]
    eventually(
        lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, WAIT_S, f"{directory} is {how}"
    )


@contextlib.contextmanager
def limited(pid: int, limit: int, value: int) -> Iterator[None]:
    """A limit of a running process, lowered for the block (prlimit(2))."""
    if not hasattr(resource, "prlimit"):
        missing("needs prlimit(2)")
    soft, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, (soft, hard))
