"""The demo itself: requests through the proxy to the simulated backend, then what the api says was captured.

Every exchange sent has to be found among the traces; the n-th of a path that was sent is the n-th captured since the
demo began.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from llmdump import address, presence
from llmdump.data_dir import DataDir
from llmdump.demo import backend, exchanges
from llmdump.demo.exchanges import Exchange
from llmdump.settings import Settings

FOUND_WITHIN_S: Final = 20.0
"""As a rule within a tenth of a second; a busy machine takes its time."""
_LOOK_EVERY_S: Final = 0.1
_REQUEST_TIMEOUT_S: Final = 60.0
_COLUMNS: Final = ("time", "model", "path", "status", "chunks", "duration", "end")


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


class Place(NamedTuple):
    """A running instance: base URLs of proxy and api, and the api's token."""

    proxy: str
    api: str
    token: str


def place(settings: Settings, data: DataDir) -> Place:
    """Where the living processes serve. Blocking. Raises DemoError."""
    try:
        token = data.admin_token.read_text().strip()
    except OSError as err:
        raise DemoError(f"cannot read the api's token {data.admin_token}: {err.strerror}") from err
    proxy, api = _listen(data, "proxy", settings.proxy_listen), _listen(data, "api", settings.api_listen)
    return Place(address.url(proxy), address.url(api), token)


def _listen(data: DataDir, role: str, fallback: str) -> str:
    return next((card.listen for card in presence.living(data.run, role) if card.listen), fallback)


def backend_listen(settings: Settings) -> str:
    """Where the routes expect the simulated backend. Raises DemoError."""
    if settings.upstream:
        raise DemoError(f"everything goes to {settings.upstream}; the demo needs `upstream` empty, so that `routes` count")
    for route in settings.routes:
        prefix, _, where = route.partition("=")
        if prefix == f"{exchanges.PREFIX}/*":
            return urlsplit(where).netloc
    raise DemoError(f"no route leads to the simulated backend; add {exchanges.PREFIX}/*=http://{backend.LISTEN} to `routes`")


@contextlib.asynccontextmanager
async def simulated_backend(listen: str) -> AsyncIterator[None]:
    """The backend, served here, or the one that is already there. Raises DemoError."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(backend.serving(listen))
        except OSError as err:
            if not await _is_ours(f"http://{listen}/sim/echo"):
                raise DemoError(f"{err}; end what listens there, or change the route {exchanges.PREFIX}/*") from err
        yield


async def _is_ours(url: str) -> bool:
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)) as session, session.get(url) as answer:
            return "body_sha256" in await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return False


async def send_all(proxy: str, wanted: Iterable[Exchange]) -> None:
    """Send the requests one after the other and read every answer to its end. Raises DemoError."""
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        for exchange in wanted:
            url = proxy + exchanges.PREFIX + exchange.target
            try:
                async with session.post(url, data=exchange.body, headers=exchange.headers) as answer:
                    content = await answer.read()
            except (aiohttp.ClientError, TimeoutError) as err:
                raise DemoError(f"POST {url}: {err!r}; `llmdump status` tells whether the proxy works") from err
            if answer.status != 200:
                raise DemoError(f"POST {url}: status {answer.status}: {content[:300].decode(errors='replace')}")


async def captured(where: Place, since: datetime, wanted: Sequence[Exchange]) -> list[dict[str, Any] | None]:
    """The trace of each exchange, in the order they were sent; None for one not found in time. Raises DemoError."""
    deadline = time.monotonic() + FOUND_WITHIN_S
    timeout = aiohttp.ClientTimeout(total=FOUND_WITHIN_S)
    headers = {"Authorization": f"Bearer {where.token}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        while True:
            found = match(wanted, await _traces(session, where.api, since), since)
            if None not in found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_LOOK_EVERY_S)


async def _traces(session: aiohttp.ClientSession, api: str, since: datetime) -> list[dict[str, Any]]:
    params = {"path": f"{exchanges.PREFIX}/*", "since": since.isoformat(), "limit": "100"}
    try:
        async with session.get(f"{api}/api/traces", params=params) as answer:
            if answer.status != 200:
                raise DemoError(f"GET {answer.url}: status {answer.status}: {(await answer.text())[:300]}")
            traces: list[dict[str, Any]] = (await answer.json())["traces"]
            return traces
    except (aiohttp.ClientError, TimeoutError) as err:
        raise DemoError(f"GET {api}/api/traces: {err!r}; `llmdump status` tells whether the api works") from err


def match(wanted: Sequence[Exchange], traces: Iterable[dict[str, Any]], since: datetime) -> list[dict[str, Any] | None]:
    """For each exchange its finished trace: the n-th of its path since the demo began, or None."""
    by_path: dict[str, list[dict[str, Any]]] = {}
    for trace in sorted(traces, key=lambda trace: (_started(trace), trace["id"])):
        if _started(trace) >= since and trace["end_reason"] is not None:
            by_path.setdefault(trace["path"].partition("?")[0], []).append(trace)
    return [by_path[one.path].pop(0) if by_path.get(one.path) else None for one in wanted]


def _started(trace: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(trace["ts_start"])


def table(wanted: Sequence[Exchange], found: Sequence[dict[str, Any] | None]) -> str:
    """What was captured, a line an exchange."""
    rows = [_COLUMNS, *map(_row, wanted, found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(exchange: Exchange, trace: dict[str, Any] | None) -> tuple[str, ...]:
    if trace is None:
        return ("-", "-", exchange.path, "-", "-", "-", "NOT CAPTURED")
    return (
        _started(trace).astimezone().strftime("%H:%M:%S"),
        str(trace["model"]),
        exchange.path,
        str(trace["status"]),
        str(trace["resp_chunks"]),
        f"{trace['duration_ms']:.0f} ms",
        str(trace["end_reason"]),
    )


def next_commands(where: Place, data: DataDir, trace: dict[str, Any]) -> str:
    """What to try next, with a trace that exists."""
    token = f'-H "Authorization: Bearer $(cat {data.admin_token})"'
    return (
        f"One of them whole, with every chunk and its time:\n\n  curl {token} {where.api}/api/traces/{trace['id']}\n\n"
        f"Only the bytes of its answer, as they crossed:\n\n  curl {token} {where.api}/api/traces/{trace['id']}/response\n\n"
        "Your own client next: `llmdump banner` says where to point it."
    )
