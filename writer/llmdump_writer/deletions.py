"""Notes in `segments/deleted.jsonl` (see `llmdump.retention`): what was deleted, for whoever asks why numbers are missing.

One line a file; both files of a segment in two formats have the same numbers. A line is written before its file goes:
where the file is still there, it was not deleted (yet). A line that a full disk cut short is no JSON and is passed over;
the whole one follows. All writers of a data directory append to the same file, each line in one write. It is never cut.
"""

import time
from pathlib import Path
from typing import Final

from llmdump import log, retention
from llmdump.admin import count_swallowed
from llmdump.footer import Spans
from llmdump.retention import EMPTY

PENDING_LINES_MAX: Final = 10_000


class Deletions:
    """Appends to the file. Not for several threads. Blocking; raises nothing: a disk that refuses is tried again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending: list[bytes] = []

    def note(self, segment: str, at: float, reason: str, size_bytes: int, spans: Spans, *, indexed: bool) -> None:
        """Write down that a segment file is about to be deleted; `at` is in seconds since 1970."""
        line = retention.line(segment, at, reason, size_bytes, spans, indexed=indexed)
        self._pending = [*self._pending[1 - PENDING_LINES_MAX :], line]
        self.write()

    def note_empty(self, segment: str) -> bool:
        """Write down that there is no segment of this name any more, and that it never had a record; whether that worked."""
        self.note(segment, time.time(), EMPTY, 0, {}, indexed=False)
        return not self._pending

    def write(self) -> None:
        """Write the lines that could not be written before, if there are any."""
        if not self._pending:
            return
        try:
            retention.append(self._directory, b"".join(self._pending))
        except OSError as err:
            count_swallowed("deletion_note")
            log.warning("deletion_not_noted", lines=len(self._pending), error=err.strerror or err)
        else:
            self._pending = []
