"""`llmdump config`: what is in force, and from where."""

import json
from typing import Any

import click
import msgspec

from llmdump import commands_page, process, reference
from llmdump.settings import Loaded, masked


def run(as_json: bool, page: str | None, **flags: Any) -> None:
    """Print the settings in force with their origin, or a reference page."""
    if page is not None:
        pages = {"settings": reference.settings_page, "metrics": reference.metrics_page, "commands": commands_page.page}
        click.echo(pages[page](), nl=False)
        return
    loaded = process.load_or_exit(flags)
    click.echo(_as_json(loaded) if as_json else _as_text(loaded))


def _values(loaded: Loaded) -> dict[str, Any]:
    return {key: masked(key, value) for key, value in msgspec.to_builtins(loaded.settings).items()}


def _as_json(loaded: Loaded) -> str:
    values = _values(loaded)
    told = {key: {"value": value, "from": loaded.origin.get(key, "default")} for key, value in values.items()}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _as_text(loaded: Loaded) -> str:
    """A line a key, as it would stand in llmdump.yaml (JSON is YAML), with its origin as the comment."""
    values = _values(loaded)
    lines = {key: f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()}
    return "\n".join(f"{line:<60}  # {loaded.origin.get(key, 'default')}" for key, line in lines.items())


HELP = """The settings in force and where each came from.

Texts to be masked in bodies and credentials in URLs are shown as ***.

Takes the flags of the processes, so `llmdump config FLAGS` shows what `llmdump-proxy FLAGS` would use.

\b
Examples:
  llmdump config
  llmdump config --json
  LLMDUMP_UPSTREAM=http://127.0.0.1:8080 llmdump config
  llmdump config --reference      every key, as in docs/settings.md
"""

command = click.Command(
    "config",
    callback=run,
    help=HELP,
    params=[
        click.Option(["--json", "as_json"], is_flag=True, help="As JSON."),
        click.Option(["--reference", "page"], flag_value="settings", default=None, help="Every key, as Markdown."),
        click.Option(["--metrics", "page"], flag_value="metrics", default=None, help="Every metric, as Markdown."),
        click.Option(["--commands", "page"], flag_value="commands", default=None, help="Every command, as Markdown."),
        *process.setting_options(),
    ],
)
