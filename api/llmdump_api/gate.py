"""What every request passes: is the Host one of ours, does it come from ourselves, has it the token for what it wants; and
every error is a JSON answer. Counts too.

A web page that a user visits can have its own name resolve to 127.0.0.1 and then read a server there as its own origin
(DNS rebinding). It cannot change the Host it sends, so this answers to known names only. Nor can it change its Origin: a
request that says it comes from elsewhere is refused, whatever token it has.

Reading below /api wants one of two tokens; what writes, and the settings, want the admin's.
"""

import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from llmdump import address, log
from llmdump.admin import count_swallowed
from llmdump.metrics import SHORT_S, Histogram, Sample, by_label
from llmdump.pins import PinError
from llmdump_api.described import BY_PATH
from llmdump_api.failures import Failures
from llmdump_api.index import IndexUnreadableError
from llmdump_api.params import BadParamError
from llmdump_api.token import Tokens

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

    def __init__(self, tokens: Tokens, hosts: frozenset[str] | None) -> None:
        """`hosts` are the names to answer to, see `names`; None for any."""
        self._tokens = tokens
        self._hosts = hosts
        self._failures = Failures(time.monotonic())
        self._refused: dict[str, int] = {}
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
        yield from by_label("llmdump_api_refused_total", dict(self._refused))

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            return self._refuse(
                "host", 421, "host_not_allowed", f"this server answers to {', '.join(sorted(self._hosts))} only"
            )
        if not self._is_own(request.headers.get("Origin"), host):
            return self._refuse("origin", 403, "origin_not_allowed", "pages of other origins may not ask")
        if not request.path.startswith("/api"):
            return None
        scope = self._tokens.scope(request.headers.get("Authorization", ""))
        if scope is None:
            return self._unauthorized(request.remote or "")
        if scope != "admin" and wants_admin(request.method, request.path):
            return self._refuse("scope", 403, "forbidden", "this wants the admin token, the content of <data>/admin_token")
        return None

    def _is_own(self, origin: str | None, host: str) -> bool:
        """Whether a page that this server's names serve asks, or no page at all."""
        if origin is None:
            return True
        scheme, _, authority = origin.partition("://")
        if scheme not in {"http", "https"}:
            return False  # `null` too: a sandbox, a file, a redirect from elsewhere
        return authority.lower() == host.lower()

    def _unauthorized(self, address: str) -> web.Response:
        wait_s = self._failures.count(address, time.monotonic())
        if wait_s:
            refused = self._refuse("too_many", 429, "too_many_failures", f"too many requests without a token: wait {wait_s} s")
            refused.headers["Retry-After"] = str(wait_s)
            return refused
        message = "send Authorization: Bearer and the content of <data>/admin_token or <data>/read_token"
        refused = self._refuse("token", 401, "unauthorized", message)
        refused.headers["WWW-Authenticate"] = "Bearer"
        return refused

    def _refuse(self, reason: str, status: int, code: str, message: str) -> web.Response:
        self._refused[reason] = self._refused.get(reason, 0) + 1
        return error(status, code, message)

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        described = BY_PATH.get(("GET" if request.method == "HEAD" else request.method, route_of(request)))
        try:
            if described is not None:
                described.check(request.match_info, request.query)
            return await handler(request)
        except BadParamError as err:
            return error(400, described.code if described else "bad_param", str(err), param=err.param, **err.more)
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


def names(listen_host: str, others: Sequence[str]) -> frozenset[str] | None:
    """The names to answer to: loopback's, the one listened on, and those set; None for any.

    `listen_host` as in the setting, an IPv6 address without brackets. Raises ValueError where it is wider than loopback
    and nothing is set.
    """
    if not address.is_loopback(listen_host) and not others:
        raise ValueError(
            f"api_listen {listen_host} is wider than loopback: set api_hosts to the names by which clients reach it "
            "(LLMDUMP_API_HOSTS=llmdump.example), or to * for any"
        )
    if "*" in others:
        return None
    shown = f"[{listen_host}]" if ":" in listen_host else listen_host
    everywhere = {socket.gethostname().lower()} if listen_host in {"0.0.0.0", "::"} else set()  # as its card says
    return frozenset({*LOOPBACK_NAMES, shown.lower(), *everywhere, *(name.lower() for name in others)})


def wants_admin(method: str, path: str) -> bool:
    """Whether this is more than reading; of what there is no route for, too."""
    return method not in {"GET", "HEAD"} or path.startswith("/api/config")
