"""Time, processes and threads of a simulation: everything happens in one real thread, in an order that the seed gives.

A process is a set of descriptors that live and die with it; its threads run one event after another. A thread that
blocks (a file call that takes its time) goes on with the world from inside that call, so anything may happen meanwhile:
messages come, others write, this very process is killed. Then `Killed` leaves the call, and whatever the product does
on the way out, in its `finally`, comes to no file: a dead process can do nothing.

    World ── events by time ─▶ Thread.run ─▶ the product's code ─▶ block ─▶ the next events …

What the product asks of the system besides files and sockets is answered from here as well: both clocks and random bytes.
"""

import asyncio
import heapq
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

STEPS_MAX = 400_000
"""Of one seed: beyond, something turns in circles."""


class Killed(BaseException):
    """The process that made this call is dead."""


class Violation(BaseException):
    """A promise of the product was broken. Nothing in the product catches it."""


class Process:
    """One simulated process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.fds: set[int] = set()
        self.at_end: list[Callable[[], None]] = []
        """What the kernel does when it dies: connections break."""

    def end(self) -> None:
        """It dies now, of itself or not."""
        if not self.alive:
            return
        self.alive = False
        for fd in sorted(self.fds):
            _close(fd)
        self.fds.clear()
        for done in self.at_end:
            done()


_close = os.close


class Thread:
    """One thread of a process; runs nothing while it blocks."""

    def __init__(self, process: Process, loop: "Loop | None" = None) -> None:
        self.process = process
        self.loop = loop
        self.blocked = False
        self.deferred: list[Callable[[], None]] = []


class World:
    """One seed's."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        """The monotonic clock, seconds."""
        self.wall_offset_s = 1.7e9
        self.failure: BaseException | None = None
        self.current: Thread | None = None
        self.steps = 0
        self.log: list[str] = []
        self._events: list[tuple[float, int, Thread | None, Callable[[], None]]] = []
        self._order = itertools.count()
        self._random_bytes = random.Random(seed + 1)

    def note(self, what: str) -> None:
        """A line of the history that is shown with a failure."""
        self.log.append(f"{self.now - 1000:9.4f} {what}")

    def fail(self, because: BaseException) -> None:
        """The first failure ends the run."""
        if self.failure is None:
            self.failure = because
            self.note(f"FAILED {because!r}")

    def at(self, when: float, call: Callable[[], None], thread: Thread | None = None) -> None:
        """Do this at that time, in that thread."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), thread, call))

    def after(self, seconds: float, call: Callable[[], None], thread: Thread | None = None) -> None:
        """Do this so many seconds from now."""
        self.at(self.now + seconds, call, thread)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass, until `done` or that time; whether it was done."""
        while self._step(until):
            if done is not None and done():
                return True
        if self.failure is not None:
            raise self.failure
        self.now = max(self.now, until)
        return done is not None and done()

    def block(self, seconds: float) -> None:
        """The current thread waits in a system call. Raises Killed."""
        thread = self.current
        if thread is None:
            return
        thread.blocked = True
        until = self.now + seconds
        while thread.process.alive and self._step(until):
            pass
        self.now = max(self.now, until)
        self._unblock(thread)

    def wait(self, seconds: float, until: Callable[[], bool]) -> None:
        """As `block`, but no longer than until something is so."""
        thread = self.current
        assert thread is not None
        thread.blocked = True
        deadline = self.now + seconds
        while thread.process.alive and not until() and self._step(deadline):
            pass
        if not until():
            self.now = max(self.now, deadline)
        self._unblock(thread)

    def check_alive(self) -> None:
        """Raises Killed in a dead process."""
        if self.current is not None and not self.current.process.alive:
            raise Killed

    def _unblock(self, thread: Thread) -> None:
        thread.blocked = False
        for call in thread.deferred:
            self.at(self.now, call, thread)
        thread.deferred.clear()
        self._enter(thread)
        if not thread.process.alive or self.failure is not None:
            raise Killed

    def _step(self, until: float) -> bool:
        """One event, if there is one by then."""
        if self.failure is not None or not self._events or self._events[0][0] > until:
            return False
        when, _, thread, call = heapq.heappop(self._events)
        self.now = max(self.now, when)
        self.steps += 1
        if self.steps > STEPS_MAX:
            self.fail(Violation(f"more than {STEPS_MAX} events"))
        if thread is None:
            self._run(None, call)
        elif thread.blocked:
            thread.deferred.append(call)
        elif thread.process.alive:
            self._run(thread, call)
        return True

    def _run(self, thread: Thread | None, call: Callable[[], None]) -> None:
        before = self.current
        self._enter(thread)
        try:
            call()
        except Killed:
            pass
        except BaseException as err:
            self.fail(err)
        finally:
            self._enter(before)

    def _enter(self, thread: Thread | None) -> None:
        self.current = thread
        asyncio._set_running_loop(thread.loop if thread else None)

    @contextmanager
    def clocks(self) -> Iterator[None]:
        """Both clocks and the random bytes of this world, for all code."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(time, "monotonic", lambda: self.now))
            stack.enter_context(mock.patch.object(time, "time", lambda: self.now + self.wall_offset_s))
            stack.enter_context(mock.patch.object(os, "urandom", self._random_bytes.randbytes))
            try:
                yield
            finally:
                asyncio._set_running_loop(None)


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process: as much of it as the product uses."""

    def __init__(self, world: World, process: Process) -> None:
        self.thread = Thread(process, self)
        self.readers: dict[int, Callable[[], None]] = {}
        self.on_reader: Callable[[int], None] = lambda fd: None
        self._world = world
        self._tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        return self._world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return not self.thread.process.alive

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._world.at(self._world.now, lambda: None if handle.cancelled() else handle._run(), self.thread)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._world.at(when, lambda: None if handle.cancelled() else handle._run(), self.thread)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._world.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **more: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, **more)
        task._log_destroy_pending = False
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        future = self.create_future()
        thread = Thread(self.thread.process)

        def work() -> None:
            result = func(*args)
            self.call_soon(lambda: None if future.done() else future.set_result(result))

        self._world.after(self._world.random.uniform(0, 0.002), work, thread)
        return future

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self.readers[fd] = callback
        self.on_reader(fd)

    def remove_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._world.fail(context.get("exception") or Violation(context["message"]))

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (err := task.exception()) is not None:
            self._world.fail(err)
