"""Which segments the index holds wholly, read from the index itself: only that cannot be wrong after a crash or a rebuild.

The tables are the indexer's (`segment`: `closed` is 1 once a file was read to its end). Nothing is written there.
"""

from pathlib import Path
from typing import Final

import apsw

from llmdump.admin import count_swallowed

BUSY_TIMEOUT_MS: Final = 200


def indexed_segments(index: Path) -> frozenset[str]:
    """The names of all segments that were read to their end; none where there is no index, or none that can be read.

    Blocking: some milliseconds.
    """
    if not index.exists():
        return frozenset()
    try:
        db = apsw.Connection(str(index), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(BUSY_TIMEOUT_MS)
            return frozenset(str(name) for (name,) in db.execute("SELECT name FROM segment WHERE closed"))
        finally:
            db.close()
    except apsw.Error:
        count_swallowed("index_not_read")
        return frozenset()
