"""One exchange for the routes that read its records: its row, and its records in order, as they are asked for.

Records are read in the index's threads, a batch ahead of the one in use, so that whoever sends them on never waits for
the disk without need, and never holds more than two batches and the reader's window.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from aiohttp import web

from llmdump import pins, positions, segment
from llmdump.data_dir import DataDir
from llmdump.record import Record
from llmdump_api import query
from llmdump_api.gate import error
from llmdump_api.index import Index, Stored

BATCH_BYTES: Final = 256 * 1024
BATCH_RECORDS: Final = 1000

FindRow = Callable[[web.Request], Awaitable[tuple[Any, ...] | None]]
Answer = TypeVar("Answer")
SayGone = Callable[[Stored], web.Response]


class Refusal(Exception):  # noqa: N818 - not a failure: an answer, found where only an exception gets out
    """The answer where there is no exchange to read."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class Exchange:
    """An exchange whose first records were read."""

    def __init__(self, index: Index, row: dict[str, Any], records: Iterator[Record], first: list[Record]) -> None:
        self.row = row
        """The row object, as the list has it."""
        self._index = index
        self._records = records
        self._first = first

    async def read(self, work: Callable[[Iterator[Record]], Answer]) -> Answer:
        """What `work` makes of all records, in one of the threads; instead of `records`. Raises Refusal and what it raises."""
        try:
            return await self._index.run(lambda: work(itertools.chain(self._first, self._records)))
        except (OSError, ValueError) as err:
            raise Refusal(error(500, "segment_unreadable", str(err))) from err

    async def records(self) -> AsyncGenerator[Record, None]:
        """All records, once. Raises OSError, ValueError where a segment cannot be read on."""
        batch = self._first
        while batch:
            ahead = asyncio.ensure_future(self._index.run(partial(_batch, self._records)))
            try:
                for record in batch:
                    yield record
                batch = await ahead
            finally:
                ahead.cancel()
                if ahead.done() and not ahead.cancelled():
                    ahead.exception()  # seen: nobody may be left to raise it to


class Exchanges:
    """Finds exchanges that requests name."""

    def __init__(self, data: DataDir, index: Index, find_row: FindRow, say_gone: SayGone) -> None:
        """`find_row` gives the row of a request's `id`; `say_gone`, which blocks, the answer where its records are not."""
        self._data = data
        self._index = index
        self._find_row = find_row
        self._say_gone = say_gone

    async def row(self, request: web.Request) -> dict[str, Any]:
        """The row object. Raises Refusal, and what `find_row` raises."""
        row = await self._find_row(request)
        if row is None:
            raise Refusal(error(404, "not_found", "no exchange has this id"))
        return query.row_object(row)

    async def open(self, row: dict[str, Any]) -> Exchange:
        """The exchange of a row. Raises Refusal, IndexUnreadableError."""
        stored = await self._index.stored(row["id"])
        try:
            records, first = await self._index.run(partial(self._begin, row["id"], stored))
        except FileNotFoundError:
            raise Refusal(await self._index.run(partial(self._say_gone, stored))) from None
        except (OSError, ValueError) as err:
            raise Refusal(error(500, "segment_unreadable", str(err))) from err
        return Exchange(self._index, row, records, first)

    def _begin(self, exchange: str, stored: Stored) -> tuple[Iterator[Record], list[Record]]:
        """The records of the segments if all are there, else of the pinned copy. Blocking."""
        pieces = {piece.segment for piece in stored.pieces}
        if pieces and not stored.gone and all(segment.is_there(self._data.segments, one) for one in pieces):
            try:
                return _begun(item.record for item in positions.read(self._data.segments, stored.pieces))
            except FileNotFoundError:
                pass  # deleted between the look and the opening
        return _begun(pins.read(self._data, exchange))


def _begun(records: Iterator[Record]) -> tuple[Iterator[Record], list[Record]]:
    return records, _batch(records)


def _batch(records: Iterator[Record]) -> list[Record]:
    """The next records; none at the end. Blocking."""
    batch: list[Record] = []
    size = 0
    while size < BATCH_BYTES and len(batch) < BATCH_RECORDS and (record := next(records, None)) is not None:
        batch.append(record)
        size += len(record.data)
    return batch
