"""How long the api's questions to an index take: p50 and p99 of each, in this process, as `docs/PERFORMANCE.md` has them.

    python bench/index_rows.py /tmp/million.sqlite          (once: a million rows)
    python bench/index_queries.py /tmp/million.sqlite [--times N]

Values are drawn anew each time from those that there are, so that no answer is measured twice. What is measured is from
checked parameters to the rows of the answer, with the connection as the api opens it, in CPU time, so that other work on
the machine does not show.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import apsw

from llmdump_api import find, index, params, query, search, sessions, sums

Question = Callable[[apsw.Connection], int]
Kind = tuple[str, Callable[[], Question]]
chance = random.Random(7)
DAY_MS = 86_400_000
VALUES = "SELECT value FROM usage WHERE seconds = 0 AND dimension = ?"
COLUMNS = {
    "model": "model", "provider": "provider", "api": "api", "client": "client_kind", "project": "client_project",
    "key_hash": "key_hash", "status": "status", "end_reason": "end_reason", "finish_reason": "finish_reason",
    "error": "error_type", "path": "route_path",
}  # fmt: skip


class Asking:
    """Makes questions of each kind."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        self.begin, self.end = db.execute("SELECT min(ts_start), max(ts_start) FROM trace").fetchone()
        self.top = db.execute("SELECT max(number) FROM trace").get
        self.vocabulary = [word for (text,) in db.execute("SELECT prompt FROM turn_text LIMIT 300") for word in text.split()]
        self.rare = sorted(set(self.vocabulary), key=self.vocabulary.count)[:500]
        names = ("model", "provider", "api", "client_kind", "client_project", "key_hash", "status", "end_reason",
                 "finish_reason", "error_type", "route_path")  # fmt: skip
        self.values = {name: [value for (value,) in db.execute(VALUES, (name,))] for name in names}

    def row(self, columns: str) -> tuple[Any, ...]:
        """Some columns of a random row."""
        return self.db.execute(f"SELECT {columns} FROM trace WHERE number = ?", (chance.randrange(1, self.top + 1),)).fetchone()

    def moment(self, ms: float | None = None) -> str:
        """A time, without one given a random one."""
        return params.rfc3339(int(chance.uniform(self.begin, self.end) if ms is None else ms)) or ""

    def one(self, name: str) -> str:
        """A random value of a dimension."""
        return chance.choice(self.values[name])

    def cursor(self) -> str:
        """From behind a random row."""
        return params.encode_cursor(*self.row("ts_start, id"))

    def lists(self) -> Iterator[Kind]:
        """Pages of the list."""
        yield "list, newest", listed
        yield "list, from a random cursor", lambda: listed(cursor=self.cursor())
        yield "list, until a random time", lambda: listed(until=self.moment())
        for name, column in COLUMNS.items():
            yield (
                f"list, {name}=",
                partial(lambda name, column: listed(**{name: self.one(column), "cursor": self.cursor()}), name, column),
            )
        yield "list, status=4xx", lambda: listed(status="4xx", until=self.moment())
        yield "list, path=/v1*", lambda: listed(path="/v1*", until=self.moment())
        yield "list, path=/v1beta*", lambda: listed(path="/v1beta*", until=self.moment())
        yield "list, session_root_id=", lambda: listed(session_root_id=self.row("session_root_id")[0])
        yield "list, min_tokens=", lambda: listed(min_tokens=str(chance.randrange(10, 200_000)), until=self.moment())
        yield "list, max_tokens=", lambda: listed(max_tokens=str(chance.randrange(100, 20_000)), until=self.moment())
        yield "list, min_cost_usd=", lambda: listed(min_cost_usd=f"{chance.uniform(0, 0.5):.3f}", until=self.moment())
        yield "list, min_ttft_ms=", lambda: listed(min_ttft_ms=str(chance.randrange(100, 4000)), until=self.moment())
        yield (
            "list, model= and client=",
            lambda: listed(model=self.one("model"), client=self.one("client_kind"), until=self.moment()),
        )
        yield (
            "list, model=, project=, status=5xx",
            lambda: listed(model=self.one("model"), project=self.one("client_project"), status="5xx", until=self.moment()),
        )
        yield "one row by its id", lambda: single(self.row("id")[0])

    def searches(self) -> Iterator[Kind]:
        """Full text."""
        yield "search, a word", lambda: searched(chance.choice(self.vocabulary))
        yield "search, a rare word", lambda: searched(chance.choice(self.rare))
        yield "search, two words", lambda: searched(" ".join(chance.sample(self.vocabulary, 2)))
        yield "search, two rare words", lambda: searched(" ".join(chance.sample(self.rare, 2)))
        yield "search, a phrase", lambda: searched('"' + " ".join(chance.sample(self.vocabulary, 2)) + '"')
        yield "search, a word and model=", lambda: searched(chance.choice(self.vocabulary), model=self.one("model"))
        yield "search, a word and error=", lambda: searched(chance.choice(self.vocabulary), error="overloaded_error")

    def facets(self) -> Iterator[Kind]:
        """Values to filter by."""
        yield "facets, all, ever", facet
        yield "facets, all, of a week", self._facets_of_a_week
        yield "facets, all, of a month", lambda: facet(since=self.moment(self.begin))

    def _facets_of_a_week(self) -> Question:
        at = chance.uniform(self.begin, self.end - 7 * DAY_MS)
        return facet(since=self.moment(at), until=self.moment(at + 7 * DAY_MS))

    def series(self) -> Iterator[Kind]:
        """Time series."""
        yield "stats, a day by hour", lambda: self._stats(1, step="hour")
        yield "stats, six hours by minute", lambda: self._stats(0.25, step="minute")
        yield "stats, a month by day, 10 models", lambda: self._stats(30, by="model", step="day")
        yield "stats, a week by hour, one key", lambda: self._stats(7, by="key_hash", value=self.one("key_hash"), step="hour")
        yield "stats, a week by hour, 2 models", lambda: self._stats(7, by="model", step="hour", limit="2")
        yield "stats, an hour by minute, 6 clients", lambda: self._stats(1 / 24, by="client", step="minute", limit="6")

    def _stats(self, days: float, **given: str) -> Question:
        until = chance.uniform(min(self.begin + days * DAY_MS, self.end), self.end)
        asked = sums.series({"since": self.moment(until - days * DAY_MS), "until": self.moment(until), **given}, 0)
        return lambda db: sum(len(one["buckets"]) for one in sums.series_answer(db, asked)["series"])

    def sessions(self) -> Iterator[Kind]:
        """Sessions and their trees."""
        yield "sessions, until a random time", lambda: session_page(until=self.moment())
        yield "sessions, project=", lambda: session_page(project=self.one("client_project"), until=self.moment())
        yield "sessions, key_hash=", lambda: session_page(key_hash=self.one("key_hash"), until=self.moment())
        yield "session tree", lambda: session_tree(self.row("session_root_id")[0])


