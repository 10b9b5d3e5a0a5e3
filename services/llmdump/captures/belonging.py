"""Which entries of a capture belong together, and which tell the same once more. Pure, bounded.

request     an entry belongs to the request of its id; without one to the last request of its session (`asid`, else
            `sid`); and what a client sends without one begins a request, if it is no message of a WebSocket
capture     some recorders write a backend's stream twice, at the boundary and after translation, with the same
            numbers `ci`: the first capture is the one that counts
"""

from collections import OrderedDict
from typing import Final

from llmdump.captures.entry import CLIENT_TO_PROXY, Entry, text

SESSIONS_MAX: Final = 1024
"""Sessions of which the last request is known; that of the one that was quiet for longest is forgotten."""
CAPTURES_MAX: Final = 4


class Requests:
    """The requests of the entries of one capture, which come in order."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, str] = OrderedDict()
        self._made = 0

    def of(self, entry: Entry) -> str:
        """The request of the next entry: its id, or `#1`, `#2` … for those that have none."""
        if entry.kind:
            return entry.rid
        key, session = entry.rid, entry.session
        if not key:
            key = self._last.get(session, "")
            if not key or (entry.direction == CLIENT_TO_PROXY and not entry.is_message):
                self._made += 1
                key = f"#{self._made}"
        self._last[session] = key
        self._last.move_to_end(session)
        if len(self._last) > SESSIONS_MAX:
            self._last.popitem(last=False)
        return key

    def last(self, session: str) -> str:
        """The last request of a session; empty if there is none that is known."""
        return self._last.get(session, "")


class Captures:
    """The captures of one stream, told apart by their session and by numbers that begin anew."""

    def __init__(self) -> None:
        self._known: list[tuple[str, int]] = []  # session and last `ci`

    def is_first(self, entry: Entry) -> bool:
        """Whether the next entry with data is of the first capture, or of no stream."""
        index = entry.meta.get("ci")
        if not isinstance(index, int):
            return True
        session = text(entry.meta.get("sid"))
        for at, (own, last) in enumerate(self._known):
            if own == session and last < index:
                self._known[at] = own, index
                return at == 0
        if len(self._known) < CAPTURES_MAX:
            self._known.append((session, index))
            return len(self._known) == 1
        return False
