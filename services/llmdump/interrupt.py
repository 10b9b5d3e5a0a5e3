"""Ctrl-C ends a command without a word and with exit code 130, from its first moment on.

KeyboardInterrupt lets a command put away what it made, but while Python imports there is nobody who catches it, and a
traceback is what people see. So SIGINT means, in this order:

    at_once     the process ends where it is: there is nothing to put away yet
    held        it waits: while modules are imported, and from before another program is become or started, which
                inherits that, until that one is at work
    quietly     KeyboardInterrupt, caught outside of all that may want to put something away

Where SIGINT is ignored, as in what a shell has started in the background, it stays so.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

EXIT_INTERRUPTED: Final = 130
"""As a shell tells of what SIGINT ended."""


def at_once() -> None:
    """From now on SIGINT ends the process where it is."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def held() -> Iterator[None]:
    """In this block SIGINT waits; what is started in it must be one that calls `quietly`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def quietly() -> Iterator[None]:
    """In this block, or in the function that has it as a decorator, SIGINT is a KeyboardInterrupt, which ends the process."""
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield
    except KeyboardInterrupt:
        at_once()
        raise SystemExit(EXIT_INTERRUPTED) from None


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Become a module of another package, whose main calls `quietly`. Raises OSError."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
