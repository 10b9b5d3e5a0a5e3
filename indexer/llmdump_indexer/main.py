"""The indexer process: one thread follows the segments, the main thread answers for it and waits for the signal."""

import asyncio
import threading
import time
from typing import Final, NoReturn

from llmdump import admin, process
from llmdump.process import Process
from llmdump.reading import prices
from llmdump_indexer.follow import Follower
from llmdump_indexer.index import NewerIndexError

# Of the 4 s that leaving may take: writers hand over within the first, catching up has the rest.
WAIT_FOR_WRITERS_S: Final = 3.4
LEAVE_WITHIN_S: Final = 3.9


def main() -> NoReturn:
    """The console script `llmdump-indexer`."""
    process.main("indexer", "Follow the segment files and keep the index: one row an exchange.", serve)


async def serve(running: Process) -> None:
    """Index until stopped; then, once the writers have left, all that they have written."""
    try:
        table = prices.load(running.settings.price_file)
    except prices.PriceFileError as err:
        process.fail(str(err), process.EXIT_SETTINGS)
    follower = Follower(running.data, table=table, keep_rows_s=running.settings.index_max_age_s)
    loop = asyncio.get_running_loop()
    work = loop.create_future()
    thread = threading.Thread(target=_work, args=(follower, loop, work), name="follow", daemon=True)
    pages = await admin.serve(running.settings.indexer_admin_listen, running.presence, follower.samples, follower.health)
    thread.start()
    running.started()
    stopping = asyncio.create_task(running.stopping.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await running.others_have_left("writer", WAIT_FOR_WRITERS_S)
            await _finish(follower, work, running)
        if work.done():
            work.result()
    except NewerIndexError as err:
        process.fail(str(err))
    finally:
        stopping.cancel()
        follower.abandon()
        pages.close()


async def _finish(follower: Follower, work: "asyncio.Future[None]", running: Process) -> None:
    """Catch up, for as long as there is time; what is left is read after the next start."""
    follower.finish()
    await asyncio.wait({work}, timeout=max(0.0, running.stopping_since + LEAVE_WITHIN_S - time.monotonic()))
    if not work.done():
        follower.abandon()
        await asyncio.wait({work}, timeout=process.LEAVE_WITHIN_S - LEAVE_WITHIN_S)


def _work(follower: Follower, loop: asyncio.AbstractEventLoop, work: "asyncio.Future[None]") -> None:
    error: BaseException | None = None
    try:
        follower.run()
    except BaseException as err:  # told to the main thread, which ends the process with it
        error = err
    loop.call_soon_threadsafe(_tell, work, error)


def _tell(work: "asyncio.Future[None]", error: BaseException | None) -> None:
    if work.done():
        return
    if error is None:
        work.set_result(None)
    else:
        work.set_exception(error)
