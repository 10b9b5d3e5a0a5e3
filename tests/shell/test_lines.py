"""Every command line on the pages about the command line, serving, the api, the live tail and differences runs as it stands.

All share one instance, which the page's own `llmdump up --upstream …` started, with one exchange recorded through it and two
that were made. Other than on the page are only: addresses (free ports), ids and files that a reader has of his own, and the
programs `claude` and `codex`, here small ones of that name that ask once. `llmdump serve` listens on a free port.
"""

import os
import re
import shlex
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import pytest
from needs import needs_tool

from llmdump import cli
from llmdump.data_dir import DataDir
from tests.e2e.pipeline import Reader, backend_process, environment
from tests.indexer.made import Instance, append, begin_segment, exchange
from tests.patience import WAIT_S, eventually
from tests.serve.rig import Serving

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("cli.md", "serve.md", "api.md", "live.md", "diff.md")
IDS: Final = ("0199a7c4-5d1e-7b2f-9c3d-2f6a8e4b1c05", "0199a7c4-5d1e-7b2f-9c3d-2f6a8e4b1c06")
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Each asks once, where its environment or its arguments point it.
PROGRAMS: Final = {
    "claude": 'curl -sS "$ANTHROPIC_BASE_URL/v1/messages" -H "Content-Type: application/json" '
    '-d \'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}\'',
    "codex": 'test "$1" = -c && test "$3 $4" = "exec say hello" && eval "$2" && curl -sS "$openai_base_url/models/own"',
}
AGENT: Final = 'import os, urllib.request\nurllib.request.urlopen(os.environ["OPENAI_BASE_URL"] + "/models").read()\n'


def lines() -> list[str]:
    """All of them, without what the page says beside them."""
    found = []
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text()
        fenced = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
        plain = re.findall(r"^    ((?:llmdump|curl) .*)$", text, re.MULTILINE)
        found += [re.sub(r"\s{2,}.*| +# .*", "", line) for line in (*fenced, *plain)]
    return found


LINES: Final = lines()
UP: Final = [line for line in LINES if line.startswith("llmdump up")]
SERVE: Final = [line for line in LINES if line.startswith("llmdump serve")]
ENDLESS: Final = [line for line in LINES if re.match(r"curl -N|llmdump tail(?! ID)", line)]
ONCE: Final = [line for line in LINES if line not in {*UP, *SERVE, *ENDLESS}]
TOKEN: Final = '-H "Authorization: Bearer $(cat data/admin_token)"'
TELLS: Final = {
    "llmdump doctor": ("no problems",),
    "llmdump doctor --all --backends": ("no problems", "ok      proxy"),
    "llmdump config": ("proxy_listen", "environment"),
    "llmdump run -- claude": ("llmdump: 1 exchange in ", "no errors", "models: claude-sonnet-4-5"),
    'llmdump run -- codex exec "say hello"': ("llmdump: 1 exchange in ",),
    "llmdump run --upstream http://127.0.0.1:8080 -- python agent.py": ("llmdump: 1 exchange in ", "no errors"),
    f"llmdump resend {IDS[0]}": ("status", "200"),
    f'llmdump resend {IDS[0]} --set model=gpt-5 --set messages.0.content="In French" --via': ("gpt-5",),
    f"llmdump resend {IDS[0]} --to http://127.0.0.1:8080 --patch changes.json --json": ('"patched"',),
    f'curl {TOKEN} "http://127.0.0.1:7862/api/traces?limit=5"': ('"traces"', '"next_cursor"'),
    f'curl -X PUT {TOKEN} -d \'{{"max_bytes": 10000000000, "max_age_days": 30}}\' '
    "http://127.0.0.1:7862/api/config/retention": ('"override"', "10000000000"),
    "llmdump tail ID": (IDS[0],),
    "llmdump tail ID --bytes": ('{"ok":true}',),
    "llmdump tail ID --json --bytes": ('"event":"chunk"', IDS[0]),
    "llmdump diff A B": ("hello",),
    f'curl {TOKEN} "http://127.0.0.1:7862/api/diff?a=$A&b=$B"': ('"relation"', *IDS),
}  # fmt: skip
TWINS: Final = {
    "llmdump run --upstream http://127.0.0.1:8080 -- python agent.py",  # as in test_run.py
    f"llmdump resend {IDS[0]}",  # as in tests/serve/test_resend.py
    "llmdump doctor",
    "llmdump diff A B",  # as in tests/api/test_api_diff.py
    "llmdump serve",
    "llmdump tail ID",
    "llmdump tail ID --bytes",
}
"""Run with --long only: another line shows the same."""

