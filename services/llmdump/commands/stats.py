"""`llmdump stats`: sums and percentiles over time. The questions are the api's (`llmdump_api.looking`), which this becomes."""

from typing import Any, Final

import click

from llmdump.commands import archives, options

BY: Final = (
    "model",
    "api",
    "provider",
    "client",
    "project",
    "key_hash",
    "status_class",
    "status",
    "end_reason",
    "error",
    "finish_reason",
)

EPILOG: Final = """
\b
Examples:
  llmdump stats
  llmdump stats --by model --since -7d
  llmdump stats --filter 'client=claude-code' --by status
  llmdump stats --by key_hash -n 5 --json
  llmdump stats --by status w0-00000001.cbor.zst
"""


@click.command("stats", epilog=EPILOG)
@click.argument("places", metavar=archives.PLACES, nargs=-1, type=click.Path(exists=True))
@click.option("--by", type=click.Choice(BY), help="A line for each of these.")
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True, help="At most so many lines.")
@click.option("-f", "--filter", metavar="EXPRESSION", help="Only of exchanges that pass; docs/filter.md explains it.")
@click.option("--since", metavar="TIME", help="From then on (default: all there is, of the last 120 days).")
@click.option("--until", metavar="TIME", help="Before then.")
@click.option("--json", is_flag=True, help="As JSON, as /api/stats has it.")
@options.where
def command(places: tuple[str, ...], **flags: Any) -> None:
    """Requests, errors, tokens, cost, time to the first token, duration and pace, with percentiles, and requests over time."""
    archives.become("stats", question(places, **flags))


def question(places: tuple[str, ...], **flags: Any) -> dict[str, Any]:
    """What these flags ask."""
    return archives.question(places, flags)
