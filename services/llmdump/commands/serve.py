"""`llmdump serve`: an archive as a backend. The work is the api's (`llmdump_api.serve`), which this becomes."""

from typing import Any, Final

import click

from llmdump import address, interrupt, process
from llmdump.commands import options

LISTEN: Final = "127.0.0.1:7863"
SPEED_MAX: Final = 100.0

_EPILOG: Final = """
\b
Examples:
  llmdump serve                                  what ./data holds
  llmdump serve --nodelay --after-last 404       for tests: quick, and each recording once
  llmdump serve old.cbor.zst new.cbor            files
  OPENAI_BASE_URL=http://127.0.0.1:7863/v1 python agent.py
"""


@click.command("serve", epilog=_EPILOG)
@click.argument("places", metavar="[DATA|FILE...]", nargs=-1, type=click.Path(exists=True))
@click.option("--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="Where to serve.")
@click.option(
    "--match",
    type=click.Choice(["exact", "conversation", "any-model", "path"]),
    default="conversation",
    show_default=True,
    help="How far a request may be from the recorded one. Each takes what those before it take, the nearest first.",
)
@click.option(
    "--after-last",
    type=click.Choice(["repeat", "404"]),
    default="repeat",
    show_default=True,
    help="When all recordings of a request have been given, one after another: the last one again, or an error.",
)
@click.option("--speed", type=click.FloatRange(0, SPEED_MAX, min_open=True), default=1.0, help="1 is the recorded pace.")
@click.option("--nodelay", is_flag=True, help="As fast as it can be sent.")
@click.option("--anyone", is_flag=True, help="Listen where others reach it too: whoever asks can read what was recorded.")
@options.where
def command(places: tuple[str, ...], **flags: Any) -> None:
    """Serve what was recorded to clients, in place of the backend.

    A request is matched with a recorded one by method, path and body; the answer is the recorded one, with its status,
    fields, bytes, chunks and pace, cut where it was cut. A request that fits none gets an error in its provider's shape
    that names the nearest recorded request and how it differs. No key is asked for. Stops on Ctrl-C.
    """
    try:
        host, _ = address.split(flags["listen"])
    except ValueError as err:
        process.fail(f"--listen: {err}", process.EXIT_SETTINGS)
    if not address.is_loopback(host) and not flags["anyone"]:
        process.fail(
            f"--listen {flags['listen']}: others can reach this, and whoever asks can read what was recorded; if they may, "
            "add --anyone",
            process.EXIT_SETTINGS,
        )
    process.load_or_exit({"config": flags["config"], "data_dir": flags["data_dir"]})
    arguments = [
        *(f"--{name}={flags[name.replace('-', '_')]}" for name in ("listen", "match", "after-last")),
        *([] if flags["nodelay"] else [f"--speed={flags['speed']}"]),
        *([f"--config={flags['config']}"] if flags["config"] else []),
        *([f"--settings=data_dir={flags['data_dir']}"] if flags["data_dir"] else []),
        "--",
        *places,
    ]
    interrupt.become("llmdump_api.serve", arguments)
