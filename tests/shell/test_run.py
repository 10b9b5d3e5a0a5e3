"""`llmdump run -- PROGRAM`: real programs with the official SDKs and curl, and what is told of them at the end."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import needs_tool

from llmdump import presence
from llmdump.data_dir import DataDir
from tests.e2e import pipeline
from tests.patience import WAIT_S

BIN = Path(sys.executable).parent
AGENT = """
    import os, sys
    import anthropic, openai
    with openai.OpenAI(api_key="sk-x") as one, anthropic.Anthropic(api_key="x") as other:
        for _ in range(2):
            print(one.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}]).model)
        print(other.messages.create(model="claude-sonnet-4-0", max_tokens=9, messages=[{"role": "user", "content": "hi"}]).role)
    print(sys.stdin.read())
    sys.exit(7)
"""

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from pipeline.backend_process(tmp_path_factory.mktemp("backend") / "log")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pipeline.Pipeline]:
    """A whole instance with a proxy of its own, through which others ask; nobody answers them."""
    with pipeline.Pipeline(tmp_path_factory.mktemp("pipe"), upstream="http://127.0.0.1:9") as running:
        yield running


def environ(given: dict[str, str]) -> dict[str, str]:
    """Without variables that point somewhere already."""
    ends = ("_BASE_URL", "_API_BASE", "_proxy", "_PROXY", "OLLAMA_HOST")
    return {name: value for name, value in given.items() if not name.endswith(ends)}


def test_a_program_is_recorded_counted_and_keeps_its_terminal_and_exit_code(backend: str, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(textwrap.dedent(AGENT))
    done = subprocess.run(
        [BIN / "llmdump", "run", "--upstream", backend, "--", sys.executable, "-W", "ignore", "agent.py"],
        cwd=tmp_path, env=environ(pipeline.environment(tmp_path)), input="from stdin", capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[-1] == "from stdin"
    assert "llmdump: 3 exchanges in " in done.stderr
    assert "no errors" in done.stderr
    assert " tokens in" in done.stderr
    assert "models: " in done.stderr
    assert not presence.living(DataDir(tmp_path / "data").run)


def test_only_its_own_exchanges_are_told_and_its_own_backend_is_asked(backend: str, pipe: pipeline.Pipeline) -> None:
    needs_tool("curl")
    before, rows = {card.pid for card in pipe.living()}, len(pipe.rows())
    others = f"curl -sS -o /dev/null {pipe.proxy}/v1/models; " * 2
    ask = 'curl -sS -o /dev/null -w "%{http_code}\\n" "$OPENAI_BASE_URL"/'
    command = [BIN / "llmdump", "run", "--upstream", backend, "--", "sh", "-c", f"{others} {ask}models; {ask}none"]
    done = subprocess.run(
        command, cwd=pipe.place, env=environ(pipe.environ), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["200", "404"]
    assert "llmdump: 2 exchanges in " in done.stderr
    assert "1 of them errors (404 1)" in done.stderr
    assert f"{pipe.api}/api/traces?since=" in done.stderr
    assert {card.pid for card in pipe.living()} == before
    pipe.ended(rows + 4)


WAITS = """
    import os, time, urllib.request
    urllib.request.urlopen(os.environ["OPENAI_BASE_URL"] + "/models").read()
    print("here", flush=True)
    while True:
        time.sleep(1)
"""


def test_a_signal_reaches_the_program_and_what_it_had_done_is_told(backend: str, pipe: pipeline.Pipeline) -> None:
    process = subprocess.Popen(
        [BIN / "llmdump", "run", "--upstream", backend, "--", sys.executable, "-c", textwrap.dedent(WAITS)],
        cwd=pipe.place, env=environ(pipe.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=WAIT_S)[1]
        assert process.returncode == 128 + signal.SIGTERM, said
        assert "llmdump: 1 exchange in " in said
    finally:
        process.kill()
        process.communicate()


def test_a_program_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    command = [BIN / "llmdump", "run", "no-such-program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 127
    assert "no-such-program" in done.stderr
    assert not (tmp_path / "data").exists()
