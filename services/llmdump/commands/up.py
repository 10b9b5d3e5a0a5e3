"""`llmdump up`: the four processes with one command, in the foreground, without a Procfile."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import msgspec

from llmdump import address, health, presence, process, together
from llmdump.commands import banner
from llmdump.data_dir import DataDir
from llmdump.settings import Settings, flag_of
from llmdump.together import Together

HELP: Final = """Start proxy, writer, indexer and api, here in the foreground.

Takes the flags of the processes and gives them to each. Says when all work, and where. Ctrl-C or SIGTERM stops all; when one
leaves by itself the others are stopped too, and its exit code is this command's. None is started again.

\b
Examples:
  llmdump up
  llmdump up --upstream http://127.0.0.1:8080 --data-dir /var/lib/llmdump
"""


class _Stop:
    """Whether a signal to stop has come."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    @property
    def asked(self) -> bool:
        """Whether one has come."""
        return bool(self.number)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.number = number


def run(**flags: Any) -> None:
    """Start, wait, stop."""
    arguments = as_arguments(flags)
    settings = process.load_or_exit(dict(flags)).settings
    data = DataDir(Path(settings.data_dir))
    living = [card.name for card in presence.living(data.run)]
    if living:
        process.fail(f"{', '.join(living)} already live in {data.root}: `llmdump status` shows them; stop them first")
    stop = _Stop()
    try:
        with Together(data) as group:
            for role in health.ROLES:
                group.start(role, arguments)
            group.wait(stop=lambda: stop.asked)
            before_it_works = stop.number
            left = group.left() if before_it_works else _watch(group, settings, data, stop)
    except (together.NotReadyError, OSError) as err:
        process.fail(str(err))
    sys.exit(together.exit_code(-before_it_works) if before_it_works else _code(group, left))


def _watch(group: Together, settings: Settings, data: DataDir, stop: _Stop) -> tuple[str, int] | None:
    """Say that it works, and wait until one leaves or all are to be stopped; which one left, and its code."""
    click.echo(banner.text(_as_it_listens(settings, data)))
    click.echo("All four processes work. Ctrl-C stops them.")
    sys.stdout.flush()
    while not stop.asked:
        if left := group.left():
            click.echo(f"llmdump: {left[0]} has left with exit code {left[1]}: stopping the others", err=True)
            return left
        time.sleep(together.LOOK_EVERY_S)
    return None


def _as_it_listens(settings: Settings, data: DataDir) -> Settings:
    """The settings with the ports that were given, where any free one was asked for."""
    for card in presence.living(data.run):
        key = f"{card.role}_listen"
        if card.listen and hasattr(settings, key) and address.split(getattr(settings, key))[1] == 0:
            settings = msgspec.structs.replace(settings, **{key: card.listen})
    return settings


def _code(group: Together, left: tuple[str, int] | None) -> int:
    """Of the process that left first, else of the first that did not leave well."""
    codes = [together.exit_code(one.returncode or 0) for one in group.processes.values()]
    return left[1] if left else next((code for code in codes if code), 0)


def as_arguments(flags: dict[str, Any]) -> list[str]:
    """Flags as click gave them, as words of a command line again."""
    words = []
    for key, value in flags.items():
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        words += [f"{flag_of(key)}={one}" for one in values]
    return words


command = click.Command("up", callback=run, help=HELP, params=process.setting_options())
