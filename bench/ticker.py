"""Calls at exact times: timers of an event loop are no finer than a millisecond, which would hide what is measured here.

A thread sleeps until each time (clock_nanosleep, some 60 µs late) and wakes the loop through an eventfd.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence


async def at_times(times_ns: Sequence[int], act: Callable[[int], None]) -> None:
    """Call `act(index)` in this loop at each of these rising times of the monotonic clock, late ones at once."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    acted = 0

    def woken() -> None:
        nonlocal acted
        for _ in range(os.eventfd_read(fd)):
            act(acted)
            acted += 1
        if acted == len(times_ns):
            done.set()

    loop.add_reader(fd, woken)
    thread = threading.Thread(target=_wake, args=(fd, times_ns), daemon=True)
    thread.start()
    try:
        await done.wait()
    finally:
        loop.remove_reader(fd)
        # Left early, as for Ctrl-C: the thread is a daemon and the descriptor goes with the process.
        if done.is_set():
            thread.join()
            os.close(fd)


def _wake(fd: int, times_ns: Sequence[int]) -> None:
    for at_ns in times_ns:
        left_ns = at_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        os.eventfd_write(fd, 1)
