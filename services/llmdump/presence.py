"""Who is alive: one small file a process in `<data>/run`, locked as long as the process lives.

The kernel drops a lock (flock(2)) when its holder dies, however it dies, so a locked file is a living process and an
unlocked one a leftover. A leftover is never taken over but replaced, for its content would speak for a dead process until
the new one has written; so that two cannot replace each other's, claims are made one at a time (a lock on the directory).

The file says what the others need to know: the slot (0, 1, 2 … for several processes of one role), the address of its
metrics, where a writer takes records, and whether it is stopping. All processes of an instance see the same directory,
in containers too (a shared volume).

honcho ends all processes at the same moment; the order of leaving (proxies, then writers, then the indexer) is kept by
each waiting for those before it that say they are stopping.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

SLOTS_MAX: Final = 256


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a living process tells the others."""

    role: str
    slot: int
    pid: int
    started_at: float
    state: str = "starting"
    """`starting`, `running`, `retiring` (a proxy that only finishes what it has) or `stopping`."""
    admin: str = ""
    """Base URL of its /metrics and /healthz."""
    listen: str = ""
    """Where it serves: the proxy's and the api's address, a writer's ZeroMQ endpoint."""
    instance: str = ""
    """A proxy's instance id."""
    version: str = ""

    @property
    def name(self) -> str:
        """`role-slot`, as in `writer-0`."""
        return f"{self.role}-{self.slot}"


class Presence:
    """This process's own card, held from `claim` until `release` or death."""

    def __init__(self, fd: int, path: Path, card: Card) -> None:
        self._fd = fd
        self._path = path
        self.card = card

    @classmethod
    def claim(cls, run: Path, role: str, version: str = "") -> "Presence":
        """Take the lowest free slot of a role. Blocking, milliseconds. Raises OSError if the directory is not writable
        or RuntimeError if all slots are taken."""
        with _alone(run):
            for slot in range(SLOTS_MAX):
                path = run / f"{role}-{slot}.json"
                if _is_held(path):
                    continue
                card = Card(role=role, slot=slot, pid=os.getpid(), started_at=time.time(), version=version)
                presence = cls(_replace(path), path, card)
                presence.update()
                return presence
        raise RuntimeError(f"{SLOTS_MAX} processes of role {role} hold a slot in {run}; stop some of them")

    def update(self, **changes: Any) -> None:
        """Change the card and write it. Blocking. Readers see the old card or the new one."""
        self.card = msgspec.structs.replace(self.card, **changes)
        content = msgspec.json.encode(self.card)
        os.pwrite(self._fd, content.ljust(1023) + b"\n", 0)

    def release(self) -> None:
        """Leave: the file goes, and with it the lock."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._fd)


def living(run: Path, role: str | None = None) -> list[Card]:
    """The cards of all living processes (of one role), by name. Blocking, well under a millisecond a process."""
    cards = []
    for path in sorted(run.glob(f"{role or '*'}-*.json")):
        card = _read_if_locked(path)
        if card is not None and (role is None or card.role == role):
            cards.append(card)
    return sorted(cards, key=lambda card: (card.role, card.slot))


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """No other process claims anything in here."""
    fd = os.open(run, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path) -> int:
    """An open, exclusively locked descriptor of a new, empty file at `path`."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)  # whoever looks at it in this instant lets go in the next
    return fd


def _is_held(path: Path) -> bool:
    """Whether a living process holds the slot."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read_if_locked(path: Path) -> Card | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        # Linux file systems may give a reader half of a write that is under way: once in thousands, and not twice.
        return _parse(os.pread(fd, 4096, 0)) or _parse(os.pread(fd, 4096, 0))
    finally:
        os.close(fd)
    return None


def _parse(content: bytes) -> Card | None:
    try:
        return msgspec.json.decode(content, type=Card)
    except msgspec.DecodeError:
        return None  # claimed a moment ago and not written yet
