"""Secrets in bodies, masked on request (`capture_redact_bodies`) before a record is made; forwarding is not touched.

What is masked: the exchange's own credentials, listed literals, listed patterns. A mask has the length of what it
hides (`*`), so that sizes and framing stay true, and the record says that it was altered.

A secret may be cut by the end of a read, so a read waits until MATCH_BYTES_MAX bytes (or as many as the longest literal
or credential has) have come after it, or the body ends. What is masked then does not depend on how a body was cut, as
long as no match is longer than that (of a longer one the rest may stay) and no pattern looks back further than that.
Held records keep the time of their read.
What is compressed, or masked by WebSocket framing, cannot be looked into.
"""

import re
from collections import deque
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
        self._literals = {literal for literal in literals if literal}
        self._patterns = [b"(?:" + pattern + b")" for pattern in patterns]
        try:
            self.regex = self._compiled()
        except re.error as err:
            raise RedactionError(f"setting capture_redact_patterns: {err}") from err

    def with_secrets(self, secrets: Iterable[bytes]) -> "Redaction":
        """This, and an exchange's own credentials, of any length."""
        own = {secret for secret in secrets if len(secret) >= _SECRET_BYTES_MIN}
        if own <= self._literals:
            return self
        wider = Redaction((), ())
        wider._literals, wider._patterns = self._literals | own, self._patterns
        wider.regex = wider._compiled()
        return wider

    @property
    def reach_bytes(self) -> int:
        """The longest match that is found however a body is cut."""
        return max(MATCH_BYTES_MAX, *map(len, self._literals), 0)

    def _compiled(self) -> re.Pattern[bytes]:
        """Of texts that begin alike the longest is tried first."""
        literals = sorted(self._literals, key=lambda literal: (-len(literal), literal))
        return re.compile(b"|".join([*map(re.escape, literals), *self._patterns]) or rb"(?!)")


class BodyRedactor:
    """One body: takes reads, gives those whose bytes can hold no unmasked secret any more.

    `_window` is, of the body's own bytes: some that were given already (for patterns that look back), then all that
    waits. `_ready` is where the second part begins, `_searched` where the search goes on: a match may have begun in what
    was given and reach into what waits, and is masked there too.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._regex = redaction.regex
        self._reach_bytes = redaction.reach_bytes
        self._window = b""
        self._ready = 0
        self._searched = 0
        self._waiting: deque[Held] = deque()

    def feed(self, held: Held) -> list[Held]:
        """The reads that are safe now, oldest first; at the last read of a body, all."""
        self._waiting.append(held)
        self._window += held.data
        return self._release(0 if held.last else self._reach_bytes)

    def flush(self) -> list[Held]:
        """All that is held: nothing more will come."""
        return self._release(0)

    def _release(self, keep_bytes: int) -> list[Held]:
        end, count = self._ready, 0
        for held in self._waiting:
            if len(self._window) - end - len(held.data) < keep_bytes:
                break
            end += len(held.data)
            count += 1
        if not count:
            return []
        masked = self._masked(end)
        released = []
        for _ in range(count):
            held = self._waiting.popleft()
            data, masked = masked[: len(held.data)], masked[len(held.data) :]
            original = self._window[self._ready : self._ready + len(data)]
            self._ready += len(data)
            released.append(held._replace(data=data, altered=held.altered or data != original))
        self._forget()
        return released

    def _masked(self, end: int) -> bytes:
        """What is ready up to `end`, masked."""
        masked = bytearray(self._window[self._ready : end])
        _stars(masked, 0, self._searched - self._ready)
        for match in self._regex.finditer(self._window, max(self._searched, self._ready)):
            if match.start() >= end:
                break
            _stars(masked, match.start() - self._ready, match.end() - self._ready)
            self._searched = match.end()
        return bytes(masked)

    def _forget(self) -> None:
        """Keep no more of what was given than a pattern may look back."""
        surplus = max(0, self._ready - MATCH_BYTES_MAX)
        self._window = self._window[surplus:]
        self._ready -= surplus
        self._searched = max(0, self._searched - surplus)


def _stars(data: bytearray, start: int, end: int) -> None:
    end = min(end, len(data))
    if end > start:
        data[start:end] = b"*" * (end - start)
