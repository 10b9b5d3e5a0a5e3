"""`llmdump demo`: a first capture without a key."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from llmdump import health, process, together
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.demo import exchanges, show
from llmdump.settings import Settings


async def run(settings: Settings, data: DataDir, arguments: list[str]) -> bool:
    """Send the demo's exchanges and print what was captured; whether all of it was. Raises DemoError, NotReadyError."""
    listen = show.backend_listen(settings)
    async with contextlib.AsyncExitStack() as stack:
        starts = await _need_to_start(data)
        if starts:
            click.echo("Nothing is running: starting the four processes for the length of this demo.")
            await stack.enter_async_context(_all_running(data, arguments))
        await stack.enter_async_context(show.simulated_backend(listen))
        where = await asyncio.to_thread(show.place, settings, data)
        return await _show(where, data, starts)


@contextlib.asynccontextmanager
async def _all_running(data: DataDir, arguments: list[str]) -> AsyncIterator[None]:
    """The four processes, working; stopped at the end. Raises NotReadyError, OSError."""
    with tempfile.TemporaryFile() as log:
        group = together.Together(data, log)
        try:
            for role in health.ROLES:
                group.start(role, arguments)
            await asyncio.to_thread(group.wait)
            yield
        finally:
            await asyncio.to_thread(group.stop)


async def _need_to_start(data: DataDir) -> bool:
    found = await asyncio.to_thread(health.look, data)
    missing = health.missing(found)
    if missing and found:
        raise show.DemoError(f"not running: {', '.join(missing)}; start `llmdump-{missing[0]}`, or stop the others")
    return not found


async def _show(where: show.Place, data: DataDir, stops: bool) -> bool:
    wanted = exchanges.all_exchanges()
    now = datetime.now(UTC)
    since = now.replace(microsecond=now.microsecond // 1000 * 1000)  # the api's times are whole milliseconds
    click.echo(f"Sending {len(wanted)} requests through {where.proxy}{exchanges.PREFIX} …\n")
    await show.send_all(where.proxy, wanted)
    found = await show.captured(where, since, wanted)
    click.echo(show.table(wanted, found))
    kept = [trace for trace in found if trace is not None]
    click.echo(f"\n{len(kept)} of {len(wanted)} captured, in {data.segments}")
    if stops:
        click.echo("\nThe processes stop now. Start them with `make run`; what was captured stays:")
    if kept:
        click.echo("\n" + show.next_commands(where, data, kept[0]))
    return len(kept) == len(wanted)


@click.command("demo")
@options.where
def command(**flags: Any) -> None:
    """Send a few exchanges of a simulated backend through the pipeline and show what was captured.

    Uses the processes that run, or starts them for as long as it takes. Exit code 0 only if every exchange was captured.
    """
    arguments = [
        text for name in ("config", "data_dir") if (value := flags[name]) for text in (f"--{name.replace('_', '-')}", value)
    ]
    settings = process.load_or_exit(flags).settings
    try:
        complete = asyncio.run(run(settings, DataDir(Path(settings.data_dir)), arguments))
    except (show.DemoError, together.NotReadyError, OSError) as err:
        process.fail(str(err))
    if not complete:
        process.fail("not everything was captured; `llmdump status` and the processes' log lines may say why")
