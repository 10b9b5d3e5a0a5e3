"""Parents, roots, sessions and sums: a function of the exchanges, whatever the order in which they are indexed."""

import contextlib
import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from made import new_id

from llmdump import spread, tally
from llmdump.assembly import Exchange
from llmdump_indexer import store
from llmdump_indexer.index import Changes, Index
from llmdump_indexer.links import REPEATED_WITHIN_US
from llmdump_indexer.read import Candidate, Read
from llmdump_indexer.store import TraceRow

BASE_US = 1_767_225_600_000_000
KEY = "ab" * 8


def prefixes(*turns: str) -> tuple[str, ...]:
    return tuple(hashlib.sha256("|".join(turns[:length]).encode()).hexdigest()[:16] for length in range(1, len(turns) + 1))


def made(
    number: int,
    at_s: float,
    turns: str = "",
    key: str = KEY,
    end: str | None = "complete",
    previous: str | None = None,
    **read: Any,
) -> TraceRow:
    """An exchange that began then, with a conversation of one letter a turn; capitals are a model's."""
    exchange = Exchange(
        id=new_id(number), instance="00" * 8, started_us=BASE_US + int(at_s * 1e6), first_record=number, status=200,
        end_reason=end, key_hash=key, route_path="/v1/x", path="/v1/x?y", duration_us=1000 * number, own_worst_us=number,
    )  # fmt: skip
    *shorter, whole = prefixes(*turns) or ("",)
    hint, made_id = read.get("session_hint"), read.get("response_id")
    wanted = [
        *([Candidate(f"r:{previous}", "response_id")] if previous else []),
        *(Candidate(prefix, "prefix") for prefix in reversed(shorter)),
        *([Candidate(whole, "same")] if whole else []),
        *([Candidate(f"s:{hint}", "session")] if hint else []),
    ]
    keys = [*([whole] if whole else []), *([f"r:{made_id}"] if made_id else []), *([f"s:{hint}"] if hint else [])]
    is_first = turns == turns.lower() and previous is None
    told = Read(prefix_hash=whole or None, keys=tuple(keys), candidates=tuple(wanted), is_first=is_first, **read)
    return TraceRow(number, exchange, told if end else None)


class Indexed:
    """An index in a directory of its own."""

    def __init__(self, path: Path, *batches: list[TraceRow]) -> None:
        self.path = path
        for batch in batches:
            self.save(batch)

    def save(self, batch: list[TraceRow]) -> None:
        with Index(self.path) as index:
            index.save(Changes(batch, [], [], [], [], [], []))

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        db = apsw.Connection(str(self.path))
        try:
            return db.execute(statement).fetchall()
        finally:
            db.close()

    def links(self) -> dict[int, tuple[int | None, int, int]]:
        """Of each exchange: parent, root, depth."""
        rows = self.rows("SELECT id, parent_id, session_root_id, depth FROM trace")
        return {short(id_): (parent and short(parent), short(root), depth) for id_, parent, root, depth in rows}

    def all(self) -> dict[str, list[tuple[Any, ...]]]:
        """What follows from rows, numbers of rows left out: they tell the order of indexing."""
        return {
            "trace": sorted(
                self.rows("SELECT id, parent_id, session_root_id, depth, linked_id, linked_by, linked_rank FROM trace")
            ),
            "awaited": sorted(self.rows("SELECT id, rank, key, earliest_us FROM awaited JOIN trace ON number = trace")),
            "link_key": sorted(self.rows("SELECT id, key FROM link_key JOIN trace ON number = trace")),
            "usage": self.rows("SELECT * FROM usage ORDER BY seconds, dimension, bucket, value"),
            "session": self.rows("SELECT * FROM session ORDER BY root"),
            "session_model": self.rows("SELECT * FROM session_model ORDER BY root, model"),
        }


def short(exchange: str) -> int:
    return int(exchange.replace("-", ""), 16) & 0xFFFFFFFF


WITHIN_S = REPEATED_WITHIN_US / 1e6
MINUTES = WITHIN_S / 2

