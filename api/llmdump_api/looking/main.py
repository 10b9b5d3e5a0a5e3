"""The four commands that look at an archive: asks the index as the api does, and prints. Blocking."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import click
import orjson

from llmdump import interrupt, process
from llmdump.commands import terminal
from llmdump.inspecting.text import hexdump
from llmdump.reading import from_records
from llmdump.reading.from_records import Told
from llmdump_api import found, sessions, sums, trace
from llmdump_api import params as given
from llmdump_api.archive import ArchiveError
from llmdump_api.body import Body
from llmdump_api.index import first
from llmdump_api.looking import asked, figures, listing, place, showing
from llmdump_api.looking.asked import AmbiguousError
from llmdump_api.looking.place import Place
from llmdump_api.params import BadParamError

GROUPS_MAX: Final = 50
"""Lines of `stats`."""
BUCKETS_MAX: Final = 120
"""Places in its small charts."""
_DAY_S: Final = 86400
_HEX_ROW: Final = 16


def ls(at: Place, given_: dict[str, Any]) -> Iterator[str]:
    """The list."""
    rows = asked.listed(at.db, given_["params"] | asked.times(given_), given_["limit"])
    if given_["json"]:
        return (orjson.dumps(row).decode() for row in rows)
    return listing.lines(rows, terminal.width(), terminal.painter())


def show(at: Place, given_: dict[str, Any]) -> Iterator[str]:
    """One exchange."""
    row = asked.row(at.db, asked.exchange(at.db, given_["id"]))
    side = "request" if given_["request"] else "response"
    if given_["raw"]:
        return _raw(at, row["id"], side)
    if given_["hex"]:
        return _hex(at, row["id"], side)
    return _told(at, row, given_)


def _told(at: Place, row: dict[str, Any], given_: dict[str, Any]) -> Iterator[str]:
    started = first(at.db, "SELECT started_us FROM trace WHERE id = ?", (row["id"],))
    assert started is not None
    paint, width = terminal.painter(), terminal.width()
    if not given_["json"]:
        yield from showing.facts(row, paint)
        yield ""
    told = from_records.read(place.records(at, row["id"]), started[0], ended=row["end_reason"] == "complete")
    if given_["json"]:
        yield _as_json(at, row, told, started[0])
    elif given_["timing"]:
        yield from showing.waterfall(showing.moments(place.records(at, row["id"])), width, paint)
    elif given_["tools"]:
        yield from showing.tools(told, paint, whole=given_["full"])
    else:
        yield from _conversation(at, row, told, given_, paint)


def _as_json(at: Place, row: dict[str, Any], told: Told, started_us: int) -> str:
    built = trace.build(row, started_us // 1000, place.records(at, row["id"]), [])
    reading = {**told.reading.reading, "reasoning_text": told.reading.reasoning_text}
    return orjson.dumps({"row": row, "trace": built, "reading": reading, "normalised": told.reading.normalised}).decode()


def _conversation(at: Place, row: dict[str, Any], told: Told, given_: dict[str, Any], paint: showing.Paint) -> Iterator[str]:
    if not given_["response"]:
        yield from showing.asked(row, told, paint, whole=given_["full"])
    if given_["request"] and not given_["response"]:
        return
    yield from showing.answered(told, _body(at, row), paint, whole=given_["full"])


def _body(at: Place, row: dict[str, Any]) -> str:
    """The body of the answer as text, for one in which nothing was understood."""
    shown = trace.build(row, 0, place.records(at, row["id"]), [])["resp"]
    if shown.get("body") is not None:
        return orjson.dumps(shown["body"]).decode("utf-8", "replace")
    return str(shown.get("body_text") or "")


def _raw(at: Place, exchange: str, side: str) -> Iterator[str]:
    """Writes the bytes themselves."""
    for batch in _batches(at, exchange, side):
        sys.stdout.buffer.write(batch)
    sys.stdout.buffer.flush()
    return iter(())


def _batches(at: Place, exchange: str, side: str) -> Iterator[bytes]:
    body = Body(place.records(at, exchange), side)
    return iter(body.batch, b"")


def _hex(at: Place, exchange: str, side: str) -> Iterator[str]:
    offset, kept = 0, b""
    for batch in itertools.chain(_batches(at, exchange, side), [b""]):
        kept += batch
        whole = len(kept) - len(kept) % _HEX_ROW if batch else len(kept)
        yield from hexdump(kept[:whole], offset)
        offset, kept = offset + whole, kept[whole:]


def stats(at: Place, given_: dict[str, Any]) -> Iterator[str]:
    """Sums over time."""
    by = given_["by"] or ""
    series = _series(at, by, given_)
    conditions = asked.conditions(given_["filter"])
    with at.db:
        answer = found.series_answer(at.db, series, conditions) if conditions else sums.series_answer(at.db, series)
    if given_["json"]:
        return iter((orjson.dumps(answer).decode(),))
    every = [given.rfc3339(bucket * 1000) for bucket in sums.buckets(series)]
    return figures.stats(answer, every, by, terminal.width(), terminal.painter())


def _series(at: Place, by: str, given_: dict[str, Any]) -> sums.Series:
    """The range that is asked for, else all there is, in buckets of which there are not too many."""
    times = {name: given.time_ms(name, value) // 1000 for name, value in asked.times(given_).items()}
    first_s, last_s = _bounds(at)
    until_s = times.get("until", last_s)
    since_s = times.get("since", max(first_s, until_s - BUCKETS_MAX * _DAY_S))
    dimension = sums.DIMENSIONS[by] if by else ""
    steps = [step for step in sums.STEPS.values() if step > 60 or dimension in sums.BY_MINUTE]
    step_s = next((step for step in steps if until_s - since_s <= BUCKETS_MAX * step), 0)
    if not step_s or since_s >= until_s:
        raise BadParamError("since", f"allowed are at most {BUCKETS_MAX} days before until, and not after it")
    limit = min(given_["limit"], GROUPS_MAX) if by else 1
    return sums.Series(by, None, step_s, since_s - since_s % step_s, until_s, limit, tuple(sums.SPREADS)[:3])


def _bounds(at: Place) -> tuple[int, int]:
    """When the first day of the archive begins, and when the last one ends, but not after now."""
    bounds = first(at.db, sums.BOUNDS)
    now_s = int(time.time())
    if not bounds or bounds[0] is None:
        return now_s - _DAY_S, now_s
    return bounds[0], max(bounds[0] + 60, min(bounds[1] + _DAY_S, now_s))


def sessions_(at: Place, given_: dict[str, Any]) -> Iterator[str]:
    """The list of sessions, or one as a tree."""
    if given_["id"]:
        return _tree(at, given_)
    params = given_["params"] | asked.times(given_)
    conditions = asked.conditions(given_["filter"])

    def page(cursor: dict[str, str]) -> dict[str, Any]:
        return sessions.page(at.db, sessions.parse({**params, **cursor, "limit": "100"}), conditions)

    listed = itertools.islice(_pages(page, "sessions"), given_["limit"] or None)
    if given_["json"]:
        return (orjson.dumps(one).decode() for one in listed)
    return figures.sessions(listed, terminal.width(), terminal.painter())


def _pages(page: Callable[[dict[str, str]], dict[str, Any] | None], member: str) -> Iterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while (here := page(cursor)) is not None:
        yield from here[member]
        if here["next_cursor"] is None:
            return
        cursor = {"cursor": here["next_cursor"]}


def _tree(at: Place, given_: dict[str, Any]) -> Iterator[str]:
    row = asked.row(at.db, asked.exchange(at.db, given_["id"]))
    root = row["session_root_id"] or row["id"]
    begun = sessions.tree(at.db, root, None, 1)
    if begun is None:
        raise AmbiguousError(f"the exchange {row['id']} is of no session")
    turns = _pages(lambda cursor: sessions.tree(at.db, root, given.cursor(cursor), 200), "turns")
    if given_["json"]:
        return (orjson.dumps(one).decode() for one in itertools.chain([begun["session"]], turns))
    return figures.tree(begun["session"], turns, terminal.width(), terminal.painter())


VERBS: Final[dict[str, Callable[[Place, dict[str, Any]], Iterator[str]]]] = {
    "ls": ls, "show": show, "stats": stats, "sessions": sessions_,
}  # fmt: skip


@click.command()
@click.argument("verb", type=click.Choice(list(VERBS)))
@click.argument("asked_", metavar="JSON")
@interrupt.quietly()
def main(verb: str, asked_: str) -> None:
    """What the commands become. `asked_` is a JSON object: places, and what the command asks."""
    terminal.end_with_reader()
    given_ = orjson.loads(asked_)
    try:
        with place.opened([Path(one) for one in given_["places"]]) as at:
            for line in VERBS[verb](at, given_):
                click.echo(line)
    except BadParamError as err:
        process.fail(f"{err.param}: {err.more.get('pointed') or err}", process.EXIT_SETTINGS)
    except (AmbiguousError, ArchiveError, apsw.Error, OSError, ValueError) as err:
        process.fail(str(err))


if __name__ == "__main__":
    main()
