"""A recorded request as one that can be sent again: to where, with which fields, with a key in place of each mask. Pure.

Credentials were masked before anything was recorded. The mask of a key is replaced by the key of an environment variable
that the provider's own tools read; other masked fields (cookies, session tokens) are left out. What belongs to the
connection or frames the body is made anew by whoever sends it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump_api.curl import NotSentAgainError

BODY_BYTES_MAX: Final = 128 * 1024 * 1024
_MASKED: Final = re.compile(r"masked:[0-9a-f]{16}")
_KEY_FIELDS: Final = frozenset(("authorization", "x-api-key", "x-goog-api-key", "api-key"))
_MADE_ANEW: Final = frozenset(
    ("host", "connection", "keep-alive", "proxy-connection", "upgrade", "te", "trailer", "content-length",
     "transfer-encoding", "expect")
)  # fmt: skip
_SIGNED: Final = ("aws4-", "goog4-")
_VARIABLES: Final = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "google": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY"),
    "huggingface": ("HF_TOKEN", "HUGGINGFACE_API_KEY"),
}
"""In the order in which they are looked for; of other providers NAME_API_KEY."""


class Recorded:
    """A recorded request, gathered from its records."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Raises NotSentAgainError where it is not there as it was sent, and what `records` raises."""
        self.head = self.forwarded = heads.parse(b"")
        self.origin = ""
        """Of the backend that it went to; empty if it never did."""
        self.body = b""
        """With its content codings."""
        self.is_altered = False
        """Secrets in the body were masked."""
        parts: list[bytes] = []
        whole = True
        for record in records:
            if record.direction == CLIENT_TO_PROXY and record.kind == "head":
                self.head = self.forwarded = _head(record)
                whole = self.head.first("content-length").strip("0") == "" and not self.head.first("transfer-encoding")
            elif record.kind == "forward":
                self.forwarded, self.origin = heads.parse(record.data), str(record.meta.get("x_up") or "")
            elif record.direction == CLIENT_TO_PROXY and record.kind == "chunk":
                whole = whole or record.ends_body
                self._take(record, parts)
        if not self.head.start[1] or not whole:
            raise NotSentAgainError("the request was not recorded whole")
        self.body = b"".join(parts)

    def _take(self, record: Record, parts: list[bytes]) -> None:
        if "x_cut" in record.meta:
            raise NotSentAgainError("not all of the request body was kept when it was recorded")
        self.is_altered = self.is_altered or "x_alt" in record.meta
        parts.append(record.data)

    def plain_body(self) -> bytes:
        """The body without its content codings. Raises NotSentAgainError."""
        codings = self.head.all("content-encoding")
        try:
            return Decoder(codings, BODY_BYTES_MAX).feed(self.body) if codings else self.body
        except ValueError as err:
            raise NotSentAgainError(str(err)) from err


def _head(record: Record) -> heads.Head:
    if "x_bad" in record.meta or not record.data:
        raise NotSentAgainError("the request head was malformed, or was not recorded")
    head = heads.parse(record.data)
    if any(name.lower() == "upgrade" and value.lower() == "websocket" for name, value in head.fields):
        raise NotSentAgainError("it asked for a WebSocket, and what went through it is more than one request")
    return head


class Outgoing(NamedTuple):
    """What to send."""

    method: str
    url: str
    fields: list[tuple[str, str]]
    left_out: list[str]
    """Names of masked fields that nothing could be put in place of."""
    key_from: str
    """The environment variable whose value stands for the masked key; empty if no key was masked."""
    shown_url: str
    """The URL without the key that may be in it."""


def variables(provider: str | None) -> tuple[str, ...]:
    """The environment variables that may hold a provider's key."""
    name = re.sub("[^A-Z0-9]", "_", (provider or "").upper())
    return _VARIABLES.get(provider or "", (f"{name}_API_KEY",) if name else ("OPENAI_API_KEY",))


def outgoing(recorded: Recorded, base: str, via: bool, names: Iterable[str], environ: Mapping[str, str]) -> Outgoing:
    """The request for a base URL: to the backend with the fields it was sent on with, or (`via`) as the client sent it.

    Raises NotSentAgainError if its key is masked and none of the variables `names` is set; the backend of a loopback
    address is sent none then.
    """
    head = recorded.head if via else recorded.forwarded
    names = list(names)
    found = next((name for name in names if environ.get(name)), "")
    key = environ.get(found, "")
    target, fields, left_out, masked = head.start[1], [], [], False
    for name, value in head.fields:
        lower = name.lower()
        if lower in _MADE_ANEW:
            continue
        if not _MASKED.search(value):
            fields.append((name, value))
        elif lower in _KEY_FIELDS:
            if value.lower().startswith(_SIGNED):
                raise NotSentAgainError("the request was signed, and its signature holds for that moment only")
            masked = True
            fields += [(name, _MASKED.sub(lambda _: key, value))] if key else []
        else:
            left_out.append(name)
    masked = masked or bool(_MASKED.search(target))
    if masked and not key and not _is_local(base):
        raise NotSentAgainError(
            f"its key was masked when it was recorded: set {' or '.join(names)}, or name another (--key-env)"
        )
    url = _url(base.rstrip("/"), target)
    sent, shown = _MASKED.sub(lambda _: key, url), _MASKED.sub(f"${found}", url)
    return Outgoing(head.start[0], sent, fields, left_out, found if masked else "", shown)


def _url(base: str, target: str) -> str:
    """The target at a base URL, whose path is not put before a target that has it already."""
    target = target if target.startswith("/") else "/" + target.partition("://")[2].partition("/")[2]
    path = urlsplit(base).path
    return base.removesuffix(path) + target if path and target.startswith(path + "/") else base + target


def _is_local(url: str) -> bool:
    return (urlsplit(url).hostname or "") in {"localhost", "127.0.0.1", "::1"}
