"""A filter expression cut into words, and errors that point into it. Pure.

blank     space, tab, CR, LF; between words
bare      a run of anything but blanks, ( ) " ' = < > ! ~
quoted    "…" or '…', in which \\ takes the next quote or \\ as it is
"""

import re
from typing import Final, NamedTuple

FILTER_CHARS_MAX: Final = 4096
KEYWORDS: Final = frozenset({"and", "or", "not"})
_SHOWN_CHARS: Final = 70
"""Of an expression, around the place that an error points at."""

_WORD = re.compile(
    r"""(?P<operator><=|>=|!=|!~|[=<>~])|(?P<paren>[()])|(?P<bare>[^ \t\r\n()"'=<>!~]+)"""
    r"""|(?P<quoted>"(?:[^"\\]|\\["\\])*"|'(?:[^'\\]|\\['\\])*')"""
)
_BLANKS = re.compile(r"[ \t\r\n]*")
_ESCAPE = re.compile(r"""\\(["'\\])""")
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class FilterError(ValueError):
    """An expression that cannot be used."""

    def __init__(self, text: str, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        """The character, from 0, at which it went wrong; the length of the text if it is its end."""
        self.message = message
        """What was expected there, or what is wrong with it."""
        self._text = text

    @property
    def pointed(self) -> str:
        """The expression (what is near, of a long one), and a line with a caret below the character."""
        begin = max(0, min(self.offset - _SHOWN_CHARS // 2, len(self._text) - _SHOWN_CHARS))
        shown = "".join(one if one.isprintable() else " " for one in self._text[begin : begin + _SHOWN_CHARS])
        return f"{shown}\n{' ' * (self.offset - begin)}^ {self.message}"


class Token(NamedTuple):
    """One word."""

    kind: str
    """`bare`, `quoted`, `operator`, `(`, `)` or `end`."""
    text: str
    """What it says, without quotes."""
    offset: int

    def is_word(self, keyword: str) -> bool:
        """Whether it is this keyword, in any case."""
        return self.kind == "bare" and self.text.lower() == keyword

    @property
    def is_keyword(self) -> bool:
        """Whether it is one at all."""
        return self.kind == "bare" and self.text.lower() in KEYWORDS


def tokens(text: str) -> list[Token]:
    """The words, and an `end`. Raises FilterError."""
    if len(text) > FILTER_CHARS_MAX:
        raise FilterError(text, FILTER_CHARS_MAX, f"allowed are {FILTER_CHARS_MAX} characters")
    if strange := _NOT_TEXT.search(text):
        raise FilterError(text, strange.start(), "expected text, this is no character")
    found: list[Token] = []
    at = _blanks_end(text, 0)
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None:
            what = "a closing quote" if text[at] in "\"'" else "`!=` or `!~`"
            raise FilterError(text, at, f"expected {what}")
        found.append(_token(word))
        at = _blanks_end(text, word.end())
    return [*found, Token("end", "", len(text))]


def _blanks_end(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None
    return blanks.end()


def _token(word: re.Match[str]) -> Token:
    kind, text = str(word.lastgroup), word[0]
    if kind == "paren":
        kind = text
    return Token(kind, _ESCAPE.sub(r"\1", text[1:-1]) if kind == "quoted" else text, word.start())
