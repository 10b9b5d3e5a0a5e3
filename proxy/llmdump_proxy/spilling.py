"""Between the lanes and their spill files: what goes into a file and what comes back, done by one thread.

The loop decides, the thread reads and writes: the forwarding loop makes no file call. Of each lane one batch at a time is
in the thread's hands to be written, and one to be read. A disk that is slow or refuses only makes that take longer: the
batch stays in memory, memory fills, and records are dropped with the reason; once it works again, all goes on by itself.
"""

import asyncio
import errno
import queue
import threading
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump_proxy.outbox import Frame, Lane, Outbox
from llmdump_proxy.spill import FrameDamagedError, Spill, SpillFullError

PAUSE_S: Final = 0.05
PAUSE_S_MAX: Final = 2.0
FULL_PAUSE_S: Final = 0.1
READ_TRIES: Final = 6
"""With pauses that double: a frame that cannot be read for 1.5 s is given up."""

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class FileThread:
    """A thread for file calls, in the order in which they are asked for. It never keeps the process from ending."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """What `call` gives or raises, later. It is done even if nobody waits for it any more."""
        future: asyncio.Future[T] = self._loop.create_future()

        def job() -> None:
            try:
                result = call(*args, **kwargs)
            except Exception as err:  # it is raised where `run` is awaited
                self._tell(_fail, future, err)
            else:
                self._tell(_finish, future, result)

        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spill", daemon=True)
            self._thread.start()
        return future

    def stop(self) -> None:
        """No more jobs; those that were asked for are still done, if the process lives so long."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _tell(self, call: Callable[["asyncio.Future[T]", V], None], future: "asyncio.Future[T]", value: V) -> None:
        try:
            self._loop.call_soon_threadsafe(call, future, value)
        except RuntimeError:
            count_swallowed("spill_loop_closed")


