"""Every read of both bodies of an exchange, one JSON object a line, made as the records are read. Pure.

{"side": "request", "offset": 0, "size": 32, "t_us": 1002, "record": 3}
{"side": "response", "offset": 0, "size": 9, "t_us": 53121, "record": 6, "kept": 4}
"""

import math
from typing import Any, Final

import orjson

from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump_api.trace import split_answer

SIDES: Final = ("request", "response")


class Chunks:
    """The lines of one exchange; takes its records in order."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._offsets = dict.fromkeys(SIDES, 0)

    def line(self, record: Record) -> bytes:
        """The line of a record with body bytes, or nothing."""
        if self._began_s is None:
            self._began_s = record.ts
        if record.kind in {"chunk", "pipe"}:
            side = "request" if record.direction == CLIENT_TO_PROXY else "response"
            return self._told(side, record.meta.get("x_cut", len(record.data)), len(record.data), record)
        if record.kind == "answer":
            size = len(split_answer(record)[1])
            return self._told("response", size, size, record)
        return b""

    def _told(self, side: str, size: int, kept: int, record: Record) -> bytes:
        told: dict[str, Any] = {
            "side": side, "offset": self._offsets[side], "size": size, "t_us": self._t_us(record.ts), "record": record.number,
        }  # fmt: skip
        if kept != size:
            told["kept"] = kept
        self._offsets[side] += size
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)

    def _t_us(self, ts: float) -> int | None:
        assert self._began_s is not None
        after_s = ts - self._began_s
        return round(after_s * 1e6) if math.isfinite(after_s) else None
