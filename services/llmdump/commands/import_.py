"""`llmdump import`: captures of other tools, and our own, into an archive."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import apsw
import click

from llmdump import process
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.importing import files, har, ours, traces, v2
from llmdump.importing.parts import Item, Made, Problem, UnusableError
from llmdump.importing.segments import ImportFailedError, Importing, exchange_id
from llmdump.record import DamageError, Record

PROBLEMS_SHOWN: Final = 20
_SHOW_EVERY_S: Final = 0.2

EXAMPLES: Final = """
\b
Examples:
  llmdump import old/data/2026-01-31/6981744f.jsonl.gz          api-log's
  llmdump import session.cbor browser.har                       the reference implementation's, a browser's
  llmdump import --data-dir everything a/segments/w0-*          our own, of another archive
"""


@click.command("import", epilog=EXAMPLES)
@click.argument("paths", nargs=-1, required=True, metavar="FILE…", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "wants_json", is_flag=True, help="The summary as JSON.")
@options.where
def command(paths: tuple[Path, ...], wants_json: bool, **flags: Any) -> None:
    """Put captures into an archive: CBOR V2, segments, api-log's and our JSONL, HAR; also compressed (zstd, gzip).

    The data directory may be in use. A file is taken once, and so is an exchange that has an id; what cannot be taken is
    counted and listed, and the rest goes on. Exit code 1 if there was such, or nothing could be written.
    """
    settings = process.load_or_exit(flags).settings
    data = DataDir(Path(settings.data_dir))
    try:
        with Importing(data.create(), settings.capture_min_free_bytes) as importing:
            told = [_file(importing, path) for path in paths]
            importing.finish()
    except (ImportFailedError, OSError, apsw.Error) as err:
        process.fail(f"nothing was imported: {err}")
    summary = {"files": told, "segments": importing.files}
    click.echo(json.dumps(summary, indent=2) if wants_json else _text(told))
    sys.exit(process.EXIT_FAILED if any(one["problems"] for one in told) else 0)


def _file(importing: Importing, path: Path) -> dict[str, Any]:
    """Import one file; what to tell of it. Raises ImportFailedError, OSError, apsw.Error."""
    told: dict[str, Any] = {"file": str(path), "form": None, "exchanges": 0, "already_there": 0, "problems": 0, "listed": []}
    sha256 = files.sha256(path)
    if sha256 in importing.known.files:
        return told | {"already_imported": importing.known.files[sha256]}
    importing.known.files[sha256] = str(path)
    try:
        with files.plain(path) as content:
            told["form"] = files.form_of(content)
            importing.begin(path.name, sha256, told["form"])
            _take(importing, _items(content, told["form"]), sha256, told)
    except (UnusableError, DamageError) as err:
        _problem(told, Problem("", str(err)))
    if told["form"] and importing.is_empty:
        importing.take_back()
    return told


def _items(content: BinaryIO, form: str) -> Iterator[Item]:
    if form in {"segment", "wire-jsonl"}:
        return ours.read(content, form)
    return {"v2": v2.read, "har": har.read, "traces": traces.read}[form](content)


def _take(importing: Importing, items: Iterator[Item], sha256: str, told: dict[str, Any]) -> None:
    shown_at = time.monotonic()
    for ordinal, item in enumerate(items):
        if isinstance(item, Problem):
            _problem(told, item)
        elif isinstance(item, Record):
            taken = importing.record(item)
            told["exchanges" if taken else "already_there"] += item.kind == "head" and item.direction == 0
        else:
            _made(importing, item, exchange_id(item.id, item.parts[0].ts, sha256, ordinal), told)
        if sys.stderr.isatty() and time.monotonic() - shown_at > _SHOW_EVERY_S:
            shown_at = time.monotonic()
            sys.stderr.write(f"\r\x1b[KImporting  {told['file']}  {told['exchanges']:,} exchanges\r")


def _made(importing: Importing, made: Made, id_: str, told: dict[str, Any]) -> None:
    try:
        told["exchanges" if importing.exchange(made, id_) else "already_there"] += 1
    except UnusableError as err:
        _problem(told, Problem(made.where, str(err)))


def _problem(told: dict[str, Any], problem: Problem) -> None:
    told["problems"] += 1
    if len(told["listed"]) < PROBLEMS_SHOWN:
        told["listed"].append({"where": problem.where, "what": problem.what})


def _text(told: list[dict[str, Any]]) -> str:
    lines = []
    for one in told:
        if "already_imported" in one:
            lines.append(f"{one['file']}: was imported before ({one['already_imported']})")
            continue
        known = f", {one['already_there']:,} more are there already" if one["already_there"] else ""
        lines.append(f"{one['file']}: {one['exchanges']:,} exchanges ({one['form'] or 'unknown form'}){known}")
        lines += [f"  {problem['where'] or 'file'}: {problem['what']}" for problem in one["listed"]]
        if one["problems"] > len(one["listed"]):
            lines.append(f"  … {one['problems'] - len(one['listed']):,} more could not be taken")
    return "\n".join(lines)
