"""`llmdump rebuild`: the index made anew. The work is the indexer's (`llmdump_indexer.rebuild`), which this becomes."""

from pathlib import Path
from typing import Any

import click

from llmdump import interrupt, process
from llmdump.commands import options
from llmdump.data_dir import DataDir


@click.command("rebuild")
@click.option("--forget-deleted", is_flag=True, help="Leave out the rows of deleted segments, which cannot be made again.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(forget_deleted: bool, wants_json: bool, **flags: Any) -> None:
    """Make the index anew from the segment files, beside the one in use, and swap it in.

    Indexer and api go on meanwhile, and read the new one from then on. Rows of exchanges whose segments were deleted are
    carried over from the index in use. Exit code 1 if it could not be made; nothing has changed then.
    """
    settings = process.load_or_exit(flags).settings
    data = DataDir(Path(settings.data_dir))
    arguments = [
        str(data.root),
        f"--price-file={settings.price_file}",
        *["--forget-deleted"] * forget_deleted,
        *["--json"] * wants_json,
    ]
    interrupt.become("llmdump_indexer.rebuild", arguments)
