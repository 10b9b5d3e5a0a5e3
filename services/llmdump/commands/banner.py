"""`llmdump banner`: where to point a client, where to read, how to see a first capture."""

from pathlib import Path
from typing import Any, Final

import click

from llmdump import address, process
from llmdump.commands import options
from llmdump.data_dir import DataDir
from llmdump.settings import Settings

_TEXT: Final = """\
llmdump: what passes the proxy is recorded. Point a client at it, change nothing else:

  OpenAI           OPENAI_BASE_URL={proxy}/v1
  Anthropic        ANTHROPIC_BASE_URL={proxy}
  Claude Code      ANTHROPIC_BASE_URL={proxy} claude
  Gemini           GOOGLE_GEMINI_BASE_URL={gemini}
  Ollama           OLLAMA_HOST={proxy}
  goes to          {goes_to}

Read what was captured:

  curl -H "Authorization: Bearer $(cat {token})" {api}/api/traces
  metrics          {api}/metrics
  files            {segments}

A first capture, without a key:  make demo  (or: llmdump demo), in a second terminal
Does it work?                    llmdump status
"""


def text(settings: Settings) -> str:
    """The banner for these settings."""
    proxy = address.url(settings.proxy_listen)
    data = DataDir(Path(settings.data_dir))
    return _TEXT.format(
        proxy=proxy,
        # Google's client says /v1/models/…, and so does OpenAI's: by path alone they cannot be told apart.
        gemini=proxy if settings.upstream else f"{proxy}/gemini",
        api=address.url(settings.api_listen),
        goes_to=settings.upstream or "the provider that the path belongs to; see `llmdump config` (routes, upstream)",
        token=data.admin_token,
        segments=data.segments,
    )


@click.command("banner")
@options.where
def command(**flags: Any) -> None:
    """Where to point a client, where to read, how to see a first capture."""
    click.echo(text(process.load_or_exit(flags).settings), nl=False)
