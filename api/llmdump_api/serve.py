"""What `llmdump serve` becomes: an archive as a backend. Clients are pointed here instead of at the provider.

    data directory, or files ─▶ shelf (keys of requests) ─▶ request: which recording? ─▶ its records, given again

A data directory with an index is read where it is, and nothing in it is changed. From files, and a directory without an
index, a temporary archive is made: its segments are links to them, its index is made by the indexer.

What was recorded when it starts is given; what is recorded later is not.
"""

import asyncio
import contextlib
import math
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import apsw
import click
import uvloop
from aiohttp import web

from llmdump import address, interrupt, log, process
from llmdump.content_coding import Decoder
from llmdump.data_dir import DataDir
from llmdump.reading.exchange import Request
from llmdump.record import Record
from llmdump.settings import Settings
from llmdump_api import alike, archive, no_match, shelf, sockets
from llmdump_api.gate import LOOPBACK_NAMES, host_name
from llmdump_api.giving import Giving
from llmdump_api.http_server import BODY_BYTES_MAX, Asked, Connection, serve
from llmdump_api.index import Index, IndexUnreadableError
from llmdump_api.no_match import Refused
from llmdump_api.recorded import Exchange, Exchanges, Refusal
from llmdump_api.shelf import Shelf

ANSWERS_MAX: Final = 64
"""At the same time; further ones wait. Each may hold a frame of a sealed segment, 32 MiB."""


class Rules(NamedTuple):
    """How requests are answered."""

    levels: Sequence[str]
    """Of `alike.LEVELS`, those that are tried."""
    repeats: bool
    """The last of several recordings is given again and again."""
    speed: float
    prefixes: Sequence[str]
    """That routes take off paths."""
    secret_query: frozenset[str]
    hosts: frozenset[str] | None
    """Names by which the server may be called; None: any."""


class Backend:
    """Answers requests with recordings."""

    def __init__(self, data: DataDir, index: Index, recordings: Shelf, rules: Rules) -> None:
        self._index = index
        self._shelf = recordings
        self._rules = rules
        self._exchanges = Exchanges(data, index, _none, lambda _: web.Response(status=410))
        self._slots = asyncio.Semaphore(ANSWERS_MAX)
        self.answered: Counter[str] = Counter()
        """Requests by the level at which they were matched, or the code of the refusal."""

    async def handle(self, asked: Asked, connection: Connection) -> None:
        """Answer one request. Raises ConnectionError."""
        if self._rules.hosts is not None and host_name(asked.first("host") or "") not in self._rules.hosts:
            await _refuse(
                connection, asked, None, Refused("host_not_allowed", 421, "this server answers to loopback names only")
            )
            return
        request = _alike(asked, self._rules)
        paths = alike.paths(request.path, self._rules.prefixes)
        if alike.wants_websocket(asked.fields) and (any_ := self._shelf.any_at(alike.WEBSOCKET, paths)):
            await self._converse(asked, connection, any_)
            return
        async with self._slots:
            found = await self._find(request, paths)
            if isinstance(found, Refused):
                self.answered[found.code] += 1
                log.warning("not_answered", method=asked.method, target=asked.target[:200], why=found.message[:1000])
                await _refuse(connection, asked, request.api, found)
            else:
                await self._give(found, asked, connection)

    async def _give(self, found: Exchange, asked: Asked, connection: Connection) -> None:
        try:
            await Giving(asked, connection, self._rules.speed).give(found)
        except ConnectionError:
            raise
        except (OSError, ValueError) as err:
            log.error("recording_not_read", exchange=found.row["id"], error=str(err))
            await connection.reset()

    async def _converse(self, asked: Asked, connection: Connection, like: str) -> None:
        """A WebSocket; `like` is a recorded one at the same path. Raises ConnectionError."""
        switched = await self._open(like)
        head = await switched.read(_switched) if isinstance(switched, Exchange) else None
        if head is None:
            await _refuse(connection, asked, None, Refused("not_readable", 500, f"the recording {like} cannot be read", like))
            return
        await connection.write(sockets.switching(asked, head))
        with sockets.Client(connection, asked.rest) as client:
            found = await self._session(asked, client)
            if isinstance(found, Refused):
                self.answered[found.code] += 1
                log.warning("not_answered", target=asked.target[:200], why=found.message[:1000])
                await connection.write(sockets.refusal(no_match.event(found), found.code))
                await client.leaves(sockets.LEAVES_WITHIN_S)
            elif found is not None:
                with contextlib.suppress(TimeoutError):
                    await sockets.Talk(client, connection, self._rules.speed).give(found)
        connection.close()

    async def _session(self, asked: Asked, client: sockets.Client) -> Exchange | Refused | None:
        """The recording of a WebSocket for a client: by its first message, unless the backend had spoken before it."""
        request = Request(alike.WEBSOCKET, asked.target, fields=asked.fields)
        silent = alike.asked(request, self._rules.secret_query)
        paths = alike.paths(silent.path, self._rules.prefixes)
        found = self._shelf.take(silent, paths, alike.LEVELS[:1], repeats=self._rules.repeats)
        if found is not None:
            self.answered["again" if found.again else found.level] += 1
            return await self._open(found.id)
        if not await client.has_said(1):
            return None
        said = alike.asked(request._replace(body=client.first or b""), self._rules.secret_query)
        return await self._find(said, paths)

    async def _find(self, request: alike.Asked, paths: Sequence[str]) -> Exchange | Refused:
        found = self._shelf.take(request, paths, self._rules.levels, repeats=self._rules.repeats)
        if found is None:
            return await self._nearest(request, paths)
        self.answered["again" if found.again else found.level] += 1
        return await self._open(found.id)

    async def _open(self, exchange: str) -> Exchange | Refused:
        try:
            return await self._exchanges.open({"id": exchange})
        except (Refusal, IndexUnreadableError):
            return Refused("not_readable", 500, f"the recording {exchange} cannot be read any more", exchange)

    async def _nearest(self, request: alike.Asked, paths: Sequence[str]) -> Refused:
        """Why no recording is given."""
        if self._shelf.take(request, paths, self._rules.levels, repeats=True) is not None:
            return Refused("used_up", 404, "all recordings of this request have been given (--after-last)")
        read = [(exchange, await self._request(exchange)) for exchange in self._shelf.nearest(request, paths)]
        near = [(exchange, no_match.differences(request, one)) for exchange, one in read if one is not None]
        nearest, differs = min(near, key=lambda one: len(one[1]), default=("", []))
        places = [] if nearest else self._shelf.places()
        return no_match.not_recorded(request.method, request.path, nearest, differs, places)

    async def _request(self, exchange: str) -> alike.Asked | None:
        """What the recorded request asks, if it can be read."""
        try:
            opened = await self._exchanges.open({"id": exchange})
            request, _ = await opened.read(lambda records: shelf.asked_of(records, self._rules.secret_query))
        except (Refusal, IndexUnreadableError):
            return None
        return request