def listed(**given: str) -> Question:
    """A page of the list."""
    asked = query.parse(given)
    return lambda db: len(find.page(db, asked).rows)


def single(exchange: str) -> Question:
    """One row."""
    return lambda db: len(db.execute(*query.sql_one(exchange)).fetchall())


def searched(words: str, **given: str) -> Question:
    """A page of what matches."""
    asked = query.parse({"q": words, **given})
    return lambda db: len(search.page(db, asked, search.expression(words)).hits)


def facet(**given: str) -> Question:
    """All facets."""
    asked = sums.facets(given)
    return lambda db: sum(len(one["values"]) for one in sums.facet_answer(db, asked)["facets"].values())


def session_page(**given: str) -> Question:
    """A page of sessions."""
    asked = sessions.parse(given)
    return lambda db: len(sessions.page(db, asked)["sessions"])


def session_tree(root: str) -> Question:
    """One session."""
    return lambda db: len((sessions.tree(db, root, None, 100) or {"turns": []})["turns"])


def measure(db: apsw.Connection, make: Callable[[], Question], times: int) -> tuple[float, float, float]:
    """Rows of an answer on average, p50 and p99 in ms of CPU time of this thread, page faults and all."""
    rows, took_ms = [], []
    for _ in range(times):
        question = make()
        begin_s = time.thread_time()
        rows.append(question(db))
        took_ms.append((time.thread_time() - begin_s) * 1000)
    took_ms.sort()
    return statistics.mean(rows), statistics.median(took_ms), took_ms[min(times - 1, int(times * 0.99))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--times", type=int, default=200)
    given = parser.parse_args()
    db = index.connect(given.path)
    print("| query | rows | p50 ms | p99 ms |\n| --- | ---: | ---: | ---: |")
    asking = Asking(db)
    for name, make in chain(asking.lists(), asking.searches(), asking.facets(), asking.series(), asking.sessions()):
        rows, p50_ms, p99_ms = measure(db, make, given.times)
        print(f"| {name} | {rows:,.0f} | {p50_ms:.2f} | {p99_ms:.2f} |", flush=True)
