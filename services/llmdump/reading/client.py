"""Who asked: kind and version of the program, by its header fields; and the address it asked from.

Programs are told before the libraries they use, libraries before what they are built on: Claude Code sends the fields
of Anthropic's SDK, and that the User-Agent of fetch. The first rule that fits wins; what nobody knows stays unknown.

Where names come from: the SDKs say `OpenAI/Python 1.109.1` or `Anthropic::Client/Ruby 1.55.0`, with X-Stainless-Lang
and a bare X-Stainless-Package-Version beside it; Codex says `codex_cli_rs/0.98.0` or names itself in Originator; Cline
and its kin name themselves in X-Title, as OpenRouter asks of applications.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

Fields = Sequence[tuple[str, str]]
Network = IPv4Network | IPv6Network

VERSION_CHARS_MAX: Final = 64
ADDRESS_CHARS_MAX: Final = 64
# Of a User-Agent or a list of addresses so much is looked at.
VALUE_CHARS_MAX: Final = 1000


class Client(NamedTuple):
    """A program and its version; None where it is not known."""

    kind: str | None = None
    version: str | None = None


# The beginning of a User-Agent, without regard to case, and the kind. The version is what follows.
_PROGRAMS: Final = (
    ("claude-cli/", "claude-code-cli"), ("claude-code/", "claude-code-cli"),
    ("codex-tui/", "codex-tui"), ("codex_cli_rs/", "codex-cli"), ("codex/", "codex-cli"), ("codex-cli/", "codex-cli"),
    ("codex_exec/", "codex-exec"), ("codex_vscode/", "codex-vscode"), ("codex desktop/", "codex-desktop"),
    ("codex_sdk_ts/", "codex-sdk-ts"), ("opencode-tui/", "opencode-tui"), ("opencode/", "opencode-cli"),
    ("geminicli/", "gemini-cli"), ("geminicli-vscode/", "gemini-cli-vscode"), ("qwencode/", "qwen-code"),
    ("cline/", "cline"), ("roocode/", "roo-code"), ("kilo-code/", "kilo-code"), ("aider/", "aider"), ("goose/", "goose"),
    ("charm-crush/", "crush"), ("charm crush/", "crush"), ("charm-fantasy/", "charm-fantasy"), ("zed/", "zed"),
    ("cursor/", "cursor"), ("githubcopilotchat/", "github-copilot-chat"), ("litellm/", "litellm"), ("openwebui/", "open-webui"),
)  # fmt: skip
_TITLES: Final = {
    "cline": "cline", "roo code": "roo-code", "kilo code": "kilo-code", "aider": "aider", "opencode": "opencode-cli",
    "goose": "goose", "zed": "zed", "open webui": "open-webui", "librechat": "librechat", "chatlas": "chatlas",
    "rubyllm": "ruby-llm", "llm": "llm",
}  # fmt: skip
_LIBRARIES: Final = (
    ("agents/python ", "openai-agents-python"), ("agents/javascript ", "openai-agents-ts"), ("ai/", "vercel-ai-sdk"),
    ("ai-sdk/", "vercel-ai-sdk"), ("cohere/", "cohere-sdk-python"), ("mistral-client-python/", "mistral-sdk-python"),
    ("mistral-client-typescript/", "mistral-sdk-ts"), ("together/v1 pythonbindings/", "together-sdk-python"),
    ("groq/python ", "groq-sdk-python"), ("groq/js ", "groq-sdk-ts"), ("ollama-python/", "ollama-sdk-python"),
    ("ollama-js/", "ollama-sdk-ts"), ("ollama/", "ollama"), ("boto3/", "aws-sdk-python"), ("aws-sdk-js/", "aws-sdk-ts"),
    ("aws-sdk-go-v2/", "aws-sdk-go"), ("aws-sdk-java/", "aws-sdk-java"),
)  # fmt: skip
_HTTP: Final = (
    ("go-http-client/", "go-http-client"), ("curl/", "curl"), ("wget/", "wget"), ("python-requests/", "python-requests"),
    ("python-httpx/", "python-httpx"), ("python-httpx2/", "python-httpx"), ("python-urllib/", "python-urllib"),
    ("aiohttp/", "python-aiohttp"), ("axios/", "axios"), ("node-fetch/", "node-fetch"), ("undici", "node"), ("node", "node"),
    ("bun/", "bun"), ("deno/", "deno"), ("okhttp/", "okhttp"), ("java-http-client/", "java-http-client"),
    ("apache-httpclient/", "apache-httpclient"), ("faraday v", "ruby-faraday"), ("ruby", "ruby"), ("reqwest/", "rust-reqwest"),
    ("postmanruntime/", "postman"), ("insomnia/", "insomnia"), ("httpie/", "httpie"), ("guzzlehttp/", "php-guzzle"),
)  # fmt: skip
_SDK: Final = re.compile(r"(?:Async)?(?:Azure)?(OpenAI|Anthropic)[A-Za-z:]*/(?:Async)?(\w+|C#)(?:[ /](\S+))?", re.IGNORECASE)
_LANGUAGES: Final = {
    "js": "ts",
    "javascript": "ts",
    "typescript": "ts",
    "node": "ts",
    "csharp": "dotnet",
    "c#": "dotnet",
    ".net": "dotnet",
}
_AIOHTTP: Final = re.compile(r"Python/[\d.]+ aiohttp/(\S+)")
_GENAI: Final = re.compile(r"(?:google-genai-sdk|genai-(?:py|go|js))/(\S+)")
_GOOGLE_LANGUAGE: Final = re.compile(r"gl-(python|go|node|java)/")
_TAGGED: Final = re.compile(r"(openai|anthropic)@(\S+)")


def client_of(fields: Fields) -> Client:
    """The program that sent these request fields."""
    first = _first_values(fields)
    agent = first.get("user-agent", "").strip()
    return (
        _desktop(first)
        or _by_agent(agent, _PROGRAMS)
        or _by_originator(first)
        or _by_title(first)
        or _sdk(agent, first)
        or _genai(agent, first)
        or _by_agent(agent, _LIBRARIES)
        or _plain(agent)
        or Client()
    )


def _first_values(fields: Fields) -> dict[str, str]:
    return {name.lower(): value[:VALUE_CHARS_MAX] for name, value in reversed(fields)}


def _desktop(first: dict[str, str]) -> Client | None:
    """Claude Code within the desktop application, whose User-Agent is a browser's."""
    betas = [beta.strip() for beta in first.get("anthropic-beta", "").split(",")]
    if first.get("anthropic-client-platform") != "desktop_app" or not any(beta.startswith("claude-code-") for beta in betas):
        return None
    return Client("claude-code-desktop", _version(first.get("anthropic-client-version", "")))


