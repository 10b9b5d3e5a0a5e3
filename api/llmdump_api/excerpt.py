"""What was found in a text, shown with a little of what stands around it. Pure.

Words are compared as the full text does it (unicode61): without case and accents, between anything but letters and
digits. SQLite has a function for this, which takes a hundred times as long.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

BEFORE_CHARS: Final = 60
AFTER_CHARS: Final = 140

_WORDS: Final = re.compile(r"[^\W_]+")


def pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """What finds any of the phrases, each one word or some that follow one another."""
    found = (r"[\W_]+".join(map(re.escape, _WORDS.findall(_plain(phrase)))) for phrase in phrases)
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(filter(None, found))})(?![^\W_])", re.IGNORECASE)


def excerpt(wanted: re.Pattern[str], text: str) -> list[str] | None:
    """Parts of the text around the first place, outside and inside of what was found in turn; None if nothing is found."""
    plain = _plain(text)
    first = wanted.search(plain)
    if first is None:
        return None
    begin, end = max(0, first.start() - BEFORE_CHARS), min(len(text), first.end() + AFTER_CHARS)
    parts, at = [], begin
    for place in wanted.finditer(plain, first.start(), end):
        parts += [text[at : place.start()], text[place.start() : place.end()]]
        at = place.end()
    parts.append(text[at:end])
    return ["…" * (begin > 0) + parts[0], *parts[1:-1], parts[-1] + "…" * (end < len(text))]


def _plain(text: str) -> str:
    """Without accents, character for character."""
    return text if text.isascii() else "".join(unicodedata.normalize("NFD", character)[0] for character in text)
