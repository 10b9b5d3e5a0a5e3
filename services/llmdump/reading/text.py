"""Text that comes in pieces: hashed whole, counted whole, held up to a limit.

A text is hashed as UTF-8. Half a character (a lone surrogate, which JSON can escape) waits for its other half, which may
be in the next piece; if that never comes, it is hashed and held as U+FFFD.
"""

import hashlib
from typing import Final

HELD_CHARS_MAX: Final = 4 << 20
"""What is kept of a text for showing and searching; a model's longest answer today has some 0.5 million."""
FLUSH_PIECES: Final = 512
"""So many pieces are joined at a time: the memory of tiny pieces is bounded, and hashing is not done for each."""


class Text:
    """A text being collected."""

    def __init__(self, held_chars_max: int = HELD_CHARS_MAX) -> None:
        self._pieces: list[str] = []
        self._hash = hashlib.sha256()
        self._held: list[str] = []
        self._left = held_chars_max
        self._half = ""
        self._chars = 0

    def __bool__(self) -> bool:
        return bool(self._pieces or self._chars)

    def add(self, piece: str) -> None:
        """Takes the next piece."""
        self._pieces.append(piece)
        if len(self._pieces) >= FLUSH_PIECES:
            self._flush()

    def chars(self) -> int:
        """How many characters there are."""
        self._flush(last=True)
        return self._chars

    def sha256(self) -> str:
        """The hash of the whole text, in hex."""
        self._flush(last=True)
        return self._hash.hexdigest()

    def held(self) -> str:
        """The text, cut at the limit."""
        self._flush(last=True)
        self._held = ["".join(self._held)]
        return self._held[0]

    def _flush(self, last: bool = False) -> None:
        text = self._half + "".join(self._pieces)
        self._pieces, self._half = [], ""
        if not text:
            return
        if not last and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            encoded = text.encode()
        self._hash.update(encoded)
        self._chars += len(text)
        if self._left > 0:
            self._held.append(text[: self._left])
            self._left -= len(text)
