"""`llmdump inspect`: capture files looked into, without an index and without a running process. Prints; decides nothing.

The views come in a fixed order, whatever the order of the flags: summary, statuses, timeline, issues, sessions, pairs,
one request, streams, entries, requests.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from llmdump import process
from llmdump.captures.entry import NAMES, escaped, name_of
from llmdump.commands import options, terminal
from llmdump.inspecting import as_json, files, moments, selection, text, views
from llmdump.inspecting.files import UnreadableError
from llmdump.inspecting.issues import KINDS
from llmdump.inspecting.pairing import Paired
from llmdump.inspecting.selection import CONTEXT_DEFAULT, Filters, Selector
from llmdump.inspecting.views import Capture, Sums

EXIT_FOUND: Final = 1
WARNINGS_MAX: Final = 10
DIRECTIONS: Final = [name for name in NAMES.values() if name != "recorder"]
_JSON_BEGIN: Final = b'{\n  "header"'
_PICKED: Final = ("last", "range_", "around", "entry")
_ANALYSES: Final = (
    "analyze", "analyze_streaming", "detect_issues", "timeline", "group_by_session", "status_summary", "b2bua", "track_request",
)  # fmt: skip

EPILOG: Final = """
\b
Examples:
  llmdump inspect session.cbor                                  what there is
  llmdump inspect session.cbor --detect-issues --timeline
  llmdump inspect session.cbor --entries 10 --verbose
  llmdump inspect session.cbor --around 83 --context 5
  llmdump inspect data --detect-issues --fail-on broken_stream  a whole data directory
  llmdump inspect session.cbor --start-time -2h --analyze -b openai
  llmdump inspect session.cbor --json > export.json

\b
Exit code: 0; 1 if nothing could be read, nothing passes the filters, or --fail-on found something; 2 for wrong usage.
"""


class _Asked:
    """The flags, by name."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self.__dict__.update(flags)
        self.is_analysed = any(flags[name] for name in _ANALYSES)
        self.with_issues = flags["detect_issues"] or bool(flags["fail_on"])

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @property
    def is_picked(self) -> bool:
        """Whether certain entries are asked for, rather than the first ones."""
        return any(getattr(self, name) is not None for name in _PICKED)

    @property
    def shows_entries(self) -> bool:
        """Whether entries are shown."""
        return self.is_picked or self.entries > 0 or bool(self.search or self.session_substring)

    @property
    def limit(self) -> int | None:
        """How many entries are shown at most."""
        return int(self.entries) if self.entries > 0 and not self.is_picked else None

    def selector(self) -> Selector:
        """Which entries are picked. Exits where the range is none."""
        try:
            range_ = selection.numbers(self.range_) if self.range_ is not None else None
        except ValueError as err:
            process.fail(str(err))
        return Selector(self.entry, self.around, self.context, range_, self.last)


def _moment(value: str | None, otherwise: float, began_s: Callable[[], float]) -> float:
    if value is None:
        return otherwise
    try:
        return moments.parse(value, began_s() if moments.needs_beginning(value) else 0.0, time.time())
    except ValueError as err:
        process.fail(str(err))


def _filters(asked: _Asked, capture: Capture) -> Filters:
    empty = Filters()
    return Filters(
        asked.direction or "",
        asked.backend or "",
        asked.session_id or "",
        asked.session_substring or "",
        asked.search or "",
        _moment(asked.start_time, empty.since_s, capture.began_s),
        _moment(asked.end_time, empty.until_s, capture.began_s),
    )


def _sums(capture: Capture, asked: _Asked) -> Sums:
    with terminal.progress(files.sizes(capture.sources), "Reading") as advance:
        return views.sums(
            capture,
            with_issues=asked.with_issues,
            with_sessions=asked.group_by_session,
            track=max(0, asked.track_request or 0),
            advance=advance,
        )


def _warn(capture: Capture, sums: Sums, asked: _Asked) -> None:
    """What is wrong with the files or with what was asked, on stderr. Exits where nothing passes."""
    for text_ in _warnings(sums):
        click.echo(f"WARNING: {text_}", err=True)
    backend = capture.filters.backend
    if backend and backend not in sums.backends.counts:
        known = ", ".join(escaped(name) for name, _ in _every_backend(capture))
        click.echo(f"WARNING: no entry is of backend {backend!r}; there are: {known or 'none'}", err=True)
    if sums.summary.passed or not sums.summary.entries:
        return
    if asked.session_id or asked.session_substring:
        process.fail("no entry is of this session; --session-id is exact, --session-substring is any part")
    if asked.start_time or asked.end_time:
        process.fail("no entry is of this time")


