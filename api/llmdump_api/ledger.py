"""The certificate as the index and the living processes tell it: what `llmdump verify` says, without reading the files. Pure.

A number that is missing here was in no file, or in none that could be read, or in one deleted by hand before it was
indexed. What retention deleted before it was indexed is told as that.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from llmdump import certificate, retention
from llmdump.certificate import Facts, Retired, Statement
from llmdump.indexed import Ledger, Segment
from llmdump.ledger import About
from llmdump.metrics import Sample, by_label
from llmdump.presence import Card
from llmdump.retention import Note
from llmdump.segment import parse_name

INSTANCES_MAX: Final = 1000
"""In an answer, the last ones to begin; `instances_total` counts all, and the sums are of all."""
MISSING_MAX: Final = 1000
"""Ranges in an answer for each instance; `missing` counts all numbers."""


def statements(
    ledgers: dict[str, Ledger],
    segments: Iterable[Segment],
    cards: Iterable[Card],
    notes: Iterable[Note] = (),
    spilled: Collection[str] = (),
) -> list[Statement]:
    """What can be said of each instance, those that began last first; `notes` say what retention has deleted, `spilled` which
    have records in spill files."""
    cards, segments = list(cards), list(segments)
    retired = retention.by_instance(_not_indexed(notes, segments))
    ledgers = {name: Ledger(About(name), [], []) for name in retired} | ledgers
    writers = {name.writer for one in segments if (name := parse_name(one.name))}
    writers |= {f"w{card.slot}" for card in cards if card.role == "writer"}
    living = {card.instance for card in cards if card.role == "proxy"}
    newest_first = sorted(ledgers, key=lambda name: (-(ledgers[name].about.hello_us or 0), name))
    pending = {name for name in spilled if name not in living}
    several = len(writers) > 1
    return [
        _statement(name, ledgers[name], retired.get(name, []), several, living=name in living, pending=name in pending)
        for name in newest_first
    ]


def _not_indexed(notes: Iterable[Note], segments: Iterable[Segment]) -> list[Note]:
    """What the index has read to its end explains no number that the index does not have."""
    read = {one.name.partition(".")[0] for one in segments if one.closed}
    return [note for note in notes if note.segment not in read]


def _statement(
    name: str, ledger: Ledger, retired: list[Retired], several_writers: bool, *, living: bool, pending: bool
) -> Statement:
    lasts = (*(last for _, last in ledger.numbers), *(gap.last for gap in ledger.gaps), *(one.last for one in retired))
    made = max([ledger.about.bye_last or 0, *lasts])
    # One writer stores numbers in their order; of several, one may still hold what another has passed. What was spilled may
    # go to another one still.
    settled = 0 if several_writers or pending else made
    ended = ledger.about.bye_us is not None
    return certificate.judge(Facts(name, ledger.numbers, made, ledger.gaps, (), ended, living, settled, retired, pending))


def answer(found: list[Statement], ledgers: dict[str, Ledger]) -> dict[str, Any]:
    """For /api/ledger."""
    return {
        "complete": all(one.complete for one in found),
        "made": sum(one.made for one in found),
        "indexed": sum(one.present for one in found),
        "missing": missing_by_reason(found),
        "deleted_by_retention": deleted_by_reason(found),
        "under_way": sum(one.under_way for one in found),
        "unknown_ends": sum(one.unknown_after is not None for one in found),
        "instances": [
            _instance(one, ledgers.get(one.instance) or Ledger(About(one.instance), [], [])) for one in found[:INSTANCES_MAX]
        ],
        "instances_total": len(found),
    }


def missing_by_reason(found: Iterable[Statement]) -> dict[str, int]:
    """How many numbers are missing for each reason."""
    counts: dict[str, int] = {}
    for missing in (missing for one in found for missing in one.missing):
        counts[missing.reason] = counts.get(missing.reason, 0) + missing.numbers
    return counts


def deleted_by_reason(found: Iterable[Statement]) -> dict[str, int]:
    """How many numbers each cap deleted before they were indexed."""
    counts: dict[str, int] = {}
    for one in (one for statement in found for one in statement.retired):
        counts[one.reason] = counts.get(one.reason, 0) + one.records
    return counts


def samples(found: list[Statement]) -> Iterator[Sample]:
    """For the metrics page."""
    yield from by_label("llmdump_ledger_missing_records", missing_by_reason(found))
    yield from by_label("llmdump_ledger_deleted_records", deleted_by_reason(found))
    yield Sample("llmdump_ledger_unknown_ends", sum(one.unknown_after is not None for one in found))


def _instance(one: Statement, ledger: Ledger) -> dict[str, Any]:
    return {
        "instance": one.instance,
        "about": None if ledger.about.about is None else orjson.Fragment(ledger.about.about),
        "began": _time(ledger.about.hello_us),
        "ended": _time(ledger.about.bye_us),
        "state": one.state,
        "made": one.made,
        "indexed": one.present,
        "missing": one.lost,
        "missing_ranges": [[gone.first, gone.last, gone.reason] for gone in one.missing[:MISSING_MAX]],
        "deleted_by_retention": one.deleted,
        "deleted_ranges": [
            [gone.first, gone.last, gone.reason, gone.where, _time(round(gone.at * 1e6))] for gone in one.retired[:MISSING_MAX]
        ],
        "under_way": one.under_way,
        "unknown_after": one.unknown_after,
    }


def _time(micros: int | None) -> str | None:
    if micros is None:
        return None
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
