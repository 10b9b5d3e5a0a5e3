"""How programs are pointed at a proxy: variables, arguments, routes; what the user had chosen stays chosen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from llmdump import clients
from llmdump.clients import Pointed, User

PROXY = "http://127.0.0.1:9000"
OURS = ("127.0.0.1:7861",)


def point(
    tmp_path: Path, command: Sequence[str], environ: Mapping[str, str] | None = None, *, upstream: bool = False
) -> Pointed:
    return clients.point(command, User(environ or {}, tmp_path, tmp_path / "cwd", OURS), upstream=upstream)


def environ_of(pointed: Pointed) -> dict[str, str]:
    return pointed.at(PROXY)[0]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_any_program_gets_the_variables_of_the_sdks(tmp_path: Path) -> None:
    pointed = point(tmp_path, ["python", "agent.py"])
    assert environ_of(pointed) == {
        "OPENAI_BASE_URL": f"{PROXY}/v1", "OPENAI_API_BASE": f"{PROXY}/v1",
        "ANTHROPIC_BASE_URL": PROXY, "ANTHROPIC_API_BASE": PROXY,
        "GOOGLE_GEMINI_BASE_URL": f"{PROXY}/gemini", "OLLAMA_HOST": PROXY, "OLLAMA_API_BASE": PROXY,
    }  # fmt: skip
    assert (pointed.routes, pointed.notes, pointed.arguments) == ([], [], ["python", "agent.py"])
    assert environ_of(point(tmp_path, ["x"], upstream=True))["GOOGLE_GEMINI_BASE_URL"] == PROXY


@pytest.mark.parametrize(
    ("name", "value", "route", "path"),
    [
        ("OPENAI_BASE_URL", "https://gw.example/x/v1/", "/run/openai/v1/*=https://gw.example/x/v1", "/run/openai/v1"),
        ("OPENAI_API_BASE", "http://10.0.0.1:8080/v1", "/run/openai/v1/*=http://10.0.0.1:8080/v1", "/run/openai/v1"),
        ("ANTHROPIC_BASE_URL", "https://gw.example", "/run/anthropic/*=https://gw.example", "/run/anthropic"),
        ("OLLAMA_HOST", "0.0.0.0", "/run/ollama/*=http://127.0.0.1:11434", "/run/ollama"),
        ("OLLAMA_HOST", "gpu:1234", "/run/ollama/*=http://gpu:1234", "/run/ollama"),
    ],
)
def test_a_backend_that_was_chosen_stays_the_backend(tmp_path: Path, name: str, value: str, route: str, path: str) -> None:
    pointed = point(tmp_path, ["x"], {name: value})
    assert pointed.routes == [route]
    assert environ_of(pointed)[name] == PROXY + path
    assert len(pointed.notes) == 1
    assert point(tmp_path, ["x"], {name: value}, upstream=True).routes == []


@pytest.mark.parametrize("value", ["http://127.0.0.1:7861/v1", "http://localhost:7861/v1", "http://[::1]:7861/v1"])
def test_a_variable_that_points_at_our_own_proxy_chooses_nothing(tmp_path: Path, value: str) -> None:
    pointed = point(tmp_path, ["x"], {"OPENAI_BASE_URL": value})
    assert (pointed.routes, environ_of(pointed)["OPENAI_BASE_URL"]) == ([], f"{PROXY}/v1")


def test_a_forward_proxy_is_not_asked_for_this_machine(tmp_path: Path) -> None:
    environ = environ_of(point(tmp_path, ["x"], {"HTTPS_PROXY": "x", "http_proxy": "http://corp:1", "NO_PROXY": "corp"}))
    assert environ["no_proxy"] == environ["NO_PROXY"] == "corp,127.0.0.1,localhost"
    assert "NO_PROXY" not in environ_of(point(tmp_path, ["x"]))


def test_claude_keeps_tool_search_and_is_told_over_its_settings(tmp_path: Path) -> None:
    assert environ_of(point(tmp_path, ["claude"]))["ENABLE_TOOL_SEARCH"] == "true"
    assert "ENABLE_TOOL_SEARCH" not in environ_of(point(tmp_path, ["claude"], {"ENABLE_TOOL_SEARCH": "false"}))
    assert point(tmp_path, ["claude", "-p", "hi"]).arguments == ["claude", "-p", "hi"]
    write(tmp_path / ".claude/settings.json", {"env": {"ANTHROPIC_BASE_URL": "https://gw.example/a"}})
    environ, words = point(tmp_path, ["/opt/bin/claude", "-p", "hi"]).at(PROXY)
    assert (words[:2], words[3:]) == (["/opt/bin/claude", "--settings"], ["-p", "hi"])
    assert json.loads(words[2]) == {"env": {"ANTHROPIC_BASE_URL": f"{PROXY}/run/anthropic"}}
    assert environ["ANTHROPIC_BASE_URL"] == f"{PROXY}/run/anthropic"
    assert point(tmp_path, ["claude"]).routes == ["/run/anthropic/*=https://gw.example/a"]


def test_claude_that_asks_a_cloud_is_told_of(tmp_path: Path) -> None:
    assert "nothing of it is recorded" in point(tmp_path, ["claude"], {"CLAUDE_CODE_USE_BEDROCK": "1"}).notes[0]


def test_codex_is_told_by_its_own_setting_and_by_login(tmp_path: Path) -> None:
    assert point(tmp_path, ["codex", "exec"]).at(PROXY)[1] == ["codex", "-c", f'openai_base_url="{PROXY}/v1"', "exec"]
    write(tmp_path / ".codex/auth.json", {"OPENAI_API_KEY": None, "tokens": {"access_token": "x"}})
    pointed = point(tmp_path, ["codex"])
    assert pointed.at(PROXY)[1][2] == f'openai_base_url="{PROXY}/run/chatgpt/backend-api/codex"'
    assert pointed.routes == ["/run/chatgpt/*=https://chatgpt.com"]


def test_gemini_with_a_login_is_recorded_too(tmp_path: Path) -> None:
    pointed = point(tmp_path, ["gemini"])
    assert environ_of(pointed)["CODE_ASSIST_ENDPOINT"] == f"{PROXY}/run/code-assist"
    assert len(pointed.routes) == 1


def test_opencode_gets_its_configuration_and_keeps_what_it_had(tmp_path: Path) -> None:
    given = {"OPENCODE_CONFIG_CONTENT": '{"model": "m", "provider": {"openai": {"options": {"baseURL": "https://mine"}}}}'}
    content = json.loads(environ_of(point(tmp_path, ["opencode"], given))["OPENCODE_CONFIG_CONTENT"])
    assert content["model"] == "m"
    assert content["provider"]["openai"]["options"]["baseURL"] == "https://mine"
    assert content["provider"]["anthropic"]["options"]["baseURL"] == f"{PROXY}/v1"
    assert content["provider"]["google"]["options"]["baseURL"] == f"{PROXY}/gemini/v1beta"
