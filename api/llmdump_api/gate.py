"""What every request passes: is the Host one of ours, has it the token, and is every error a JSON answer. Counts too.

A web page that a user visits can have its own name resolve to 127.0.0.1 and then read a server there as its own origin
(DNS rebinding). It cannot change the Host it sends, so a loopback listener answers to known names only.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from typing import Any, Final

import orjson
from aiohttp import web

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.metrics import SHORT_S, Histogram, Sample
from llmdump.pins import PinError
from llmdump_api import token
from llmdump_api.index import IndexUnreadableError
from llmdump_api.params import BadParamError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PIN_STATUS: Final = {"not_found": 404, "still_open": 409, "gone": 410, "no_room": 507}
HARMLESS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Fields of every answer: nobody keeps it, and whatever it holds, no browser runs it or lets another page have it."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json", headers=headers)


def error(status: int, code: str, message: str = "", **more: Any) -> web.Response:
    """A JSON error."""
    return answer({"error": code, **({"message": message} if message else {}), **more}, status)


async def make_harmless(_: web.Request, response: web.StreamResponse) -> None:
    """For every answer, just before it begins: the fields of `HARMLESS`."""
    response.headers.update(HARMLESS)


class Gate:
    """The one middleware."""

    def __init__(self, bearer: str, listen_host: str) -> None:
        """`listen_host` as in the setting, an IPv6 address without brackets."""
        self._bearer = bearer
        shown = f"[{listen_host}]" if ":" in listen_host else listen_host
        self._hosts = LOOPBACK_NAMES | {shown.lower()} if _is_loopback(listen_host) else None
        self._requests: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, Histogram] = {}

    async def through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, whatever happens."""
        begin = time.perf_counter()
        response = self._refusal(request) or await self._handled(request, handler)
        route = route_of(request)
        key = (route, str(response.status))
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds.setdefault(route, Histogram(SHORT_S)).observe(time.perf_counter() - begin)
        return response

    def samples(self) -> Iterator[Sample]:
        """For the metrics page."""
        for key, count in self._requests.items():
            yield Sample("llmdump_api_requests_total", count, key)
        for route, histogram in self._seconds.items():
            yield Sample("llmdump_api_request_seconds", histogram, (route,))

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._hosts is not None and host_name(request.headers.get("Host", "")) not in self._hosts:
            return error(421, "host_not_allowed", f"this server answers to {', '.join(sorted(self._hosts))} only")
        if request.path.startswith("/api") and not token.is_bearer(request.headers.get("Authorization", ""), self._bearer):
            refused = error(401, "unauthorized", "send Authorization: Bearer and the content of <data>/admin_token")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        return None

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except BadParamError as err:
            return error(400, "bad_param", str(err), param=err.param, **err.more)
        except PinError as err:
            return error(PIN_STATUS[err.code], err.code, str(err))
        except IndexUnreadableError as err:
            return error(503, "index_unreadable", str(err))
        except web.HTTPException as err:
            return _http_error(err)
        except Exception as err:
            if request.transport is None or request.transport.is_closing():
                raise  # the client has gone, there is nobody to tell
            count_swallowed("api_request_failed")
            log.error("request_failed", route=route_of(request), error=f"{type(err).__name__}: {err}")
            return error(500, "internal", "the api failed; its log says where")


def _http_error(err: web.HTTPException) -> web.Response:
    if isinstance(err, web.HTTPMethodNotAllowed):
        refused = error(405, "method_not_allowed", "see Allow")
        refused.headers["Allow"] = ", ".join(sorted(err.allowed_methods))
        return refused
    return error(404, "not_found", "no such route") if err.status == 404 else error(err.status, "bad_request", err.reason)


def route_of(request: web.Request) -> str:
    """The route's pattern, a closed set."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def host_name(host: str) -> str:
    """The name in a Host field, without port."""
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
