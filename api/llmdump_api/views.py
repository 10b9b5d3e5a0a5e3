"""Routes that show one exchange in other forms: each read of its bodies, as HAR, as a curl command."""

import contextlib
from functools import partial
from typing import Final

import orjson
from aiohttp import web

from llmdump.admin import count_swallowed
from llmdump_api import curl, har
from llmdump_api.chunks import Chunks
from llmdump_api.curl import NotSentAgainError
from llmdump_api.gate import error
from llmdump_api.recorded import Exchange, Exchanges, Refusal

_WRITE_BYTES: Final = 64 * 1024


class Views:
    """The routes."""

    def __init__(self, exchanges: Exchanges, version: str) -> None:
        self._exchanges = exchanges
        self._version = version

    async def chunks(self, request: web.Request) -> web.StreamResponse:
        """Each read of both bodies, a line each."""
        try:
            exchange = await self._open(request)
        except Refusal as refusal:
            return refusal.response
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with contextlib.suppress(ConnectionError):  # the client has gone
            await response.prepare(request)
            if await _write_lines(response, exchange):
                await response.write_eof()
            elif request.transport is not None:
                request.transport.close()
        return response

    async def har(self, request: web.Request) -> web.Response:
        """A HAR log of the one exchange."""
        try:
            exchange = await self._open(request)
            log = await exchange.read(lambda records: orjson.dumps(har.build(exchange.row, records, self._version)))
        except Refusal as refusal:
            return refusal.response
        name = f'attachment; filename="{exchange.row["id"]}.har"'
        return web.Response(body=log, content_type="application/json", headers={"Content-Disposition": name})

    async def curl(self, request: web.Request) -> web.Response:
        """A command line that sends the request again."""
        try:
            exchange = await self._open(request)
            api_url = f"http://{request.host}"
            command = await exchange.read(partial(curl.command, row=exchange.row, api_url=api_url))
        except Refusal as refusal:
            return refusal.response
        except NotSentAgainError as err:
            return error(409, "not_sent_again", str(err))
        return web.Response(text=command, content_type="text/plain", charset="utf-8")

    async def _open(self, request: web.Request) -> Exchange:
        return await self._exchanges.open(await self._exchanges.row(request))


async def _write_lines(response: web.StreamResponse, exchange: Exchange) -> bool:
    """Whether all records could be read. Raises ConnectionError."""
    chunks, lines = Chunks(), bytearray()
    try:
        async with contextlib.aclosing(exchange.records()) as records:
            async for record in records:
                lines += chunks.line(record)
                if len(lines) >= _WRITE_BYTES:
                    await response.write(bytes(lines))
                    lines.clear()
    except ConnectionError:
        raise
    except (OSError, ValueError):
        count_swallowed("chunks_not_read")
        return False
    await response.write(bytes(lines))
    return True
