"""`llmdump`: the commands beside the four processes.

Each command is a module of `llmdump.commands` with a click command of the name `command`, imported when it is called:
`llmdump --help` loads click and nothing else. A new command is a line in the table and a module.
"""

import importlib
import keyword
from typing import Final

import click

COMMANDS: Final = {
    "banner": "Where to point a client, where to read, how to see a first capture.",
    "config": "The settings in force and where each came from; the reference of all keys.",
    "demo": "Send a few exchanges of a simulated backend through the pipeline and show what was captured.",
    "export": "Exchanges for other tools: JSON Lines, CBOR V2, HAR, zip.",
    "import": "Captures of other tools, and our own, into an archive.",
    "keys": "New CURVE keys, for proxies and writers on different hosts.",
    "pin": "Keep an exchange whatever retention deletes, or (--remove) no longer.",
    "rebuild": "Make the index anew from the segment files, beside the one in use, and swap it in.",
    "status": "The living processes and their health; exit code 0 if all four work.",
    "verify": "The loss certificate: every record stored whole and indexed, or which are not and why.",
}

EXAMPLES: Final = """
\b
Examples:
  llmdump banner                                    where everything is
  llmdump demo                                      a first capture, without a key
  llmdump status                                    does it work?
  llmdump export --format har -o all.har            for other tools
  llmdump import browser.har session.cbor           captures of others
  llmdump keys new --dir keys                       proxies on other hosts
  llmdump verify                                    is anything missing, and why?
  llmdump config --reference                        every setting
  LLMDUMP_CAPTURE_FORMAT=jsonl llmdump config       what would be in force

The processes are llmdump-proxy, llmdump-writer, llmdump-indexer and llmdump-api; `honcho start` runs all four.
"""


class Commands(click.Group):
    """The table above as a click group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = importlib.import_module(f"llmdump.commands.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `llmdump --help`, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llmdump", message="llmdump %(version)s")
def main() -> None:
    """tcpdump for LLM gateways, with a loss certificate."""
