"""What `llmdump resend` becomes: a recorded request sent again, perhaps changed, and both answers read in the same way.

The new answer is made into records as a proxy makes them, and so are both read by the code that reads all exchanges: what
is compared is comparable.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import apsw
import click
from aiohttp import web
from yarl import URL

from llmdump import address, interrupt, presence, process
from llmdump.data_dir import DataDir
from llmdump.reading import from_records, prices
from llmdump.reading.prices import PriceTable
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, NO_EXCHANGE, PROXY_TO_BACKEND, Record
from llmdump_api import beside, edits, query
from llmdump_api.curl import NotSentAgainError
from llmdump_api.index import Index, IndexUnreadableError
from llmdump_api.outgoing import Outgoing, Recorded, outgoing, variables
from llmdump_api.params import rfc3339
from llmdump_api.recorded import Exchanges, Refusal

ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
CONNECT_WITHIN_S: Final = 15.0
SILENT_S_MAX: Final = 600.0
# What aiohttp would add; the recorded fields say it all.
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Change(NamedTuple):
    """What is to be changed."""

    sets: list[tuple[list[str], Any]]
    patch: Any
    """A merge patch; None if there is none."""


class Again(NamedTuple):
    """A request to be sent, and what was recorded."""

    request: Outgoing
    body: bytes
    recorded: dict[str, Any]
    """The recorded answer, told."""
    started: str | None
    notes: list[str]


def told(records: list[Record], started_us: int, *, ended: bool, table: PriceTable) -> dict[str, Any]:
    """An answer as it is compared."""
    reading = from_records.read(records, started_us, ended=ended, table=table).reading
    same = reading.normalised
    status = next((record.meta.get("sc") for record in records if record.kind in {"answer"} or _is_head(record)), None)
    took_ms = (records[-1].ts * 1e6 - started_us) / 1000 if records else None
    return {
        "status": status, "model": same["model"], "finish_reason": same["finish_reason"], "complete": same["complete"],
        "input_tokens": same["input"], "cached_tokens": same["cached"], "output_tokens": same["output"],
        "cost_usd": same["cost_usd"], "ttft_ms": None if same["ttft_us"] is None else same["ttft_us"] / 1000,
        "duration_ms": took_ms,
        "tool_calls": [{"name": one["name"], "arguments": one.get("arguments")} for one in same["calls"]],
        "error_message": same["error_message"], "text": reading.text,
    }  # fmt: skip


def _is_head(record: Record) -> bool:
    return record.kind == "head" and record.direction == BACKEND_TO_PROXY


def changed(recorded: Recorded, change: Change) -> tuple[bytes, bool]:
    """The body to send, and whether it is another (then without content codings). Raises NotSentAgainError, EditError."""
    if not change.sets and change.patch is None:
        return recorded.body, False
    try:
        document = json.loads(recorded.plain_body())
    except ValueError as err:
        raise edits.EditError("the request body is no JSON: it can only be sent as it is") from err
    document = document if change.patch is None else edits.merged(document, change.patch)
    for path, value in change.sets:
        edits.put(document, path, value)
    return json.dumps(document, ensure_ascii=False).encode(), True


async def find(data: DataDir, id_: str, change: Change, where: "Where", table: PriceTable) -> Again:
    """The request to send. Raises NotSentAgainError, EditError, IndexUnreadableError."""
    index = Index(data.index)
    try:
        rows = await index.rows(*query.sql_one(id_))
        if not rows:
            raise NotSentAgainError(f"no exchange has this id in {data.root}")
        row = query.row_object(rows[0])
        exchange = await Exchanges(data, index, _never, _no_answer).open(row)
        stored = await index.stored(id_)
        records = await exchange.read(list)
    except Refusal as err:
        raise NotSentAgainError("its records are gone, or cannot be read") from err
    finally:
        index.close()
    recorded = Recorded(records)
    base = where.to or (where.proxy if where.via else recorded.origin)
    if not base:
        raise NotSentAgainError("it was sent to no backend: say where to (--to)")
    names = [where.key_env] if where.key_env else variables(row["provider"])
    request = outgoing(recorded, base, where.via, names, os.environ)
    body, is_other = changed(recorded, change)
    if is_other:
        fields = [(name, value) for name, value in request.fields if name.lower() != "content-encoding"]
        request = request._replace(fields=fields)
    notes = [f"without {name}, which was masked when it was recorded" for name in request.left_out]
    notes += ["secrets in the body were masked when it was recorded: it is sent with asterisks"] * recorded.is_altered
    before = told(records, stored.started_us, ended=row["end_reason"] == "complete", table=table)
    return Again(request, body, before, rfc3339(stored.started_us // 1000), notes)


async def _never(_: Any) -> None:
    return None


def _no_answer(_: Any) -> Any:
    return web.Response(status=410)


class Where(NamedTuple):
    """Where to send it, and with which key."""

    to: str
    via: bool
    proxy: str
    key_env: str


async def send(request: Outgoing, body: bytes) -> list[Record]:
    """Send a request; it and its answer as records. Raises aiohttp.ClientError, TimeoutError."""
    made = _Records()
    made.add(CLIENT_TO_PROXY, "head", _request_head(request))
    if body:
        made.add(CLIENT_TO_PROXY, "chunk", body, ci=1, x_z=True)
    made.add(PROXY_TO_BACKEND, "forward", b"", x_up=str(URL(request.url, encoded=True).origin()))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN_S, sock_read=SILENT_S_MAX)
    session = aiohttp.ClientSession(auto_decompress=False, timeout=timeout, skip_auto_headers=_NOT_ADDED)
    url = URL(request.url, encoded=True)
    async with (
        session,
        session.request(request.method, url, data=body or None, headers=request.fields, allow_redirects=False) as answer,
    ):
        made.add(BACKEND_TO_PROXY, "head", _answer_head(answer), sc=answer.status)
        async for chunk in answer.content.iter_any():
            made.add(BACKEND_TO_PROXY, "chunk", chunk, ci=len(made.all))
            if made.bytes > ANSWER_BYTES_MAX:
                raise aiohttp.ClientPayloadError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
    made.add(BACKEND_TO_PROXY, "end", b"")
    return made.all


def _request_head(request: Outgoing) -> bytes:
    fields = (f"{name}: {value}" for name, value in request.fields)
    first = f"{request.method} {URL(request.url, encoded=True).raw_path_qs} HTTP/1.1"
    return "\r\n".join([first, *fields, "", ""]).encode("latin-1", "replace")


def _answer_head(answer: aiohttp.ClientResponse) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (answer.status, (answer.reason or "").encode("latin-1", "replace"))]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in answer.raw_headers), b"", b""])


class _Records:
    """Records of an exchange that happens here, as far as reading asks for them."""

    def __init__(self) -> None:
        self.all: list[Record] = []
        self.bytes = 0

    def add(self, direction: int, kind: str, data: bytes, **meta: Any) -> None:
        self.bytes += len(data)
        self.all.append(Record(time.time(), direction, len(self.all) + 1, "0" * 16, NO_EXCHANGE, kind, data, meta))


def where_to(data: DataDir, to: str, via: bool, key_env: str, listen: str) -> Where:
    """Where to send it. Exits where the proxy is wanted and none runs."""
    cards = presence.living(data.run, "proxy") if via else []
    if via and not cards:
        process.fail(f"no proxy runs in {data.root}: start it (`llmdump-proxy`), or leave out --via")
    return Where(to, via, address.url(cards[0].listen or listen) if cards else "", key_env)


def _change(sets: tuple[str, ...], patch: str | None) -> Change:
    try:
        content = None if patch is None else json.loads(Path(patch).read_bytes())
    except (OSError, ValueError) as err:
        raise edits.EditError(f"{patch}: {err}") from err
    return Change([edits.assignment(text) for text in sets], content)


@click.command()
@click.argument("id_")
@click.option("--root", type=click.Path(path_type=Path), required=True)
@click.option("--price-file", default="")
@click.option("--proxy-listen", default="")
@click.option("--to", default="")
@click.option("--via", is_flag=True)
@click.option("--key-env", default="")
@click.option("--set", "sets", multiple=True)
@click.option("--patch")
@click.option("--json", "wants_json", is_flag=True)
@interrupt.quietly()
def main(
    id_: str, root: Path, price_file: str, proxy_listen: str, to: str, via: bool, key_env: str, sets: tuple[str, ...],
    patch: str | None, wants_json: bool,
) -> None:  # fmt: skip
    """What `llmdump resend` becomes."""
    data = DataDir(root)
    try:
        table = prices.load(price_file)
        where = where_to(data, to, via, key_env, proxy_listen)
        again = asyncio.run(find(data, id_, _change(sets, patch), where, table))
        for note in again.notes:
            click.echo(f"llmdump: {note}", err=True)
        records = asyncio.run(send(again.request, again.body))
    except (NotSentAgainError, edits.EditError, IndexUnreadableError, prices.PriceFileError, apsw.Error) as err:
        process.fail(f"{id_} is not sent again: {err}")
    except (aiohttp.ClientError, TimeoutError, OSError) as err:
        process.fail(f"no whole answer: {err or type(err).__name__}")
    now = told(records, round(records[0].ts * 1e6), ended=True, table=table)
    click.echo("\n".join(_shown(again, now, wants_json)))
    sys.exit(0 if now["status"] < 400 else 1)


def _shown(again: Again, now: dict[str, Any], wants_json: bool) -> Iterator[str]:
    asked = {"method": again.request.method, "url": again.request.shown_url, "key_from": again.request.key_from or None}
    if wants_json:
        yield json.dumps({"request": asked, "recorded": again.recorded, "now": now}, indent=2, ensure_ascii=False)
        return
    yield beside.printable(f"{asked['method']} {asked['url']}")
    yield beside.text((f"recorded {again.started}", "now"), again.recorded, now, shutil.get_terminal_size().columns)


if __name__ == "__main__":
    main()
