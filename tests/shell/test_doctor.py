"""`llmdump doctor`: each thing that may be wrong is made so, found, and mended by what it says."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from llmdump import diagnosis, indexed
from llmdump.data_dir import DataDir
from llmdump.diagnosis import Finding
from llmdump.presence import Presence
from llmdump.settings import Settings
from tests.patience import WAIT_S

BIN = Path(sys.executable).parent
Look = Callable[..., list[Finding]]


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path / "data").create()
    data.admin_token.write_text("t" * 64)
    data.admin_token.chmod(0o600)
    return data


@pytest.fixture
def look(data: DataDir) -> Look:
    """The findings that are not ok, with these settings and variables."""

    def found(environ: dict[str, str] | None = None, **settings: object) -> list[Finding]:
        given = {"data_dir": str(data.root), "proxy_listen": "127.0.0.1:0", "api_listen": "127.0.0.1:0", "max_connections": 10,
                 "capture_min_free_bytes": 0, **settings}  # fmt: skip
        return [one for one in diagnosis.look(Settings(**given), environ or {}) if one.level != "ok"]  # type: ignore[arg-type]

    return found


def problems(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.level == "problem"]


def only(found: list[Finding], *words: str) -> Finding:
    """The one problem, in which all these words are."""
    assert len(problems(found)) == 1, found
    (one,) = problems(found)
    assert all(word in f"{one.what} {one.mend}" for word in words), one
    return one


def test_a_new_instance_has_no_problem(look: Look) -> None:
    assert not problems(look())
    assert any("nothing runs" in one.what and one.mend == "llmdump up" for one in look())


def test_a_port_that_is_taken_is_told_with_another(look: Look) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        only(look(proxy_listen=f"127.0.0.1:{port}"), str(port), "--proxy-listen")


def test_what_others_can_read_is_told_with_the_command(look: Look, data: DataDir) -> None:
    data.segments.chmod(0o755)
    found = only(look(), str(data.segments))
    subprocess.run(found.mend, shell=True, check=True)
    assert not problems(look())
    data.admin_token.chmod(0o644)
    only(look(), "admin_token", "chmod 600")


def test_an_index_of_another_version_or_broken_is_told(look: Look, data: DataDir) -> None:
    for version, word in ((indexed.SCHEMA + 1, "newer"), (indexed.SCHEMA - 1, "llmdump-indexer"), (indexed.SCHEMA, "")):
        with contextlib.closing(apsw.Connection(str(data.index))) as db:
            db.pragma("user_version", version)
        if word:
            only(look(), f"schema {version}", word)
    assert not problems(look())
    data.index.write_bytes(b"no database at all" * 100)
    only(look(), "cannot be read", "llmdump rebuild")


def test_spill_of_a_dead_proxy_is_told(look: Look, data: DataDir) -> None:
    (data.spill / f"{'ab' * 8}-0-00000001.spill").write_bytes(b"x")
    only(look(), "1 dead proxies", "llmdump-proxy")


def test_a_clock_that_was_set_back_is_told(look: Look, data: DataDir) -> None:
    path = data.segments / "w0-00000001.cbor"
    path.write_bytes(b"")
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    only(look(), "in the future")


def test_a_role_that_is_missing_is_told_with_its_command(look: Look, data: DataDir) -> None:
    card = Presence.claim(data.run, "proxy")
    try:
        found = problems(look())
    finally:
        card.release()
    assert {one.mend for one in found} >= {"llmdump-writer", "llmdump-indexer", "llmdump-api"}
    assert any("records wait in the proxies" in one.what for one in found)


def test_too_little_room_is_told(look: Look) -> None:
    only(look(capture_min_free_bytes=1 << 60), "bytes are free", "LLMDUMP_CAPTURE_MIN_FREE_BYTES")


def test_too_few_open_files_are_a_note(look: Look) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert any("files may be open" in one.what and one.mend for one in look(max_connections=soft))


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OPENAI_BASE_URL": "http://127.0.0.1:7861"}, ("/v1", "export OPENAI_BASE_URL=http://127.0.0.1:7861/v1")),
        ({"ANTHROPIC_BASE_URL": "http://localhost:7861/v1"}, ("export ANTHROPIC_BASE_URL=http://127.0.0.1:7861",)),
        ({"HTTP_PROXY": "http://corp:3128"}, ("HTTP_PROXY", "NO_PROXY")),
    ],
)
def test_a_client_variable_that_is_wrong_is_told(look: Look, environ: dict[str, str], words: tuple[str, ...]) -> None:
    # Whether anybody has that port here is another finding.
    only([one for one in look(environ, proxy_listen="127.0.0.1:7861") if one.mend.startswith("export")], *words)


def test_clients_elsewhere_are_a_note_and_those_here_are_well(look: Look) -> None:
    assert any("is not the proxy" in one.what for one in look({"OPENAI_BASE_URL": "https://api.example/v1"}))
    well = {"OPENAI_BASE_URL": "http://localhost:1/v1", "NO_PROXY": "localhost,127.0.0.1", "http_proxy": "http://corp:1"}
    assert not [one for one in look(well, proxy_listen="127.0.0.1:1") if "BASE_URL" in one.what or "http_proxy" in one.what]


def test_the_command_says_it_and_its_exit_code_too(data: DataDir) -> None:
    data.segments.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    command = [BIN / "llmdump", "doctor", "--data-dir", data.root]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert f"mend: chmod 700 {data.segments}" in done.stdout
    assert "problem" in done.stdout.splitlines()[-1]
