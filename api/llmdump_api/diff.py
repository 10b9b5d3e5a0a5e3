"""`GET /api/diff` and `llmdump diff`: which part of a request changed first, and what that cost in the cache.

What differs is told by `llmdump.reading.difference`; here two exchanges are found, read and shown.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import orjson
from aiohttp import web

from llmdump import interrupt, process
from llmdump.data_dir import DataDir
from llmdump.reading import from_records, prices
from llmdump.reading.cache_cost import billed
from llmdump.reading.difference import compare
from llmdump.reading.from_records import Told
from llmdump.reading.prices import PriceTable
from llmdump_api import params, query
from llmdump_api.gate import answer, error
from llmdump_api.index import Index, IndexUnreadableError, Stored
from llmdump_api.params import BadParamError
from llmdump_api.printed import printable
from llmdump_api.recorded import Exchanges, Refusal

PARAMETERS: Final = ("a", "b")
LISTED_MAX: Final = 10
"""Differences that are printed; `--json` has more."""
_SHOWN: Final = (
    "id", "ts_start", "path", "model", "api", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
    "cost_usd",
)  # fmt: skip


class _Side(NamedTuple):
    """One of the two."""

    row: dict[str, Any]
    told: Told


class Diffs:
    """The route."""

    def __init__(self, exchanges: Exchanges, index: Index, table: PriceTable) -> None:
        self._exchanges = exchanges
        self._index = index
        self._table = table

    async def diff(self, request: web.Request) -> web.Response:
        """Two exchanges, compared."""
        try:
            return answer(await self.compared({name: request.query[name] for name in PARAMETERS}))
        except Refusal as refusal:
            return refusal.response

    async def compared(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """The answer for the exchanges `a` and `b`. Raises Refusal, IndexUnreadableError."""
        a, b = [await self._side(name, ids[name]) for name in PARAMETERS]
        return await self._index.run(lambda: _compared(a, b, self._table))

    async def _side(self, name: str, id_: str) -> _Side:
        rows = await self._index.rows(*query.sql_one(id_))
        if not rows:
            raise Refusal(error(404, "not_found", f"no exchange has the id {id_}", param=name))
        row = query.row_object(rows[0])
        started_us = (await self._index.stored(id_)).started_us
        exchange = await self._exchanges.open(row)
        ended = row["end_reason"] == "complete"
        told = await exchange.read(
            lambda records: from_records.read(records, started_us, ended=ended, table=self._table)
        )  # fmt: skip
        return _Side(row, told)


def _compared(a: _Side, b: _Side, table: PriceTable) -> dict[str, Any]:
    """The answer. Takes as long as the bodies are."""
    found = compare(a.told.request.body, b.told.request.body, b.row["api"] or a.row["api"])
    own = b.told.reading
    cost = billed(found, own.normalised, own.usage_raw, table, b.row["provider"])
    return {
        "a": _shown(a),
        "b": _shown(b),
        "relation": found.relation,
        "first": None if found.first is None else found.first._asdict(),
        "differences": [one._asdict() for one in found.differences],
        "more": found.is_cut,
        "messages": {"same": found.same_messages, "a": found.a_messages, "b": found.b_messages},
        "cache": {
            "prefix_tokens": cost.prefix_tokens,
            "shared_tokens": cost.shared_tokens,
            "billed_again_tokens": cost.again_tokens,
            "for_change_tokens": cost.for_change_tokens,
            "billed_again_usd": cost.again_usd,
        },
    }


def _shown(side: _Side) -> dict[str, Any]:
    row = side.row
    whole = side.told.request.body_whole and row["captured"].startswith("all/") and not row["records_lost"]
    return {name: row[name] for name in _SHOWN} | {"request_whole": whole}


# --- as text


def text(told: dict[str, Any]) -> str:
    """The answer for people."""
    lines = [_side_line(name, told[name]) for name in PARAMETERS]
    lines += [_related(told), *_first(told["first"])]
    others = [one for one in told["differences"] if one != told["first"]]
    lines += ["also:"] * bool(others) + [f"  {_place(one)}" for one in others[:LISTED_MAX]]
    if len(others) > LISTED_MAX:
        lines.append(f"  and {len(others) - LISTED_MAX}{' or more' if told['more'] else ''} others: --json has them")
    return "\n".join([*lines, *_cost(told["cache"], told["b"])])


def _side_line(name: str, side: dict[str, Any]) -> str:
    tokens = "not told" if side["input_tokens"] is None else f"{side['input_tokens']:,}"
    cached = f"{side['cache_read_tokens'] or 0:,} read, {side['cache_write_tokens'] or 0:,} written"
    whole = "" if side["request_whole"] else "; its request was not kept whole"
    model = printable(side["model"] or "-")
    return f"{name}  {side['id']}  {side['ts_start']}  {model}  prompt tokens {tokens} (cache: {cached}){whole}"


def _related(told: dict[str, Any]) -> str:
    messages = told["messages"]
    if told["relation"] == "same":
        return "The prompts are the same."
    if told["relation"] == "continues":
        return f"b goes on from a: its prompt, and {messages['b'] - messages['a']} messages more."
    if told["relation"] == "begins":
        return f"a goes on from b: its prompt, and {messages['a'] - messages['b']} messages more."
    same = f"{messages['same']} messages are the same from the beginning"
    return f"The prompts differ: {same}, of {messages['a']} and {messages['b']}."


def _first(first: dict[str, Any] | None) -> list[str]:
    if first is None:
        return ["Nothing differs."]
    ends = "ends what a cache can be read for" if first["ends_cache"] else "the prompt is the same to a cache"
    shown = [f"  {name} {printable(first[name])}" for name in PARAMETERS if first[name] is not None]
    return [f"first: {_place(first)} ({ends})", *shown]


def _place(found: dict[str, Any]) -> str:
    name = f" {printable(found['name'])}" if found["name"] else ""
    pointers = list(dict.fromkeys(pointer for pointer in (found["a_pointer"], found["b_pointer"]) if pointer))
    where = f" at {printable(' and '.join(pointers))}" if pointers else ""
    character = f", character {found['character']}" if found["character"] is not None else ""
    return f"{found['kind']}: {found['what']}{name}{where}{character}"


def _cost(cache: dict[str, Any], b: dict[str, Any]) -> list[str]:
    if cache["billed_again_tokens"] is None:
        return ["What that cost is not known: b's answer does not say how long its prompt was."]
    usd = "" if cache["billed_again_usd"] is None else f" (${cache['billed_again_usd']:.4f})"
    return [
        f"about {cache['prefix_tokens']:,} of b's {b['input_tokens']:,} prompt tokens are the same from the beginning, "
        f"{cache['shared_tokens']:,} were in a too",
        f"about {cache['billed_again_tokens']:,} of them were billed again{usd}, {cache['for_change_tokens']:,} for the change",
    ]


# --- as a command


async def _ask(data: DataDir, ids: Mapping[str, str], table: PriceTable) -> dict[str, Any]:
    index = Index(data.index)

    async def no_row(_: web.Request) -> None:
        return None

    def gone(stored: Stored) -> web.Response:
        return error(410, "gone", f"the segment files with its request were deleted: {', '.join(stored.gone)}")

    try:
        return await Diffs(Exchanges(data, index, no_row, gone), index, table).compared(ids)
    finally:
        index.close()


@click.command()
@click.argument("root")
@click.argument("a")
@click.argument("b")
@click.option("--price-file", default="")
@click.option("--json", "wants_json", is_flag=True)
@interrupt.quietly()
def main(root: str, a: str, b: str, price_file: str, wants_json: bool) -> None:
    """What `llmdump diff` becomes."""
    data = DataDir(Path(root))
    if not data.index.exists():
        process.fail(f"there is no index in {data.root}: `llmdump rebuild` makes it, or give --data-dir")
    try:
        ids = {name: params.uuid(name, given) for name, given in (("a", a), ("b", b))}
        told = asyncio.run(_ask(data, ids, prices.load(price_file)))
    except BadParamError as err:
        process.fail(f"{err.param.upper()}: {err}; `llmdump tail` shows ids", process.EXIT_SETTINGS)
    except Refusal as refusal:
        process.fail(orjson.loads(refusal.response.body or b"{}").get("message", "it cannot be read"))  # type: ignore[arg-type]
    except (prices.PriceFileError, IndexUnreadableError, OSError) as err:
        process.fail(str(err))
    sys.stdout.write((orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() if wants_json else text(told)) + "\n")


if __name__ == "__main__":
    main()
