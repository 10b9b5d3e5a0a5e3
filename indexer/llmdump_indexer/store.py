"""Trace rows written with all that follows from them: links, sessions, sums, text. Within one transaction; blocking.

What follows from a row is a function of the row. So of a row that was written before, what followed from it then is
taken back first; where links move others to another session, both sessions are summed up anew.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import apsw

from llmdump import assembly, tally
from llmdump.assembly import Exchange
from llmdump.reading import detect
from llmdump.tally import Tally
from llmdump_indexer import statements
from llmdump_indexer.links import Facts, Link, Links
from llmdump_indexer.read import Read, magnitude

_SAVE: Final = statements.one("save_trace")
_SESSION: Final = statements.named("session")
_USAGE: Final = statements.named("usage")
_NO_COLUMNS: Final = frozenset({"keys", "candidates", "is_first", "prompt_new", "answer_new"})
_READ_COLUMNS: Final = tuple(name for name in Read.__dataclass_fields__ if name not in _NO_COLUMNS)
_BEFORE_COLUMNS: Final = ("session_root_id", *tally.COLUMNS)
_BEFORE: Final = f"SELECT {', '.join(_BEFORE_COLUMNS)} FROM trace WHERE number = ?"
_UNREAD: Final = Read()
_SESSION_SUMS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_nano_usd"
)  # fmt: skip


COUNTED_AT_ONCE: Final = 10_000
"""Rows whose sums are in memory together, when there were none before."""


class TraceRow(NamedTuple):
    """A row to be written; `read` is None while the exchange is open, and where its bodies cannot be read."""

    number: int
    exchange: Exchange
    read: Read | None = None


class Store:
    """The rows of one transaction."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._links = Links(db)
        self._tally = Tally()
        self._sums: dict[str, list[int]] = {}
        self._models: Counter[tuple[str, str]] = Counter()
        self._moved: set[str] = set()

    def write(self, row: TraceRow) -> None:
        """Write one row."""
        read = row.read or _UNREAD
        before = self._db.execute(_BEFORE, (row.number,)).fetchone()
        own = _facts(row.number, row.exchange, read)
        link = self._links.find(own)
        values = columns(row.number, row.exchange, read, link)
        self._db.execute(_SAVE, values)
        if before is not None:
            self.count(dict(zip(_BEFORE_COLUMNS, before, strict=True)), -1)
        self.count(values, +1)
        self._text(row.number, read, before is not None)
        self._moved |= self._links.settle(own, link, before is not None)

    def finish(self) -> None:
        """Write what follows from all of them."""
        self._save_usage()
        self._save_sessions()

    def uncount(self, numbers: Iterable[int]) -> None:
        """Count rows out that are about to be deleted."""
        for number in numbers:
            before: Any = self._db.execute(_BEFORE, (number,)).fetchone()
            self.count(dict(zip(_BEFORE_COLUMNS, before, strict=True)), -1)

    def count_usage(self, values: dict[str, Any]) -> None:
        """Count a row in, in nothing but the sums by time."""
        self._tally.add(values, +1)

    def count(self, values: dict[str, Any], sign: int) -> None:
        """Count a row in, with +1, or out, with -1."""
        self._tally.add(values, sign)
        root = values["session_root_id"]
        sums = self._sums.setdefault(root, [0] * (len(_SESSION_SUMS) + 4))
        status, cost = values["status"] or 0, values["cost_nano_usd"]
        more = (1, 200 <= status < 300, status >= 400, *(values[name] or 0 for name in _SESSION_SUMS), cost is not None)
        self._sums[root] = [total + sign * one for total, one in zip(sums, more, strict=True)]
        if values["model"] is not None:
            self._models[root, values["model"]] += sign

    def _text(self, number: int, read: Read, written_before: bool) -> None:
        if read.prompt_new or read.answer_new:
            self._db.execute(
                "INSERT INTO turn_text (trace, prompt, answer) VALUES (?, ?, ?) "
                "ON CONFLICT (trace) DO UPDATE SET prompt = excluded.prompt, answer = excluded.answer",
                (number, read.prompt_new, read.answer_new),
            )
        elif written_before:
            self._db.execute("DELETE FROM turn_text WHERE trace = ?", (number,))

    def _save_usage(self) -> None:
        for key, cell in self._tally.changes():
            stored = self._db.execute(_USAGE["find"], key).fetchone()
            if stored is not None:
                cell.add(stored)
            if cell.amounts[0]:
                self._db.execute(_USAGE["save"], (*key, *cell.row()))
            elif stored is not None:
                self._db.execute(_USAGE["remove"], key)

    def _save_sessions(self) -> None:
        for root, sums in self._sums.items():
            if root not in self._moved:
                self._db.execute(_SESSION["add"], (root, "", *sums))
        self._db.executemany(
            _SESSION["add_model"],
            ((root, model, turns) for (root, model), turns in self._models.items() if root not in self._moved and turns),
        )
        for root in self._moved:
            for name in ("clear_models", "clear", "sum", "sum_models"):
                self._db.execute(_SESSION[name], {"root": root})
        for root in self._sums.keys() | self._moved:
            for name in ("remove_models", "remove_empty", "ends"):
                self._db.execute(_SESSION[name], {"root": root})


def count_written(db: apsw.Connection, *, sessions: bool) -> None:
    """Count all rows in that were written before there were sums (or such a dimension of them) and, if they are wanted,
    `sessions`. Within a transaction; blocking."""
    rows = db.cursor().execute(f"SELECT {', '.join(_BEFORE_COLUMNS)} FROM trace")
    while batch := list(islice(rows, COUNTED_AT_ONCE)):
        store = Store(db)
        for values in batch:
            row = dict(zip(_BEFORE_COLUMNS, values, strict=True))
            if sessions:
                store.count(row, +1)
            else:
                store.count_usage(row)
        store.finish()


def columns(number: int, exchange: Exchange, read: Read, link: Link) -> dict[str, Any]:
    """The columns of a row by their names."""
    values = {name: getattr(exchange, name) for name in assembly.COLUMNS}
    own_code, asked, streamed, backend = exchange.error_code, exchange.model, exchange.stream, exchange.backend
    values |= {name: getattr(read, name) for name in _READ_COLUMNS}
    values["error_code"] = own_code or read.error_code
    values["model"] = read.model or asked
    values["stream"] = streamed or (streamed if read.stream is None else read.stream)
    values["provider"] = read.provider or detect.by_route(backend)
    cost, ttft_us = read.cost_nano_usd, read.ttft_us
    return values | {
        "number": number,
        "ts_start": exchange.ts_start,
        "parent_id": link.place.parent_id,
        "session_root_id": link.place.root,
        "depth": link.place.depth,
        "linked_id": link.linked_id,
        "linked_by": link.linked_by,
        "linked_rank": link.rank,
        "tokens_class": magnitude(read.total_tokens),
        "cost_class": magnitude(None if cost is None else cost // 1000),
        "ttft_class": magnitude(None if ttft_us is None else ttft_us // 1000),
    }


def _facts(number: int, exchange: Exchange, read: Read) -> Facts:
    return Facts(
        number, exchange.id, exchange.key_hash, exchange.started_us, read.session_hint, read.keys, read.candidates,
        read.is_first,
    )  # fmt: skip
