"""Parquet: a row an exchange, newest first, with what the index and the bodies say of it. Written by row groups.

Columns are those of the list (see docs/api.md, `tool_calls` as JSON), then what reading the bodies tells beside them: `text`
and `reasoning_text` of the answer, `calls` with their arguments and `usage_raw` as JSON. Times are timestamps of ms in UTC.
The key `llmdump_export` of the file's metadata has what other forms have in their last line.

pyarrow is an extra: it is imported when it is wanted.
"""

import importlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from llmdump.reading import from_records
from llmdump_api import query
from llmdump_api.export.selection import Exchange, ExportError, Selection

ROWS_PER_GROUP_MAX: Final = 1000
GROUP_CHARS_MAX: Final = 16 * 1024 * 1024
"""Of texts, in one row group."""
_TIMES: Final = ("ts_start", "ts_end")
_FLAGS: Final = ("disconnected", "truncated_req", "truncated_resp", "stream", "altered", "complete", "pinned")
_COUNTS: Final = (
    "status", "prompt_tokens", "completion_tokens", "total_tokens", "media_count", "cached_tokens", "cache_creation_tokens",
    "reasoning_tokens", "req_bytes", "resp_bytes", "resp_chunks", "own_first_us", "own_worst_us", "own_sum_us", "first_record",
    "last_record", "records_lost", "input_tokens", "input_uncached_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "event_count", "n_choices", "prefix_len", "depth",
)  # fmt: skip
_TEXTS: Final = ("text", "reasoning_text", "calls", "usage_raw")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS_MAX: Final = 253_402_300_799_999  # the last that Python's calendar has


class NotInstalledError(ExportError):
    """pyarrow is not there; the message says how to get it."""


class _Sink(io.RawIOBase):
    """What the writer wrote and nobody has taken yet."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._before = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += memoryview(data)
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._before + len(self._written)

    def take(self) -> bytes:
        """All of it."""
        taken = bytes(self._written)
        self._before += len(taken)
        self._written.clear()
        return taken


def stream(selection: Selection) -> Iterator[bytes]:
    """The file. Raises NotInstalledError, and what reading the selection raises."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as err:
        raise NotInstalledError("parquet needs pyarrow: pip install 'llmdump[parquet]'") from err
    sink, schema = _Sink(), _schema(arrow)
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in _groups(selection):
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            yield sink.take()
        writer.add_key_value_metadata({"llmdump_export": orjson.dumps(selection.told.shown()).decode()})
    yield sink.take()


def _schema(arrow: Any) -> Any:
    def kind(name: str) -> Any:
        if name in _TIMES:
            return arrow.timestamp("ms", tz="UTC")
        if name in _FLAGS:
            return arrow.bool_()
        if name in _COUNTS:
            return arrow.int64()
        is_number = name.endswith(("_ms", "_per_second")) or name == "cost_usd"
        return arrow.float64() if is_number else arrow.string()

    names = [*query.row_object((None,) * len(query.COLUMNS)), *_TEXTS]
    return arrow.schema([(name, kind(name)) for name in names])


def _groups(selection: Selection) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    chars = 0
    for exchange in selection.newest_first():
        rows.append(_row(exchange))
        chars += sum(len(rows[-1][name] or "") for name in _TEXTS)
        if len(rows) >= ROWS_PER_GROUP_MAX or chars >= GROUP_CHARS_MAX:
            yield rows
            rows, chars = [], 0
    if rows:
        yield rows


def _row(exchange: Exchange) -> dict[str, Any]:
    row = exchange.row
    told = from_records.read(exchange.records(), exchange.started_us, ended=row["end_reason"] == "complete").reading
    calls, usage = told.normalised["calls"], told.usage_raw
    return {
        **row,
        "ts_start": _time(exchange.ts_start_ms),
        "ts_end": _time(exchange.ts_end_ms),
        "tool_calls": None if row["tool_calls"] is None else _json(row["tool_calls"]),
        "text": told.text or None,
        "reasoning_text": told.reasoning_text or None,
        "calls": _json(calls) if calls else None,
        "usage_raw": _json(usage) if usage else None,
    }


def _json(value: Any) -> str | None:
    try:
        return orjson.dumps(value, default=float).decode()
    except (orjson.JSONEncodeError, OverflowError):
        return None  # nested too deep, or a number that nobody can read again


def _time(ts_ms: int | None) -> datetime | None:
    return None if ts_ms is None or not 0 <= ts_ms <= _MS_MAX else _EPOCH + timedelta(milliseconds=ts_ms)
