"""`llmdump ls`: the exchanges, newest first. The questions are the api's (`llmdump_api.looking`), which this becomes."""

from typing import Any, Final

import click

from llmdump.commands import archives, options

_PARAMS: Final = ("filter", "q", "model", "status", "path", "client", "provider", "project")

EPILOG: Final = """
\b
Examples:
  llmdump ls
  llmdump ls -n 100 --filter 'model~claude and status>=400 and ttft>2s'
  llmdump ls --since -2h --status 5xx
  llmdump ls -q '"rate limit" retry' --json
  llmdump ls w0-00000001.cbor.zst
  llmdump ls session.cbor browser.har           captures of other programs
"""


@click.command("ls", epilog=EPILOG)
@click.argument("places", metavar=archives.PLACES, nargs=-1, type=click.Path(exists=True))
@click.option("-n", "--limit", type=click.IntRange(0), default=20, show_default=True, help="At most so many; 0: all.")
@click.option("-f", "--filter", metavar="EXPRESSION", help="A filter expression; docs/filter.md explains it.")
@click.option("-q", "q", metavar="WORDS", help="Only where these words are in the new prompt or the answer.")
@click.option("--since", metavar="TIME", help="Only from then on: RFC 3339, -2h, now-1d, 12:30, seconds since 1970.")
@click.option("--until", metavar="TIME", help="Only before.")
@click.option("--model", help="Only this model.")
@click.option("--status", help="Only this status, or a class as 5xx.")
@click.option("--path", help="Only this path; a trailing * is whatever begins so.")
@click.option("--client", help="Only this program.")
@click.option("--provider", help="Only this backend.")
@click.option("--project", help="Only this project of a client.")
@click.option("--json", is_flag=True, help="As JSON, a row a line, as the api has it.")
@options.where
def command(places: tuple[str, ...], **flags: Any) -> None:
    """The exchanges of an archive, newest first, a line each.

    DATA is a data directory, with or without running processes; FILE a segment, plain or .zst, or any capture that
    `llmdump import` takes, of which an index is made aside. None: this instance. The ID that is shown is the end of the id,
    which `llmdump show` takes. Columns for which the terminal has no room are left out.
    """
    archives.become("ls", question(places, **flags))


def question(places: tuple[str, ...], **flags: Any) -> dict[str, Any]:
    """What these flags ask."""
    params = {name: value for name in _PARAMS if (value := flags.pop(name)) is not None}
    return archives.question(places, flags, params=params)
