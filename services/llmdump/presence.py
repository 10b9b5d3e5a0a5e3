"""Who is alive: one small file a process in `<data>/run`, locked as long as the process lives.

The kernel drops a lock (flock(2)) when its holder dies, however it dies, so a locked file is a living process and an
unlocked one a leftover. The file says what the others need to know: the slot (0, 1, 2 … for several processes of one
role), the address of its metrics, where a writer takes records, and whether it is stopping. All processes of an
instance see the same directory, in containers too (a shared volume).

honcho ends all processes at the same moment; the order of leaving (proxies, then writers, then the indexer) is kept by
each waiting for those before it that say they are stopping.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any, Final

import msgspec

SLOTS_MAX: Final = 256
# A look at a file locks it for an instant (`living`), so a claim that fails is tried again before it counts.
_CLAIM_TRIES: Final = 5
_CLAIM_PAUSE_S: Final = 0.01


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a living process tells the others."""

    role: str
    slot: int
    pid: int
    started_at: float
    state: str = "starting"
    """`starting`, `running` or `stopping`."""
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
        for slot in range(SLOTS_MAX):
            path = run / f"{role}-{slot}.json"
            fd = _lock(path)
            if fd is not None:
                card = Card(role=role, slot=slot, pid=os.getpid(), started_at=time.time(), version=version)
                presence = cls(fd, path, card)
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


def _lock(path: Path) -> int | None:
    """An open, exclusively locked descriptor of a new file at `path`, or None if another process holds one there.

    A leftover is removed, not taken over: its card would speak for a dead process until the new one is written.
    """
    for _ in range(_CLAIM_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            time.sleep(_CLAIM_PAUSE_S)
            continue
        if _is_at(fd, path):
            if not os.fstat(fd).st_size:
                return fd
            path.unlink()
        os.close(fd)
    return None


def _is_at(fd: int, path: Path) -> bool:
    """Whether `fd` is still the file at `path`: its last holder may have removed it between our open and our lock."""
    try:
        return os.fstat(fd).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _read_if_locked(path: Path) -> Card | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _parse(os.pread(fd, 4096, 0))
    finally:
        os.close(fd)
    return None


def _parse(content: bytes) -> Card | None:
    try:
        return msgspec.json.decode(content, type=Card)
    except msgspec.DecodeError:
        return None  # claimed a moment ago and not written yet
