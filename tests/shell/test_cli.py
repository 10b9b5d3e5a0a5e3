"""`llmdump`: its commands as a user calls them, in processes of their own."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from llmdump import health, reference
from llmdump.cli import COMMANDS
from llmdump.data_dir import DataDir
from llmdump.metrics import METRICS
from llmdump.presence import Presence
from llmdump.settings import KEYS, Settings, env_of, flag_of
from tests.patience import WAIT_S

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llmdump(tmp_path: Path) -> Run:
    """Runs `llmdump …` in an empty directory, without settings from this process's environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "llmdump", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**clean, **environ}, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_listed_and_has_help(llmdump: Run, name: str) -> None:
    assert f"  {name} " in llmdump("--help").stdout
    own = llmdump(name, "-h")
    assert own.returncode == 0
    assert own.stdout.startswith(f"Usage: llmdump {name}")


def test_help_has_examples_that_exist(llmdump: Run) -> None:
    examples = re.findall(r"^    (?:\S+=\S+ )?llmdump (\w+)", llmdump("--help").stdout, re.MULTILINE)
    assert len(examples) >= 5
    assert set(examples) <= set(COMMANDS)


def test_version_is_that_of_the_project(llmdump: Run) -> None:
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "services/llmdump/version.py").read_text(), re.MULTILINE)
    assert version is not None
    assert llmdump("--version").stdout == f"llmdump {version[1]}\n"


def test_help_loads_click_and_none_of_the_commands() -> None:
    code = "import sys; from llmdump import cli; cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "'click'" in loaded
    assert not [name for name in ("msgspec", "aiohttp", "uvloop", "yaml", "llmdump.settings") if f"'{name}'" in loaded]


def test_unknown_command_is_a_usage_error(llmdump: Run) -> None:
    done = llmdump("statsu")
    assert done.returncode == 2
    assert "statsu" in done.stderr


def test_config_tells_each_value_and_where_it_came_from(llmdump: Run, tmp_path: Path) -> None:
    (tmp_path / "llmdump.yaml").write_text("fsync: 'off'\ncapture_rules: ['/x=none/none']\n")
    done = llmdump("config", "--json", "--max-connections", "7", LLMDUMP_ON_OVERFLOW="block")
    told = json.loads(done.stdout)
    assert list(told) == list(KEYS)
    assert told["fsync"] == {"value": "off", "from": "llmdump.yaml"}
    assert told["capture_rules"] == {"value": ["/x=none/none"], "from": "llmdump.yaml"}
    assert told["on_overflow"] == {"value": "block", "from": "environment LLMDUMP_ON_OVERFLOW"}
    assert told["max_connections"] == {"value": 7, "from": "flag --max-connections"}
    assert told["data_dir"] == {"value": "./data", "from": "default"}


def test_config_as_text_is_a_settings_file_with_the_same_effect(llmdump: Run, tmp_path: Path) -> None:
    text = llmdump("config", LLMDUMP_CAPTURE_FORMAT="both", LLMDUMP_ROUTES="/v1=http://127.0.0.1:1").stdout
    assert "# environment LLMDUMP_CAPTURE_FORMAT" in text
    read_back = Settings(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in yaml.safe_load(text).items()}
    )
    assert read_back == Settings(capture_format="both", routes=("/v1=http://127.0.0.1:1",))


def test_config_shows_no_secret(llmdump: Run) -> None:
    secrets = {"LLMDUMP_CAPTURE_REDACT_LITERALS": "hunter2;swordfish", "LLMDUMP_UPSTREAM": "https://me:hunter2@host/v1"}
    for flags in ((), ("--json",)):
        shown = llmdump("config", *flags, **secrets).stdout
        assert "https://***@host/v1" in shown
        assert not [one for one in ("hunter2", "swordfish") if one in shown]


