"""`GET /api/export`: the selected exchanges as one download, made as it is sent.

What is made is made in one of two threads of its own, a batch ahead of the one that is being sent; a client that reads slowly
stops the making. What fails before the first byte is an error answer; after it, the connection is cut, without the last
chunk of its framing, so that nobody takes the download for whole.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import apsw
from aiohttp import web

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump_api.export import selection
from llmdump_api.export.forms import FORMS, Form, batches
from llmdump_api.export.parquet import NotInstalledError
from llmdump_api.export.selection import Archive, Asked, ExportError, Selection
from llmdump_api.export.zipped import ExportTooLargeError
from llmdump_api.gate import error
from llmdump_api.index import IndexUnreadableError

EXPORTS_MAX: Final = 2
"""At the same time: each may hold a frame of a sealed segment, 32 MiB, and an exchange's bodies."""
FAILURES: Final = (ExportError, apsw.Error, OSError, ValueError)

Answer = TypeVar("Answer")


class Exports:
    """The route."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._running = 0

    async def export(self, request: web.Request) -> web.StreamResponse:
        """The selected exchanges in the form that was asked for."""
        asked = selection.parse(request.query, FORMS, "zip", round(time.time() * 1000))
        if self._running >= EXPORTS_MAX:
            return error(503, "too_many_exports", f"{EXPORTS_MAX} exports run already; wait until one has ended")
        self._running += 1
        try:
            return await self._export(request, asked)
        finally:
            self._running -= 1

    async def _export(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        thread = ThreadPoolExecutor(1, thread_name_prefix="export")
        making = _Making(self._data, asked)
        try:
            first = await _run(thread, making.begin)
            return await self._send(request, FORMS[asked.form], thread, making, first)
        except ExportTooLargeError as err:
            return error(413, "export_too_large", str(err), **err.more)
        except NotInstalledError as err:
            return error(501, "not_installed", str(err))
        except ExportError as err:
            return error(410, "gone", str(err))
        finally:
            await _run(thread, making.close)
            thread.shutdown(wait=False)

    async def _send(
        self, request: web.Request, form: Form, thread: ThreadPoolExecutor, making: "_Making", batch: bytes
    ) -> web.StreamResponse:
        name = time.strftime(f"llmdump-export-%Y%m%dT%H%M%SZ.{form.suffix}", time.gmtime())
        fields = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        response = web.StreamResponse(headers={"Content-Type": form.media_type, "X-Content-Type-Options": "nosniff", **fields})
        with contextlib.suppress(ConnectionError):  # the client has gone
            await response.prepare(request)
            while batch:
                ahead = asyncio.ensure_future(_run(thread, making.batch))
                try:
                    await response.write(batch)
                finally:
                    await asyncio.wait({ahead})
                try:
                    batch = ahead.result()
                except (*FAILURES, IndexUnreadableError) as err:
                    count_swallowed("export_cut_off")
                    log.error("export_cut_off", error=f"{type(err).__name__}: {err}")
                    if request.transport is not None:
                        request.transport.abort()
                    return response
            await response.write_eof()
        return response


class _Making:
    """An export being made, in the one thread that it is given. Blocking."""

    def __init__(self, data: DataDir, asked: Asked) -> None:
        self._data = data
        self._asked = asked
        self._archive: Archive | None = None
        self._pieces: Iterator[bytes] = iter(())

    def begin(self) -> bytes:
        """The first bytes. Raises what they raise."""
        self._archive = Archive(self._data)
        chosen = Selection([self._archive], self._asked)
        self._pieces = batches(FORMS[self._asked.form].stream(chosen))
        return self.batch()

    def batch(self) -> bytes:
        """The next; none at the end."""
        return next(self._pieces, b"")

    def close(self) -> None:
        """Let go of the index."""
        self._pieces = iter(())
        if self._archive is not None:
            self._archive.close()


async def _run(thread: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(thread, work)
