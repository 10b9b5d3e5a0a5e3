"""`llmdump import`: captures of other tools, and our own, into an archive."""

import json
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import apsw
import click

from llmdump import interrupt, process
from llmdump.commands import options, terminal
from llmdump.data_dir import DataDir
from llmdump.importing import taking, undoing
from llmdump.importing.segments import ImportFailedError, Importing
from llmdump.importing.taking import Told

EXAMPLES: Final = """
\b
Examples:
  llmdump import old/data/2026-01-31/6981744f.jsonl.gz          api-log's
  llmdump import session.cbor browser.har                       the reference implementation's, a browser's
  llmdump import --data-dir everything a/segments/w0-*          our own, of another archive
  llmdump import --undo session.cbor                            as if it had not been imported
"""


@click.command("import", epilog=EXAMPLES)
@click.argument("paths", nargs=-1, required=True, metavar="FILE…", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--undo", "undoes", is_flag=True, help="Take back what was imported of each FILE, and make the index anew.")
@click.option("--json", "wants_json", is_flag=True, help="The summary as JSON.")
@options.where
def command(paths: tuple[Path, ...], undoes: bool, wants_json: bool, **flags: Any) -> None:
    """Put captures into an archive: CBOR V2, segments, JSONL of api-log, of the reference implementation and ours,
    HAR; also compressed (zstd, gzip).

    The data directory may be in use. A file is taken once, and so is an exchange that has an id; what cannot be taken is
    counted and listed, and the rest goes on. Exit code 1 if there was such, or nothing could be written.
    """
    settings = process.load_or_exit(flags).settings
    data = DataDir(Path(settings.data_dir))
    if undoes:
        _undo(data, paths, settings.price_file)
    try:
        with Importing(data.create(), settings.capture_min_free_bytes) as importing:
            told = [taking.take(importing, path, terminal.progress) for path in paths]
            importing.finish()
    except (ImportFailedError, OSError, apsw.Error) as err:
        process.fail(f"nothing was imported: {err}")
    summary = {"files": [one.as_json() for one in told], "segments": importing.files}
    click.echo(json.dumps(summary, indent=2) if wants_json else _text(told))
    sys.exit(process.EXIT_FAILED if any(one.problems for one in told) else 0)


def _undo(data: DataDir, paths: tuple[Path, ...], price_file: str) -> NoReturn:
    """Take back each file, then become the one who makes the index anew."""
    removed = 0
    for path in paths:
        try:
            segments = undoing.undo(data, path)
        except OSError as err:
            process.fail(f"{path}: cannot be taken back: {err}")
        removed += len(segments)
        gone = f"{' '.join(segments)} is removed" if segments else f"nothing in {data.root} was made of it as it is now"
        click.echo(f"{path}: {gone}", err=not segments)
    if not removed:
        sys.exit(process.EXIT_FAILED)
    sys.stdout.flush()
    interrupt.become("llmdump_indexer.rebuild", [str(data.root), f"--price-file={price_file}"])


def _text(told: list[Told]) -> str:
    lines = []
    for one in told:
        if one.already_imported:
            lines.append(f"{one.file}: was imported before ({one.already_imported})")
            continue
        known = f", {one.already_there:,} more are there already" if one.already_there else ""
        lines.append(f"{one.file}: {one.exchanges:,} exchanges ({one.form or 'unknown form'}){known}")
        lines += [f"  {problem['where'] or 'file'}: {problem['what']}" for problem in one.listed]
        if one.problems > len(one.listed):
            lines.append(f"  … {one.problems - len(one.listed):,} more could not be taken")
    return "\n".join(lines)
