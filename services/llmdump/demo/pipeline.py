"""The four processes, started for the length of a demo where none of them runs.

They get the settings that the demo has, live in the same data directory, and are stopped as honcho stops them: all at
the same moment.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Final

from llmdump import health
from llmdump.data_dir import DataDir

READY_WITHIN_S: Final = 15.0
LEFT_WITHIN_S: Final = 6.0
_LOOK_EVERY_S: Final = 0.1
_LOG_TAIL_BYTES: Final = 2000


class NotReadyError(RuntimeError):
    """The processes did not all come to work in time; the message has the end of their log."""


@contextlib.asynccontextmanager
async def running(data: DataDir, arguments: Sequence[str]) -> AsyncIterator[None]:
    """The four processes with these arguments, working; stopped at the end. Raises NotReadyError, OSError."""
    with tempfile.TemporaryFile() as log:
        processes: list[asyncio.subprocess.Process] = []
        try:
            for role in health.ROLES:
                processes += [await _start(role, arguments, log)]
            await _all_work(data, processes, log)
            yield
        finally:
            await _stop(processes)


async def _start(role: str, arguments: Sequence[str], log: IO[bytes]) -> asyncio.subprocess.Process:
    name = f"llmdump-{role}"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(name, path=path)
    if program is None:
        raise FileNotFoundError(f"{name} is not installed beside {sys.executable}; `make run` installs it")
    return await asyncio.create_subprocess_exec(program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log)


async def _all_work(data: DataDir, processes: Sequence[asyncio.subprocess.Process], log: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not health.works(await asyncio.to_thread(health.look, data)):
        if time.monotonic() > deadline or any(process.returncode is not None for process in processes):
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            raise NotReadyError(f"the processes did not start:\n{log.read().decode(errors='replace')}")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _stop(processes: Sequence[asyncio.subprocess.Process]) -> None:
    for process in processes:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(LEFT_WITHIN_S):
            for process in processes:
                await process.wait()
    except TimeoutError:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
