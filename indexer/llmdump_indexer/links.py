"""Which exchange goes on from which: parent, root and depth, found as rows are written, within the transaction.

An exchange leaves keys, and has candidates: keys, the best first, that the one it goes on from would have left. What they
are made of is `llmdump.reading.sessions`' affair. It is linked to an exchange of the same API key that began before it
and has the first of its candidates that any has; where it names a session, only those of the session count. Of several
with this key it is the latest, but the earliest by which it is known that a response was made, a session begun, or the
same thing asked before. From what it is linked to follow its parent, root and depth (see `Link.place`).

This says nothing of the order in which exchanges are indexed, and the result does not depend on it. One that is written
later than those that go on from it is given to them: each waits, in `awaited`, for the candidates that are better than
what it is linked by, or as good.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import apsw

from llmdump_indexer import statements
from llmdump_indexer.read import Candidate

REPEATED_WITHIN_US: Final = 600 * 1_000_000
"""A first question that is asked again within this time is asked once more; after it, by chance."""

_EARLIEST: Final = frozenset({"response_id", "same", "session"})
_SQL: Final = statements.named("link")


class Facts(NamedTuple):
    """What links an exchange to others."""

    number: int
    id: str
    key_hash: str
    started_us: int
    session_hint: str | None = None
    keys: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    is_first: bool = False
    """No model has said anything in its history yet."""


class Place(NamedTuple):
    """Where an exchange belongs."""

    root: str
    parent_id: str | None = None
    depth: int = 0


class Link(NamedTuple):
    """What an exchange is linked to; `rank` is that of the candidate."""

    place: Place
    linked_id: str | None = None
    linked_by: str | None = None
    rank: int | None = None

    @classmethod
    def to(cls, other: str, where: Place, by: str, rank: int) -> "Link":
        """To another exchange, which has this place."""
        if by == "same":
            place = where
        elif by == "session":
            place = Place(where.root)
        else:
            place = Place(where.root, other, where.depth + 1)
        return cls(place, other, by, rank)


class Links:
    """The links of one index. Within a transaction only."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def find(self, own: Facts) -> Link:
        """What an exchange is linked to among those that are written."""
        known = own._asdict()
        for rank, candidate in enumerate(own.candidates):
            statement = _SQL["earliest" if candidate.by in _EARLIEST else "latest"]
            values = known | {"key": candidate.key, "earliest_us": _earliest_us(own, candidate.by)}
            row: Any = self._db.execute(statement, values).fetchone()
            if row is not None:
                return Link.to(row[0], Place(row[2], row[1], row[3]), candidate.by, rank)
        return Link(Place(own.id))

    def settle(self, own: Facts, link: Link, written_before: bool) -> set[str]:
        """After its row was written: what others have to change for it. The roots whose sessions are not as they were."""
        if written_before:
            self._db.execute(_SQL["await_no_longer"], (own.number, -1))
        self._db.executemany(_SQL["await"], _awaited(own, link))
        self._db.executemany(_SQL["leave_key"], ((own.key_hash, key, own.started_us, own.number) for key in own.keys))
        touched: set[str] = set()
        for key in own.keys:
            touched |= self._adopt(own, link.place, key)
        if written_before and self._db.execute(_SQL["has_linked"], own._asdict()).get:
            touched |= self._move(own.number, link.place)
        return touched

    def _adopt(self, own: Facts, place: Place, key: str) -> set[str]:
        """Link those to this one that would rather have it than what they are linked to."""
        touched: set[str] = set()
        for number, rank, by, linked_rank, linked_us, linked_id, *before in list(self._waiting(own, key)):
            if linked_rank is not None and not _better(own, rank, by, (linked_rank, linked_us, linked_id)):
                continue
            link = Link.to(own.id, place, by, rank)
            self._db.execute(_SQL["link"], {**link._asdict(), "number": number})
            self._db.execute(_SQL["await_no_longer"], (number, rank))
            if before != [link.place.parent_id, link.place.root, link.place.depth]:
                touched |= self._move(number, link.place)
        return touched

    def _waiting(self, own: Facts, key: str) -> Iterator[tuple[Any, ...]]:
        return iter(self._db.execute(_SQL["waiting"], own._asdict() | {"key": key}))

    def _move(self, number: int, place: Place) -> set[str]:
        """Give an exchange, and all that are linked to it, their places; the roots of before and now."""
        values = {**place._asdict(), "number": number}
        roots = {str(before) for (before,) in self._db.execute(_SQL["roots_below"], values)}
        self._db.execute(_SQL["move"], values)
        return roots | {place.root}


def _earliest_us(own: Facts, by: str) -> int:
    by_chance = by == "same" and own.is_first and own.session_hint is None
    return max(0, own.started_us - REPEATED_WITHIN_US) if by_chance else 0


def _awaited(own: Facts, link: Link) -> Iterator[tuple[Any, ...]]:
    """The candidates that are better than what an exchange is linked by, and that one."""
    last = len(own.candidates) if link.rank is None else link.rank + 1
    for rank, candidate in enumerate(own.candidates[:last]):
        yield own.number, rank, own.key_hash, candidate.key, candidate.by, _earliest_us(own, candidate.by), own.started_us


def _better(own: Facts, rank: int, by: str, linked: tuple[int, int, str]) -> bool:
    """Whether this one, at this rank, is to be preferred to what is linked."""
    linked_rank, linked_us, linked_id = linked
    if rank != linked_rank:
        return rank < linked_rank
    ours, theirs = (own.started_us, own.id), (linked_us, linked_id)
    return ours < theirs if by in _EARLIEST else ours > theirs
