"""Which backend a path goes to. Pure.

A route is `PREFIX=URL`: paths that are the prefix or lie below it go to the URL, its own path put before theirs;
`PREFIX/*=URL` takes the prefix off first. The longest prefix wins. With `upstream` set there is just one route.

Google's SDK may call its stable API under `/v1` too, where OpenAI's and Anthropic's live. Its methods cannot be taken for
anything of theirs (`/v1/models/NAME:generateContent`), so such a path goes where its `/v1beta` form goes.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from llmdump.settings import Settings

_PROVIDERS = (
    ("/v1/messages", "anthropic"),
    ("/v1/complete", "anthropic"),
    ("/v1beta", "gemini"),
    ("/v1alpha", "gemini"),
    ("/v1", "openai"),
    ("/api", "ollama"),
)
_GOOGLE_METHOD = re.compile(r"(.*)/v1(/(?:[^/:]+/)*[^/]+:(?:\w+Content|batchEmbedContents|countTokens|predict\w*))")


class Origin(NamedTuple):
    """A backend's address; connections to one origin are interchangeable."""

    scheme: str
    host: str
    port: int

    @property
    def text(self) -> str:
        """As in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Route(NamedTuple):
    """One line of the table, taken apart."""

    prefix: str
    strip: bool
    origin: Origin
    host: bytes
    """The Host field for this backend."""
    base: str
    """The URL's own path, put before every path; without a closing slash."""

    def serves(self, path: str) -> bool:
        """Whether the path is this route's."""
        return path == self.prefix or path.startswith(self.prefix + "/") or self.prefix == ""

    def target(self, target: bytes) -> bytes:
        """The request target at the backend."""
        if (not self.base and not self.strip) or target == b"*":
            return target
        if self.strip:
            target = target[len(self.prefix) :]
            target = target if target[:1] == b"/" else b"/" + target
        return self.base.encode("latin-1") + target


class RouteError(ValueError):
    """A route cannot be used; the message is one line for the user."""


def provider(path: str) -> str:
    """Whose API a path looks like, wherever it is mounted; `unknown` if nobody's. A hint, not a reading."""
    path = _unambiguous(path)
    return next((name for part, name in _PROVIDERS if f"{part}/" in f"{path}/"), "unknown")


def _unambiguous(path: str) -> str:
    found = _GOOGLE_METHOD.fullmatch(path) if ":" in path else None
    return f"{found[1]}/v1beta{found[2]}" if found else path


def parse(line: str) -> Route:
    """The route in `PREFIX=URL`. Raises RouteError."""
    prefix, found, url = line.partition("=")
    parts = urlsplit(url.strip())
    prefix = prefix.strip()
    strip = prefix.endswith("/*")
    prefix = prefix.removesuffix("*").rstrip("/")
    if not found or parts.scheme not in {"http", "https"} or not parts.hostname or (prefix and prefix[0] != "/"):
        raise RouteError(f"setting routes: {line!r} is not /prefix=http(s)://host[:port][/prefix]")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as err:
        raise RouteError(f"setting routes: {line!r}: {err}") from err
    authority = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
    return Route(prefix, strip, Origin(parts.scheme, parts.hostname, port), authority, parts.path.rstrip("/"))


class Routes:
    """The table in force."""

    def __init__(self, settings: Settings) -> None:
        """Raises RouteError."""
        lines = [f"={settings.upstream}"] if settings.upstream else settings.routes
        self._routes = sorted(map(parse, lines), key=lambda route: -len(route.prefix))

    def find(self, path: str) -> Route | None:
        """The route of a path, or None if no prefix fits."""
        path = _unambiguous(path)
        return next((route for route in self._routes if route.serves(path)), None)
