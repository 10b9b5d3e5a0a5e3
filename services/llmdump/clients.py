"""Programs pointed at a proxy: the variables, arguments and routes with which their requests go through it. Pure.

Any program gets the variables that the providers' SDKs and the common tools read. A backend that the user has chosen stays
the one: a variable that points elsewhere is followed by a route under a path of its own,

    OPENAI_BASE_URL=https://gateway/x/v1   ─▶   OPENAI_BASE_URL=http://127.0.0.1:PORT/run/openai/v1
                                                route /run/openai/v1/*=https://gateway/x/v1

Some programs need more, or read their settings before their environment; they are in `_PROGRAMS`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from llmdump import address

PLACE: Final = "@@llmdump-proxy@@"
"""Stands for the proxy's base URL, which is known once it listens."""
_LOOPBACK: Final = "127.0.0.1,localhost"
_CHATGPT: Final = "https://chatgpt.com"
_CODE_ASSIST: Final = "https://cloudcode-pa.googleapis.com"


class _Variable(NamedTuple):
    names: tuple[str, ...]
    """The first that is set says where the user wants it to go."""
    path: str
    """Behind the proxy's URL, where the routes of the settings lead to the provider."""
    own: str
    """Where a route to a backend of the user's stands."""


_VARIABLES: Final = (
    _Variable(("OPENAI_BASE_URL", "OPENAI_API_BASE"), "/v1", "/run/openai/v1"),
    _Variable(("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"), "", "/run/anthropic"),
    _Variable(("GOOGLE_GEMINI_BASE_URL",), "/gemini", "/run/gemini"),
    _Variable(("OLLAMA_HOST", "OLLAMA_API_BASE"), "", "/run/ollama"),
)


class Pointed(NamedTuple):
    """How to start a program; `PLACE` in a value stands for the proxy."""

    environ: dict[str, str]
    """To be set, beside what is set."""
    arguments: list[str]
    """The whole command line."""
    routes: list[str]
    """For the proxy, beside those of the settings."""
    notes: list[str]
    """What the user should know."""

    def at(self, proxy: str) -> tuple[dict[str, str], list[str]]:
        """Environment and command line for a proxy at this URL."""
        environ = {name: value.replace(PLACE, proxy) for name, value in self.environ.items()}
        return environ, [word.replace(PLACE, proxy) for word in self.arguments]


class User(NamedTuple):
    """What is known of whoever starts the program."""

    environ: Mapping[str, str]
    home: Path
    cwd: Path
    ours: Sequence[str]
    """`host:port` of proxies that live, or would: a variable that points there chooses nothing."""


