"""Spans sent to a collector by OTLP/HTTP, once, or for ever as exchanges end. Blocking.

    rows ─▶ spans.request ─▶ POST URL/v1/traces ─▶ 2xx: the place in the cursor file goes on
                                 429, 502, 503, 504, no connection: again, after 1, 2, 4 … 30 s, or as Retry-After says
                                 anything else: an end, for no retry will help

Following goes by the numbers of rows, in which the index first heard of exchanges. Those that had not ended when their number
was passed are kept in mind, in the cursor file too:

    {"number": 1234, "id": "0190…", "open": ["0190…", …]}

It is written aside and renamed after each answer. So after a kill the last spans may be sent again, and are the same; none
is left out. `id` is the row of that number: an index made anew may have other numbers, and is gone on with from that row.
"""

import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import apsw

from llmdump_api import index, query
from llmdump_api.export import spans
from llmdump_api.export.selection import Archive, Asked, ExportError, Selection
from llmdump_api.index import IndexUnreadableError

POLL_S: Final = 0.5
TIMEOUT_S: Final = 30.0
BACKOFF_S_MAX: Final = 30.0
TRIES_MAX: Final = 6
"""Of one request, where nothing is followed: about half a minute."""
ANSWER_BYTES_MAX: Final = 64 * 1024
_AGAIN: Final = frozenset({429, 502, 503, 504})
_ROWS_MAX: Final = 1000
_OPEN_AT_ONCE: Final = 500
_END_REASON: Final = query.COLUMNS.index("end_reason")


