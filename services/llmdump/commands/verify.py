"""`llmdump verify`: the loss certificate of a data directory, with or without running processes.

Who lives is asked before the files are listed and after; how far the index is, before they are read; what it holds,
after; and so with what retention has deleted. So a pipeline that goes on meanwhile is never taken for one that has lost
something.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import click

from llmdump import certificate, indexed, pins, presence, process, ranges, retention, segment
from llmdump.certificate import PENDING, Facts, Retired, Statement
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.indexed import Ledger, Segment
from llmdump.ledger import About
from llmdump.ranges import Ranges
from llmdump.retention import Notes
from llmdump.segment import Name
from llmdump.survey import Seen, Survey

EXIT_COMPLETE: Final = 0
EXIT_INCOMPLETE: Final = 1
EXIT_UNREADABLE: Final = 2
# As long as the indexer waits before a tail that looks cut, with whole records after it, is damage.
CUT_FOR_S_MAX: Final = 5.0
LINES_MAX: Final = 8
"""Of each part of the text; `--json` has all."""
RANGES_MAX: Final = 6
_BUSY_TIMEOUT_MS: Final = 5000


class Window(NamedTuple):
    """[since, until), seconds since 1970."""

    since_s: float = -math.inf
    until_s: float = math.inf


class Certified(NamedTuple):
    """What is certified of one instance."""

    statement: Statement
    about: About
    last_ts: float
    indexed: int
    not_indexed: Ranges
    """In files, read by the index, and not in it."""
    behind: int
    """In files, and still to be read by the indexer."""


class Certificate(NamedTuple):
    """All of it."""

    survey: Survey
    instances: list[Certified]
    died_before: int
    """Instances that ended without a goodbye before the window."""
    indexer_lives: bool
    unreadable_notes: int
    """Lines of the list of what was deleted that say nothing."""
    strict: bool
    """Whether what was deleted on purpose makes it incomplete."""

    @property
    def deleted(self) -> int:
        """Records that retention deleted."""
        return sum(one.statement.deleted for one in self.instances)

    @property
    def problems(self) -> list[str]:
        """Why it is not complete, each in a few words."""
        statements = [one.statement for one in self.instances]
        reasons: dict[str, int] = {}
        for missing in (missing for statement in statements for missing in statement.missing):
            reasons[missing.reason] = reasons.get(missing.reason, 0) + missing.numbers
        found = [f"{count:,} records missing: {reason}" for reason, count in sorted(reasons.items())]
        if self.strict and self.deleted:
            found.append(f"{self.deleted:,} records deleted by retention")
        pending = sum(statement.state == PENDING for statement in statements)
        if pending:
            found.append(f"{pending} instances have records in spill files: a running proxy and writer send them")
        unknown = sum(statement.unknown_after is not None for statement in statements)
        if unknown:
            found.append(f"{unknown} of {len(statements)} instances ended without a goodbye")
        if self.survey.damages:
            found.append(f"{len(self.survey.damages)} damaged places")
        not_indexed = sum(ranges.count(one.not_indexed) for one in self.instances)
        if not_indexed:
            found.append(f"{not_indexed:,} records not in the index: `llmdump rebuild` makes it anew")
        behind = sum(one.behind for one in self.instances)
        if behind and not self.indexer_lives:
            found.append(f"{behind:,} records not indexed yet: start `llmdump-indexer`")
        return found


class UnreadableError(RuntimeError):
    """There is nothing that could be certified; the message says why."""


# --- looking


def certify(data: DataDir, window: Window, advance: Callable[[int], None], *, strict: bool = False) -> Certificate:
    """The certificate of a data directory. Blocking. Raises UnreadableError, OSError."""
    notes = Notes(data.segments)
    notes.read()
    lived = presence.living(data.run)
    spilled = data.spilled()
    known = _from_index(data, indexed.segments) or []
    survey = Survey(*window)
    writers_live = any(card.role == "writer" for card in lived)
    names = [name for one in known if (name := segment.parse_name(one.name))]
    patience_s = CUT_FOR_S_MAX if writers_live else 0.0
    survey.read(data.segments, names, notes.deleted(), _read_to(known), patience_s, advance)
    for exchange in sorted(pins.find(data)):
        survey.look_at_pinned(pins.path_of(data, exchange))
    notes.read()
    survey.retire(notes.deleted())
    ledgers = _from_index(data, indexed.ledgers) or {}
    if not survey.instances and not survey.files and not ledgers:
        raise UnreadableError(f"nothing is recorded in {data.root}: there is nothing to certify")
    cards = [*lived, *presence.living(data.run)]
    spilled |= data.spilled()
    for instance in (*ledgers, *spilled):
        survey.of(instance)
    living = {card.instance for card in cards if card.role == "proxy"}
    writers = {f"w{card.slot}" for card in cards if card.role == "writer"}
    found = [
        _one(
            name,
            seen,
            ledgers.get(name),
            window,
            writers if name in living | spilled else None,
            pending=name in spilled - living,
        )
        for name, seen in survey.instances.items()
    ]
    return Certificate(
        survey,
        sorted((one for one in found if one is not None), key=lambda one: (one.about.hello_us or 0, one.statement.instance)),
        sum(_died_before(name, seen, window, living) for name, seen in survey.instances.items()),
        any(card.role == "indexer" for card in cards),
        notes.unreadable,
        strict,
    )


def _from_index(data: DataDir, ask: Callable[[apsw.Connection], Any]) -> Any:
    """The answer of the index; None if there is none. Raises UnreadableError."""
    if not data.index.exists():
        return None
    try:
        with contextlib.closing(apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            db.set_busy_timeout(_BUSY_TIMEOUT_MS)
            return ask(db) if db.pragma("user_version") else None
    except apsw.Error as err:
        raise UnreadableError(f"cannot read {data.index}: {err}; `llmdump rebuild` makes it anew") from err


def _read_to(known: list[Segment]) -> Callable[[Name], float | None]:
    """How far the index has read a segment. Of two formats it reads one: it will not read the other."""
    offsets = {one.name: math.inf if one.closed else float(one.offset) for one in known}

    def look(name: Name) -> float | None:
        twin = name._replace(format="jsonl" if name.format == "cbor" else "cbor")
        return offsets.get(name.segment, None if twin.segment in offsets else 0.0)

    return look


def _facts(name: str, seen: Seen, ledger: Ledger | None, writers: set[str] | None, *, pending: bool) -> Facts:
    """What is known from files and index. `writers` are those that live, None for an instance of which nothing can come."""
    abouts = [*seen.abouts, *([ledger.about] if ledger else [])]
    made = max(
        [seen.made, *(about.bye_last or 0 for about in abouts), *(last for _, last in (ledger.numbers if ledger else ()))]
    )
    told = [*seen.gaps, *(ledger.gaps if ledger else ())]
    settled = min((seen.stored.get(writer, 0) for writer in {*seen.stored, *(writers or ())}), default=0)
    ended = any(about.bye_us is not None for about in abouts)
    return Facts(
        name, seen.present, made, told, seen.holes, ended, writers is not None and not pending, settled, seen.retired, pending
    )


def _one(
    name: str, seen: Seen, ledger: Ledger | None, window: Window, writers: set[str] | None, *, pending: bool
) -> Certified | None:
    """What is certified of an instance; None if it has nothing to do with the window."""
    facts = _facts(name, seen, ledger, writers, pending=pending)
    within = (1, facts.made)
    if window != Window():
        within = certificate.window(seen.first_within, seen.last_within, facts, seen.before)
    ends_within = window.since_s <= seen.last_ts < window.until_s or window == Window()
    statement = certificate.judge(facts, within, ends_within=ends_within)
    if window != Window() and not statement.made and statement.unknown_after is None:
        return None
    asked = ranges.merged([within])
    present, numbers = ranges.both(asked, facts.present), ledger.numbers if ledger else []
    absent = ranges.without(present, numbers)
    behind = ranges.both(absent, seen.beyond.runs())
    about = next((one for one in [*seen.abouts, *([ledger.about] if ledger else [])] if one.hello_us is not None), About(name))
    return Certified(
        statement,
        about,
        seen.last_ts,
        ranges.count(ranges.both(asked, numbers)),
        ranges.without(absent, behind),
        ranges.count(behind),
    )


def _died_before(name: str, seen: Seen, window: Window, living: set[str]) -> bool:
    ended = any(about.bye_us is not None for about in seen.abouts)
    return not ended and name not in living and 0 < seen.last_ts < window.since_s


# --- telling


def as_json(found: Certificate, window: Window) -> dict[str, Any]:
    """The certificate for programs; docs/verify.md explains it."""
    survey, statements = found.survey, [one.statement for one in found.instances]
    return {
        "complete": not found.problems,
        "problems": found.problems,
        "since": _time(window.since_s),
        "until": _time(window.until_s),
        "made": sum(one.made for one in statements),
        "in_files": sum(one.present for one in statements),
        "indexed": sum(one.indexed for one in found.instances),
        "missing": sum(one.lost for one in statements),
        "deleted_by_retention": found.deleted,
        "under_way": sum(one.under_way for one in statements),
        "behind": sum(one.behind for one in found.instances),
        "died_before": found.died_before,
        "instances": [_instance(one) for one in found.instances],
        "damaged": [{"file": file, "offset": one.offset, "size": one.size} for file, one in survey.damages],
        "deleted": survey.deleted,
        "unreadable_notes": found.unreadable_notes,
        "files": survey.files,
        "pinned": survey.pinned,
        "files_bytes": survey.bytes,
        "duplicates": survey.duplicates,
        "torn_bytes": survey.torn_bytes,
    }


def _instance(one: Certified) -> dict[str, Any]:
    statement = one.statement
    return {
        "instance": statement.instance,
        "about": one.about.about,
        "began": _time((one.about.hello_us or math.inf) / 1e6),
        "last_record": _time(one.last_ts or math.inf),
        "state": statement.state,
        "made": statement.made,
        "in_files": statement.present,
        "indexed": one.indexed,
        "missing": [missing._asdict() for missing in statement.missing],
        "deleted_by_retention": [
            {"first": one.first, "last": one.last, "reason": one.reason, "where": one.where, "at": _time(one.at)}
            for one in statement.retired
        ],
        "under_way": statement.under_way,
        "unknown_after": statement.unknown_after,
        "not_indexed": one.not_indexed,
        "behind": one.behind,
    }


def _time(seconds: float) -> str | None:
    if not math.isfinite(seconds):
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text(found: Certificate) -> str:
    """One screen: the verdict last."""
    troubled = [one for one in found.instances if not one.statement.complete or one.not_indexed]
    shown = troubled or found.instances
    survey = found.survey
    lines = [f"{survey.files} segment files, {survey.bytes:,} bytes, {survey.records:,} records, each checksum computed", ""]
    lines += [f"{'instance':<16}  {'began':<24}  {'state':<7} {'made':>11} {'in files':>11} {'indexed':>11} {'missing':>9}"]
    lines += _first([_line(one) for one in shown], "more instances")
    if troubled and len(found.instances) > len(troubled):
        lines += [f"{len(found.instances) - len(troubled)} more instances are complete"]
    lines += _part("missing", [line for one in troubled for line in _missing(one)])
    lines += _part("deleted by retention", [line for one in found.instances for line in _retired(one.statement)])
    lines += _part("damaged", [f"{file} at {one.offset}: {one.size} bytes are no record" for file, one in survey.damages])
    lines += _part("segments not there", survey.deleted)
    lines += ["", *_notes(found), _verdict(found)]
    return "\n".join(lines)


def _line(one: Certified) -> str:
    statement = one.statement
    began = _time((one.about.hello_us or math.inf) / 1e6) or "unknown"
    counts = f"{statement.made:>11,} {statement.present:>11,} {one.indexed:>11,} {statement.lost:>9,}"
    return f"{statement.instance:<16}  {began:<24}  {statement.state:<7} {counts}"


def _missing(one: Certified) -> Iterator[str]:
    statement = one.statement
    reasons = {(missing.reason, missing.where): Ranges() for missing in statement.missing}
    for missing in statement.missing:
        reasons[missing.reason, missing.where].append((missing.first, missing.last))
    for (reason, where), numbers in reasons.items():
        told = f"{reason} ({where})" if where else reason
        yield f"{statement.instance}: {ranges.text(numbers, RANGES_MAX)}: {told}"
    if one.not_indexed:
        yield f"{statement.instance}: {ranges.text(one.not_indexed, RANGES_MAX)}: in files, not in the index"
    if statement.unknown_after is not None:
        yield f"{statement.instance}: unknown after record {statement.unknown_after}: it died without a goodbye"


def _retired(statement: Statement) -> Iterator[str]:
    reasons: dict[str, list[Retired]] = {}
    for one in statement.retired:
        reasons.setdefault(one.reason, []).append(one)
    for reason, gone in reasons.items():
        numbers = ranges.text(ranges.merged((one.first, one.last) for one in gone), RANGES_MAX)
        segments, times = sorted({one.where for one in gone}), sorted(_time(one.at) or "" for one in gone)
        yield f"{statement.instance}: {numbers}: {reason}, {_ends(segments)}, {_ends(times)}"


def _ends(rising: list[str]) -> str:
    return rising[0] if rising[0] == rising[-1] else f"{rising[0]} … {rising[-1]}"


def _part(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *("  " + line for line in _first(lines, "more"))] if lines else []


def _first(lines: list[str], rest: str) -> list[str]:
    return lines if len(lines) <= LINES_MAX else [*lines[:LINES_MAX], f"… and {len(lines) - LINES_MAX} {rest} (--json has all)"]


def _notes(found: Certificate) -> Iterator[str]:
    under_way = sum(one.statement.under_way for one in found.instances)
    behind = sum(one.behind for one in found.instances)
    if under_way or (behind and found.indexer_lives):
        yield f"under way: {under_way:,} records to the files, {behind:,} to the index"
    if found.survey.torn_bytes:
        yield f"{found.survey.torn_bytes:,} bytes of a batch that is not whole yet, or never was and never was acknowledged"
    if found.survey.duplicates:
        yield f"{found.survey.duplicates:,} records are stored twice; the index has them once"
    if found.unreadable_notes:
        yield f"{found.unreadable_notes} lines of segments/{retention.FILE} cannot be read: what they said is not known"
    if found.died_before:
        yield f"{found.died_before} instances ended without a goodbye before this window: see `llmdump verify` without --since"


def _verdict(found: Certificate) -> str:
    if found.problems:
        return "INCOMPLETE: " + "; ".join(found.problems)
    made = sum(one.statement.made for one in found.instances)
    deleted = f", {found.deleted:,} records deleted by retention" if found.deleted else ""
    return f"COMPLETE: {made:,} records of {len(found.instances)} proxy instances, none missing{deleted}"


# --- the command


@contextlib.contextmanager
def _progress(data: DataDir) -> Iterator[Callable[[int], None]]:
    """Counts bytes; a bar on stderr where a person looks."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = 0
    for name in segment.find(data.segments):
        with contextlib.suppress(OSError, ValueError), segment.SegmentFile(data.segments, name.segment) as file:
            total += file.size
    with click.progressbar(length=total, label="Reading", file=sys.stderr) as bar:
        yield bar.update


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; allowed is RFC 3339, as in 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no zone; add Z for UTC, as in 2026-01-31T12:00:00Z")
    return moment.timestamp()


