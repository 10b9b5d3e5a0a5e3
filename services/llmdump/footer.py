"""The last entry of a closed segment: what it holds, so that nobody must read the whole of it to know.

A record of kind `footer`, number 0, of the instance `0000000000000000`: `x_records` is the count of records before it,
`x_instances` for each proxy instance [first number, last number, count].
"""

from collections.abc import Mapping
from typing import Final

from llmdump import record
from llmdump.record import PROXY_TO_CLIENT, DamageError, Identity, Record

KIND: Final = "footer"
_IDENTITY: Final = Identity("0" * 16)
_KIND_ENTRY: Final = record.kind_entry(KIND)

BYTES_MAX: Final = {"cbor": 240, "jsonl": 900}
"""Bytes of a footer without instances, at most, by format."""
BYTES_PER_INSTANCE_MAX: Final = {"cbor": 48, "jsonl": 90}

Spans = dict[str, tuple[int, int, int]]
"""For each instance first number, last number, count."""


def encode(ts: float, records: int, spans: Mapping[str, tuple[int, int, int]]) -> bytes:
    """The footer's record; its `seq` is still 0."""
    instances = {name: list(span) for name, span in spans.items()}
    extra, count = record.entries({"x_records": records, "x_instances": instances})
    return record.encode(ts, PROXY_TO_CLIENT, 0, b"", _IDENTITY, _KIND_ENTRY, extra, count)


def spans(footer: Record) -> Spans:
    """What a footer says of each instance. Raises DamageError."""
    try:
        return {name: (first, last, count) for name, (first, last, count) in footer.meta["x_instances"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise DamageError(f"a footer without x_instances: {err}") from err


def add(known: Spans, name: str, number: int) -> None:
    """Count one more record of an instance, its number higher than those before."""
    span = known.get(name)
    known[name] = (span[0], number, span[2] + 1) if span else (number, number, 1)


def room(file_format: str, instances: int) -> int:
    """Bytes to keep free in a file for its footer."""
    return BYTES_MAX[file_format] + BYTES_PER_INSTANCE_MAX[file_format] * instances
