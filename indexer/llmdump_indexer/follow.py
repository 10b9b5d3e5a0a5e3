"""The indexer's work, in a thread of its own: read on, take in, commit; for ever, whatever happens to files or index.

A commit comes when there is nothing left to read, and at the latest `COMMIT_EVERY_S` after the one before. Whatever
fails, the disk or the index, is counted, and work begins again from what the index holds: all state in memory follows
from it. An index that is broken is set aside and made anew; one that is deleted while we run is made anew too. One
whose content is replaced while we run (`rebuild`) is gone on with from where that stands.

Exchanges of a proxy that died are ended as `lost` when there is nothing left to read, and nothing of it in spill files.
Should more of their records come, from a writer that was down or slow, they go on.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

from llmdump import log, positions, presence
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump.metrics import SHORT_S, Histogram, Sample
from llmdump.reading import prices
from llmdump.reading.prices import PriceTable
from llmdump.segment import Damage
from llmdump.tail import Step, Tail
from llmdump_indexer import index
from llmdump_indexer.absorb import Absorb
from llmdump_indexer.carry import Carried
from llmdump_indexer.index import Index, NewerIndexError, ReplacedError
from llmdump_indexer.pinned import PinnedRows
from llmdump_indexer.traffic import Traffic
from llmdump_indexer.understand import understand

POLL_S: Final = 0.05
COMMIT_EVERY_S: Final = 0.1
RETRY_AFTER_S: Final = 1.0
MEASURE_LAG_EVERY_S: Final = 1.0
LOOK_FOR_DEAD_EVERY_S: Final = 1.0
EXPIRE_EVERY_S: Final = 1.0
EXPIRED_AT_ONCE: Final = 500
"""Rows deleted in one transaction, some 20 ms."""
LOST_AFTER_S: Final = 5.0
"""How long a proxy is dead before its open exchanges are lost: longer than a writer in health takes to store anything."""


class Follower:
    """Keeps the index of one data directory up to date until told to finish."""

    def __init__(
        self,
        data: DataDir,
        lost_after_s: float = LOST_AFTER_S,
        path: Path | None = None,
        *,
        table: PriceTable | None = None,
        keep_rows_s: float = 0.0,
        carried: Carried | None = None,
    ) -> None:
        """`path` is the index, where it is not that of the data directory. `keep_rows_s` 0: rows are kept for ever. `table`
        are the prices, where not our own.
        """
        self._data = data
        self._keep_rows_s = keep_rows_s
        self._carried = carried
        self._expire_at = 0.0
        self._path = path or data.index
        self._lost_after_s = lost_after_s
        self._read = partial(understand, table or prices.load(""))
        self._dead_since: dict[str, float] = {}
        self._last_look_for_dead = -math.inf
        self._finish = threading.Event()
        self._abandon = threading.Event()
        self._last_commit = self._last_measured = 0.0
        self.problem = ""
        """What is wrong now; empty while all is well."""
        self.standby = False
        """Whether another indexer writes the index, and this one waits to take over."""
        self.traffic = Traffic()
        self.records = self.bytes = self.exchanges = self.damaged = self.damaged_bytes = 0
        self.open_exchanges = self.lag_bytes = 0
        self.pinned_exchanges = self.pinned_bytes = self.rows_expired = 0
        self.commit_s = Histogram(SHORT_S)

    def finish(self) -> None:
        """Catch up with all that is in the segments now, commit, and let `run` return."""
        self._finish.set()

    def abandon(self) -> None:
        """Return from `run` after the step that is under way; what is not committed is read again next time."""
        self._finish.set()
        self._abandon.set()

    def catch_up(self) -> None:
        """Read what is in the segments now, commit and return. Blocking. Raises apsw.Error, OSError, NewerIndexError."""
        self._finish.set()
        self._follow()

    def run(self) -> None:
        """Work until `finish`. Blocking. Raises NewerIndexError only."""
        lock = self._data.run / "index.lock"
        while not self._finish.is_set():
            with index.only_writer(lock) as alone:
                self.standby = not alone
                while alone and not self._attempt():
                    self._finish.wait(RETRY_AFTER_S)
                    if self._finish.is_set():
                        return
            self._finish.wait(POLL_S)

    def _attempt(self) -> bool:
        """Follow until there is a reason to stop. False if that is an error."""
        try:
            self._follow()
            return True
        except NewerIndexError:
            raise
        except ReplacedError:
            log.info("index_was_replaced", path=self._path)
            return True
        except (apsw.CorruptError, apsw.NotADBError) as err:
            self._tell(f"the index is broken and is made anew: {err}")
            with contextlib.suppress(FileNotFoundError):
                log.warning("index_set_aside", path=index.set_aside(self._path))
        except (apsw.Error, OSError) as err:
            self._tell(f"{type(err).__name__}: {err}")
        count_swallowed("index_begun_again")
        return False

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("indexing_interrupted", reason=problem)
        self.problem = problem

    def _follow(self) -> None:
        """Read, take in and commit until told to finish, or until the index is no longer at its path."""
        with Index(self._path) as db, Tail(self._data.segments, db.segments()) as tail:
            absorb = Absorb(db, partial(positions.read, self._data.segments), self._read, self._carried)
            self.open_exchanges = absorb.open_exchanges
            pinned = PinnedRows(self._data)
            while not self._abandon.is_set():
                finishing = self._finish.is_set()  # asked for before the look: what is there by then is read
                worked = self._pass(db, tail, absorb)
                if not absorb.pending:
                    worked = self._settle_pinned(db, pinned, absorb, idle=not worked) or worked
                    self._expire(db)
                if not worked and finishing:
                    return
                self._tell(tail.problem)
                if not worked:
                    self._finish.wait(POLL_S)
                if not db.still_there():
                    log.info("index_was_replaced", path=db.path)
                    return

    def _pass(self, db: Index, tail: Tail, absorb: Absorb) -> bool:
        """One step of reading, and a commit if it is time. Whether there was anything to do."""
        absorb.segments(tail.look())
        step = tail.step()
        if step is not None:
            absorb.step(step)
            self._count(step)
        now = time.monotonic()
        if step is None and not absorb.pending:
            self._lose_those_of_the_dead(db, absorb, now)
        commits = absorb.pending and (step is None or now - self._last_commit >= COMMIT_EVERY_S)
        if commits:
            self._commit(db, absorb)
            self._last_commit = time.monotonic()
        if now - self._last_measured >= MEASURE_LAG_EVERY_S:
            self.lag_bytes, self._last_measured = tail.lag_bytes(), now
        return step is not None or commits

    def _settle_pinned(self, db: Index, pinned: PinnedRows, absorb: Absorb, *, idle: bool) -> bool:
        worked = pinned.settle(db, absorb, idle=idle)
        self.pinned_exchanges, self.pinned_bytes = len(pinned.sizes), sum(pinned.sizes.values())
        return worked

    def _expire(self, db: Index) -> None:
        """Delete some of the rows that are too old, so few that reading goes on at once."""
        now = time.monotonic()
        if not self._keep_rows_s or now < self._expire_at:
            return
        deleted = db.expire(int((time.time() - self._keep_rows_s) * 1000), EXPIRED_AT_ONCE)
        self.rows_expired += deleted
        self._expire_at = now + (0.0 if deleted == EXPIRED_AT_ONCE else EXPIRE_EVERY_S)

    def _lose_those_of_the_dead(self, db: Index, absorb: Absorb, now: float) -> None:
        """End exchanges of a proxy that died a while ago, if it is time to look and there are any."""
        if not absorb.open_exchanges or now - self._last_look_for_dead < LOOK_FOR_DEAD_EVERY_S:
            return
        self._last_look_for_dead = now
        living = {card.instance for card in presence.living(self._data.run, "proxy")}
        living |= self._data.spilled()  # what they have to say may still come
        dead = (instance for instance in db.open_instances() if instance not in living)
        self._dead_since = {instance: self._dead_since.get(instance, now) for instance in dead}
        for instance, since in self._dead_since.items():
            if now - since >= self._lost_after_s:
                absorb.lose(instance)
                self._last_look_for_dead = -math.inf  # there may be more of them
                return

    def _commit(self, db: Index, absorb: Absorb) -> None:
        begin = time.perf_counter()
        changes, ended = absorb.take()
        db.save(changes)
        absorb.forget()
        self.commit_s.observe(time.perf_counter() - begin)
        self.exchanges += len(ended)
        self.open_exchanges = absorb.open_exchanges
        for exchange in ended:
            self.traffic.ended(exchange)

    def _count(self, step: Step) -> None:
        damages = [item for item in step.items if isinstance(item, Damage)]
        self.records += len(step.items) - len(damages)
        self.bytes += step.bytes
        for damage in damages:
            self.damaged += 1
            self.damaged_bytes += damage.size
            log.warning("segment_damaged", segment=step.segment.name, offset=damage.offset, size_bytes=damage.size)

    def samples(self) -> Iterator[Sample]:
        """For the metrics page; called from another thread."""
        yield Sample("llmdump_records_indexed_total", self.records)
        yield Sample("llmdump_records_indexed_bytes_total", self.bytes)
        yield Sample("llmdump_exchanges_indexed_total", self.exchanges)
        yield Sample("llmdump_indexer_open_exchanges", self.open_exchanges)
        yield Sample("llmdump_indexer_lag_bytes", self.lag_bytes)
        yield Sample("llmdump_indexer_damaged_total", self.damaged)
        yield Sample("llmdump_indexer_damaged_bytes_total", self.damaged_bytes)
        yield Sample("llmdump_indexer_commit_seconds", self.commit_s)
        yield Sample("llmdump_indexer_rows_expired_total", self.rows_expired)
        yield Sample("llmdump_pinned_exchanges", self.pinned_exchanges)
        yield Sample("llmdump_pinned_bytes", self.pinned_bytes)
        yield from self.traffic.samples()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the index is being kept up to date, and how far it lags."""
        details = {"lag_bytes": self.lag_bytes, "open_exchanges": self.open_exchanges, "standby": self.standby}
        return not self.problem, details | ({"problem": self.problem} if self.problem else {})
