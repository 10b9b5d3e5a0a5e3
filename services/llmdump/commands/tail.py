"""`llmdump tail`: exchanges as they open, stream and end. The work is the api's (`llmdump_api.tail`), which this becomes."""

from pathlib import Path
from typing import Any

import click

from llmdump import interrupt, process
from llmdump.commands import options
from llmdump.data_dir import DataDir


@click.command("tail")
@click.argument("exchange", metavar="[ID]", required=False)
@click.option("--filter", "words", help="Only exchanges that this expression means (docs/filter.md).")
@click.option("--bytes", "wants_bytes", is_flag=True, help="Of the exchange ID: its response body, as it comes.")
@click.option("--json", "wants_json", is_flag=True, help="One JSON object a line: the events of /api/live (docs/live.md).")
@options.where
def command(exchange: str | None, words: str | None, wants_bytes: bool, wants_json: bool, **flags: Any) -> None:
    """Show exchanges as they open and end; of one, with ID, until it is over.

    Follows the segment files, so no process needs to run but the writer; tokens and cost come with a running indexer. What is
    open already is shown first. Ends with Ctrl-C.

    \b
    Examples:
      llmdump tail
      llmdump tail --filter 'status>=400 or ttft>2s'
      llmdump tail ID --bytes
      llmdump tail --json | jq -r 'select(.event == "row") | .model'
    """
    settings = process.load_or_exit(flags).settings
    arguments = [
        str(DataDir(Path(settings.data_dir)).root),
        *([f"--filter={words}"] if words is not None else []),
        *["--bytes"] * wants_bytes,
        *["--json"] * wants_json,
        *(["--", exchange] if exchange is not None else []),
    ]
    interrupt.become("llmdump_api.tail", arguments)
