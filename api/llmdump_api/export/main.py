"""What `llmdump export` becomes: an export of data directories, without a running process.

The file is made aside (`FILE.part`) and renamed when it is whole; to stdout, the exit code tells. A line on stderr says how
far it is, where that is a terminal; at the end what was written, and where to go on.
"""

import contextlib
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import apsw
import click

from llmdump import interrupt, process
from llmdump.data_dir import DataDir
from llmdump_api.export import otlp, selection
from llmdump_api.export.forms import FORMS, batches
from llmdump_api.export.otlp import Collector
from llmdump_api.export.selection import Archive, Asked, ExportError, Selection
from llmdump_api.export.zipped import ExportTooLargeError
from llmdump_api.index import IndexUnreadableError
from llmdump_api.params import BadParamError

_SHOW_EVERY_S: Final = 0.2
_FAILURES: Final = (ExportError, ExportTooLargeError, IndexUnreadableError, apsw.Error, OSError, ValueError)


class _Progress:
    """A line on stderr that is written over."""

    def __init__(self, told: selection.Told) -> None:
        self._told = told
        self._shown_at = 0.0
        self._wanted = sys.stderr.isatty()
        self.bytes = 0

    def add(self, size: int) -> None:
        """So many bytes more."""
        self.bytes += size
        now = time.monotonic()
        if self._wanted and now - self._shown_at >= _SHOW_EVERY_S:
            self._shown_at = now
            sys.stderr.write(f"\r\x1b[KExporting  {self._told.exchanges:,} exchanges, {self.bytes / 1e6:,.1f} MB")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._wanted:
            sys.stderr.write("\r\x1b[K")


@click.command()
@click.argument("asked", nargs=1)
@interrupt.quietly()
def main(asked: str) -> None:
    """`asked`: a JSON object of roots, params, output, json, to, follow and cursor_file."""
    run(json.loads(asked))


def run(given: dict[str, Any]) -> None:
    """Export, and tell of it. Ends the process where it cannot be done."""
    try:
        checked = selection.parse(given["params"], FORMS, "jsonl", round(time.time() * 1000))
    except BadParamError as err:
        pointed = f"\n{err.more['pointed']}" if "pointed" in err.more else ""
        process.fail(f"{err.param}: {err}{pointed}", process.EXIT_SETTINGS)
    if len(given["roots"]) > 1 and (checked.query.cursor is not None or given["follow"]):
        process.fail("a cursor is of one data directory; name only that", process.EXIT_SETTINGS)
    try:
        if given["follow"]:
            _follow(given, checked)
        told = _export(given, checked)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at exit says nothing
        sys.exit(process.EXIT_FAILED)
    except _FAILURES as err:
        process.fail(f"the export is not whole: {err}")
    _tell(told, given)


def _follow(given: dict[str, Any], asked: Asked) -> NoReturn:
    """Send for ever; SIGTERM and SIGINT end it. Raises ExportError, IndexUnreadableError, OSError."""
    data = DataDir(Path(given["roots"][0]))
    name = f"otlp-{hashlib.sha256(given['to'].encode()).hexdigest()[:8]}.json"
    cursor = Path(given["cursor_file"]) if given["cursor_file"] else data.root / name
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: sys.exit(0))
    collector = _collector(given, math.inf)
    otlp.follow(lambda: otlp.Follower(Archive(data), asked, collector, cursor), _say)
    raise AssertionError("it follows for ever")


def _collector(given: dict[str, Any], tries_max: float) -> Collector:
    return Collector(given["to"], os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), tries_max, _say)


def _say(text: str) -> None:
    click.echo(f"llmdump: {text}", err=True)


def _export(given: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Write it, or send it; what it is then. Raises what making it raises."""
    roots = given["roots"]
    begin = time.monotonic()
    with contextlib.ExitStack() as opened:
        archives = [opened.enter_context(contextlib.closing(Archive(DataDir(Path(root))))) for root in roots]
        chosen = Selection(archives, asked)
        progress = _Progress(chosen.told)
        opened.callback(progress.clear)
        rejected = {}
        if given["to"]:
            collector = _collector(given, otlp.TRIES_MAX)
            for body in otlp.send(chosen, collector):
                progress.add(len(body))
            rejected = {"rejected": collector.rejected}
        else:
            _write(batches(FORMS[asked.form].stream(chosen)), given["output"], progress)
    took_s = time.monotonic() - begin
    return {"format": asked.form, **chosen.told.shown(), **rejected, "bytes": progress.bytes, "took_s": round(took_s, 3)}


def _write(pieces: Iterator[bytes], output: str, progress: _Progress) -> None:
    if output == "-":
        _copy(pieces, sys.stdout.buffer, progress)
        return
    path = Path(output)
    part = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb", 0) as file:
            _copy(pieces, file, progress)
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _copy(pieces: Iterator[bytes], file: BinaryIO, progress: _Progress) -> None:
    for piece in pieces:
        file.write(piece)
        progress.add(len(piece))
    file.flush()


def _tell(told: dict[str, Any], given: dict[str, Any]) -> None:
    to_stderr = given["output"] == "-" and not given["to"]
    if given["json"]:
        click.echo(json.dumps(told, indent=2), err=to_stderr)
        return
    text = f"{told['exchanges']:,} exchanges, {told['bytes']:,} bytes, in {told['took_s']:.1f} s"
    text += f"; {told['gone']:,} are left out, for what was recorded of them was deleted" if told["gone"] else ""
    text += "".join(f"; {count:,} are unfit: {reason}" for reason, count in told.get("unfit", {}).items())
    text += f"; there are more: --cursor {told['next_cursor']}" if told["next_cursor"] else ""
    click.echo(text, err=to_stderr)


if __name__ == "__main__":
    main()