def _by_agent(agent: str, kinds: tuple[tuple[str, str], ...]) -> Client | None:
    lower = agent.lower()
    for start, kind in kinds:
        if lower.startswith(start):
            return Client(kind, _version(agent[len(start) :]))
    return None


def _by_originator(first: dict[str, str]) -> Client | None:
    found = _by_agent(first.get("originator", "") + "/", _PROGRAMS)
    return Client(found.kind, _version(first.get("version", ""))) if found else None


def _by_title(first: dict[str, str]) -> Client | None:
    title = first.get("x-title") or first.get("x-openrouter-title") or ""
    kind = _TITLES.get(title.strip().lower())
    return Client(kind, _version(first.get("x-client-version", ""))) if kind else None


def _sdk(agent: str, first: dict[str, str]) -> Client | None:
    """OpenAI's or Anthropic's own library."""
    language = first.get("x-stainless-lang", "").lower()
    package = first.get("x-stainless-package-version", "")
    found = _SDK.match(agent)
    if found:
        language = language or found[2].lower()
        return Client(f"{found[1].lower()}-sdk-{_LANGUAGES.get(language, language)}", _version(found[3] or package))
    tagged = _TAGGED.match(package)
    if tagged:
        language = language or first.get("x-stainless-runtime", "").lower().removeprefix("c")
        return Client(f"{tagged[1]}-sdk-{_LANGUAGES.get(language, language)}", _version(tagged[2]))
    if not re.fullmatch(r"[a-z]+", language) or not package:
        return None
    vendor = "anthropic" if "anthropic-version" in first else "openai"
    return Client(f"{vendor}-sdk-{_LANGUAGES.get(language, language)}", _version(package))


def _genai(agent: str, first: dict[str, str]) -> Client | None:
    """Google's library names itself in the User-Agent, and in the browser only beside it."""
    text = first.get("x-goog-api-client") or agent
    found = _GENAI.search(text) or _GENAI.search(agent)
    if not found:
        return None
    spoken = _GOOGLE_LANGUAGE.search(text + " " + agent)
    language = {"node": "ts", None: ""}.get(spoken and spoken[1], spoken[1] if spoken else "")
    return Client(f"google-genai-sdk-{language}".rstrip("-"), _version(found[1]))


def _plain(agent: str) -> Client | None:
    if agent.lower().startswith("mozilla/"):
        return Client("browser")
    found = _AIOHTTP.match(agent)
    return Client("python-aiohttp", _version(found[1])) if found else _by_agent(agent, _HTTP)


def _version(text: str) -> str | None:
    """The version at the beginning of a text: up to a blank or a slash, without the `v` before it."""
    version = re.split(r"[\s/;,()]", text.strip(), maxsplit=1)[0]
    version = re.sub(r"\Av(?=\d)", "", version)
    return version[:VERSION_CHARS_MAX] or None


def client_address(peer: str, fields: Fields, trusted: Sequence[Network]) -> str:
    """The address that the request came from: what proxies before us say, if the peer is one that is `trusted`, else the peer.

    `peer` is `host:port`. Of X-Forwarded-For the first public address counts; then Cf-Connecting-Ip and True-Client-Ip,
    then a public X-Real-IP. Without any of these it is the peer, with its port.
    """
    if not is_within(peer, trusted):
        return peer
    values = [(name.lower(), value[:VALUE_CHARS_MAX]) for name, value in fields]
    forwarded = [part for name, value in values if name == "x-forwarded-for" for part in value.split(",")]
    named = [value for wanted in ("cf-connecting-ip", "true-client-ip") for name, value in values if name == wanted]
    real = [value for name, value in values if name == "x-real-ip"]
    found = _first_public(forwarded) or next(filter(None, map(_address, named)), None) or _first_public(real)
    return str(found) if found else peer


def is_within(peer: str, networks: Sequence[Network]) -> bool:
    """Whether `host:port` is an address of one of these."""
    own = _address(peer)
    return own is not None and any(own in network for network in networks)


def _first_public(texts: Sequence[str]) -> IPv4Address | IPv6Address | None:
    return next((found for found in map(_address, texts) if found and found.is_global), None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5`."""
    text = text.strip().strip('"')[:ADDRESS_CHARS_MAX]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