class Collector:
    """Where spans go."""

    def __init__(self, url: str, headers: str, tries_max: float, tell: Callable[[str], None]) -> None:
        """`headers` as in OTEL_EXPORTER_OTLP_HEADERS: name=value, with commas between. Raises ExportError for no URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ExportError(f"{url!r} is no http URL, as in http://127.0.0.1:4318")
        self._url = urlunsplit(parts._replace(path="/v1/traces")) if parts.path in {"", "/"} else url
        self._headers = {"Content-Type": "application/json", "User-Agent": "llmdump", **_pairs(headers)}
        self._tries_max = tries_max
        self._tell = tell
        self.rejected = 0
        """Spans that the collector said it would not take."""

    def send(self, body: bytes) -> None:
        """Send a request until it is taken. Raises ExportError where it is not, and nothing will change that."""
        tries = 0
        while (problem := self._try(body)) is not None:
            tries += 1
            if tries >= self._tries_max:
                raise ExportError(f"{self._url}: {problem[0]}, {tries} times")
            backoff_s = min(BACKOFF_S_MAX, 2.0 ** min(tries - 1, 10)) * random.uniform(0.8, 1.2)
            self._tell(f"{self._url}: {problem[0]}; again in {problem[1] or backoff_s:.0f} s")
            time.sleep(problem[1] or backoff_s)

    def _try(self, body: bytes) -> tuple[str, float] | None:
        """Why it was not taken this time, and when to try again, if that is said. Raises ExportError."""
        asked = urllib.request.Request(self._url, body, self._headers)
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
                self._answered(answer.read(ANSWER_BYTES_MAX))
                return None
        except urllib.error.HTTPError as err:
            with err:
                if err.code not in _AGAIN:
                    said = err.read(500).decode("utf-8", "replace").strip()
                    raise ExportError(f"{self._url} answered {err.code} {err.reason}: {said}") from err
                return f"{err.code} {err.reason}", _seconds(err.headers.get("Retry-After"))
        except OSError as err:  # URLError and time-outs are
            return f"no answer ({getattr(err, 'reason', err)})", 0.0

    def _answered(self, answer: bytes) -> None:
        try:
            rejected = int(json.loads(answer)["partialSuccess"]["rejectedSpans"])
        except (ValueError, KeyError, TypeError):
            return
        if rejected:
            self.rejected += rejected
            self._tell(f"{self._url} took all but {rejected} spans")


def _pairs(headers: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in headers.split(",") if "=" in one)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _seconds(retry_after: str | None) -> float:
    known = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
    return min(float(retry_after or 0), 10 * BACKOFF_S_MAX) if known else 0.0


def send(selection: Selection, collector: Collector) -> Iterator[bytes]:
    """Send what is selected; the requests that were taken. Raises ExportError, and what reading raises."""
    for batch in spans.batches(spans.ended(selection)):
        body = spans.request(batch)
        collector.send(body)
        yield body


# --- following


class Place(NamedTuple):
    """How far it has come."""

    number: int
    id: str
    open: list[str]


class Follower:
    """Sends the exchanges of an archive as they end."""

    def __init__(self, archive: Archive, asked: Asked, collector: Collector, cursor: Path) -> None:
        """Raises ExportError, OSError."""
        if asked.query.words is not None or asked.query.cursor is not None or asked.limit is not None or asked.last_turns:
            raise ExportError("what is followed can be filtered, but has no q, cursor, limit or last turns")
        self._archive = archive
        self._collector = collector
        self._file = cursor
        conditions = [(condition.sql, condition.values) for condition in asked.query.conditions]
        conditions += [("ts_start >= ?", (asked.query.since_ms,))] if asked.query.since_ms is not None else []
        conditions += [("ts_start < ?", (asked.query.until_ms,))] if asked.query.until_ms is not None else []
        self._fits = " AND ".join(f"({sql})" for sql, _ in conditions) or "1"
        self._values = tuple(value for _, values in conditions for value in values)
        self._is_settled = False
        self.place = self._known()

    def step(self) -> int:
        """Send what has ended since; how many spans. Raises ExportError, apsw.Error, OSError."""
        if not self._archive.is_current:
            raise apsw.CorruptError("another index has taken its place")
        if not self._settled():
            return 0
        with self._archive.db:
            closed, still_open = self._look_at_open()
            fresh = self._fresh()
        rows = closed + [row for _, row, fits in fresh if fits and row[_END_REASON] is not None]
        waiting = still_open + [row[0] for _, row, _ in fresh if row[_END_REASON] is None]
        for batch in spans.batches(rows):
            self._collector.send(spans.request(batch))
        place = Place(fresh[-1][0], fresh[-1][1][0], waiting) if fresh else self.place._replace(open=waiting)
        if place != self.place:
            self.place = place
            self._save()
        return len(rows)

    def close(self) -> None:
        """Let go of the index."""
        self._archive.close()

    @property
    def behind(self) -> bool:
        """Whether there are rows that were not looked at."""
        return bool(index.first(self._archive.db, "SELECT 1 FROM trace WHERE number > ? LIMIT 1", (self.place.number,)))

    def _fresh(self) -> list[tuple[int, tuple[Any, ...], bool]]:
        columns = ", ".join(query.COLUMNS)
        sql = f"SELECT number, ({self._fits}), {columns} FROM trace WHERE number > ? ORDER BY number LIMIT {_ROWS_MAX}"
        found = index.rows(self._archive.db, sql, (*self._values, self.place.number))
        return [(row[0], row[2:], bool(row[1])) for row in found]

    def _look_at_open(self) -> tuple[list[tuple[Any, ...]], list[str]]:
        """Those that have ended meanwhile, and those that have not."""
        closed: list[tuple[Any, ...]] = []
        still: list[str] = []
        sql = f"SELECT ({self._fits}), {', '.join(query.COLUMNS)} FROM trace WHERE id = ?"
        for id_ in self.place.open:
            row = index.first(self._archive.db, sql, (*self._values, id_))
            if row is None or (row[1 + _END_REASON] is not None and not row[0]):
                continue
            if row[1 + _END_REASON] is None or len(closed) >= _OPEN_AT_ONCE:
                still.append(id_)
            else:
                closed.append(row[1:])
        return closed, still

    def _known(self) -> Place:
        """The place in the cursor file. Raises ExportError, OSError."""
        try:
            told: Mapping[str, Any] = json.loads(self._file.read_bytes())
            place = Place(int(told["number"]), str(told["id"]), [str(one) for one in told["open"]])
        except FileNotFoundError:
            return Place(0, "", [])
        except (ValueError, KeyError, TypeError) as err:
            raise ExportError(f"{self._file} is no cursor file: remove it to begin anew") from err
        return place

    def _settled(self) -> bool:
        """Bring the place's number to that which its row has in this index; False while the index is being made anew."""
        if self._is_settled or not self.place.id:
            return True
        found = index.first(self._archive.db, "SELECT number FROM trace WHERE id = ?", (self.place.id,))
        last = index.first(self._archive.db, "SELECT max(number) FROM trace")
        if found is None and (last is None or (last[0] or 0) < self.place.number):
            return False
        self.place = self.place._replace(number=found[0] if found else self.place.number)
        self._is_settled = True
        return True

    def _save(self) -> None:
        aside = self._file.with_name(self._file.name + ".tmp")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(self.place._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._file)


def follow(begin: Callable[[], Follower], tell: Callable[[str], None]) -> None:
    """Send for ever, with another follower where the index cannot be read on. Raises ExportError, OSError."""
    follower = begin()
    while True:
        try:
            worked = follower.step() or follower.behind
        except (apsw.Error, IndexUnreadableError) as err:
            tell(f"the index cannot be read: {err}; begun again")
            follower.close()
            follower = _again(begin)
            continue
        if not worked:
            time.sleep(POLL_S)


def _again(begin: Callable[[], Follower]) -> Follower:
    while True:
        time.sleep(POLL_S)
        try:
            return begin()
        except IndexUnreadableError:
            continue  # it is being made
