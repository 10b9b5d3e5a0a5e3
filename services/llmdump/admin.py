"""A process's own /metrics and /healthz, on a loopback port of its own."""

import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from llmdump import address, log, presence
from llmdump.metrics import CONTENT_TYPE, Page, Sample, by_label

Samples = Callable[[], Iterable[Sample]]
Health = Callable[[], tuple[bool, dict[str, Any]]]
_PAGE_BYTES: Final = resource.getpagesize()
_STARTED_AT: Final = time.time()

swallowed: Final[dict[str, int]] = {}
"""Errors that were dealt with where they arose, by place; `count_swallowed` adds."""


def count_swallowed(where: str) -> None:
    """Count an error that goes no further. `where` is from a small closed set."""
    swallowed[where] = swallowed.get(where, 0) + 1


def process_samples(role: str, version: str) -> Iterator[Sample]:
    """The samples that every process has."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield Sample("llmdump_up", 1, (role, version))
    yield Sample("llmdump_start_time_seconds", _STARTED_AT)
    yield Sample("llmdump_resident_memory_bytes", _resident_bytes(usage))
    yield Sample("llmdump_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
    yield from by_label("llmdump_swallowed_errors_total", swallowed)


def _resident_bytes(usage: resource.struct_rusage) -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:  # macOS has no /proc; the peak in bytes is the nearest it tells
        return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024


async def serve(listen: str, own: presence.Presence, samples: Samples, health: Health) -> web.AppRunner:
    """Serve /metrics and /healthz and write the address on the process's card. Raises OSError.

    `health` gives whether the process works, and details; 200 or 503 follows. Close with `await runner.cleanup()`.
    """
    page = Page(lambda: [*process_samples(own.card.role, own.card.version), *samples()])
    app = web.Application()
    app.router.add_get("/metrics", _metrics_handler(page))
    app.router.add_get("/healthz", _health_handler(own, health))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    sock = address.listen_near(listen)
    await web.SockSite(runner, sock).start()
    own.update(admin="http://" + reachable(sock))
    log.debug("admin_listening", url=own.card.admin)
    return runner


def reachable(sock: socket.socket) -> str:
    """The address others use: a wildcard listener (in a container) is reached by the host's name."""
    host, port = address.split(address.bound(sock))
    return address.join(socket.gethostname() if host in {"0.0.0.0", "::"} else host, port)


def _metrics_handler(page: Page) -> Callable[[web.Request], Any]:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=page.render(), headers={"Content-Type": CONTENT_TYPE})

    return metrics


def _health_handler(own: presence.Presence, health: Health) -> Callable[[web.Request], Any]:
    async def healthz(_: web.Request) -> web.Response:
        works, details = health()
        body = {"status": "ok" if works else "failing", **msgspec.to_builtins(own.card), **details}
        return web.json_response(body, status=200 if works else 503)

    return healthz
