"""How often requests without a token may fail: a bucket for each client address, and one for all together. Pure.

Each failure takes one from both buckets, and they fill again with time. Where one of them is empty the answer is 429 with
Retry-After, until it has one again. A right token always passes: nobody who fails can lock its owner out, not from the same
machine either, and of 2^256 tokens none is guessed at any pace. What is bounded is the noise, and what it costs.

Of an IPv6 address the first 64 bits count, for who has one has them all. Addresses are forgotten when their bucket is full
again, or when there are too many, the longest unseen first.
"""

import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

EACH_MAX: Final = 20
EACH_EVERY_S: Final = 3.0
"""One more for an address each so many seconds."""
ALL_MAX: Final = 400
ALL_EVERY_S: Final = 0.05
ADDRESSES_MAX: Final = 4096


class Bucket:
    """Holds up to `most`, and gets one each `every_s`."""

    __slots__ = ("_at", "_every_s", "_held", "_most")

    def __init__(self, most: int, every_s: float, now: float) -> None:
        self._most, self._every_s = most, every_s
        self._held, self._at = float(most), now

    def take(self, now: float) -> float:
        """Take one; 0, or for how long there is none, in seconds."""
        self._fill(now)
        if self._held >= 1:
            self._held -= 1
            return 0.0
        return (1 - self._held) * self._every_s

    def is_full(self, now: float) -> bool:
        """Whether nothing has been taken for long enough."""
        self._fill(now)
        return self._held >= self._most

    def _fill(self, now: float) -> None:
        self._held = min(float(self._most), self._held + max(0.0, now - self._at) / self._every_s)
        self._at = max(self._at, now)


class Failures:
    """The buckets."""

    def __init__(self, now: float) -> None:
        self._all = Bucket(ALL_MAX, ALL_EVERY_S, now)
        self._each: OrderedDict[str, Bucket] = OrderedDict()

    def count(self, address: str, now: float) -> int:
        """One more from this address; 0, or after how many seconds it may be tried again."""
        name = group(address)
        bucket = self._each.pop(name, None) or Bucket(EACH_MAX, EACH_EVERY_S, now)
        self._each[name] = bucket
        self._forget(now)
        return math.ceil(max(bucket.take(now), self._all.take(now)))

    def __len__(self) -> int:
        return len(self._each)

    def _forget(self, now: float) -> None:
        while len(self._each) > 1 and (len(self._each) > ADDRESSES_MAX or next(iter(self._each.values())).is_full(now)):
            self._each.popitem(last=False)


def group(address: str) -> str:
    """What counts as one client."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
