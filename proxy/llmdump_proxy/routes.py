"""Which backend a path goes to. Pure.

A route is `PREFIX=URL`: paths that are the prefix or lie below it go to the URL, its own path put before theirs;
`PREFIX/*=URL` takes the prefix off first. The longest prefix wins. With `upstream` set there is just one route.

Google's SDK may call its stable API under `/v1` too, where OpenAI's and Anthropic's live. Its methods cannot be taken for
anything of theirs (`/v1/models/NAME:generateContent`), so such a path goes where its `/v1beta` form goes.
"""

import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from llmdump.settings import Settings

_PROVIDERS = (
    ("/v1/messages/", "anthropic"),
    ("/v1/complete/", "anthropic"),
    ("/v1beta/", "gemini"),
    ("/v1alpha/", "gemini"),
    ("/v1/", "openai"),
    ("/api/", "ollama"),
)
_FORM: Final = "/prefix[/*]=http(s)://host[:port][/path]"
_PORTS: Final = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9_~-]+(\.[A-Za-z0-9_~-]+)*\.?")
_PATH = re.compile(r"[!-~]*")
# Matched behind the last `/v1` only: tried behind each, it would take seconds for a long path.
_GOOGLE_METHOD = re.compile(r"(?:[^/:]+/)*[^/]+:(?:\w+Content|batchEmbedContents|countTokens|predict\w*)")


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
        return not self.prefix or path == self.prefix or path.startswith(self.prefix + "/")

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
    closed = _unambiguous(path) + "/"
    for part, name in _PROVIDERS:
        if part in closed:
            return name
    return "unknown"


def _unambiguous(path: str) -> str:
    if ":" not in path:
        return path
    mount, found, rest = path.rpartition("/v1/")
    return f"{mount}/v1beta/{rest}" if found and _GOOGLE_METHOD.fullmatch(rest) else path


def parse(line: str) -> Route:
    """The route in `PREFIX=URL`. Raises RouteError, whose text holds no credential."""
    prefix, _, url = line.partition("=")
    prefix, url = prefix.strip(), url.strip()
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise RouteError(f"setting routes: the URL for {prefix or 'everything'!r} has a user in it: clients send credentials")
    strip = prefix.endswith("/*")
    prefix = prefix.removesuffix("/*") if strip else prefix.rstrip("/")
    if "*" in prefix or (prefix and prefix[0] != "/"):
        raise RouteError(f"setting routes: {line!r} is not {_FORM}")
    try:
        parts = urlsplit(url)
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError as err:  # UnicodeError is one
        raise RouteError(f"setting routes: {line!r} is not {_FORM}: {err}") from err
    if parts.scheme not in _PORTS or port == 0 or not _PATH.fullmatch(parts.path) or parts.query or parts.fragment:
        raise RouteError(f"setting routes: {line!r} is not {_FORM}")
    origin = Origin(parts.scheme, host, port or _PORTS[parts.scheme])
    authority = origin.text.partition("://")[2] if port else origin.text.partition("://")[2].rpartition(":")[0]
    return Route(prefix, strip, origin, authority.encode("ascii"), parts.path.rstrip("/"))


def _host(name: str) -> str:
    """The host as it is looked up and sent: ASCII, a name with labels of 1 to 63 characters, or an IP address."""
    if ":" in name:
        return str(ipaddress.IPv6Address(name))
    host = name.encode("idna").decode("ascii")
    if not _NAME.fullmatch(host):
        raise ValueError(f"{name!r} is not a host name")
    return host


class Routes:
    """The table in force."""

    def __init__(self, settings: Settings) -> None:
        """Raises RouteError."""
        lines = [f"={settings.upstream}"] if settings.upstream else settings.routes
        self._routes = sorted(map(parse, lines), key=lambda route: -len(route.prefix))

    def find(self, path: str) -> Route | None:
        """The route of a path, or None if no prefix fits."""
        path = _unambiguous(path)
        for route in self._routes:
            if route.serves(path):
                return route
        return None