@pytest.mark.parametrize("command", ["config", "banner", "status", "demo", "up", "doctor", "serve", "resend"])
def test_wrong_setting_stops_every_command_with_one_line(llmdump: Run, command: str) -> None:
    done = llmdump(command, *["ID"] * (command == "resend"), LLMDUMP_PROXY_LISTEN="nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("llmdump: setting proxy_listen = 'nowhere'")


def test_reference_pages_are_the_ones_in_docs(llmdump: Run) -> None:
    for flag, page in (("--reference", "settings.md"), ("--metrics", "metrics.md"), ("--commands", "commands.md")):
        printed = llmdump("config", flag).stdout
        assert printed == (ROOT / "docs" / page).read_text(), f"renew it: llmdump config {flag} > docs/{page}"


def test_reference_has_every_key_with_environment_and_flag_and_every_metric() -> None:
    settings, metrics = reference.settings_page(), reference.metrics_page()
    for key in KEYS:
        assert f"### `{key}`\n" in settings
        assert f"- `{env_of(key)}`, `{flag_of(key)}`\n" in settings
    for metric in METRICS:
        assert metrics.count(f"| `{metric.name}` | {metric.kind} |") == 1


def test_banner_says_where_to_point_and_where_to_read(llmdump: Run, tmp_path: Path) -> None:
    text = llmdump("banner", LLMDUMP_PROXY_LISTEN="0.0.0.0:1234", LLMDUMP_API_LISTEN="[::1]:99", LLMDUMP_DATA_DIR="here").stdout
    for part in (
        "OPENAI_BASE_URL=http://127.0.0.1:1234/v1\n",
        "ANTHROPIC_BASE_URL=http://127.0.0.1:1234\n",
        "ANTHROPIC_BASE_URL=http://127.0.0.1:1234 claude\n",
        "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:1234/gemini\n",
        "OLLAMA_HOST=http://127.0.0.1:1234\n",
        f'curl -H "Authorization: Bearer $(cat {tmp_path}/here/admin_token)" http://[::1]:99/api/traces\n',
        "make demo",
    ):
        assert part in text
    with_upstream = llmdump("banner", LLMDUMP_UPSTREAM="http://backend:1/x").stdout
    assert "http://backend:1/x" in with_upstream
    assert "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:7861\n" in with_upstream, "one upstream takes no prefix off"


class Healthz(BaseHTTPRequestHandler):
    """Answers 200 or, where the path of the base URL says so, 503."""

    def do_GET(self) -> None:
        works = self.path == "/healthz"
        self.send_response(200 if works else 503)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}' if works else b'{"status": "failing", "why": "disk"}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in http.server)
        """Nothing."""


@pytest.fixture
def healthz() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthz) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def cards(data: DataDir, *roles: str, **changes: str) -> Iterator[list[Presence]]:
    """Processes of these roles as the others see them: a locked card each, `running`."""
    held = [Presence.claim(data.run, role) for role in roles]
    for card in held:
        card.update(**{"state": "running", **changes})
    yield held
    for card in held:
        card.release()


def test_status_without_processes_says_how_to_start_them(llmdump: Run) -> None:
    done = llmdump("status")
    assert done.returncode == 1
    assert done.stdout.count("not running") == 4
    assert "make run" in done.stdout


def test_status_is_0_only_if_all_four_work(llmdump: Run, tmp_path: Path, healthz: str) -> None:
    data = DataDir(tmp_path / "data").create()
    with cards(data, *health.ROLES[:3], admin=healthz):
        done = llmdump("status")
        assert done.returncode == 1
        assert "start what is missing: `llmdump-api`" in done.stdout
        with cards(data, "api", "proxy", admin=healthz):
            done = llmdump("status")
            assert done.returncode == 0, done.stdout
            assert [line.split()[:2] for line in done.stdout.splitlines()] == [
                ["proxy-0", "ok"], ["proxy-1", "ok"], ["writer-0", "ok"], ["indexer-0", "ok"], ["api-0", "ok"],
            ]  # fmt: skip


def test_status_tells_a_proxy_that_retires_from_one_that_serves(llmdump: Run, tmp_path: Path, healthz: str) -> None:
    data = DataDir(tmp_path / "data").create()
    with cards(data, *health.ROLES, admin=healthz) as (proxy, *_):
        proxy.update(state="retiring")
        alone = llmdump("status")
        assert (alone.returncode, "start what is missing: `llmdump-proxy`" in alone.stdout) == (1, True)
        with cards(data, "proxy", admin=healthz):
            done = llmdump("status")
    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["proxy-0", "retiring"], ["proxy-1", "ok"]]


def test_a_flag_that_is_true_or_false_may_stand_alone(llmdump: Run) -> None:
    told = json.loads(llmdump("config", "--json", "--takeover", "--capture-seal", "false", "--capture-redact-bodies").stdout)
    names = ("takeover", "capture_seal", "capture_redact_bodies")
    assert [told[name]["value"] for name in names] == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"admin": "HEALTHZ/failing"}, "/healthz says 503: why disk"),
        ({"admin": "HEALTHZ", "state": "stopping"}, "stopping"),
        ({"admin": "HEALTHZ", "state": "starting"}, "starting"),
        ({"admin": "http://127.0.0.1:FREE"}, "no answer from http://127.0.0.1:"),
        ({}, "no answer from"),
    ],
)
def test_status_names_the_process_that_does_not_work(
    llmdump: Run, tmp_path: Path, healthz: str, changes: dict[str, str], problem: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        free = str(unused.getsockname()[1])
        changes = {name: value.replace("HEALTHZ", healthz).replace("FREE", free) for name, value in changes.items()}
        data = DataDir(tmp_path / "data").create()
        with cards(data, "proxy", "indexer", "api", admin=healthz), cards(data, "writer", **changes):
            done = llmdump("status", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["missing"]) == (1, False, [])
    assert {one["role"]: one["ok"] for one in told["processes"]} == {
        "proxy": True,
        "writer": False,
        "indexer": True,
        "api": True,
    }
    assert told["processes"][1]["problem"].startswith(problem)
