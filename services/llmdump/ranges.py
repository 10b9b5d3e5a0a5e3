"""Sets of record numbers as ranges: (first, last) pairs, both within, rising, and apart by at least one number. Pure.

A healthy instance is one range however many records it made, so what is known of a capture fits in memory.
"""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]
Ranges = list[Range]


def merged(pairs: Iterable[Range]) -> Ranges:
    """The union of any pairs; empty ones (last before first) are passed over."""
    found: Ranges = []
    for first, last in sorted(pair for pair in pairs if pair[0] <= pair[1]):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def both(left: Sequence[Range], right: Sequence[Range]) -> Ranges:
    """The numbers in both."""
    found: Ranges = []
    at = other = 0
    while at < len(left) and other < len(right):
        first, last = max(left[at][0], right[other][0]), min(left[at][1], right[other][1])
        if first <= last:
            found.append((first, last))
        if left[at][1] < right[other][1]:
            at += 1
        else:
            other += 1
    return found


def without(left: Sequence[Range], right: Sequence[Range]) -> Ranges:
    """The numbers of `left` that are not in `right`."""
    if not left:
        return []
    holes, at = [], left[0][0]
    for first, last in right:
        holes.append((at, first - 1))
        at = max(at, last + 1)
    holes.append((at, left[-1][1]))
    return both(left, [hole for hole in holes if hole[0] <= hole[1]])


def count(numbers: Iterable[Range]) -> int:
    """How many numbers."""
    return sum(last - first + 1 for first, last in numbers)


def text(numbers: Sequence[Range], most: int) -> str:
    """As in `3-7, 9`; the first `most` ranges, and how many more there are."""
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in numbers[:most]]
    more = len(numbers) - most
    return ", ".join([*shown, f"and {more} more ranges"] if more > 0 else shown)
