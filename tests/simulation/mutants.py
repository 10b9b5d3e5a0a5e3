"""The product with one mechanism taken out: what the simulation must notice. The only place that patches the product.

python -m tests.simulation.mutants [--most 300]    how many seeds each takes
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from llmdump_proxy import orphans, outbox, recorder, spill
from llmdump_writer import appender, capture, recovery, sessions, store
from tests.simulation.simulation import quiet, run

Patches = list[tuple[Any, str, Any]]
"""In these modules or classes these names are something else."""


def _sync_that_does_nothing(self: appender.Appender) -> None:
    pass


def _sync_tried_again(self: appender.Appender) -> None:
    try:
        _sync(self)
    except OSError:
        _sync(self)


def _taken_anew(self: capture.Capture, name: str, instance: sessions.Instance, *rest: Any) -> None:
    instance.taken = 0
    _take(self, name, instance, *rest)


def _all_of_it(self: outbox.Packed, held: int) -> outbox.Packed | None:
    return self if self.last > held else None


def _freed_when_read(self: outbox.Lane, packed: outbox.Packed) -> Any:
    found = _did_read(self, packed)
    self.freed.extend(self._read)
    self._read.clear()
    return found


def _forget_under_way(self: outbox.Lane) -> None:
    self._under_way.clear()
    self.under_way_bytes = 0


def _next_of_a_lane_without_name(self: outbox.Lane) -> Any:
    unnamed, self.unnamed = self.unnamed, False
    try:
        return _next(self)
    finally:
        self.unnamed = unnamed


def _any_seq(self: sessions.Instance, nonce: bytes, seq: int, now: float) -> sessions.Verdict:
    self.next_seq = seq + 1
    return sessions.Verdict.TAKE if nonce == self.nonce else sessions.Verdict.LEAVE


def _any_nonce(self: sessions.Instance, nonce: bytes, seq: int, now: float) -> sessions.Verdict:
    return _judge(self, self.nonce, self.next_seq, now)


def _forget_what_is_not_cut(self: store.Store, buffer: Any) -> None:
    _fail(self, buffer)
    self._uncut.clear()


def _nothing_held(*args: Any, **more: Any) -> recovery.Found:
    return _recover(*args, **more)._replace(held={})


_sync, _take, _did_read = appender.Appender.sync, capture.Capture._take, outbox.Lane.did_read
_judge, _fail, _recover = sessions.Instance.judge, store.Store.fail, recovery.recover
_release, _add, _next = outbox.Lane.release, outbox.Outbox.add, outbox.Lane.next


def _over_budget(self: outbox.Outbox, lane: outbox.Lane, number: int, one: bytes, reserve: bool = False) -> bool:
    limit, self._limit_bytes = self._limit_bytes, 1 << 40
    taken = _add(self, lane, number, one, reserve)
    self._limit_bytes = limit
    return taken


def _mutants() -> dict[str, Patches]:
    from llmdump_writer import main

    return {
        "what is in a file without a name is sent": [(outbox.Lane, "next", _next_of_a_lane_without_name)],
        "acknowledged before it is synced": [(appender.Appender, "sync", _sync_that_does_nothing)],
        "a failed sync is tried again on the same file": [(appender.Appender, "sync", _sync_tried_again)],
        "the directory is not synced": [(appender, "sync_directory", lambda directory: None)],
        "a batch comes again whole, and what is in it is stored again": [
            (capture.Capture, "_take", _taken_anew),
            (outbox.Packed, "after", _all_of_it),
        ],
        "a restarted writer does not say what it holds": [(main, "recover", _nothing_held)],
        "the order of batches is not checked": [(sessions.Instance, "judge", _any_seq)],
        "a batch of any session is taken": [(sessions.Instance, "judge", _any_nonce)],
        "what lies behind a page that was never written is held": [(recovery, "_has_hole", lambda damage, offset: False)],
        "what a failed sync left is only synced again": [(recovery, "_write_again", lambda path, begin, end: None)],
        "a torn tail is not cut": [(recovery, "_close", lambda path, name, kept: 0)],
        "records given up are left in a file that could not be cut": [(store.Store, "fail", _forget_what_is_not_cut)],
        "a place in the spill file is given back when it is read": [(outbox.Lane, "did_read", _freed_when_read)],
        "a stopping proxy forgets to spill": [(outbox.Lane, "left", lambda self: [])],
        "spill files of the dead are forgotten": [(orphans, "orphans", lambda directory, room: iter(()))],
        "a torn spill frame is taken for whole": [
            (spill, "_write_all", lambda fd, head, body, at: os.pwritev(fd, [head, body], at))
        ],
        "no gap records": [(recorder.Recorder, "tell_gaps", lambda self, ts: None)],
        "one record too many is forgotten": [(outbox.Lane, "release", lambda self, held: _release(self, held + bool(held)))],
        "what was under way is not sent again": [(outbox.Lane, "restart", _forget_under_way)],
        "the budget is not looked at": [(outbox.Outbox, "add", _over_budget)],
    }


MUTANTS: Final = _mutants()
RARELY_FOUND: Final = frozenset(
    {
        "what is in a file without a name is sent",
        "what lies behind a page that was never written is held",
        "what a failed sync left is only synced again",
        "a batch comes again whole, and what is in it is stored again",
        "records given up are left in a file that could not be cut",
        "a place in the spill file is given back when it is read",
        "a stopping proxy forgets to spill",
    }
)
"""Not within some hundred seeds: the faults that it takes seldom come together."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product without this mechanism."""
    with ExitStack() as stack:
        for where, what, other in MUTANTS[name]:
            stack.enter_context(mock.patch.object(where, what, other))
        yield


def seeds_until_found(name: str, most: int, first: int = 0) -> tuple[int | None, str]:
    """How many seeds it took, and what failed; None if all of them passed."""
    with mutated(name), quiet():
        for seed in range(first, first + most):
            failure = run(seed).world.failure
            if failure is not None:
                return seed - first + 1, f"{type(failure).__name__}: {failure}"
    return None, ""


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="PART OF: a part of them")
    options = parser.parse_args()
    for name in [name for name in MUTANTS if options.only in name][options.part[0] :: options.part[1]]:
        count, failure = seeds_until_found(name, options.most)
        print(f"{count or 'not found':>9}  {name}: {failure[:150]}", flush=True)


if __name__ == "__main__":
    main()
