"""The life of one of the four processes: settings, data directory, presence, signals, leaving in order.

honcho sends SIGTERM to all at the same moment and kills what is left 5 s after the first has left. So each process
waits, after its own SIGTERM, for those before it in the pipeline that say they are stopping (proxies, then writers,
then indexers) and gives up at a deadline; all have left within `LEAVE_WITHIN_S`. A process that is stopped alone finds
nobody stopping before it and leaves at once.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import uvloop

from llmdump import interrupt, log, presence
from llmdump.data_dir import DataDir
from llmdump.presence import Presence
from llmdump.settings import KEYS, Loaded, SettingError, Settings, allowed, description, flag_of, from_process
from llmdump.version import __version__

LEAVE_WITHIN_S: Final = 4.0
# The others got their SIGTERM at the same moment, but may not have said so yet.
_NOTICE_S: Final = 0.25
_LOOK_EVERY_S: Final = 0.02
BEHIND_FORWARDING_NICE: Final = 5
"""Added to the niceness of all but the proxy: on a busy machine clients come first, records catch up."""
EXIT_SETTINGS: Final = 2
EXIT_FAILED: Final = 1


class Process:
    """What a running process has: settings, data directory, its card among the others, and the order to stop."""

    def __init__(self, settings: Settings, data: DataDir, own: Presence) -> None:
        self.settings = settings
        self.data = data
        self.presence = own
        self.stopping = asyncio.Event()
        self.stopping_since = 0.0
        self._signalled = False

    @property
    def name(self) -> str:
        """`role-slot`."""
        return self.presence.card.name

    def signalled(self) -> None:
        """Begin to stop, for SIGTERM. A second one ends the process at once, exit code 1."""
        if self._signalled:
            os._exit(EXIT_FAILED)
        self._signalled = True
        self.stop()

    def stop(self) -> None:
        """Begin to stop, if that has not begun."""
        if self.stopping.is_set():
            return
        self.stopping_since = time.monotonic()
        self.presence.update(state="stopping")
        self.stopping.set()

    def started(self, **fields: str) -> None:
        """Say to the others and in the log that this process works; `fields` go onto its card."""
        self.presence.update(state="running", **fields)
        log.info("started", process=self.name, pid=os.getpid(), **{"admin": self.presence.card.admin, **fields})

    async def others_have_left(self, role: str, within_s: float) -> bool:
        """Wait until no process of `role` is stopping any more. `within_s` counts from this process's own SIGTERM.

        False at the deadline. One that runs on is not waited for.
        """
        noticed_by = self.stopping_since + _NOTICE_S
        while time.monotonic() < self.stopping_since + within_s:
            leaving = any(card.state == "stopping" for card in presence.living(self.data.run, role))
            if not leaving and time.monotonic() > noticed_by:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False


Serve = Callable[[Process], Awaitable[None]]


def main(role: str, summary: str, serve: Serve) -> NoReturn:
    """A console script: parse flags, load settings, run `serve` until it returns, leave. Does not return."""
    command = click.Command(
        f"llmdump-{role}",
        params=setting_options(),
        callback=interrupt.quietly()(lambda **flags: run(role, serve, load_or_exit(flags))),
        help=summary + "\n\nEvery setting is a flag; `llmdump config --reference` explains them.",
    )
    sys.exit(command())


def run(role: str, serve: Serve, loaded: Loaded) -> None:
    """Live as a process of `role` until `serve` returns. Blocking. Exits with a line on stderr where it cannot start."""
    log.configure(loaded.settings.log_level)
    os.umask(0o077)
    if role != "proxy":
        os.nice(BEHIND_FORWARDING_NICE)
    try:
        data = DataDir(Path(loaded.settings.data_dir)).create()
        own = Presence.claim(data.run, role, __version__)
    except (OSError, RuntimeError) as err:
        fail(f"cannot use the data directory {loaded.settings.data_dir}: {err}")
    try:
        uvloop.run(_live(serve, Process(loaded.settings, data, own)))
    except OSError as err:
        fail(f"{own.card.name}: {err.strerror or err}")
    finally:
        own.release()
    # The interpreter's own end takes 60 ms of CPU, which is seconds for a process behind others on a busy machine, and
    # there is nothing left to do: whatever had to be kept is on disk.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _live(serve: Serve, process: Process) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.signalled)
    await serve(process)
    log.info("stopped", process=process.name, after_s=f"{_since(process.stopping_since):.2f}")


def _since(begin: float) -> float:
    return time.monotonic() - begin if begin else 0.0


def setting_options() -> list[click.Parameter]:
    """A click option for `--config` and for every setting."""
    options: list[click.Parameter] = [
        click.Option(["--config"], help="YAML file of settings (default ./llmdump.yaml, if there is one).")
    ]
    return options + [_option(key) for key in KEYS]


def _option(key: str) -> click.Option:
    text, default = f"{description(key)} [{allowed(key)}]", KEYS[key].default
    if isinstance(default, bool):  # alone it means true
        return click.Option([flag_of(key), key], is_flag=False, flag_value="true", help=text)
    return click.Option([flag_of(key), key], multiple=isinstance(default, tuple), help=text)


def load_or_exit(flags: dict[str, Any]) -> Loaded:
    """Settings from flags as click gives them, and from everything below them. Exits with one line if they are wrong."""
    config = flags.pop("config", None)
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    try:
        return from_process(given, config)
    except SettingError as err:
        fail(str(err), EXIT_SETTINGS)


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Leave with one line on stderr."""
    click.echo(f"llmdump: {message}", err=True)
    sys.exit(code)
