"""Routes below /api/config, /api/plugins and /api/media: what api-log's viewer looks at beside exchanges.

Only retention can be changed over HTTP; writers take the change within a second, and it outlives a restart (see
`llmdump.overrides`). A field that a change leaves out stays as it is, in force and in the file alike. Media are always to be
had, for they are taken from the recorded bodies; and there are no plugins, for nothing that passes is changed.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from llmdump import heads, overrides
from llmdump.content_coding import Decoder
from llmdump.data_dir import DataDir
from llmdump.overrides import Overrides
from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump.settings import Settings
from llmdump_api import media, params
from llmdump_api.gate import answer, error
from llmdump_api.healthz import DAY_S, Retention
from llmdump_api.media import Medium
from llmdump_api.params import BadParamError
from llmdump_api.recorded import Exchanges, Refusal

BODY_BYTES_MAX: Final = 4096
"""Of a change."""
FIELDS: Final = ("max_bytes", "max_age_days", "warn_at_percent")


class Config:
    """The routes."""

    def __init__(self, data: DataDir, settings: Settings, exchanges: Exchanges) -> None:
        self._data = data
        self._settings = settings
        self._exchanges = exchanges
        self._changing = asyncio.Lock()

    async def retention(self, _: web.Request) -> web.Response:
        """The limits in force."""
        return answer((await self._in_force()).shown())

    async def change_retention(self, request: web.Request) -> web.Response:
        """Change some of them."""
        try:
            given = await _object(request)
            change = _change(given)
        except BadParamError as err:
            return error(400, "invalid_retention", str(err), param=err.param, detail=str(err))
        except ValueError as err:
            return error(400, "bad_body", str(err), detail=str(err))
        async with self._changing:
            before = await asyncio.to_thread(overrides.load, self._data.overrides)
            after = msgspec.structs.replace(before, **change)
            if after != before:
                await asyncio.to_thread(overrides.save, self._data.overrides, after)
        return answer(Retention.of(self._settings, after).shown())

    async def _in_force(self) -> Retention:
        changed = await asyncio.to_thread(overrides.load, self._data.overrides)
        return Retention.of(self._settings, changed)

    async def media(self, _: web.Request) -> web.Response:
        """Whether media are to be had: always."""
        return answer({"save_attachments": True, "source": "settings"})

    async def plugins(self, _: web.Request) -> web.Response:
        """The plugins that run: none."""
        return answer({"instances": [], "source": "settings"})

    async def plugin_types(self, _: web.Request) -> web.Response:
        """The plugins that there are: none."""
        return answer({"types": []})

    async def medium(self, request: web.Request) -> web.Response:
        """One image, sound or file of a request."""
        number = params.whole("n", request.match_info["n"], media.NUMBER_MAX)
        try:
            exchange = await self._exchanges.open(await self._exchanges.row(request))
            found = await exchange.read(partial(_medium, number=number))
        except Refusal as refusal:
            return refusal.response
        except OverflowError as err:
            return error(413, "body_too_long", str(err))
        if found is None:
            return error(404, "not_found", "the request has no image, sound or file of this number")
        name = f"{exchange.row['id']}.{number}.{found.ending}"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return web.Response(body=found.content, headers={"Content-Type": found.content_type, **disposition})


async def _object(request: web.Request) -> dict[str, Any]:
    """The body. Raises ValueError."""
    body = await request.content.read(BODY_BYTES_MAX + 1)
    while len(body) <= BODY_BYTES_MAX and not request.content.at_eof():
        body += await request.content.read(BODY_BYTES_MAX + 1 - len(body))
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"allowed are {BODY_BYTES_MAX} bytes")
    given = orjson.loads(body)
    if not isinstance(given, dict) or not given.keys() <= set(FIELDS):
        raise ValueError(f"allowed is an object of some of {', '.join(FIELDS)}")
    return given


def _change(given: dict[str, Any]) -> dict[str, Any]:
    """The overrides that a change sets; null goes back to the setting. Raises BadParamError."""
    change: dict[str, Any] = {}
    for name, value in given.items():
        key = {"max_bytes": "capture_total_max_bytes", "max_age_days": "capture_max_age_s"}.get(name, name)
        converted = value * DAY_S if name == "max_age_days" and type(value) in {int, float} else value
        try:
            change[key] = msgspec.convert({key: converted}, Overrides).__getattribute__(key)
        except msgspec.ValidationError as err:
            raise BadParamError(name, f"{name}: {str(err).partition(' - ')[0]}") from err
    return change


def _medium(records: Iterator[Record], number: int) -> Medium | None:
    """The medium of this number in the request of these records. Raises OverflowError, OSError, ValueError. Blocking."""
    body, decoder, content_type = bytearray(), None, ""
    for record in records:
        if record.direction != CLIENT_TO_PROXY or record.kind not in {"head", "chunk"}:
            continue
        if record.kind == "head":
            head = heads.parse(record.data)
            content_type, codings = head.first("content-type"), head.all("content-encoding")
            decoder = Decoder(codings, media.BODY_BYTES_MAX + 1) if codings else None
            continue
        body += decoder.feed(record.data) if decoder else record.data
        if len(body) > media.BODY_BYTES_MAX:
            raise OverflowError(f"media are looked for in bodies of {media.BODY_BYTES_MAX} bytes at most")
    return media.find(bytes(body), content_type, number)