def _finish(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class LaneFile:
    """The file of one lane."""

    def __init__(
        self, thread: FileThread, spill: Spill, outbox: Outbox, lane: Lane, number: int, changed: Callable[[], None]
    ) -> None:
        """`number` names the lane in the file; `changed` is called when there is more to send, or room again."""
        self.lane = lane
        self.endpoint = ""
        """The lane's writer. While it has none, nothing is read back."""
        self.failing = ""
        """Why the last write failed, or nothing: an errno name, or `full`."""
        self.on_lost: Callable[[Frame], None] | None = None
        self._thread = thread
        self._spill = spill
        self._outbox = outbox
        self._number = number
        self._changed = changed
        self._writing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None
        self._naming: asyncio.Task[None] | None = None
        self._write_at = self._read_at = self._free_at = self._name_at = 0.0
        self._pause_s = self._name_pause_s = PAUSE_S
        self._tries = 0
        self._leaving = False

    def belongs_to(self, endpoint: str) -> None:
        """The lane has this writer. What the file has from before is given its name before anything is sent."""
        self.endpoint = endpoint
        self.look(asyncio.get_running_loop().time())

    def look(self, now: float) -> None:
        """Hand over what is to be written, read or deleted. Cheap when that is nothing."""
        if self._leaving or not self.lane.is_spilling:
            return
        if self._writing is None and now >= self._write_at:
            self._writing = asyncio.create_task(self._write())
        if self._naming is None and now >= self._name_at and self.endpoint and self.lane.unnamed:
            self._naming = asyncio.create_task(self._name())
        if self._reading is None and now >= self._read_at and self.endpoint and not self.lane.unnamed:
            self._reading = asyncio.create_task(self._read())
        if self._freeing is None and self.lane.freed and now >= self._free_at:
            self._freeing = asyncio.create_task(self._free())

    @property
    def is_idle(self) -> bool:
        """Nothing is to be done, or in the thread's hands."""
        return not (self.lane.is_spilling or self._writing or self._reading or self._freeing or self._naming)

    async def keep(self) -> int:
        """Write all that only memory has, in order: how many records. The process ends. Stops at the first error."""
        self._leaving = True
        # A writer that comes only now gets nothing: what is put into a file without a name was sent to nobody.
        self.lane.unnamed |= not self.endpoint
        await asyncio.gather(*(task for task in (self._writing, self._reading, self._freeing, self._naming) if task))
        kept = 0
        for packed in self.lane.left():
            try:
                await self._thread.run(self._spill.write, self._number, self.endpoint, packed, leaving=True)
            except (OSError, SpillFullError) as err:
                log.error("spill_refuses", error=_code(err))
                self.lane.unnamed &= kept + self.lane.count_on_file > 0
                return kept
            kept += len(packed.numbers)
        return kept

    async def _write(self) -> None:
        try:
            while not self._leaving and (packed := self.lane.to_write()) is not None:
                self.lane.unnamed |= not self.endpoint
                frame = await self._thread.run(self._spill.write, self._number, self.endpoint, packed)
                self._outbox.wrote(self.lane, frame)
                self._wrote()
                self._changed()
        except (OSError, SpillFullError) as err:
            self.lane.not_written()
            self.lane.unnamed &= self.lane.count_on_file > 0  # else the first write that works names it
            self._not_written(err)
        finally:
            self._writing = None

    async def _name(self) -> None:
        """Tried again until the disk takes it: what could be read is not given up for that."""
        try:
            await self._thread.run(self._spill.name_writer, self._number, self.endpoint)
        except OSError:
            count_swallowed("spill_name_writer")
            self._name_at = asyncio.get_running_loop().time() + self._name_pause_s
            self._name_pause_s = min(2 * self._name_pause_s, PAUSE_S_MAX)
            return
        finally:
            self._naming = None
        self.lane.unnamed = False
        self._changed()

    def _wrote(self) -> None:
        if self.failing not in {"", "full"}:
            log.info("spill_disk_takes_writes_again", after=self.failing)
        self.failing, self._pause_s = "", PAUSE_S

    def _not_written(self, err: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(err, SpillFullError):
            self.failing, self._write_at = "full", now + FULL_PAUSE_S
            return
        count_swallowed("spill_write")
        if self.failing in {"", "full"}:
            log.error("spill_disk_refuses_writes", error=_code(err), instance=self._spill.instance)
        self.failing = _code(err)
        self._write_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    async def _read(self) -> None:
        try:
            while not self._leaving and (frame := self._outbox.to_read(self.lane)) is not None:
                packed = await self._thread.run(self._spill.read, frame)
                self._outbox.did_read(self.lane, packed)
                self._tries = 0
                self._changed()
        except (OSError, FrameDamagedError) as err:
            self._not_read(err)
        finally:
            self._reading = None

    def _not_read(self, err: Exception) -> None:
        self._tries += 1
        if isinstance(err, OSError) and self._tries < READ_TRIES:
            count_swallowed("spill_read")
            self._outbox.not_read(self.lane)
            self._read_at = asyncio.get_running_loop().time() + PAUSE_S * 2 ** (self._tries - 1)
            return
        self._tries = 0
        frame = self._outbox.lose(self.lane)
        log.error("spilled_records_lost", records=frame.records, first=frame.first, last=frame.last, error=_code(err))
        if self.on_lost:
            self.on_lost(frame)
        self._changed()

    async def _free(self) -> None:
        frames, self.lane.freed = self.lane.freed, []
        try:
            kept = await self._thread.run(self._spill.free, frames)
        finally:
            self._freeing = None
        if kept:
            count_swallowed("spill_delete")
            self.lane.freed += kept
            self._free_at = asyncio.get_running_loop().time() + PAUSE_S_MAX
        self._changed()


def _code(err: Exception) -> str:
    if isinstance(err, OSError):
        return errno.errorcode.get(err.errno or 0, "unknown")
    return "full" if isinstance(err, SpillFullError) else "damaged"
