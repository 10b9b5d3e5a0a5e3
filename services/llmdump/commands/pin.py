"""`llmdump pin`: keep an exchange whatever retention deletes, or no longer."""

import json
from pathlib import Path
from typing import Any

import apsw
import click

from llmdump import pins, process
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.pins import PinError, Room


@click.command("pin")
@click.argument("exchange", metavar="ID")
@click.option("--remove", is_flag=True, help="Unpin it.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(exchange: str, remove: bool, wants_json: bool, **flags: Any) -> None:
    """Keep an exchange: copy its records to a file of its own, which no cap deletes.

    ID is that of a row. Needs the index, and no running process; an indexer that runs marks the row a moment later. Exit
    code 1 if it cannot be done: it has not ended, its segment files were deleted, or there is no room (pinned_max_bytes).
    """
    settings = process.load_or_exit(flags).settings
    data = DataDir(Path(settings.data_dir))
    try:
        if remove:
            told = {"id": exchange, "pinned": False, "was_pinned": pins.unpin(data, exchange)}
        else:
            made = pins.pin(data, exchange, Room(settings.pinned_max_bytes, settings.capture_min_free_bytes))
            told = {"id": exchange, "pinned": True, "file": str(made.file), "bytes": made.bytes, "records": made.records}
    except ValueError as err:
        process.fail(str(err), process.EXIT_SETTINGS)
    except (PinError, OSError, apsw.Error) as err:
        process.fail(f"{exchange} is not {'un' * remove}pinned: {err}")
    click.echo(json.dumps(told, indent=2) if wants_json else _text(told))


def _text(told: dict[str, Any]) -> str:
    if told["pinned"]:
        return f"{told['id']} is pinned: {told['records']} records, {told['bytes']:,} bytes in {told['file']}"
    return f"{told['id']} is {'no longer' if told['was_pinned'] else 'not'} pinned"
