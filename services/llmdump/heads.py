"""Recorded message heads taken apart for readers: start line, fields in order. Pure; never fails, for heads may be bad.

What was received is shown as it was: field names keep their case, values lose only the blanks around them, duplicates
stay. Bytes become text as Latin-1 does it (RFC 9110 section 5.5: field values are octets), so that nothing is lost.
"""

from typing import NamedTuple


class Head(NamedTuple):
    """A head in parts; what is not there is empty."""

    start: tuple[str, str, str]
    """Method, target, version of a request; version, status, reason of a response."""
    fields: list[tuple[str, str]]

    def first(self, name: str) -> str:
        """The value of the first field of this name (lower case), or an empty text."""
        return next((value for field, value in self.fields if field.lower() == name), "")

    def all(self, name: str) -> list[str]:
        """The comma-separated members of all fields of this name (lower case), in order, lower case."""
        values = (part.strip().lower() for field, value in self.fields if field.lower() == name for part in value.split(","))
        return [value for value in values if value]


def parse(head: bytes) -> Head:
    """The parts of a head with or without its closing empty line."""
    lines = head.decode("latin-1").split("\r\n\r\n", 1)[0].split("\r\n")
    first, _, rest = lines[0].partition(" ")
    second, _, third = rest.partition(" ")
    return Head((first, second, third), [_field(line) for line in lines[1:] if line])


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip(" \t")


def path_of(target: str) -> str:
    """The path of a request target, without query; of an absolute-form target (`http://host/path`) the path in it."""
    path = target.partition("?")[0]
    scheme, separator, rest = path.partition("://")
    if separator and "/" not in scheme:
        path = "/" + rest.partition("/")[2]
    return path
