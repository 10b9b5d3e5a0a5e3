"""The api process: builds the parts and waits for the signal."""

from typing import Any

import aiohttp
from aiohttp import web

from llmdump import address, admin, process
from llmdump.process import Process
from llmdump.reading import prices
from llmdump_api import token
from llmdump_api.app import Api
from llmdump_api.fleet import ASK_TIMEOUT_S, Fleet
from llmdump_api.gate import Gate, names
from llmdump_api.index import Index
from llmdump_api.params import LINE_BYTES_MAX

# Answers under way may finish; a client that does not read must not hold up the leaving.
FINISH_WITHIN_S = 1.0


def main() -> None:
    """The console script `llmdump-api`."""
    process.main("api", "Serve what is recorded as JSON, and the metrics of all processes.", serve)


async def serve(running: Process) -> None:
    """Serve until stopped."""
    try:
        tokens = token.load_all(running.data)
        table = prices.load(running.settings.price_file)
        hosts = names(address.split(running.settings.api_listen)[0], running.settings.api_hosts)
    except (token.TokenError, prices.PriceFileError, ValueError) as err:
        process.fail(str(err))
    sock = address.listen(running.settings.api_listen)
    index = Index(running.data.index)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)) as http:
        fleet = Fleet(running.data.run, running.presence, http)
        gate = Gate(tokens, hosts)
        app = Api(running.data, running.presence, index, fleet, gate, running.settings, table).application()
        how: dict[str, Any] = {"access_log": None, "handle_signals": False, "shutdown_timeout": FINISH_WITHIN_S}
        runner = web.AppRunner(app, max_line_size=LINE_BYTES_MAX, **how)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        running.started(listen=address.bound(sock), admin="http://" + admin.reachable(sock))
        await running.stopping.wait()
        await runner.cleanup()
    index.close()
