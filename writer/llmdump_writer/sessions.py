"""What each proxy instance has been told: its session, what was taken from it, what of that is durable. Pure.

    hello ──▶ session (nonce, next seq 1) ──batch in order──▶ taken ──flushed──▶ held ──▶ ACK
                 │ wrong seq, bad batch, failed flush
                 ▼
               over: RESYNC once; more batches of this nonce are left without an answer

`docs/wire.md` has the rules. For each instance `held` never falls, and `taken` is `held` plus what waits for a flush;
`taken` falls back to `held` when a flush fails.
"""

from collections import deque
from enum import Enum
from typing import Final

INSTANCES_MAX: Final = 100_000
"""Instances remembered. One is a run of one proxy; the oldest without a session go first."""
_NONCES_KEPT: Final = 8
_RESYNC_EVERY_S: Final = 1.0


class Verdict(Enum):
    """What to do with a batch."""

    TAKE = "take"
    LEAVE = "leave"
    RESYNC = "resync"


class Instance:
    """One proxy instance, as this writer knows it."""

    __slots__ = ("_next_resync_at", "earlier", "held", "next_seq", "nonce", "taken")

    def __init__(self, held: int = 0) -> None:
        self.held = held
        """Highest number that is durable."""
        self.taken = held
        """Highest number that is durable or waits for a flush."""
        self.nonce = b""
        """Of the session; empty when there is none."""
        self.next_seq = 0
        self.earlier: deque[bytes] = deque(maxlen=_NONCES_KEPT)
        self._next_resync_at = 0.0

    def open(self, nonce: bytes) -> None:
        """Begin a session, ending the one there may be."""
        self.close()
        self.nonce, self.next_seq = nonce, 1

    def close(self) -> None:
        """End the session, if there is one."""
        if self.nonce:
            self.earlier.append(self.nonce)
        self.nonce = b""

    def judge(self, nonce: bytes, seq: int, now: float) -> Verdict:
        """What to do with a batch of this nonce and seq. With TAKE, the next seq is expected from here on."""
        if nonce == self.nonce:
            if seq == self.next_seq:
                self.next_seq += 1
                return Verdict.TAKE
            self.close()
            return Verdict.RESYNC
        if nonce in self.earlier or now < self._next_resync_at:
            return Verdict.LEAVE
        self._next_resync_at = now + _RESYNC_EVERY_S
        return Verdict.RESYNC


class Sessions:
    """All instances. Memory: some 500 bytes each."""

    def __init__(self, held: dict[str, int], instances_max: int = INSTANCES_MAX) -> None:
        """`held` is what the files hold, oldest instance first."""
        self._instances_max = instances_max
        self._instances: dict[str, Instance] = {}
        for name, number in held.items():
            self.get(name).held = self.get(name).taken = number

    def get(self, name: str) -> Instance:
        """The instance of this name, made where it is new."""
        found = self._instances.get(name)
        if found is None:
            if len(self._instances) >= self._instances_max:
                self._forget_one()
            found = self._instances[name] = Instance()
        return found

    def in_session(self) -> list[str]:
        """The names of all instances with a session."""
        return [name for name, instance in self._instances.items() if instance.nonce]

    def give_up(self) -> list[tuple[str, bytes]]:
        """A flush failed: nothing that waited was stored. Ends all sessions; gives (instance, nonce) of each."""
        ended = []
        for name, instance in self._instances.items():
            instance.taken = instance.held
            if instance.nonce:
                ended.append((name, instance.nonce))
                instance.close()
        return ended

    def _forget_one(self) -> None:
        idle = (name for name, one in self._instances.items() if not one.nonce and one.taken == one.held)
        self._instances.pop(next(idle, next(iter(self._instances))))
