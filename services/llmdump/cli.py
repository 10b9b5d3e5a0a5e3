"""`llmdump`: the commands beside the four processes.

Each command is a module of `llmdump.commands` with a click command of the name `command`, imported when it is called:
`llmdump --help` loads click and nothing else. A new command is a line in the table and a module.
"""

import importlib
import keyword
from typing import Any, Final

import click

from llmdump import interrupt
from llmdump.version import __version__

COMMANDS: Final = {
    "banner": "Where to point a client, where to read, how to see a first capture.",
    "config": "The settings in force and where each came from; the reference of all keys.",
    "demo": "Send a few exchanges of a simulated backend through the pipeline and show what was captured.",
    "diff": "Which part of a request is the first that is not as in another, and what that cost in the cache.",
    "doctor": "What is wrong, and the command that mends it.",
    "export": "Exchanges for other tools: JSON Lines, CBOR V2, HAR, Parquet, spans and more.",
    "import": "Captures of other tools, and our own, into an archive.",
    "inspect": "Look into capture files, of llmdump and of others: entries, timing, issues.",
    "keys": "New CURVE keys, for proxies and writers on different hosts.",
    "ls": "The exchanges of an archive, newest first.",
    "pin": "Keep an exchange whatever retention deletes, or (--remove) no longer.",
    "rebuild": "Make the index anew from the segment files, beside the one in use, and swap it in.",
    "resend": "Send a recorded request again, as it was or changed, and show both answers side by side.",
    "run": "Run a program with its requests recorded, and say at the end what they came to.",
    "serve": "Serve what was recorded to clients, in place of the backend: offline, at the recorded pace or faster.",
    "sessions": "Conversations, or one of them as a tree.",
    "show": "One exchange: conversation, tools, timing, bytes.",
    "stats": "Sums and percentiles over time, by model, key, client, status.",
    "status": "The living processes and their health; exit code 0 if all four work.",
    "tail": "Exchanges as they open, stream and end, live.",
    "up": "Start the four processes, here in the foreground; Ctrl-C stops them.",
    "verify": "The loss certificate: every record stored whole and indexed, or which are not and why.",
}

EXAMPLES: Final = """
\b
Examples:
  llmdump up                                        start everything
  llmdump doctor                                    what is wrong, and what mends it
  llmdump banner                                    where everything is
  llmdump demo                                      a first capture, without a key
  llmdump status                                    does it work?
  llmdump inspect session.cbor --detect-issues      any capture file, or a whole data directory
  llmdump export --format har -o all.har            for other tools
  llmdump import browser.har session.cbor           captures of others
  llmdump ls --filter 'status>=400' --since -1d     what failed since yesterday
  llmdump show -1                                   the last exchange
  llmdump keys new --dir keys                       proxies on other hosts
  llmdump tail --filter 'status>=400'               what happens now
  llmdump run -- claude                             a program, with its requests recorded
  llmdump resend ID --set model=gpt-5               ask again, changed
  llmdump serve --nodelay                           what was recorded, as a backend
  llmdump diff A B                                  why was that not read from the cache?
  llmdump verify                                    is anything missing, and why?
  llmdump config --reference                        every setting
  LLMDUMP_CAPTURE_FORMAT=jsonl llmdump config       what would be in force

The processes are llmdump-proxy, llmdump-writer, llmdump-indexer and llmdump-api; `llmdump up` and `honcho start` run all four.
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
        with interrupt.held():
            command = importlib.import_module(f"llmdump.commands.{module}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C ends it without a word."""
        with interrupt.quietly():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `llmdump --help`, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="llmdump %(version)s")
def main() -> None:
    """tcpdump for LLM gateways, with a loss certificate."""
