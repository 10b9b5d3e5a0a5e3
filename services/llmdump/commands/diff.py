"""`llmdump diff`: which part of a request changed first. The work is the api's (`llmdump_api.diff`), which this becomes."""

from pathlib import Path
from typing import Any

import click

from llmdump import interrupt, process
from llmdump.commands import options
from llmdump.data_dir import DataDir


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--json", "wants_json", is_flag=True, help="As JSON: what GET /api/diff answers (docs/diff.md).")
@options.where
def command(a: str, b: str, wants_json: bool, **flags: Any) -> None:
    """Show which message, tool or parameter of exchange B is the first that is not as in exchange A, and what that cost.

    A and B are ids of rows. Needs the index, and no running process.
    """
    settings = process.load_or_exit(flags).settings
    root = str(DataDir(Path(settings.data_dir)).root)
    arguments = [f"--price-file={settings.price_file}", *["--json"] * wants_json, "--", root, a, b]
    interrupt.become("llmdump_api.diff", arguments)
