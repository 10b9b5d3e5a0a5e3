"""`llmdump show`: one exchange. The questions are the api's (`llmdump_api.looking`), which this becomes."""

from typing import Any, Final

import click

from llmdump.commands import archives, options

EPILOG: Final = """
\b
Examples:
  llmdump show -1                       the last one
  llmdump show -1 --timing
  llmdump show 5f0c2a9e --tools
  llmdump show 0199f3 --raw | jq .usage
  llmdump show -1 --raw --request > request.json
  llmdump show -2 --hex
  llmdump show -1 w0-00000001.cbor.zst
"""


@click.command("show", epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("exchange", metavar="ID")
@click.argument("places", metavar=archives.PLACES, nargs=-1, type=click.Path(exists=True))
@click.option("--tools", is_flag=True, help="The tools that were offered, and the calls.")
@click.option("--timing", is_flag=True, help="When what came, as a drawing.")
@click.option("--raw", is_flag=True, help="The exact bytes of the response body, or with --request of the request's.")
@click.option("--hex", is_flag=True, help="The same as a hex dump.")
@click.option("--request", is_flag=True, help="The request only.")
@click.option("--response", is_flag=True, help="The response only.")
@click.option("--full", is_flag=True, help="Long texts to their end.")
@click.option("--json", is_flag=True, help="As JSON: row, trace and reading, as the api has them.")
@options.where
def command(exchange: str, places: tuple[str, ...], **flags: Any) -> None:
    """One exchange: the conversation with roles, tool calls and reasoning, or another view of it.

    ID is an id, its beginning or its end, as far as only one exchange has it; -1 is the last, -2 the one before. Bodies are
    shown decoded but with --raw and --hex, which have them as they crossed. Exit code 1 if there is no such exchange, or its
    segment files were deleted.
    """
    archives.become("show", question(exchange, places, **flags))


def question(exchange: str, places: tuple[str, ...], **flags: Any) -> dict[str, Any]:
    """What these flags ask."""
    return archives.question(places, flags, id=exchange)
