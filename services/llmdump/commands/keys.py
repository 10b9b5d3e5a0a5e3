"""`llmdump keys`: CURVE keys for tcp:// between hosts."""

from pathlib import Path

import click

from llmdump import keys, process


@click.group("keys")
def command() -> None:
    """CURVE keys, for proxies and writers on different hosts.

    \b
    Example:
      llmdump keys new --dir keys --proxies 2
    """


@command.command("new")
@click.option("--dir", "directory", default="keys", show_default=True, help="Where to write the files; made 0700.")
@click.option("--proxies", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many proxies get a key.")
def new(directory: str, proxies: int) -> None:
    """Write keys for a writer and its proxies, mode 0600, and say which setting takes which file.

    Files that are there already are never replaced.
    """
    try:
        paths = keys.write_new(Path(directory), proxies)
    except OSError as err:
        process.fail(err.strerror or str(err))
    for path in paths:
        click.echo(path)
    click.echo(
        f"""
At the writer:
  curve_writer_secret_key_file: {directory}/writer.secret
  curve_proxy_public_keys_file: {directory}/proxies.public
At each proxy, with its own secret:
  curve_proxy_secret_key_file: {directory}/proxy-1.secret
  curve_writer_public_key_file: {directory}/writer.public"""
    )
