"""Credentials in heads: masked before anything leaves this process, in a way that keys can still be told apart. Pure.

A masked value is `masked:` and 16 hex digits: the first half of the SHA-256 of the value as sent, as api-log forms its
key hash. An exchange's key hash is that of the first of these it has: Authorization, x-api-key, x-goog-api-key,
api-key, the query's `key`; 16 zeros if it has none.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

NO_KEY: Final = "0" * 16
_KEY_FIELDS: Final = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
_SECRET_FIELDS: Final = (
    *_KEY_FIELDS, b"proxy-authorization", b"cookie", b"set-cookie", b"x-amz-security-token", b"x-auth-token",
    b"x-goog-iam-authorization-token", b"cf-aig-authorization", b"helicone-auth", b"chatgpt-account-id",
)  # fmt: skip
_SECRET_QUERY: Final = (b"key", b"api_key", b"api-key", b"apikey", b"access_token", b"token", b"x-amz-signature", b"sig")
# A browser cannot set header fields on a WebSocket, so OpenAI's Realtime API takes the key as a subprotocol.
_SUBPROTOCOL_KEY = re.compile(rb"(openai-insecure-api-key\.)([^\s,]+)")


class Masked(NamedTuple):
    """A head that may leave the process."""

    head: bytes
    key_hash: str
    secrets: tuple[bytes, ...]
    """The credentials that were in it; they stay in this process."""


@functools.lru_cache(maxsize=4096)
def fingerprint(value: bytes) -> bytes:
    """16 hex digits that stand for a credential."""
    return hashlib.sha256(value).hexdigest()[:16].encode()


class Secrets:
    """Finds and masks credentials, the known ones and those that the settings name."""

    def __init__(self, fields: Iterable[str] = (), query: Iterable[str] = (), *, keep: bool = False) -> None:
        """`keep` leaves heads as they are, and only tells the key hash."""
        names = b"|".join(re.escape(name) for name in (*_SECRET_FIELDS, *(name.lower().encode() for name in fields)))
        # A folded or otherwise broken head is masked too: the value goes on over lines that begin with a blank.
        self._field = re.compile(rb"(?im)^[ \t]*(" + names + rb")([ \t]*:[ \t]*)([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)")
        names = b"|".join(re.escape(name) for name in (*_SECRET_QUERY, *(name.lower().encode() for name in query)))
        self._query = re.compile(rb"(?i)([?&;](?:" + names + rb")=)([^&;\s#]+)")
        self._keep = keep

    def mask(self, head: bytes) -> Masked:
        """The head with its credentials masked; also a malformed one, as far as lines can be told."""
        found: dict[bytes, bytes] = {}
        masked = self._field.sub(lambda match: self._mask_field(match, found), head)
        if b"?" in masked:
            masked = self._query.sub(lambda match: self._mask_query(match, found), masked)
        if b"openai-insecure-api-key." in masked:
            masked = _SUBPROTOCOL_KEY.sub(lambda match: self._mask_query(match, found), masked)
        key = next((found[name] for name in (*_KEY_FIELDS, b"") if name in found), None)
        key_hash = fingerprint(key).decode() if key else NO_KEY
        return Masked(head if self._keep else masked, key_hash, tuple(found.values()))

    def _mask_field(self, match: re.Match[bytes], found: dict[bytes, bytes]) -> bytes:
        name, colon, value = match.groups()
        value = value.rstrip()
        if not value:
            return match[0]
        found.setdefault(name.lower(), value)
        scheme = value.partition(b" ")[0] + b" " if name.lower() == b"authorization" and b" " in value else b""
        return name + colon + scheme + b"masked:" + fingerprint(value)

    def _mask_query(self, match: re.Match[bytes], found: dict[bytes, bytes]) -> bytes:
        found.setdefault(b"", match[2])
        return match[1] + b"masked:" + fingerprint(match[2])
