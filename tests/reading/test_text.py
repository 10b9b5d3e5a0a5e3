"""Text in pieces: the same however it is cut, with half characters joined, within its limit."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.text import FLUSH_PIECES, Text


def collected(pieces: list[str], held_chars_max: int = 1 << 20) -> Text:
    text = Text(held_chars_max)
    for piece in pieces:
        text.add(piece)
    return text


@given(st.lists(st.text(), max_size=20))
def test_pieces_are_their_sum(pieces: list[str]) -> None:
    text, whole = collected(pieces), "".join(pieces)
    assert (text.held(), text.chars(), text.sha256()) == (whole, len(whole), sha256(whole.encode()).hexdigest())


def test_a_character_cut_where_pieces_are_joined_is_whole() -> None:
    """The halves come before and after the moment at which what is there is joined and hashed."""
    for offset in range(-2, 3):
        pieces = ["a"] * (FLUSH_PIECES + offset) + ["\ud83d", "\ude00"]
        text = collected(pieces)
        assert text.held() == "a" * (FLUSH_PIECES + offset) + "😀"
        assert text.sha256() == sha256(text.held().encode()).hexdigest()


def test_what_is_beyond_the_limit_is_counted_and_hashed() -> None:
    text = collected(["abc"] * 1000, held_chars_max=7)
    assert (text.held(), text.chars()) == ("abcabca", 3000)
    assert text.sha256() == sha256(b"abc" * 1000).hexdigest()


def test_a_text_may_be_looked_at_while_it_grows() -> None:
    text = collected(["a"])
    assert (text.held(), bool(text)) == ("a", True)
    text.add("b")
    assert (text.held(), text.chars()) == ("ab", 2)
    assert not Text()
