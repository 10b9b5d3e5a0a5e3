"""All four processes are restarted under load, by the commands of docs/proxy.md: streams go on, and nobody notices.

The long form holds 500 streams open, the short one 50.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from needs import needs_tool

from llmdump_proxy.main import FINISH_WITHIN_S
from tests.e2e import files
from tests.e2e.load import Load, check_stored_once
from tests.e2e.pipeline import BIN, Pipeline
from tests.e2e.streams import PATH, Streams
from tests.patience import eventually

pytestmark = pytest.mark.xdist_group("chaos-rolling")
PAGE: Final = Path(__file__).parents[2] / "docs" / "proxy.md"
COUNT_LONG: Final = 500
COUNT_SHORT: Final = 50
PATIENCE_S: Final = 90.0
"""With a machine that is busy otherwise: four processes start and stop."""


@pytest.fixture
def count(is_long: bool) -> int:
    """How many streams are open."""
    return COUNT_LONG if is_long else COUNT_SHORT


@pytest.mark.timeout(900)
def test_rolling_restart_of_all_four_as_the_page_says_breaks_no_stream_and_no_request(
    backend: str, tmp_path: Path, count: int, tell: Callable[..., None]
) -> None:
    with Streams(count) as streams:
        routes = f"{PATH}={streams.backend};/v1={backend};/sim={backend}"
        with Pipeline(tmp_path / "pipeline", routes=routes) as pipe:
            streams.open(pipe.proxy)
            with Load(pipe.proxy) as load, upgraded(pipe, load) as before:
                load.wait_for_more(30)
                load.go_on_for(FINISH_WITHIN_S + 0.5)  # longer than a proxy has that is stopped
                assert (streams.broken, load.errors) == (0, [])
                assert pipe.state(before) == "retiring"
                streams.finish()
                assert before.wait(PATIENCE_S) == 0
                load.end()
                check_stored_once(pipe, load.done, others=count)
                streams.check_all_is_stored(pipe)
                assert len({row["instance"] for row in pipe.rows()}) == 2, "one proxy forwarded everything"
                check_certificate(pipe, instances=2)
        files.check_every_number_is_there_once(pipe.data.segments)
        tell(streams=count, broken=streams.broken, requests=len(load.done), failed=len(load.errors))


@contextlib.contextmanager
def upgraded(pipe: Pipeline, load: Load) -> "Iterator[subprocess.Popen[bytes]]":
    """All four restarted by the commands of docs/proxy.md, the last of which has been given; the proxy that retires."""
    needs_tool("jq")
    (commands,) = re.findall(r"^## Upgrading.*?^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    old, pipe.processes = pipe.processes, {}
    script = ["sh", "-ec", commands.replace(".venv/bin", str(BIN)) + "wait\n"]
    load.wait_for_more(10)
    with (pipe.place / "upgrade.log").open("wb") as log:
        shell = subprocess.Popen(script, cwd=pipe.place, env=pipe.environ, stdout=log, stderr=log)
    try:
        for role in ("writer", "indexer", "api"):
            assert old[role].wait(PATIENCE_S) == 0
        eventually(lambda: pipe.state(old["proxy"]) == "retiring", PATIENCE_S, "a new proxy takes over")
        pipe.wait_until_ready()
        yield old["proxy"]
    finally:
        for card in pipe.living():
            os.kill(card.pid, signal.SIGTERM)
        code = shell.wait(PATIENCE_S)
    said = (pipe.place / "upgrade.log").read_text()
    assert (code, "Traceback" in said) == (0, False), said


def check_certificate(pipe: Pipeline, instances: int) -> None:
    """All records of so many proxy instances are there, says `llmdump verify`."""
    done = pipe.llmdump("verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout)["instances"]) == instances
