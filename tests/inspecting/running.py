"""`llmdump inspect` as a test calls it: the command itself, in this process, its three outputs apart."""

import json
import signal
from typing import Any, NamedTuple

from click.testing import CliRunner

from llmdump.commands import inspect


class Done(NamedTuple):
    """What came of a call."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)

    def after(self, title: str) -> list[str]:
        """The lines of the section that has this title."""
        lines = self.out.split(title, 1)[1].splitlines()[2:]
        end = next((at for at, line in enumerate(lines) if line.startswith("=====")), len(lines) + 1)
        return [line for line in lines[: end - 1] if line]


def call(*arguments: object) -> Done:
    """`llmdump inspect` with these arguments."""
    before = signal.getsignal(signal.SIGPIPE)
    try:
        result = CliRunner().invoke(inspect.command, [str(argument) for argument in arguments], catch_exceptions=False)
    finally:
        signal.signal(signal.SIGPIPE, before)
    return Done(result.exit_code, result.stdout, result.stderr)


def issues(*arguments: object) -> list[tuple[str, str, int | None]]:
    """Kind, severity and entry of each issue that is found."""
    done = call(*arguments, "--detect-issues", "--json")
    return [(one["kind"], one["severity"], one["entry"]) for one in done.json["issues"]]
