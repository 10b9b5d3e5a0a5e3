"""What was captured, printed: it comes from strangers, and nothing of it may command a terminal. Pure."""


def printable(text: str) -> str:
    """The text with every character that is not printable replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
