"""`llmdump sessions`: conversations, or one as a tree. The api's `llmdump_api.looking` asks, which this becomes."""

from pathlib import Path
from typing import Any, Final

import click

from llmdump.commands import archives, options

EPILOG: Final = """
\b
Examples:
  llmdump sessions
  llmdump sessions --client claude-code --since -1d
  llmdump sessions -1                   the session of the last exchange, as a tree
  llmdump sessions 5f0c2a9e --json
"""


@click.command("sessions", epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("names", metavar=f"[ID] {archives.PLACES}", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(0), default=20, show_default=True, help="At most so many; 0: all.")
@click.option("--client", help="Only of this program.")
@click.option("--project", help="Only of this project.")
@click.option("--key-hash", help="Only of this key.")
@click.option("-f", "--filter", metavar="EXPRESSION", help="Only of exchanges that pass; docs/filter.md explains it.")
@click.option("--since", metavar="TIME", help="Only those that went on from then on.")
@click.option("--until", metavar="TIME", help="Only those that went on before.")
@click.option("--json", is_flag=True, help="As JSON, a line a session or turn.")
@options.where
def command(names: tuple[str, ...], **flags: Any) -> None:
    """Sessions, the last that went on first; with ID one of them as a tree, each turn below the one it goes on from.

    ID is of any exchange of the session, as `llmdump show` takes it. What is no file or directory is an ID.
    """
    archives.become("sessions", question(names, **flags))


def question(names: tuple[str, ...], **flags: Any) -> dict[str, Any]:
    """What these flags ask."""
    exchange, places = (None, names) if not names or Path(names[0]).exists() else (names[0], names[1:])
    params = {name: value for name in ("client", "project", "key_hash") if (value := flags.pop(name)) is not None}
    return archives.question(places, flags, id=exchange, params=params)
