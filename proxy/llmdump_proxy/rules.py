"""Capture rules: what of an exchange is recorded, by path. Pure.

A rule is `PATH=REQUEST/RESPONSE`, the path exact or with a trailing `*`, each side one of

    all     heads and bodies
    heads   heads; of bodies the sizes and times only
    sizes   sizes and times only, of heads too
    none    nothing; both sides none: the exchange is not recorded at all, only counted

The first rule that fits counts. What a rule leaves out is marked so in the records, and never counted as lost.
"""

from typing import Final, NamedTuple

LEVELS: Final = ("all", "heads", "sizes", "none")


class Levels(NamedTuple):
    """How much of each side is recorded."""

    request: str
    response: str


EVERYTHING: Final = Levels("all", "all")


class RuleError(ValueError):
    """A rule cannot be used; the message is one line for the user."""


class Rules:
    """The rules in force, in order."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        """Raises RuleError."""
        self._rules = [_parse(line) for line in lines]

    def levels(self, path: str) -> Levels:
        """What is recorded of an exchange with this path (without its query)."""
        for pattern, levels in self._rules:
            if path == pattern or (pattern[-1:] == "*" and path.startswith(pattern[:-1])):
                return levels
        return EVERYTHING


def _parse(line: str) -> tuple[str, Levels]:
    pattern, _, sides = line.rpartition("=")
    request, _, response = sides.partition("/")
    levels = Levels(request.strip(), (response or request).strip())
    if not pattern.startswith("/") or not set(levels) <= set(LEVELS):
        raise RuleError(f"setting capture_rules: {line!r} is not /path[*]=REQUEST/RESPONSE with sides of {', '.join(LEVELS)}")
    return pattern.strip(), levels