def _warnings(sums: Sums) -> Iterator[str]:
    damages = [issue for kind, _, kept in sums.found.kinds() if kind == "damage" for issue in kept if issue.at.seq < 0]
    yield from (f"{escaped(issue.at.file)}: {issue.text}" for issue in damages[:WARNINGS_MAX])
    if len(damages) > WARNINGS_MAX:
        yield f"{len(damages) - WARNINGS_MAX} more places are damaged (--detect-issues tells)"


def _every_backend(capture: Capture) -> list[tuple[str, int]]:
    return views.sums(Capture(capture.sources, Filters()), with_issues=False, with_sessions=False).backends.counts.most_common()


def _lines(capture: Capture, sums: Sums, asked: _Asked) -> Iterator[str]:
    paint, count = terminal.painter(), len(capture.sources)
    yield from text.summary(sums.headers, count, sums.summary, filtered=capture.filters.is_any)
    if asked.status_summary:
        yield from text.statuses(sums.statuses.told())
    if asked.timeline:
        yield from text.section("TIMELINE")
        yield from (text.timeline(one, gap_s, _where(one, count), paint) for one, gap_s in views.timeline(capture))
    if asked.detect_issues:
        yield from text.issues(sums.found, count, paint)
    if asked.group_by_session:
        yield from text.conversations(sums.conversations.told(), sums.conversations.left_out)
    if asked.b2bua:
        yield from text.pairs(sums.pairs.counts.most_common())
    if asked.track_request is not None:
        yield from text.steps(asked.track_request, list(views.steps(capture, sums.tracked)), paint)
    if asked.analyze_streaming:
        yield from text.section("STREAMING ANALYSIS")
        for number, told in enumerate(views.streams(capture), 1):
            yield from text.stream(number, told)
    if asked.shows_entries:
        yield from _entries(capture, asked, paint)
    if asked.analyze:
        yield from text.section("REQUEST/RESPONSE ANALYSIS")
        for number, told in enumerate(views.requests(capture), 1):
            yield from text.analysis(number, told, paint)


def _where(paired: Paired, files_: int) -> str:
    return f"{paired.entry.file}:" if files_ > 1 else ""


def _entries(capture: Capture, asked: _Asked, paint: text.Paint) -> Iterator[str]:
    yield from text.section("ENTRIES")
    count, shown, picked = len(capture.sources), 0, views.entries(capture, asked.selector())
    for paired in itertools.islice(picked, asked.limit):
        shown += 1
        yield from text.entry_lines(
            paired, _where(paired, count), verbose=asked.verbose, as_hex=asked.hex_, bytes_max=asked.max_data, paint=paint
        )
    rest = sum(1 for _ in picked) if asked.limit is not None else 0
    if rest:
        yield f"... and {rest} more entries"
    if not shown and asked.entry is not None:
        click.echo(f"WARNING: there is no entry {asked.entry}, or a filter leaves it out", err=True)


def _members(capture: Capture, sums: Sums, asked: _Asked) -> Iterator[tuple[str, Any]]:
    count = len(capture.sources)
    yield "header", as_json.header(sums.headers[0] if sums.headers else None)
    yield "summary", sums.summary.told()
    if asked.status_summary:
        yield "status_summary", sums.statuses.told()
    if asked.timeline:
        yield "timeline", (
            {"seq": one.entry.seq, "direction": name_of(one.entry.direction), "timestamp": one.entry.ts, "gap_s": gap_s,
             "size": len(one.entry.data), "backend": one.backend}
            for one, gap_s in views.timeline(capture)
        )  # fmt: skip
    if asked.with_issues:
        yield "issues", (as_json.issue(issue) for _, _, kept in sums.found.kinds() for issue in kept)
        yield "issue_counts", dict(sums.found.counts)
        yield "retries", sums.found.retries
        yield "unfinished", sums.found.unfinished
    if asked.group_by_session:
        yield "sessions", sums.conversations.told()
    if asked.b2bua:
        yield "b2bua", [{"a": a, "b": b, "entries": found} for (a, b), found in sums.pairs.counts.most_common()]
    if asked.track_request is not None:
        yield "request", views.steps(capture, sums.tracked)
    if asked.analyze_streaming:
        yield "streams", views.streams(capture)
    if asked.shows_entries or not asked.is_analysed:
        picked = itertools.islice(views.entries(capture, asked.selector()), asked.limit if asked.shows_entries else None)
        yield (
            "entries",
            (as_json.entry(one, count) for one in picked),
        )
    if asked.analyze:
        yield "requests", views.requests(capture)


def _export(capture: Capture, sums: Sums, asked: _Asked) -> None:
    pieces = as_json.document(_members(capture, sums, asked))
    if asked.json_file == "-":
        for piece in pieces:
            click.echo(piece, nl=False)
        return
    path = Path(asked.json_file)
    _refuse_to_spoil(path)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.writelines(pieces)