CASES: dict[str, tuple[list[TraceRow], dict[int, tuple[int | None, int, int]]]] = {
    "a conversation": (
        [made(1, 0, "a"), made(2, 10, "aAb"), made(3, 20, "aAbBc")],
        {1: (None, 1, 0), 2: (1, 1, 1), 3: (2, 1, 2)},
    ),
    "a fork": (
        [made(1, 0, "a"), made(2, 10, "aAb"), made(3, 20, "aAc")],
        {1: (None, 1, 0), 2: (1, 1, 1), 3: (1, 1, 1)},
    ),
    "a retry of a first turn is a sibling": (
        [made(1, 0, "a"), made(2, MINUTES, "a"), made(3, 2 * MINUTES, "a"), made(4, 2 * MINUTES + 5, "aAb")],
        {1: (None, 1, 0), 2: (None, 1, 0), 3: (None, 1, 0), 4: (3, 1, 1)},
    ),
    "the same question much later is another session": (
        [made(1, 0, "a"), made(2, WITHIN_S + 1, "a"), made(3, WITHIN_S + 9, "aAb")],
        {1: (None, 1, 0), 2: (None, 2, 0), 3: (2, 2, 1)},
    ),
    "a retry of a later turn": (
        [made(1, 0, "a"), made(2, 10, "aAb"), made(3, 20, "aAb"), made(4, 30, "aAbBc")],
        {1: (None, 1, 0), 2: (1, 1, 1), 3: (1, 1, 1), 4: (3, 1, 2)},
    ),
    "a parent begins before its child": (
        [made(1, 10, "a"), made(2, 0, "aAb")],
        {1: (None, 1, 0), 2: (None, 2, 0)},
    ),
    "keys do not mix": (
        [made(1, 0, "a"), made(2, 10, "aAb", key="cd" * 8), made(3, 10, "a", key="cd" * 8)],
        {1: (None, 1, 0), 2: (None, 2, 0), 3: (None, 3, 0)},
    ),
    "a response that is named wins": (
        [made(1, 0, "a", response_id="r1"), made(2, 5, "aB"), made(3, 10, "aBc", previous="r1"),
         made(4, 20, "c", previous="none")],
        {1: (None, 1, 0), 2: (1, 1, 1), 3: (1, 1, 1), 4: (None, 4, 0)},
    ),
    "a response that is fetched again is not its fetching": (
        [made(1, 0, response_id="r1"), made(2, 5, response_id="r1"), made(3, 10, previous="r1")],
        {1: (None, 1, 0), 2: (None, 2, 0), 3: (1, 1, 1)},
    ),
    "a header makes one session of several trees": (
        [made(1, 0, "a", session_hint="s"), made(2, 10, "aAb", session_hint="s"), made(3, 20, "x", session_hint="s"),
         made(4, 30, "xXy", session_hint="s"), made(5, 40, "aAbBc"), made(6, 50, session_hint="s")],
        {1: (None, 1, 0), 2: (1, 1, 1), 3: (None, 1, 0), 4: (3, 1, 1), 5: (2, 1, 2), 6: (None, 1, 0)},
    ),
    "no conversation": ([made(1, 0), made(2, 1)], {1: (None, 1, 0), 2: (None, 2, 0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_links_are_these_in_any_order(tmp_path: Path, name: str) -> None:
    rows, want = CASES[name]
    orders = list(itertools.permutations(rows))
    first = None
    for index, order in enumerate(orders if len(orders) <= 24 else random.Random(1).sample(orders, 24)):
        indexed = Indexed(tmp_path / f"{index}", *([[row] for row in order] if index % 2 else [list(order)]))
        assert indexed.links() == want
        first = first or indexed.all()
        assert indexed.all() == first


def conversation(chance: random.Random, number: int) -> TraceRow:
    """One of few conversations, so that many are alike, at one of few times."""
    turns = "".join(chance.choice("abB") for _ in range(chance.choice((0, 1, 1, 2, 3, 4, 5))))
    return made(
        number, chance.randrange(0, 5000, 7), turns, key=chance.choice((KEY, "cd" * 8)),
        session_hint=chance.choice((None, None, "s")), response_id=chance.choice((None, f"r{number % 5}")),
        previous=chance.choice((None, None, None, f"r{chance.randrange(5)}")),
        model=chance.choice(("m", "n", None)),
        input_tokens=chance.randrange(100), total_tokens=chance.randrange(100), cost_nano_usd=chance.choice((None, 10**9 + 1)),
        ttft_us=chance.randrange(10**6), output_tokens_per_second=chance.random() * 100,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_what_follows_from_exchanges_does_not_depend_on_order_batches_or_what_was_written_before(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    rows = [conversation(chance, number) for number in range(1, 41)]
    indexed = Indexed(tmp_path / "in order", rows)
    want = indexed.all()
    shuffled = chance.sample(rows, len(rows))
    for index in range(2):
        other = Indexed(tmp_path / f"{index}")
        for at in range(0, 40, 8):  # each is there as an open one, then as lost, then open again, then as it is
            batch = shuffled[at : at + 8]
            other.save([made(row.number, 0, end=None)._replace(exchange=_like(row, None)) for row in batch])
            other.save([row._replace(exchange=_like(row, "lost")) for row in batch if chance.random() < 0.5])
            other.save([row._replace(exchange=_like(row, None), read=None) for row in batch if chance.random() < 0.3])
            other.save(batch)
        assert other.all() == want


def _like(row: TraceRow, end: str | None) -> Exchange:
    names = [name for name in Exchange.__dataclass_fields__ if name != "request"]
    return Exchange(**{name: getattr(row.exchange, name) for name in names} | {"end_reason": end})


def test_sessions_are_the_sums_of_their_exchanges(tmp_path: Path) -> None:
    chance = random.Random(9)
    indexed = Indexed(tmp_path / "index", *([conversation(chance, number)] for number in range(1, 60)))
    by_hand = indexed.rows(
        "SELECT session_root_id, count(*), min(ts_start), max(ts_start), count(*) FILTER (WHERE status / 100 = 2), "
        "sum(input_tokens), coalesce(sum(cost_nano_usd), 0), count(cost_nano_usd) FROM trace GROUP BY 1 ORDER BY 1"
    )
    kept = "SELECT root, n_turns, first_ts, last_ts, ok_count, input_tokens, cost_nano_usd, priced FROM session ORDER BY root"
    assert indexed.rows(kept) == by_hand
    models = "SELECT session_root_id, model, count(*) FROM trace WHERE model IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
    assert indexed.rows("SELECT root, model, turns FROM session_model ORDER BY root, model") == indexed.rows(models)


def test_sums_over_time_are_those_of_the_rows(tmp_path: Path) -> None:
    chance = random.Random(5)
    indexed = Indexed(tmp_path / "index", *([conversation(chance, number)] for number in range(1, 60)), [made(99, 3, end=None)])
    for seconds in (60, 3600, 86400):
        begin = f"ts_start / 1000 - ts_start / 1000 % {seconds}"
        by_hand = indexed.rows(
            f"SELECT {begin}, model, count(*), sum(input_tokens), coalesce(sum(cost_nano_usd), 0), count(cost_nano_usd) "
            "FROM trace WHERE end_reason IS NOT NULL AND model IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        )
        kept = "SELECT bucket, value, requests, input_tokens, cost_nano_usd, priced FROM usage WHERE dimension = 'model' "
        assert indexed.rows(f"{kept} AND seconds = {seconds} ORDER BY bucket, value") == by_hand
    (ever,) = indexed.rows("SELECT requests, ttft_us, own_us FROM usage WHERE seconds = 0 AND dimension = ''")
    bins: spread.Bins = {}
    spread.add(
        bins, ((spread.bin_of(ttft_us), 1) for (ttft_us,) in indexed.rows("SELECT ttft_us FROM trace WHERE ttft_us >= 0"))
    )
    assert (ever[0], ever[1]) == (59, spread.pack(bins))
    assert len(spread.unpack(ever[2])) > 40


def test_every_dimension_that_is_summed_is_a_column(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path / "index", [made(1, 0)])
    columns = {name for (name,) in indexed.rows("SELECT name FROM pragma_table_info('trace')")}
    assert set(tally.COLUMNS) <= columns
    assert set(tally.DIMENSIONS) - {"", "status_class", "tool"} <= set(tally.COLUMNS)


def test_an_exchange_counts_once_for_each_tool_that_it_calls(tmp_path: Path) -> None:
    def calls(*names: str) -> str:
        return orjson.dumps([{"name": name, "id": str(at)} for at, name in enumerate(names)]).decode()

    first, second = made(1, 0, tool_calls=calls("a", "b", "a"), output_tokens=5), made(2, 1, tool_calls=calls("a"))
    indexed = Indexed(tmp_path / "index", [first], [second], [made(3, 2)])
    by_tool = "SELECT value, requests, output_tokens FROM usage WHERE dimension = 'tool' AND seconds = 0 ORDER BY value"
    assert indexed.rows(by_tool) == [("a", 2, 5), ("b", 1, 5)]
    indexed.save([made(1, 0, tool_calls=calls("b"), output_tokens=7)])
    assert indexed.rows(by_tool) == [("a", 1, 0), ("b", 1, 7)]


def test_sums_of_before_are_made_anew_when_there_are_more_of_them(tmp_path: Path) -> None:
    path, chance = tmp_path / "index", random.Random(3)
    rows = [conversation(chance, number) for number in range(1, 30)]
    older = Indexed(path, rows)
    want = older.all()
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("UPDATE usage SET requests = 9; PRAGMA user_version = 3").fetchall()
    with Index(path):
        pass
    assert older.all() == want


def test_numbers_that_no_integer_holds_do_not_stop_the_index(tmp_path: Path) -> None:
    row = made(1, 0)
    row.exchange.req_bytes = 2**63 - 1
    again = made(2, 0)
    again.exchange.req_bytes = 2**63 - 1
    indexed = Indexed(tmp_path / "index", [row], [again])
    assert indexed.rows("SELECT req_bytes FROM usage WHERE seconds = 0 AND dimension = ''") == [(2**63 - 1,)]


def test_text_is_found_and_forgotten_with_its_row(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path / "index", [made(1, 0, prompt_new="where is Zürich", answer_new="in Switzerland")])
    asked = "SELECT rowid FROM search WHERE search MATCH '{}'"
    assert indexed.rows(asked.format("zurich")) == indexed.rows(asked.format("answer: switzerland")) == [(1,)]
    indexed.save([made(1, 0, prompt_new="where is Rome", answer_new="in Italy")])
    assert indexed.rows(asked.format("zurich")) == []
    assert indexed.rows(asked.format("rome")) == [(1,)]
    indexed.save([made(1, 0)])
    assert indexed.rows(asked.format("rome")) == indexed.rows("SELECT * FROM turn_text") == []
    indexed.rows("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")


def test_views_for_people_tell_what_there_is(tmp_path: Path) -> None:
    indexed = Indexed(
        tmp_path / "index", [made(1, 0, "a", model="m", cost_nano_usd=1_500_000, prompt_new="hi", input_tokens=7)]
    )
    (trace,) = indexed.rows("SELECT started, model, cost_usd, ended, asked FROM v_traces")
    assert trace == ("2026-01-01 00:00:00.000", "m", 0.0015, "complete", "hi")
    assert indexed.rows("SELECT turns, cost_usd, input_tokens FROM v_sessions") == [(1, 0.0015, 7)]
    assert indexed.rows("SELECT day, model, requests, cost_usd FROM v_usage_by_day") == [("2026-01-01", "m", 1, 0.0015)]


def test_rows_of_before_are_counted_when_the_sums_are_added(tmp_path: Path) -> None:
    path = tmp_path / "index"
    chance = random.Random(2)
    rows = [conversation(chance, number) for number in range(1, 30)]
    rows = [row._replace(read=None) for row in rows]
    want = Indexed(tmp_path / "new", rows).all()
    older = Indexed(path, rows)
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM usage; DELETE FROM session; DELETE FROM session_model").fetchall()
    with db:
        store.count_written(db, sessions=True)
    db.close()
    assert older.all() == want
