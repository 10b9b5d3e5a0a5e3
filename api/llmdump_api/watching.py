"""`GET /api/live`: the live tail over Server-Sent Events.

    id: <viewer>-<number>     numbers 1, 2, 3 … without a hole; Last-Event-ID says where to go on
    event: open | chunk | end | row | lost
    data: {JSON}

A comment comes when the viewer is in, and when nothing was told for a while. A client that takes nothing for `STALLED_S_MAX`
is cut off.
"""

import asyncio
import contextlib
import re
import time
from typing import Final

from aiohttp import web

from llmdump_api.gate import error
from llmdump_api.live import Live, LiveError
from llmdump_api.live_asked import Asked, parse
from llmdump_api.live_viewer import Viewer, lost

KEEP_ALIVE_S: Final = 15.0
STALLED_S_MAX: Final = 60.0
_RETRY_MS: Final = 1000
_LAST_EVENT = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")


class Watching:
    """The route."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Tell what happens, until the client goes, or what it asked for is over."""
        asked = parse(request.query)
        try:
            viewer, first = await self._viewer(asked, request.headers.get("Last-Event-ID", ""))
        except LiveError as err:
            return error(503, "too_many_viewers" if "watch already" in str(err) else "not_caught_up", str(err))
        if viewer is None:
            return error(404, "not_found", "no exchange has this id")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
            }
        )
        own = viewer.connect()
        is_done = False
        try:
            await response.prepare(request)
            await response.write(b"retry: %d\n: %b\n\n" % (_RETRY_MS, viewer.name.encode()) + first)
            await self._tell(request, response, viewer, own)
            is_done = True
            await response.write_eof()
        except TimeoutError:
            is_done = True
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the client has gone, and may come back
        finally:
            if viewer.connections == own:
                (self._live.drop if is_done else self._live.leave)(viewer)
        return response

    async def _viewer(self, asked: Asked, last_event: str) -> tuple[Viewer | None, bytes]:
        """Who asks, and what it is to be told again. Raises LiveError, IndexUnreadableError."""
        found = _LAST_EVENT.fullmatch(last_event)
        viewer = self._live.resume(found[1], asked) if found else None
        if viewer is not None and found and int(found[2]) <= viewer.told:
            return viewer, viewer.again(int(found[2]))
        viewer = await self._live.join(asked)
        return viewer, viewer.sse([lost(None, "not_kept")]) if viewer and last_event else b""

    async def _tell(self, request: web.Request, response: web.StreamResponse, viewer: Viewer, own: int) -> None:
        """Raises ConnectionError once the client has gone, TimeoutError if it takes nothing."""
        said_at = time.monotonic()
        async with contextlib.aclosing(self._live.batches(viewer, own)) as batches:
            async for batch in batches:
                if request.transport is None or request.transport.is_closing():
                    viewer.sse(batch)  # kept, for when it comes back
                    raise ConnectionResetError("the client has gone")
                if not batch and time.monotonic() - said_at < KEEP_ALIVE_S:
                    continue
                async with asyncio.timeout(STALLED_S_MAX):
                    await response.write(viewer.sse(batch) or b":\n\n")
                said_at = time.monotonic()
