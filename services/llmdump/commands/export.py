"""`llmdump export`: exchanges for other tools. The work is the api's (`llmdump_api.export.main`), which this becomes."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from llmdump import process
from llmdump.commands import options

FORMS: Final = ("jsonl", "wire-jsonl", "cbor", "har", "openai-finetune", "anthropic-finetune", "parquet", "zip")

_OPTIONS: Final = {"filter": "expression", "q": "words", "cursor": "cursor", "limit": "limit"}

EXAMPLES: Final = """
\b
Examples:
  llmdump export -o all.jsonl                                   everything, a line an exchange
  llmdump export --format har --filter 'status>=400' -o bad.har
  llmdump export --format cbor --param since=2026-01-31T00:00:00Z -o day.cbor data
  llmdump export --limit 1000 --json -o part.jsonl              tells the cursor to go on from
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("data", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option("--format", "form", type=click.Choice(FORMS), default="jsonl", show_default=True, help="See docs/export.md.")
@click.option("--filter", "expression", help="An expression, as in docs/filter.md.")
@click.option("-q", "words", help="Full text.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Any parameter of GET /api/traces.")
@click.option("--cursor", help="Go on behind an earlier export.")
@click.option("--limit", type=click.IntRange(1), help="So many exchanges at most; the end tells the cursor.")
@click.option("--last-turns", is_flag=True, help="Only exchanges that no other continues: a line a branch of each session.")
@click.option("--skip-missing", is_flag=True, help="Leave out what cannot be read because its file is not there.")
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: stdout.")
@click.option("--json", "wants_json", is_flag=True, help="The summary as JSON.")
@options.where
def command(
    data: tuple[str, ...],
    form: str,
    params: tuple[str, ...],
    output: str,
    wants_json: bool,
    skip_missing: bool,
    last_turns: bool,
    **flags: Any,
) -> None:
    """Write exchanges of data directories (DATA, default: as the settings say) in the form of another tool.

    Needs the index of each, and no running process. A FILE is there when it is whole. Exit code 1 if it is not.
    """
    own = {
        "filter": flags.pop("expression"),
        "q": flags.pop("words"),
        "cursor": flags.pop("cursor"),
        "limit": flags.pop("limit"),
    }
    asked = {"format": form, "all": "1", "bytes_all": "1", "skip_missing": str(skip_missing).lower()}
    asked["turns"] = "last" if last_turns else "all"
    asked |= {name: str(value) for name, value in own.items() if value is not None}
    asked |= _pairs(params)
    settings = process.load_or_exit(flags).settings
    roots = [str(Path(one).absolute()) for one in data or (settings.data_dir,)]
    given = {"roots": roots, "output": output, "json": wants_json, "params": asked}
    os.execv(sys.executable, [sys.executable, "-P", "-m", "llmdump_api.export.main", json.dumps(given)])


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in params:
        name, equals, value = one.partition("=")
        if not equals:
            process.fail(f"--param {one!r}: allowed is NAME=VALUE", process.EXIT_SETTINGS)
        pairs[name] = value
    return pairs
