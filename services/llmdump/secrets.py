"""Credentials in heads: masked before anything leaves this process, in a way that keys can still be told apart. Pure.

A masked value is `masked:` and 16 hex digits: the first half of the SHA-256 of the value as sent, as api-log forms its
key hash. An exchange's key hash is that of the first of these it has: Authorization, x-api-key, x-goog-api-key,
api-key, the query's `key`, OpenAI's subprotocol key; 16 zeros if it has none. Of Authorization a well-known scheme
stays readable; the hash is that of the whole value. But a signed request (AWS Signature Version 4, as Bedrock takes it,
and Google's of the same form) has another value each time: there it is the hash of the access key's id.

Masked are fields, query parameters (their names in any case, percent-encoded or not), the userinfo of a URL, and a
trailer section like a head. A head that was refused need not have lines at all: there, what follows a credential's
name is masked up to the next thing that looks like a field, rather too much than too little.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

NO_KEY: Final = "0" * 16
_KEY_FIELDS: Final = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
_KEYS_BY_RANK: Final = (*_KEY_FIELDS, b"query", b"subprotocol")
_SECRET_FIELDS: Final = (
    *_KEY_FIELDS, b"proxy-authorization", b"cookie", b"set-cookie", b"x-amz-security-token", b"x-auth-token",
    b"x-goog-iam-authorization-token", b"cf-aig-authorization", b"helicone-auth", b"chatgpt-account-id",
)  # fmt: skip
_KEY_QUERY: Final = (b"key", b"api_key", b"api-key", b"apikey")
_SECRET_QUERY: Final = (
    *_KEY_QUERY, b"access_token", b"token", b"sig", b"x-amz-signature", b"x-amz-security-token", b"x-goog-signature",
)  # fmt: skip
_SCHEME: Final = rb"(?:(?:bearer|basic|digest|token|api-?key|negotiate|ntlm|hmac|aws4-[a-z0-9-]+|goog4-[a-z0-9-]+)[ \t]+)?"
_TOKEN_CHARS: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"

# `Credential=AKIDEXAMPLE/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=…, Signature=…`, in any order.
_SIGNED: Final = re.compile(rb"(?i)(?:aws|goog)4-")
_SIGNER: Final = re.compile(rb"(?i)(?:^|[\s,])credential=([^/,\s]+)/")

# A browser cannot set header fields on a WebSocket, so OpenAI's Realtime API takes the key as a subprotocol.
_SUBPROTOCOL_KEY = re.compile(rb"(?P<before>openai-insecure-api-key\.)(?P<value>[^\s,]+)")
# Python's http.client copies the userinfo of an absolute URL into Host, where it must not be.
_USERINFO = re.compile(rb"(?im)(?P<before>https?://|^host:[ \t]*)(?P<value>[^/?#\r\n]*)(?=@)")


class Masked(NamedTuple):
    """A head that may leave the process."""

    head: bytes
    key_hash: str
    secrets: tuple[bytes, ...]
    """The credentials that were in it, without their scheme; they stay in this process."""
    lines: tuple[tuple[bytes, bytes], ...] | None = ()
    """The lines with them and what stands for these, if whole lines are all that was masked; else None."""

    def same_in(self, head: bytes) -> bytes | None:
        """Another head with lines of this one, its credentials masked too. None if that cannot be told from lines."""
        if self.lines is None:
            return None
        for line, masked in self.lines:
            head = head.replace(line, masked)
        return head


@functools.lru_cache(maxsize=4096)
def fingerprint(value: bytes) -> bytes:
    """16 hex digits that stand for a credential."""
    return hashlib.sha256(value).hexdigest()[:16].encode()


class Secrets:
    """Finds and masks credentials, the known ones and those that the settings name."""

    def __init__(self, fields: Iterable[str] = (), query: Iterable[str] = (), *, keep: bool = False) -> None:
        """`keep` leaves heads as they are, and only tells the key hash."""
        names = b"|".join(map(re.escape, (*_SECRET_FIELDS, *(name.lower().encode() for name in fields))))
        self._field = re.compile(
            rb"(?i)\n(?P<before>(?P<name>" + names + rb"):[ \t]*(?P<scheme>" + _SCHEME + rb"))(?P<value>[^\r\n]+)"
        )
        # Where in a head, in lower case, they begin: a search that regards case takes a fifth of the time.
        self._begins = re.compile(rb"\n(?:" + names + rb"):")
        self._broken_field = re.compile(
            rb"(?is)(?<!" + _TOKEN_CHARS + rb")(?P<before>(?P<name>" + names + rb")(?!" + _TOKEN_CHARS + rb")"
            rb"[\s\0]*:?[\s\0]*(?P<scheme>" + _SCHEME + rb"))"
            rb"(?P<value>(?:(?!\r?\n(?:\r?\n|" + _TOKEN_CHARS + rb"+[ \t]*:)).)+)"
        )
        names = b"|".join(map(_in_any_encoding, (*_SECRET_QUERY, *(name.lower().encode() for name in query))))
        self._query = re.compile(rb"(?i)(?P<before>[?&;](?P<name>" + names + rb")=)(?P<value>[^&;\s#]+)")
        self._broken_query = re.compile(
            rb"(?is)(?P<before>[?&;](?P<name>" + names + rb")=)(?P<value>.+?)(?=[ \t]HTTP/|\r?\n" + _TOKEN_CHARS + rb"+:|\Z)"
        )
        self._keep = keep

    def masks(self, name: bytes) -> bool:
        """Whether the value of a field of this name, in lower case, is masked."""
        return not self._keep and self._field.match(b"\n" + name + b": -") is not None

    def mask(self, head: bytes, *, broken: bool = False) -> Masked:
        """The head with its credentials masked. `broken`: it was refused, so that nothing can be said of its form."""
        if not broken and self._is_clean(head):
            return Masked(head, NO_KEY, ())
        found = _Found()
        masked = self._broken_field.sub(found.field, head) if broken else self._lines_masked(head, found)
        in_lines = len(found.secrets)
        if b"?" in masked or broken:
            masked = (self._broken_query if broken else self._query).sub(found.query, masked)
        if b"@" in masked:
            masked = _USERINFO.sub(found.userinfo, masked)
        if b"openai-insecure-api-key." in masked:
            masked = _SUBPROTOCOL_KEY.sub(found.subprotocol, masked)
        if not found.secrets:
            return Masked(head, NO_KEY, ())
        if self._keep:
            return Masked(head, found.key_hash(), tuple(found.secrets))
        lines = None if broken or len(found.secrets) > in_lines else tuple(found.lines)
        return Masked(masked, found.key_hash(), tuple(found.secrets), lines)

    def _is_clean(self, head: bytes) -> bool:
        """Whether there is certainly nothing to mask: so it is with most answers."""
        if b"?" in head or b"@" in head or b"openai-insecure-api-key." in head:
            return False
        return self._begins.search(b"\n" + head.lower()) is None

    def _lines_masked(self, head: bytes, found: "_Found") -> bytes:
        # With a line end before the first line, a pattern can begin with one, and the search for lines is done in C.
        text, at = b"\n" + head, 0
        done: list[bytes] = []
        for begin in self._begins.finditer(text.lower()):
            line = self._field.match(text, begin.start())
            if line:
                done += (text[at : line.start()], found.line(line))
                at = line.end()
        return b"".join((*done, text[at:]))[1:] if done else head


class _Found:
    """The credentials of one head, as they are found."""

    __slots__ = ("keys", "lines", "secrets")

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}
        self.secrets: list[bytes] = []
        self.lines: list[tuple[bytes, bytes]] = []

    def line(self, match: re.Match[bytes]) -> bytes:
        """What to put for a field and the line end before it."""
        masked = b"\n" + self.field(match)
        # Up to its end, or else a line would be found where it is the beginning of a longer one.
        self.lines.append((match[0] + b"\r", masked + b"\r"))
        return masked

    def field(self, match: re.Match[bytes]) -> bytes:
        """What to put for a field."""
        name, value = match["name"].lower(), match["value"].rstrip()
        if not value:
            return match["before"] + match["value"]
        scheme = match["scheme"]
        key = _signer(scheme, value) if b"4-" in scheme else scheme + value
        self.keys.setdefault(name, key)
        self.secrets += _cookie_values(value) if name == b"cookie" else (value,)
        before = match["before"] if name == b"authorization" else match["before"].removesuffix(scheme)
        return before + b"masked:" + fingerprint(key) + match["value"][len(value) :]

    def query(self, match: re.Match[bytes]) -> bytes:
        """What to put for a query parameter."""
        if _decoded(match["name"]).lower() in _KEY_QUERY:
            self.keys.setdefault(b"query", match["value"])
        self.secrets.append(match["value"])
        return match["before"] + b"masked:" + fingerprint(match["value"])

    def subprotocol(self, match: re.Match[bytes]) -> bytes:
        """What to put for a key in a WebSocket subprotocol."""
        self.keys.setdefault(b"subprotocol", match["value"])
        self.secrets.append(match["value"])
        return match["before"] + b"masked:" + fingerprint(match["value"])

    def userinfo(self, match: re.Match[bytes]) -> bytes:
        """What to put for `user:password` in a URL."""
        self.secrets.append(match["value"].partition(b":")[2] or match["value"])
        return match["before"] + b"masked:" + fingerprint(match["value"])

    def key_hash(self) -> str:
        """The hash of the first key, by rank."""
        for name in _KEYS_BY_RANK:
            if name in self.keys:
                return fingerprint(self.keys[name]).decode()
        return NO_KEY


def _signer(scheme: bytes, value: bytes) -> bytes:
    """What of a signed request stands for whose credential it is, and is the same in the next one."""
    signer = _SIGNER.search(value) if _SIGNED.match(scheme) else None
    return signer[1] if signer else scheme + value


def _cookie_values(cookie: bytes) -> Iterable[bytes]:
    return (pair.partition(b"=")[2].strip() or pair.strip() for pair in cookie.split(b";"))


def _in_any_encoding(name: bytes) -> bytes:
    """A pattern for a name whose characters may each be percent-encoded."""
    return b"".join(
        b"(?:%b|%%%02x|%%%02x)" % (re.escape(bytes((c,))), c, bytes((c,)).upper()[0]) for c in name
    )  # fmt: skip


def _decoded(name: bytes) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes((int(found[1], 16),)), name)
