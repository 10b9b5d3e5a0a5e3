"""Dockerfile and docker-compose.yml without an engine: the schema, the promises, and their own commands run by hand."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.pipeline import free_ports
from tests.patience import WAIT_S, eventually
from tests.shell import tree

ROOT = tree.ROOT
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$")


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions, stage by stage."""
    found: list[list[tuple[str, str]]] = []
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        match = INSTRUCTION.match(line)
        if match and match[1] == "FROM":
            found.append([])
        if match and found:
            found[-1].append((match[1], match[2]))
    return found


def in_build_context(name: str) -> bool:
    """Whether .dockerignore lets a file into the build: it excludes all and names what is let in."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return name.partition("/")[0] in {line[1:] for line in lines if line[0] == "!"}


def test_compose_file_fits_the_compose_specification() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    command = [checker, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_four_services_of_one_image_in_one_volume() -> None:
    assert {name: service["command"] for name, service in SERVICES.items()} == {
        role: [f"llmdump-{role}"] for role in ("proxy", "writer", "indexer", "api")
    }
    assert {service["image"] for service in SERVICES.values()} == {"llmdump"}
    assert all(service["volumes"] == ["data:/data"] for service in SERVICES.values())
    assert "LLMDUMP_DATA_DIR=/data" in dict(stages()[-1])["ENV"]


def test_published_ports_are_on_loopback_and_their_listeners_on_all_addresses() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published == {"proxy": ["127.0.0.1:7861:7861"], "writer": [], "indexer": [], "api": ["127.0.0.1:7862:7862"]}
    for name, port in (("proxy", 7861), ("api", 7862)):
        assert SERVICES[name]["environment"][f"LLMDUMP_{name.upper()}_LISTEN"] == f"0.0.0.0:{port}"


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_asked_for_its_health_where_it_listens_and_has_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    listeners = {value.rpartition(":")[2] for key, value in service["environment"].items() if key.endswith("_LISTEN")}
    asked = re.search(r"http://127\.0\.0\.1:(\d+)/healthz", service["healthcheck"]["test"][-1])
    assert asked is not None
    assert asked[1] in listeners
    assert service["healthcheck"]["test"][:2] == ["CMD", "python"]
    assert service["stop_grace_period"] == "10s"


def test_image_is_slim_debian_and_not_run_by_root() -> None:
    last = stages()[-1]
    assert last[0][1].endswith("-slim")
    assert [value for name, value in last if name == "USER"] == ["llmdump"]
    user = [name for name, _ in last].index("USER")
    assert "RUN" not in [name for name, _ in last[user:]]


def test_writers_can_be_scaled() -> None:
    assert "ports" not in SERVICES["writer"]
    assert "container_name" not in SERVICES["writer"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first stage leaves in /opt/llmdump, made by its own instructions in a clean folder."""
    place = tmp_path_factory.mktemp("image")
    source, venv = place / "src", place / "opt"
    source.mkdir()
    for name, value in stages()[0][1:]:
        if name == "COPY":
            *files, _ = value.split()
            tree.copy_to(source, lambda path, files=files: in_build_context(path) and (files == ["."] or path in files))
        elif name == "RUN":
            command = value.replace("/opt/llmdump", str(venv)).replace("python -m venv", f"{sys.executable} -m venv", 1)
            command = command.replace("--no-cache-dir ", "")  # an image has no use for the cache, this test has
            done = subprocess.run(shlex.split(command), cwd=source, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        else:
            assert name == "WORKDIR", f"what does {name} do here?"
    shutil.rmtree(source)  # the second stage has no source: the package has to stand alone
    return venv


@pytest.mark.timeout(180)
def test_commands_of_image_and_services_work_in_a_clean_folder(image: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    environ = {"PATH": f"{image / 'bin'}{os.pathsep}{os.defpath}", "LLMDUMP_DATA_DIR": str(data), "HOME": str(tmp_path)}
    ports = {str(port): str(free) for port, free in zip((7861, 7862, 7871, 7872, 7873), free_ports(5), strict=True)}

    def own(text: str) -> str:
        """The file's text with free loopback ports, and its variables at their defaults."""
        text = re.sub(r"\$\{[A-Z_]+:-(.*?)\}", r"\1", text).replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"\b78\d\d\b", lambda match: ports[match[0]], text)

    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, service in SERVICES.items():
            settings = {key: own(value) for key, value in service["environment"].items()}
            running[name] = subprocess.Popen(service["command"], env={**environ, **settings}, cwd=tmp_path)
        for name, service in SERVICES.items():
            check = [own(part) for part in service["healthcheck"]["test"][1:]]

            def is_healthy(check: list[str] = check) -> bool:
                return subprocess.run(check, env=environ, capture_output=True, check=False).returncode == 0

            eventually(is_healthy, WAIT_S, f"{name} is healthy by {check}")
        status = subprocess.run(["llmdump", "status"], env=environ, capture_output=True, text=True, check=False)
        assert status.returncode == 0, status.stdout
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(WAIT_S) for name, process in running.items()}
    assert codes == dict.fromkeys(SERVICES, 0)
