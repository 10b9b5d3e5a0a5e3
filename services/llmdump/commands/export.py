"""`llmdump export`: exchanges for other tools. The work is the api's (`llmdump_api.export.main`), which this becomes."""

import json
from pathlib import Path
from typing import Any, Final

import click

from llmdump import interrupt, process
from llmdump.commands import options

FORMS: Final = ("jsonl", "wire-jsonl", "cbor", "har", "openai-finetune", "anthropic-finetune", "parquet", "otlp", "zip")

_OPTIONS: Final = {"filter": "expression", "q": "words", "cursor": "cursor", "limit": "limit"}

EXAMPLES: Final = """
\b
Examples:
  llmdump export -o all.jsonl                                   everything, a line an exchange
  llmdump export --format har --filter 'status>=400' -o bad.har
  llmdump export --format cbor --param since=2026-01-31T00:00:00Z -o day.cbor data
  llmdump export --limit 1000 --json -o part.jsonl              tells the cursor to go on from
  llmdump export --format otlp --to http://127.0.0.1:4318 --follow
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
@click.option("--to", metavar="URL", help="With otlp: POST the spans to a collector, as http://127.0.0.1:4318.")
@click.option("--follow", is_flag=True, help="With --to: go on for ever, with exchanges as they end.")
@click.option("--cursor-file", metavar="FILE", help="With --follow: where it has come to (default: in the data directory).")
@click.option("--json", is_flag=True, help="The summary as JSON.")
@options.where
def command(data: tuple[str, ...], config: str | None, data_dir: str | None, **given: Any) -> None:
    """Write exchanges of data directories (DATA, default: as the settings say) in the form of another tool.

    Needs the index of each, and no running process. A FILE is there when it is whole. Exit code 1 if it is not.
    """
    words = json.dumps(wanted(data, config, data_dir, **given))
    interrupt.become("llmdump_api.export.main", [words])


def wanted(data: tuple[str, ...], config: str | None, data_dir: str | None, **given: Any) -> dict[str, Any]:
    """What the api's part is told, of the command's options. Ends the process where they do not fit together."""
    if (given["to"] and given["form"] != "otlp") or (given["follow"] and not given["to"]):
        process.fail("--to is for --format otlp, and --follow for --to", process.EXIT_SETTINGS)
    switches = {"all": "1", "bytes_all": "1", "skip_missing": str(given["skip_missing"]).lower()}
    asked = {"format": given["form"], **switches, "turns": "last" if given["last_turns"] else "all"}
    asked |= {name: str(given[option]) for name, option in _OPTIONS.items() if given[option] is not None}
    asked |= _pairs(given["params"])
    settings = process.load_or_exit({"config": config, "data_dir": data_dir}).settings
    roots = [str(Path(one).absolute()) for one in data or (settings.data_dir,)]
    rest = {name: given[name] for name in ("output", "json", "to", "follow", "cursor_file")}
    return {"roots": roots, "params": asked, **rest}


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in params:
        name, equals, value = one.partition("=")
        if not equals:
            process.fail(f"--param {one!r}: allowed is NAME=VALUE", process.EXIT_SETTINGS)
        pairs[name] = value
    return pairs
