"""What proxies that died have left in their spill files, sent on under their own names.

A living proxy that gets the lock of a dead instance has its files in hand, until all is acknowledged and they are gone,
or until it ends itself. Each lane of it gets a socket with the dead instance's id, a session and a small outbox of its own.
It is sent to the writer it was for; a lane that never had a writer goes to one that is in session with this proxy.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump_proxy.outbox import NEVER_SENT_LIMIT, Lane, Outbox, Session
from llmdump_proxy.spill import Found, Room, Spill, orphans
from llmdump_proxy.spilling import FileThread, LaneFile

LOOK_EVERY_S: Final = 1.0
LANES_AT_ONCE: Final = 4
LANE_BYTES: Final = 1024 * 1024
"""Of one lane in memory, beside `capture_memory_bytes`."""


class Peer(Protocol):
    """A socket to a writer."""

    def turn(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


Connect = Callable[[str, bytes, Session, Callable[[], None]], Peer]


class _Orphan:
    """One lane of an instance that died."""

    def __init__(self, thread: FileThread, spill: Spill, found: Found, taken: set[str]) -> None:
        """`taken`: the writers of this instance's lanes."""
        self.spill = spill
        self.taken = taken
        self.endpoint = found.endpoint
        self.peer: Peer | None = None
        # What never had a writer was never sent: one that holds it all the same holds another lane's numbers.
        lane = Lane(found.frames, sent_to=NEVER_SENT_LIMIT if found.endpoint else 0)
        lane.unnamed = not found.endpoint
        self.outbox = Outbox(LANE_BYTES, lane)
        self.file = LaneFile(thread, spill, self.outbox, lane, found.lane, self.changed)
        self._now = asyncio.get_running_loop().time

    def changed(self) -> None:
        """More can be sent, read or deleted."""
        self.file.look(self._now())
        if self.peer:
            self.peer.flush()

    @property
    def is_done(self) -> bool:
        """All is acknowledged, and its place given back."""
        return not self.outbox.held_bytes and self.file.is_idle


class Orphans:
    """All that this process has in hand. Methods are for the loop's thread."""

    def __init__(
        self,
        thread: FileThread,
        directory: Path,
        room: Room,
        connect: Connect,
        session: Callable[[Outbox], Session],
        open_endpoints: Callable[[], list[str]],
    ) -> None:
        """`open_endpoints` gives those of the writers that are in session with this process."""
        self._thread = thread
        self._directory = directory
        self._room = room
        self._connect = connect
        self._session = session
        self._open_endpoints = open_endpoints
        self._orphans: list[_Orphan] = []
        self._lost = 0

    async def keep_looking(self) -> None:
        """Take in hand what has no owner, again and again."""
        while True:
            for spill, lanes in await self._thread.run(self._adopt):
                taken = {found.endpoint for found in lanes}
                self._orphans += [_Orphan(self._thread, spill, found, taken) for found in lanes]
                records = sum(frame.records for found in lanes for frame in found.frames)
                log.info("spill_of_dead_proxy_found", instance=spill.instance, records=records)
            await asyncio.sleep(LOOK_EVERY_S)

    def tick(self) -> None:
        """Go on with those whose writer is there, and let go of those that are done."""
        active = [orphan for orphan in self._orphans if orphan.peer]
        endpoints = self._open_endpoints()
        for orphan in self._orphans:
            if not orphan.peer and len(active) < LANES_AT_ONCE and (endpoint := self._choose(orphan, endpoints)):
                self._begin(orphan, endpoint)
                active.append(orphan)
        for orphan in active:
            orphan.changed()
            if orphan.peer:
                orphan.peer.turn()
            if orphan.is_done:
                self._finish(orphan)

    async def close(self) -> None:
        """Let go of all; what is not acknowledged stays for the next proxy."""
        spills = {id(orphan.spill): orphan.spill for orphan in self._orphans}
        for orphan in self._orphans:
            if orphan.peer:
                orphan.peer.close()
        self._orphans.clear()
        for spill in spills.values():
            await self._close(spill)

    @property
    def held_bytes(self) -> int:
        """Records of dead instances that are not acknowledged."""
        return sum(orphan.outbox.held_bytes for orphan in self._orphans)

    @property
    def lost(self) -> int:
        """Their records that could not be read."""
        return self._lost + sum(orphan.outbox.lost for orphan in self._orphans)

    def _adopt(self) -> list[tuple[Spill, list[Found]]]:
        """In the thread: what is found and not empty. What the disk refuses is left for the next look."""
        adopted = []
        try:
            for spill in orphans(self._directory, self._room):
                if lanes := self._found(spill):
                    adopted.append((spill, lanes))  # noqa: PERF401 - those before an error are in hand
        except OSError:
            count_swallowed("look_for_orphans")
        return adopted

    def _found(self, spill: Spill) -> list[Found]:
        try:
            lanes = spill.found()
            if not lanes:
                spill.close()
        except OSError:
            spill.let_go()
            raise
        return lanes

    def _begin(self, orphan: _Orphan, endpoint: str) -> None:
        orphan.endpoint = endpoint
        orphan.taken.add(endpoint)
        orphan.file.belongs_to(endpoint)
        instance = orphan.spill.instance.encode("ascii")
        orphan.peer = self._connect(endpoint, instance, self._session(orphan.outbox), orphan.changed)

    def _finish(self, orphan: _Orphan) -> None:
        if orphan.peer:
            orphan.peer.close()
        self._lost += orphan.outbox.lost
        self._orphans.remove(orphan)
        log.info("spill_of_dead_proxy_sent", instance=orphan.spill.instance, records=orphan.outbox.acknowledged)
        if all(other.spill is not orphan.spill for other in self._orphans):
            asyncio.create_task(self._close(orphan.spill))  # noqa: RUF006 - the thread does it even if nobody waits

    def _choose(self, orphan: _Orphan, there: list[str]) -> str:
        """Where a lane can be sent now; nothing if that writer is not there. Two lanes of an instance never go to one writer:
        it knows the instance's numbers by the highest."""
        if orphan.endpoint:
            return orphan.endpoint if orphan.endpoint in there else ""
        return next((endpoint for endpoint in there if endpoint not in orphan.taken), "")

    async def _close(self, spill: Spill) -> None:
        try:
            await self._thread.run(spill.close)
        except OSError:
            count_swallowed("spill_close")
