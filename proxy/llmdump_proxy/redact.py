"""Secrets in bodies, masked on request (`capture_redact_bodies`) before a record is made; forwarding is not touched.

What is masked: the exchange's own credentials, listed literals, listed patterns. A mask has the length of what it
hides (`*`), so that sizes and framing stay true, and the record says that it was altered.

A secret may be cut by the end of a read, so the last MATCH_BYTES_MAX bytes of what has come are held back until more
comes or the body ends: a longer match than that may be masked in part only. Held records keep the time of their read.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from llmdump_proxy.framing import Framing

MATCH_BYTES_MAX: Final = 256
# Shorter credentials occur in ordinary text; masking those would destroy more than it hides.
_SECRET_BYTES_MIN: Final = 8


class Held(NamedTuple):
    """A read that becomes a record."""

    ts: float
    data: bytes
    framing: Framing | None
    last: bool
    altered: bool = False


class RedactionError(ValueError):
    """A pattern cannot be used; the message is one line for the user."""


class Redaction:
    """What to look for."""

    def __init__(self, literals: Iterable[bytes], patterns: Iterable[bytes]) -> None:
        """Patterns are regular expressions over bytes. Raises RedactionError."""
        self._parts = [re.escape(literal) for literal in sorted(literals, key=len, reverse=True) if literal]
        self._parts += [b"(?:" + pattern + b")" for pattern in patterns]
        try:
            self.regex = re.compile(b"|".join(self._parts) or rb"(?!)")
        except re.error as err:
            raise RedactionError(f"setting capture_redact_patterns: {err}") from err

    def with_secrets(self, secrets: Iterable[bytes]) -> "Redaction":
        """This, and an exchange's own credentials; of `Bearer sk-…` what follows the scheme."""
        own = [re.escape(secret.rpartition(b" ")[2]) for secret in secrets]
        own = [secret for secret in own if len(secret) >= _SECRET_BYTES_MIN]
        if not own:
            return self
        wider = Redaction((), ())
        wider._parts = own + self._parts
        wider.regex = re.compile(b"|".join(wider._parts))
        return wider


class BodyRedactor:
    """One body: takes reads, gives those whose bytes can hold no secret any more."""

    def __init__(self, redaction: Redaction) -> None:
        self._regex = redaction.regex
        self._window = bytearray()
        self._waiting: list[Held] = []

    def feed(self, held: Held) -> list[Held]:
        """The reads that are safe now, oldest first; at the last read of a body, all."""
        self._waiting.append(held)
        self._window += held.data
        return self._release(0) if held.last else self._release(MATCH_BYTES_MAX)

    def flush(self) -> list[Held]:
        """All that is held: nothing more will come."""
        return self._release(0)

    def _release(self, keep_bytes: int) -> list[Held]:
        original = bytes(self._window)
        for match in self._regex.finditer(original):
            # A match that touches the end may go on in the next read; it is masked when it cannot.
            if match.end() < len(original) or not keep_bytes or match.end() - match.start() >= MATCH_BYTES_MAX:
                self._window[match.start() : match.end()] = b"*" * (match.end() - match.start())
        released = []
        while self._waiting and len(self._window) - len(self._waiting[0].data) >= keep_bytes:
            held = self._waiting.pop(0)
            data = bytes(self._window[: len(held.data)])
            del self._window[: len(held.data)]
            released.append(held._replace(data=data, altered=held.altered or data != held.data))
        return released