def point(command: Sequence[str], user: User, *, upstream: bool) -> Pointed:
    """How to start a command. `upstream`: the settings send everything to one backend. Reads settings files of programs."""
    pointed = Pointed({}, list(command), [], [])
    for variable in _VARIABLES:
        chosen = "" if upstream else next(filter(None, (_chosen(name, user) for name in variable.names)), "")
        _set(pointed, variable, chosen, upstream)
    if any(user.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        exempt = user.environ.get("no_proxy") or user.environ.get("NO_PROXY") or ""
        value = ",".join(filter(None, (exempt, _LOOPBACK)))
        pointed.environ.update(no_proxy=value, NO_PROXY=value)
    special = _PROGRAMS.get(PurePath(command[0]).stem.lower())
    if special is not None:
        special(pointed, user, upstream)
    return pointed


def _set(pointed: Pointed, variable: _Variable, chosen: str, upstream: bool) -> None:
    path = variable.path
    if upstream:
        path = "/v1" if path == "/v1" else ""
    if chosen:
        path = variable.own
        pointed.routes.append(f"{variable.own}/*={chosen}")
        pointed.notes.append(f"{variable.names[0]} goes on to {chosen}, as it did")
    pointed.environ.update(dict.fromkeys(variable.names, PLACE + path))


def _chosen(name: str, user: User) -> str:
    """The backend that a variable names, as a URL; empty if none, or if it is one of our proxies."""
    value = user.environ.get(name, "").strip().rstrip("/")
    return value and backend(value, 11434 if name.startswith("OLLAMA") else None, user.ours)


def backend(value: str, port: int | None, ours: Sequence[str]) -> str:
    """A base URL as a route has it; empty for one of `ours`. `port` is put to a host without one."""
    has_scheme = "://" in value
    try:
        parts = urlsplit(value if has_scheme else f"http://{value}")
        number, host = parts.port, parts.hostname or ""
    except ValueError:
        return ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if any(_same(host, number, one) for one in ours):
        return ""
    number = number or (port if not has_scheme else None)
    authority = address.join(host, number) if number else host
    return f"{parts.scheme}://{authority}{parts.path}".rstrip("/")


def _same(host: str, port: int | None, listen: str) -> bool:
    at, number = address.split(listen)
    return port == number and (
        host == at or (address.is_loopback(host) and (address.is_loopback(at) or at in {"0.0.0.0", "::"}))
    )


# --- programs that need more


def _claude(pointed: Pointed, user: User, upstream: bool) -> None:
    """Claude Code reads `env` of its settings files before its environment, and gives MCP tool search up at other hosts."""
    if not user.environ.get("ENABLE_TOOL_SEARCH"):
        pointed.environ["ENABLE_TOOL_SEARCH"] = "true"
    base = Path(user.environ.get("CLAUDE_CONFIG_DIR") or user.home / ".claude")
    files = (base / "settings.json", user.cwd / ".claude/settings.json", user.cwd / ".claude/settings.local.json")
    said = [env for env in (_settings_env(file) for file in files) if env.get("ANTHROPIC_BASE_URL")]
    if said:
        chosen = "" if upstream else backend(str(said[-1]["ANTHROPIC_BASE_URL"]).rstrip("/"), None, user.ours)
        if chosen:
            route = f"/run/anthropic/*={chosen}"
            pointed.routes[:] = [*(one for one in pointed.routes if not one.startswith("/run/anthropic/")), route]
            pointed.environ["ANTHROPIC_BASE_URL"] = PLACE + "/run/anthropic"
            pointed.notes.append(f"ANTHROPIC_BASE_URL of its settings goes on to {chosen}, as it did")
        if "--settings" in pointed.arguments:
            pointed.notes.append("its settings set ANTHROPIC_BASE_URL, and --settings is yours: nothing may be recorded")
        else:
            own = json.dumps({"env": {"ANTHROPIC_BASE_URL": pointed.environ["ANTHROPIC_BASE_URL"]}})
            pointed.arguments[1:1] = ["--settings", own]
    for name in ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"):
        if user.environ.get(name):
            pointed.notes.append(f"{name} is set: it asks that cloud, not Anthropic, and nothing of it is recorded")


def _settings_env(file: Path) -> dict[str, Any]:
    content = _json(file)
    env = content.get("env")
    return env if isinstance(env, dict) else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}  # not there, or not as it should be: the program will say so
    return content if isinstance(content, dict) else {}


def _codex(pointed: Pointed, user: User, _: bool) -> None:
    """Codex does not read the variable in every version and for WebSockets; with a ChatGPT login it asks another host."""
    base = pointed.environ["OPENAI_BASE_URL"]
    login = _json(Path(user.environ.get("CODEX_HOME") or user.home / ".codex") / "auth.json")
    if login.get("tokens") and not login.get("OPENAI_API_KEY") and not user.environ.get("OPENAI_BASE_URL"):
        base = PLACE + "/run/chatgpt/backend-api/codex"
        pointed.routes.append(f"/run/chatgpt/*={_CHATGPT}")
    pointed.arguments[1:1] = ["-c", f'openai_base_url="{base}"']


def _gemini(pointed: Pointed, user: User, _: bool) -> None:
    """Gemini CLI asks another host where the user has logged in with Google."""
    chosen = user.environ.get("CODE_ASSIST_ENDPOINT", "").rstrip("/") or _CODE_ASSIST
    pointed.environ["CODE_ASSIST_ENDPOINT"] = PLACE + "/run/code-assist"
    pointed.routes.append(f"/run/code-assist/*={chosen}")


def _opencode(pointed: Pointed, user: User, _: bool) -> None:
    """OpenCode reads no such variables, but a configuration in one."""
    try:
        content = json.loads(user.environ.get("OPENCODE_CONFIG_CONTENT") or "{}")
    except ValueError:
        content = {}
    environ = pointed.environ
    bases = {
        "openai": environ["OPENAI_BASE_URL"], "anthropic": environ["ANTHROPIC_BASE_URL"] + "/v1",
        "google": environ["GOOGLE_GEMINI_BASE_URL"] + "/v1beta",
    }  # fmt: skip
    for name, base in bases.items():
        options = content.setdefault("provider", {}).setdefault(name, {}).setdefault("options", {})
        options.setdefault("baseURL", base)
    environ["OPENCODE_CONFIG_CONTENT"] = json.dumps(content)


_PROGRAMS: Final[dict[str, Callable[[Pointed, User, bool], None]]] = {
    "claude": _claude, "codex": _codex, "gemini": _gemini, "opencode": _opencode,
}  # fmt: skip
