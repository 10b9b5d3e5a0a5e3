"""`llmdump run -- PROGRAM …`: a program with its requests recorded, and what they came to.

The program gets a proxy of its own, on a free port, beside those that run. So the exchanges of this run are those of that
proxy's instance, whatever else is recorded meanwhile; and the proxy can have routes of its own. The other roles are started
where they do not run, and stopped again at the end.

The program has the terminal. It is in the same process group, so it gets what the terminal sends (Ctrl-C, Ctrl-Z, a new
size) itself; SIGTERM and SIGHUP are passed on. All that is said here goes to stderr: stdout is the program's.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from llmdump import address, clients, health, outcome, presence, process, together
from llmdump.clients import User
from llmdump.commands import options
from llmdump.commands.up import as_arguments
from llmdump.data_dir import DataDir
from llmdump.presence import Card
from llmdump.settings import Settings
from llmdump.together import Together

INDEXED_WITHIN_S: Final = 10.0
EXIT_NOT_FOUND: Final = 127
_EPILOG: Final = """
\b
Examples:
  llmdump run -- claude
  llmdump run -- codex exec "say hello"
  llmdump run --upstream http://127.0.0.1:8080 -- python agent.py
"""


def run(command: Sequence[str], settings: Settings, arguments: list[str]) -> int:
    """Run a program; its exit code. Raises NotReadyError, OSError."""
    data = DataDir(Path(settings.data_dir)).create()
    pointed = clients.point(command, _user(settings, data), upstream=bool(settings.upstream))
    began = time.time()
    with tempfile.TemporaryFile() as log, Together(data, log) as group:
        own = _start(group, data, settings, arguments, pointed.routes)
        for note in pointed.notes:
            _say(note)
        environ, words = pointed.at(f"http://{own.listen}")
        code = _run(words, {**os.environ, **environ})
        group.stop()
    found = outcome.of(data.index, own.instance, int(began * 1000), INDEXED_WITHIN_S)
    _tell(found, data, own, command[0], began)
    return code


def _user(settings: Settings, data: DataDir) -> User:
    ours = [settings.proxy_listen, *(card.listen for card in presence.living(data.run, "proxy") if card.listen)]
    return User(os.environ, Path.home(), Path.cwd(), ours)


def _start(group: Together, data: DataDir, settings: Settings, arguments: list[str], routes: list[str]) -> Card:
    """Start the proxy of this run, and the roles that nobody has; the proxy's card."""
    missing = {role for role in health.missing(health.look(data)) if role != "proxy"}
    for role in ("writer", "indexer", "api"):
        if role in missing and not (role == "writer" and settings.writer_endpoints):
            group.start(role, arguments)
    own = [f"--routes={route}" for route in (*settings.routes, *routes)] if routes else []
    group.start("proxy", [*arguments, "--proxy-listen=127.0.0.1:0", "--takeover=false", *own])
    pids = {one.pid for one in group.processes.values()}
    group.wait(lambda: len({card.pid for card in presence.living(data.run) if card.state == "running"} & pids) == len(pids))
    pid = group.processes["proxy"].pid
    return next(card for card in presence.living(data.run, "proxy") if card.pid == pid)


def _run(words: list[str], environ: dict[str, str]) -> int:
    """The program's exit code. It has the terminal."""
    try:
        program = subprocess.Popen(words, env=environ)
    except OSError as err:
        _say(f"cannot run {words[0]}: {err.strerror or err}")
        return EXIT_NOT_FOUND

    def pass_on(number: int, _: FrameType | None) -> None:
        program.send_signal(number)

    # Handlers, for what is ignored here would be ignored by the program, too.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGQUIT, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return together.exit_code(program.wait())


def _tell(found: outcome.Outcome | None, data: DataDir, own: Card, program: str, began: float) -> None:
    if found is None:
        _say(f"there is no index in {data.root}: what was recorded cannot be told")
        return
    if not found.exchanges:
        _say(f"nothing came through the proxy: {program} asked nobody, or does not heed the variables (docs/cli.md)")
        return
    for line in outcome.text(found, time.time() - began):
        _say(line)
    api = next((card.listen for card in presence.living(data.run, "api") if card.listen), "")
    since = datetime.fromtimestamp(int(began), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    where = f"{address.url(api)}/api/traces?since={since}" if api else f"in {data.root}: `llmdump up` serves it"
    _say(f"recorded by proxy {own.instance}; {where}")


def _say(line: str) -> None:
    click.echo(f"llmdump: {line}", err=True)


@click.command("run", epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@click.argument("program", metavar="-- PROGRAM [ARGUMENT...]", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--upstream", metavar="URL", help="Where all its requests go, as the setting.")
@options.where
def command(program: tuple[str, ...], **flags: Any) -> None:
    """Run a program with its requests recorded, and say at the end what they came to.

    Sets the variables that clients read (and what claude, codex, gemini and opencode need beyond them), starts what is not
    running, and gives the program the terminal. The exit code is the program's; 128 and the signal, if one ended it.
    """
    arguments = as_arguments(flags)
    settings = process.load_or_exit(dict(flags)).settings
    if shutil.which(program[0]) is None:
        process.fail(f"there is no program {program[0]}", EXIT_NOT_FOUND)
    try:
        code = run(program, settings, arguments)
    except (together.NotReadyError, OSError) as err:
        process.fail(str(err))
    sys.exit(code)