def _switched(records: Iterator[Record]) -> bytes | None:
    return next((record.data for record in records if record.kind == "head" and record.meta.get("sc") == 101), None)


async def _none(_: web.Request) -> None:
    return None


def _alike(asked: Asked, rules: Rules) -> alike.Asked:
    body = asked.body
    codings = [one.strip().lower() for one in (asked.first("content-encoding") or "").split(",") if one.strip()]
    with contextlib.suppress(ValueError):  # a coding that nobody knows: as it is
        body = Decoder(codings, BODY_BYTES_MAX).feed(body) if codings else body
    return alike.asked(Request(asked.method, asked.target, fields=asked.fields, body=body), rules.secret_query)


async def _refuse(connection: Connection, asked: Asked, api: str | None, refused: Refused) -> None:
    content = no_match.body(api, refused)
    reason = {404: "Not Found", 421: "Misdirected Request"}.get(refused.status, "Internal Server Error")
    head = [
        f"HTTP/1.1 {refused.status} {reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "X-Should-Retry: false",  # OpenAI's and Anthropic's SDKs heed it
        *(["X-Amzn-Errortype: ResourceNotFoundException"] if (api or "").startswith("bedrock") else []),
        *([] if asked.keeps_alive else ["Connection: close"]),
    ]
    text = "\r\n".join(head) + "\r\n\r\n"
    await connection.write(text.encode() + (b"" if asked.method == "HEAD" else content))


async def run(data: DataDir, listen: str, rules: Rules) -> None:
    """Serve until SIGINT or SIGTERM. Raises OSError, apsw.Error, IndexUnreadableError."""
    index, recordings = Index(data.index), Shelf()
    await index.ask(lambda _: None, None)  # raises for an index of another version
    shelf.fill(recordings, data, rules.secret_query)
    sock = address.listen(listen)
    backend = Backend(data, index, recordings, rules)
    server = await serve(sock, backend.handle)
    click.echo(told(recordings, address.url(address.bound(sock))))
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()
    click.echo(summary(backend.answered))
    index.close()
    recordings.close()


def told(recordings: Shelf, url: str) -> str:
    """What is served, and where; the last line says that it is."""
    lines = [f"  {count:>7,}  {_printable(f'{method} {path}')}" for method, path, count in recordings.places()]
    lines += [f"  {count:>7,}  not served: {reason}" for reason, count in recordings.left_out.most_common()]
    lines.append(f"serving {recordings.count:,} recorded exchanges at {url}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def summary(answered: Counter[str]) -> str:
    """What was answered, at the end."""
    parts = [f"{count:,} {what.replace('_', ' ')}" for what, count in answered.most_common()]
    return f"{sum(answered.values()):,} requests" + (f": {', '.join(parts)}" if parts else "")


def rules_of(settings: Settings, listen: str, match: str, after_last: str, speed: float) -> Rules:
    """The rules that options and settings give."""
    prefixes = [route.partition("=")[0].removesuffix("/*") for route in settings.routes if "/*=" in route]
    names = (name.lower() for name in settings.capture_secret_query)
    hosts = LOOPBACK_NAMES if address.is_loopback(address.split(listen)[0]) else None
    levels = alike.LEVELS[: alike.LEVELS.index(match) + 1]
    return Rules(levels, after_last == "repeat", speed, prefixes, alike.SECRET_QUERY.union(names), hosts)


def _fail(err: Exception) -> NoReturn:
    process.fail(str(err))


@click.command()
@click.argument("places", nargs=-1, type=click.Path(path_type=Path))
@click.option("--settings", "flags", multiple=True)
@click.option("--listen", required=True)
@click.option("--match", required=True)
@click.option("--after-last", required=True)
@click.option("--speed", type=float, default=math.inf)
@click.option("--config")
@interrupt.quietly()
def main(places: tuple[Path, ...], flags: tuple[str, ...], config: str | None, **options: Any) -> None:
    """What `llmdump serve` becomes."""
    settings = process.load_or_exit({"config": config, **dict(flag.split("=", 1) for flag in flags)}).settings
    log.configure(settings.log_level)
    rules = rules_of(settings, **options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(process.EXIT_FAILED))  # before it serves; a temporary archive goes then
    try:
        with archive.opened(places or (Path(settings.data_dir),)) as data:
            uvloop.run(run(data, options["listen"], rules))
    except (archive.ArchiveError, IndexUnreadableError, apsw.Error, OSError) as err:
        _fail(err)


if __name__ == "__main__":
    main()