@click.command("verify")
@click.option("--since", callback=_moment, help="Only what was made from then on: RFC 3339, as in 2026-01-31T12:00:00Z.")
@click.option("--until", callback=_moment, help="Only what was made before: RFC 3339.")
@click.option("--strict", is_flag=True, help="What retention has deleted makes it incomplete, too.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(since: float | None, until: float | None, strict: bool, wants_json: bool, **flags: Any) -> None:
    """The loss certificate: for each proxy instance, that every record is stored whole and indexed, or which are not and why.

    Reads all segment files and computes every checksum, with or without running processes. Exit code 0 only if nothing is
    missing; 1 if something is; 2 if there is nothing that could be read. What retention deleted, and wrote down, is not
    missing.
    """
    data = DataDir(Path(process.load_or_exit(flags).settings.data_dir))
    window = Window(-math.inf if since is None else since, math.inf if until is None else until)
    if window.since_s >= window.until_s:
        process.fail("--since must be before --until", EXIT_UNREADABLE)
    try:
        with _progress(data) as advance:
            found = certify(data, window, advance, strict=strict)
    except (UnreadableError, OSError) as err:
        process.fail(str(err), EXIT_UNREADABLE)
    click.echo(json.dumps(as_json(found, window), indent=2) if wants_json else text(found))
    sys.exit(EXIT_INCOMPLETE if found.problems else EXIT_COMPLETE)
