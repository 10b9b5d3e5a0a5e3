"""`llmdump resend`: a recorded request sent again. The work is the api's (`llmdump_api.resend`), which this becomes."""

from pathlib import Path
from typing import Any, Final

import click

from llmdump import interrupt, process
from llmdump.commands import options
from llmdump.data_dir import DataDir

_EPILOG: Final = """
\b
Examples:
  llmdump resend ID                                     to the backend it went to
  llmdump resend ID --set model=gpt-5 --set temperature=0
  llmdump resend ID --set messages.0.content="Say it in French" --via
  llmdump resend ID --to http://127.0.0.1:8080 --patch changes.json --json
"""


@click.command("resend", epilog=_EPILOG)
@click.argument("id_", metavar="ID")
@click.option("--to", metavar="URL", default="", help="Send it here, in place of the backend's origin.")
@click.option("--via", is_flag=True, help="Send it through the running proxy, so that it is recorded.")
@click.option("--set", "sets", metavar="PATH=VALUE", multiple=True, help="Change the JSON body; VALUE is JSON, else a text.")
@click.option("--patch", metavar="FILE", type=click.Path(exists=True), help="Change the JSON body by a merge patch (RFC 7396).")
@click.option("--key-env", metavar="NAME", default="", help="The environment variable with the key, if not the provider's own.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@options.where
def command(id_: str, to: str, via: bool, sets: tuple[str, ...], patch: str | None, **flags: Any) -> None:
    """Send a recorded request again, as it was or changed, and show both answers side by side.

    ID is that of a row. Keys are never recorded: the key is taken from the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY,
    GEMINI_API_KEY, otherwise PROVIDER_API_KEY). This costs what the request costs. Exit code 0 if the new answer is no
    error.
    """
    if to and via:
        raise click.UsageError("--to and --via cannot go together: the proxy's routes say where it goes")
    key_env, wants_json = flags.pop("key_env"), flags.pop("wants_json")
    settings = process.load_or_exit(flags).settings
    arguments = [
        f"--root={DataDir(Path(settings.data_dir)).root}",
        f"--price-file={settings.price_file}",
        f"--proxy-listen={settings.proxy_listen}",
        f"--to={to}",
        f"--key-env={key_env}",
        *["--via"] * via,
        *(f"--set={one}" for one in sets),
        *([f"--patch={patch}"] if patch else []),
        *["--json"] * wants_json,
        "--",
        id_,
    ]
    interrupt.become("llmdump_api.resend", arguments)
