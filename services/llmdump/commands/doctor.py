"""`llmdump doctor`: what is wrong, and the command that mends it."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from llmdump import diagnosis, process
from llmdump.commands import options
from llmdump.diagnosis import Finding

_SHOWN: Final = {"ok": "ok      ", "note": "note    ", "problem": "PROBLEM "}


def text(found: Sequence[Finding], everything: bool) -> str:
    """The findings, what mends each below it, and the verdict last."""
    lines = []
    for one in found:
        if one.level != "ok" or everything:
            lines.append(_SHOWN[one.level] + one.what)
            lines += [f"          mend: {one.mend}"] if one.mend else []
    problems = sum(one.level == "problem" for one in found)
    lines.append(f"{len(found)} things looked at, {problems or 'no'} problem{'s' * (problems != 1)}")
    return "\n".join(lines)


@click.command("doctor")
@click.option("--backends", is_flag=True, help="Connect to every backend, too; nothing is sent.")
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(backends: bool, everything: bool, wants_json: bool, **flags: Any) -> None:
    """What is wrong, and the command that mends it.

    Looks at settings, data directory, ports, processes, token, index, clock, limits, spill files, and the variables of this
    shell that point clients somewhere. Changes nothing. Exit code 1 if there is a problem.
    """
    found = diagnosis.look(process.load_or_exit(flags).settings, os.environ, backends=backends)
    click.echo(json.dumps([one._asdict() for one in found], indent=2) if wants_json else text(found, everything))
    sys.exit(1 if any(one.level == "problem" for one in found) else 0)
