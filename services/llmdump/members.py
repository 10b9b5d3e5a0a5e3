"""The members of a JSON object that a row needs, found while its bytes pass by; the object itself is never held. Pure.

Real clients put `"model"` before or behind megabytes of messages, and a body arrives in any number of pieces. So this
is a scanner with a small fixed state: how deep it is nested, whether it is within a string, and at the top level the
key or value it is reading. A body that arrives whole is decoded at once by msgspec, which skips what is not asked for.
"""

import re
from typing import Any, Final

import msgspec

NAMES: Final = ("model", "stream")
# No model has a longer name; a longer key or value is not one we look for.
VALUE_BYTES_MAX: Final = 512

_WITHIN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_NESTED = re.compile(rb'["{}\[\]]')
_TOP = re.compile(rb'["{}\[\],:]')
_LEADING_BLANKS: Final = b" \t\r\n"


class _Wanted(msgspec.Struct):
    model: Any = None
    stream: Any = None


_WHOLE = msgspec.json.Decoder(_Wanted)


class Members:
    """`model` and `stream` of one JSON object, as far as it has been fed. The last of doubled members counts."""

    __slots__ = ("_backslash", "_depth", "_in_string", "_key", "_value", "done", "found")

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.done = False
        """Nothing more can be found: the object has ended, or it is no object."""
        self._depth = 0
        self._in_string = False
        self._backslash = False
        self._key: bytes | None = None  # None while a key is expected or being read
        self._value = bytearray()

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._depth == 0 and not self.done and self._whole(data):
            return
        at = 0
        while at < len(data) and not self.done:
            at = self._string(data, at) if self._in_string else self._structure(data, at)

    def _whole(self, data: bytes) -> bool:
        if data[-1:] != b"}":
            return False
        try:
            wanted = _WHOLE.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        self.found = {name: value for name in NAMES if (value := getattr(wanted, name)) is not None}
        self.done = True
        return True

    def _string(self, data: bytes, at: int) -> int:
        """From within a string to behind its end."""
        if self._backslash:
            self._backslash = False
            self._keep(data[at : at + 1])
            return at + 1
        end = _WITHIN_STRING.match(data, at).end()  # type: ignore[union-attr] # it matches nothing as well
        self._keep(data[at : end + 1])
        if end < len(data):
            self._backslash = data[end] == 0x5C
            self._in_string = self._backslash
        return end + 1

    def _structure(self, data: bytes, at: int) -> int:
        """From outside strings to behind the next character that means something."""
        if self._depth == 0:
            return self._begin(data, at)
        found = (_TOP if self._depth == 1 else _NESTED).search(data, at)
        end = found.end() if found else len(data)
        token = data[end - 1] if found else 0
        if self._depth == 1 and token in b",:}":
            self._keep(data[at : end - 1])
            self._top(token)
        else:
            self._keep(data[at:end])
        self._in_string = token == 0x22
        self._depth += (token in b"{[") - (token in b"}]") if token else 0
        self.done = self._depth == 0
        return end

    def _begin(self, data: bytes, at: int) -> int:
        rest = data[at:].lstrip(_LEADING_BLANKS)
        if rest:
            self._depth = 1
            self.done = rest[0] != 0x7B
        return len(data) - len(rest) + 1

    def _top(self, token: int) -> None:
        """`:` ends a key, `,` and `}` a value."""
        if token == 0x3A:
            self._key = bytes(self._value)
        elif self._key is not None:
            self._member(self._key, bytes(self._value))
            self._key = None
        self._value.clear()

    def _member(self, key: bytes, value: bytes) -> None:
        try:
            name = msgspec.json.decode(key)
            if name in NAMES:
                self.found[name] = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # not JSON, or cut at the limit: nothing is found

    def _keep(self, part: bytes) -> None:
        room = VALUE_BYTES_MAX - len(self._value)
        if room > 0:
            self._value += part[:room]
