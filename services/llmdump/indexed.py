"""What the index says of the ledger: which numbers it holds of each instance, and how far it has read each segment.

For `verify` and the api; the schema is the indexer's (indexer/llmdump_indexer/sql), of which only these columns are read.
"""

from typing import Final, NamedTuple

import apsw

from llmdump.ledger import About, Gap
from llmdump.ranges import Ranges

SCHEMA: Final = 4
"""`user_version` of the index that the api's questions are for: how many steps the indexer's schema has."""


class Segment(NamedTuple):
    """A segment as the index knows it."""

    name: str
    offset: int
    """Bytes of the plain file that have been read."""
    closed: bool
    """Read to its end."""


class Ledger(NamedTuple):
    """One instance as the index knows it."""

    about: About
    numbers: Ranges
    gaps: list[Gap]


def segments(db: apsw.Connection) -> list[Segment]:
    """All segments, those that are gone too. Blocking. Raises apsw.Error."""
    rows = db.execute("SELECT name, offset, closed FROM segment ORDER BY name")
    return [Segment(name, offset, bool(closed)) for name, offset, closed in rows]


def ledgers(db: apsw.Connection) -> dict[str, Ledger]:
    """All instances, by their ids; from one snapshot. Blocking. Raises apsw.Error."""
    found: dict[str, Ledger] = {}
    with db:
        for row in db.execute("SELECT instance, hello_us, about, bye_us, bye_last FROM ledger_instance"):
            found[row[0]] = Ledger(About(*row), [], [])
        for instance, first, last in db.execute("SELECT instance, first, last FROM ledger ORDER BY instance, first"):
            found.setdefault(instance, Ledger(About(instance), [], [])).numbers.append((first, last))
        for row in db.execute("SELECT instance, first, last, reason FROM ledger_gap"):
            found.setdefault(row[0], Ledger(About(row[0]), [], [])).gaps.append(Gap(*row))
    return found
