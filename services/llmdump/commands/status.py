"""`llmdump status`: which processes live, and whether they work.

All four roles have to be there, each process of them working, for exit code 0.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from llmdump import health, pins, process
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.health import Health
from llmdump.presence import Card


def text(found: list[Health], data: DataDir) -> str:
    """A line a process, and one that says what to do where something is missing."""
    lines = [_line(one) for one in found]
    pinned = pins.find(data)
    if pinned:
        lines.append(f"{'pinned':<12} {len(pinned)} exchanges, {sum(pinned.values()):,} bytes")
    lines += [f"{role:<12} not running" for role in health.missing(found)]
    if len(health.missing(found)) == len(health.ROLES):
        lines.append(f"nothing runs in {data.root}: start it with `make run` or `honcho start`, or give --data-dir")
    elif health.missing(found):
        lines.append("start what is missing: " + ", ".join(f"`llmdump-{role}`" for role in health.missing(found)))
    return "\n".join(lines)


def _line(one: Health) -> str:
    card = one.card
    up_s = max(0, int(time.time() - card.started_at))
    return f"{card.name:<12} {one.problem or _well(card):<10} pid {card.pid}, up {up_s} s, {card.listen or card.admin}"


def _well(card: Card) -> str:
    return "retiring" if card.state == "retiring" else "ok"


def as_json(found: list[Health], data: DataDir) -> str:
    """The same for programs."""
    processes = [
        {"process": one.card.name, "role": one.card.role, "ok": not one.problem, "problem": one.problem,
         "state": one.card.state, "pid": one.card.pid, "started_at": one.card.started_at, "listen": one.card.listen,
         "admin": one.card.admin, "health": one.details}
        for one in found
    ]  # fmt: skip
    pinned = pins.find(data)
    told = {"ok": health.works(found), "missing": health.missing(found), "processes": processes}
    return json.dumps(told | {"pinned": {"exchanges": len(pinned), "bytes": sum(pinned.values())}}, indent=2)


@click.command("status")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(wants_json: bool, **flags: Any) -> None:
    """The living processes and their health; exit code 0 only if all four run and work."""
    data = DataDir(Path(process.load_or_exit(flags).settings.data_dir))
    found = health.look(data)
    click.echo(as_json(found, data) if wants_json else text(found, data))
    sys.exit(0 if health.works(found) else 1)