def _refuse_to_spoil(path: Path) -> None:
    """`--json FILE` takes the word behind it; where that is a capture, it is not written over."""
    if path.exists() and path.stat().st_size and path.read_bytes()[: len(_JSON_BEGIN)] != _JSON_BEGIN:
        process.fail(f"{path} is there and is no earlier export: give another name, or put --json behind the files")


def _judge(sums: Sums, asked: _Asked) -> NoReturn:
    """Leave with the exit code."""
    wanted = {"error", "warning", *KINDS} if "any" in asked.fail_on else set(asked.fail_on)
    found = {kind: count for kind, count in sums.found.counts.items() if kind in wanted}
    if found:
        process.fail(f"found {', '.join(f'{kind} ({count})' for kind, count in sorted(found.items()))}", EXIT_FOUND)
    sys.exit(0)


@click.command("inspect", epilog=EPILOG)
@click.argument("paths", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("-e", "--entries", type=int, default=0, help="Show the first N entries (after filters); 0 shows none.")
@click.option("--last", type=int, help="Show the last N entries.")
@click.option("-r", "--range", "range_", metavar="A-B", help="Show the entries numbered A to B (also A:B, A..B).")
@click.option("--around", type=int, metavar="N", help="Show the entries around number N.")
@click.option("-c", "--context", type=int, default=CONTEXT_DEFAULT, show_default=True, help="With --around: on each side.")
@click.option("--entry", type=int, metavar="N", help="Show entry number N.")
@click.option("-d", "--direction", type=click.Choice(DIRECTIONS), help="Only this direction.")
@click.option("-b", "--backend", help="Only this backend; chunks count for the backend of their request.")
@click.option("-l", "--list-backends", is_flag=True, help="The backends with their counts, and nothing else.")
@click.option("-s", "--search", metavar="TEXT", help="Only entries with TEXT in data or metadata, in any case of letters.")
@click.option("--session-id", help="Only this session, exactly.")
@click.option("--session-substring", metavar="TEXT", help="Only sessions with TEXT in an id, in any case of letters.")
@click.option("--start-time", metavar="TIME", help=f"Only from then on: {moments.ALLOWED}.")
@click.option("--end-time", metavar="TIME", help="Only up to then.")
@click.option("-v", "--verbose", is_flag=True, help="With entries: all metadata, under readable names.")
@click.option("--hex", "hex_", is_flag=True, help="With entries: bytes as a hex dump.")
@click.option("--max-data", type=int, default=4096, show_default=True, help="With entries: bytes that are shown of each.")
@click.option("-j", "--json", "json_file", is_flag=False, flag_value="-", metavar="[FILE]", help="As JSON, to FILE or stdout.")
@click.option("-a", "--analyze", is_flag=True, help="Each request: model, timing, content, tool calls.")
@click.option("--analyze-streaming", is_flag=True, help="Each backend stream: first token, chunks, slow chunks.")
@click.option("--detect-issues", is_flag=True, help="What went wrong.")
@click.option("-t", "--timeline", is_flag=True, help="Every entry with the time since the one before.")
@click.option("--group-by-session", is_flag=True, help="Entries by session.")
@click.option("--track-request", type=int, metavar="N", help="The N-th request, entry by entry.")
@click.option("--status-summary", is_flag=True, help="HTTP statuses by exchange, and each backend's share of 429.")
@click.option("--b2bua", is_flag=True, help="Pairs of session ids, the client's leg and the backend's.")
@click.option("--fail-on", multiple=True, type=click.Choice([*KINDS, "any"]), help="Exit code 1 if such an issue is found.")
@options.where
def command(paths: tuple[Path, ...], **flags: Any) -> None:
    """Look into capture files: CBOR V2 and JSONL, of llmdump and of others, plain or .zst, or whole data directories.

    Without FILE: the data directory of this instance. Needs no index and no running process. All filters hold for all views.
    """
    terminal.end_with_reader()
    where = {name: flags.pop(name) for name in ("config", "data_dir")}
    asked = _Asked(flags)
    try:
        capture = Capture(files.sources(paths or [Path(process.load_or_exit(where).settings.data_dir)]), Filters())
        capture = Capture(capture.sources, _filters(asked, capture))
        asked.selector()
        sums = _sums(capture, asked)
        _warn(capture, sums, asked)
        if asked.list_backends:
            click.echo("\n".join(text.backends(sums.backends.counts.most_common())))
        elif asked.json_file is not None:
            _export(capture, sums, asked)
        else:
            for line in _lines(capture, sums, asked):
                click.echo(line)
    except UnreadableError as err:
        process.fail(str(err))
    _judge(sums, asked)