pytestmark = pytest.mark.xdist_group("lines")


def marked(given: list[str]) -> list[Any]:
    """As parameters, the twins marked."""
    return [pytest.param(line, marks=[pytest.mark.only_long] * (line in TWINS), id=line[:60]) for line in given]


class Scene(Reader):
    """A directory in which the lines can be given, and the backend."""

    def __init__(self, place: Path, backend: str) -> None:
        pointing = re.compile("_BASE_URL$|_API_BASE$|_PROXY$|^OLLAMA_HOST$|_API_KEY$", re.IGNORECASE)
        clean = {name: value for name, value in environment(place).items() if not pointing.search(name)}
        super().__init__(place, {**clean, "HOME": str(place), "A": IDS[0], "B": IDS[1]})
        self.backend = backend

    @contextmanager
    def started(self, line: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
        """A line being run; what it says goes to this file. At the end SIGINT, and it must leave as it should."""
        with tempfile.NamedTemporaryFile(dir=self.place, delete=False) as said:
            path = Path(said.name)
            process = subprocess.Popen(["sh", "-c", f"exec {self.own(line)}"], **self.how(line), stdout=said, stderr=said)
        try:
            yield process, path
            process.send_signal(signal.SIGINT)
            # curl has no handler: the signal ends it
            code = -signal.SIGINT if line.startswith("curl") else 0
            assert process.wait(WAIT_S) == code, (line, path.read_text())
        finally:
            process.kill()
            process.wait()

    def run(self, line: str) -> str:
        """What it says, on both; it must succeed."""
        command = ["sh", "-c", self.own(line)]
        done = subprocess.run(command, **self.how(line), capture_output=True, timeout=WAIT_S, check=False)
        said: str = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said

    def own(self, line: str) -> str:
        """The line with what is ours in it."""
        for theirs, ours in (("http://127.0.0.1:7862", self.api), ("http://127.0.0.1:8080", self.backend)):
            line = line.replace(theirs, ours)
        line = re.sub(r"\bA B$", " ".join(IDS), line)
        return re.sub(r"\bID\b", IDS[0], line)

    def how(self, line: str) -> dict[str, Any]:
        """Where, and with what around it. Where the line names no backend, the environment does."""
        given = {} if "--upstream" in line else {"LLMDUMP_UPSTREAM": self.backend}
        return {"cwd": self.place, "env": {**self.environ, **given}, "stdin": subprocess.DEVNULL}

    def ask(self, path: str) -> int:
        """Ask the proxy; the status."""
        try:
            with _DIRECT.open(self.proxy + path, timeout=WAIT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as err:
            with err:
                return err.code


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Running; the last of the lines with `up` started it."""
    needs_tool("curl")
    place = tmp_path_factory.mktemp("lines")
    for backend in backend_process(place / "backend.log"):
        scene = Scene(place, backend)
        furnish(scene)
        with scene.started(UP[-1]):
            eventually(scene.ready, WAIT_S, "all four work")
            assert scene.ask("/v1/models") == 200
            scene.ended(3)
            yield scene


def furnish(scene: Scene) -> None:
    """The files that the lines name, the programs, and the exchanges that have ids on the page."""
    (scene.place / "agent.py").write_text(AGENT)
    (scene.place / "changes.json").write_text('{"model": "patched"}')
    programs = scene.place / "bin"
    programs.mkdir()
    for name, script in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    scene.environ["PATH"] = f"{programs}{os.pathsep}{scene.environ['PATH']}"
    data, instance = DataDir(scene.place / "data").create(), Instance()
    segment = begin_segment(data, writer="w1000")
    for id_, text in zip(IDS, (b"hi", b"hello"), strict=True):
        asked = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%b"}]}' % text
        append(segment, b"".join(exchange(instance, id_, asked, upstream=scene.backend)))


@pytest.mark.parametrize("line", marked(ONCE))
def test_a_line_does_what_it_is_for(scene: Scene, line: str) -> None:
    said = scene.run(line)
    for expected in TELLS[line]:
        assert expected in said


@pytest.mark.parametrize("line", marked(SERVE))
def test_what_a_line_serves_is_given_again(scene: Scene, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.place)
    with Serving(*shlex.split(line)[2:]) as served, _DIRECT.open(f"{served.url}/v1/models", timeout=WAIT_S) as answer:
        assert answer.status == 200


def test_lines_that_follow_tell_what_happens_until_they_are_stopped(scene: Scene) -> None:
    def told() -> bool:
        assert scene.ask("/v1/none") == 404
        assert all(process.poll() is None for process, _ in those), [said.read_text() for _, said in those]
        return all("/v1/none" in said.read_text() for _, said in those)

    with ExitStack() as stack:
        those = [stack.enter_context(scene.started(line)) for line in ENDLESS]
        eventually(told, WAIT_S, "each has told of it", every_s=0.1)


@pytest.mark.only_long
def test_without_flags_all_four_start_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "http://127.0.0.1:9")
    with scene.started(UP[0]):
        eventually(scene.ready, WAIT_S, "all four work")


def test_every_line_is_run_here() -> None:
    assert set(ONCE) == set(TELLS)
    assert set(LINES) > TWINS
    assert (len(UP), len(SERVE), len(ENDLESS)) == (2, 3, 4)


# --- the examples of `--help`, which docs/commands.md has: they differ from the lines above in their options and files only

COMMANDS_PAGE: Final = (ROOT / "docs" / "commands.md").read_text()
EXAMPLES: Final = re.findall(r"^    (?:[A-Z_]+=\S+ )?(llmdump \w.*?)(?: {2,}.*| [|>] .*)?$", COMMANDS_PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", dict.fromkeys(EXAMPLES))
def test_every_example_is_one_that_the_command_takes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *words = shlex.split(line)
    (tmp_path / "data").mkdir()
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    for file in (word for word in words if re.search(r"^(?!-|http).*(/|\.\w+$)", word)):  # they must be there
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    command.make_context(name, words)


def test_the_examples_are_there() -> None:
    assert len(EXAMPLES) > 60


@pytest.mark.parametrize(
    ("shell", "tells"),
    [
        ("bash", "complete "),
        *(pytest.param(*each, marks=pytest.mark.only_long) for each in (("zsh", "compdef "), ("fish", "complete "))),
    ],
)
def test_the_lines_for_completion_print_it(shell: str, tells: str, tmp_path: Path) -> None:
    """The shells but bash may not be here, so what they would take is looked at."""
    [line] = re.findall(rf"^    (.*_LLMDUMP_COMPLETE={shell}_source llmdump.*)$", COMMANDS_PAGE, re.MULTILINE)
    if shell == "bash":
        needs_tool("bash")
        line += "\ncomplete -p llmdump"  # fails if nothing was registered
    else:
        line = re.sub(r'^eval "\$\((.*)\)".*|(.*) \| source$', r"\1\2", line)
    done = subprocess.run(
        ["bash", "-e", "-c", line], env=environment(tmp_path), capture_output=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, tells in done.stdout.decode()) == (0, True), done.stderr
