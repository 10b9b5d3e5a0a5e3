"""Who asked, from header fields as real clients send them."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.client import Client, client_address, client_of

DESKTOP = "Mozilla/5.0 (Macintosh) AppleWebKit/537.36 Claude/1.9659.2 Electron/39.2.7"
STAINLESS = [("X-Stainless-Lang", "python"), ("X-Stainless-Package-Version", "1.55.0"), ("X-Stainless-Runtime", "CPython")]

CLIENTS = [
    ("desktop", [("User-Agent", DESKTOP), ("Anthropic-Client-Platform", "desktop_app"),
      ("Anthropic-Beta", "oauth-2025-04-20, claude-code-20250219"), ("Anthropic-Client-Version", "1.9659.2")],
     "claude-code-desktop", "1.9659.2"),
    ("claude-cli", [("User-Agent", "claude-cli/2.0.14 (external, cli)"), ("X-Stainless-Lang", "js"),
      ("X-Stainless-Package-Version", "0.60.0"), ("anthropic-version", "2023-06-01")], "claude-code-cli", "2.0.14"),
    ("codex-tui", [("User-Agent", "codex-tui/0.134.0 (Windows 10.0.26100; x86_64) WindowsTerminal")], "codex-tui", "0.134.0"),
    ("codex", [("User-Agent", "codex_cli_rs/0.38.0 (Ubuntu 24.4.0; x86_64) WindowsTerminal"), ("originator", "codex_cli_rs")],
     "codex-cli", "0.38.0"),
    ("codex by originator", [("originator", "codex_vscode"), ("version", "0.38.0")], "codex-vscode", "0.38.0"),
    ("gemini", [("User-Agent", "GeminiCLI/v0.8.1 (darwin; arm64)")], "gemini-cli", "0.8.1"),
    ("gemini with model", [("User-Agent", "GeminiCLI/0.20.0/gemini-2.5-pro (linux; x64)")], "gemini-cli", "0.20.0"),
    ("opencode", [("User-Agent", "opencode/1.0.23 ai-sdk/provider-utils/3.0.0 runtime/bun/1.3.0")], "opencode-cli", "1.0.23"),
    ("cline", [("User-Agent", "OpenAI/JS 4.96.0"), ("HTTP-Referer", "https://cline.bot"), ("X-Title", "Cline")], "cline", None),
    ("roo", [("User-Agent", "RooCode/3.28.0"), ("X-Title", "Roo Code")], "roo-code", "3.28.0"),
    ("aider", [("User-Agent", "litellm/1.80.0"), ("X-Title", "Aider")], "litellm", "1.80.0"),
    ("openai python", [("User-Agent", "OpenAI/Python 1.55.0"), *STAINLESS], "openai-sdk-python", "1.55.0"),
    ("azure", [("User-Agent", "AsyncAzureOpenAI/Python 1.99.7"), *STAINLESS], "openai-sdk-python", "1.99.7"),
    ("openai go", [("User-Agent", "OpenAI/Go 2.7.1")], "openai-sdk-go", "2.7.1"),
    ("openai java", [("User-Agent", "OpenAI/Java 4.0.0"), ("X-Stainless-Lang", "java")], "openai-sdk-java", "4.0.0"),
    ("anthropic ts", [("User-Agent", "Anthropic/JS 0.33.0"), ("x-stainless-lang", "js")], "anthropic-sdk-ts", "0.33.0"),
    ("anthropic bedrock", [("User-Agent", "AsyncAnthropicBedrock/Python 0.79.0")], "anthropic-sdk-python", "0.79.0"),
    ("anthropic ruby", [("User-Agent", "Anthropic::Client/Ruby 1.55.0")], "anthropic-sdk-ruby", "1.55.0"),
    ("agent hidden", [("User-Agent", "my-app"), *STAINLESS], "openai-sdk-python", "1.55.0"),
    ("tagged", [("x-stainless-package-version", "anthropic@0.60.0"), ("x-stainless-runtime", "node")],
     "anthropic-sdk-ts", "0.60.0"),
    ("genai python", [("x-goog-api-client", "google-genai-sdk/2.10.0 gl-python/3.12.13")], "google-genai-sdk-python", "2.10.0"),
    ("genai go", [("User-Agent", "google-genai-sdk/1.49.0 gl-go/go1.26.1")], "google-genai-sdk-go", "1.49.0"),
    ("genai ts", [("User-Agent", "google-genai-sdk/1.9.0 gl-node/v22.1.0")], "google-genai-sdk-ts", "1.9.0"),
    ("ollama", [("User-Agent", "ollama-python/0.4.7 (arm64 darwin) Python/3.12.1")], "ollama-sdk-python", "0.4.7"),
    ("boto", [("User-Agent", "Boto3/1.35.56 md/Botocore#1.35.56 ua/2.0")], "aws-sdk-python", "1.35.56"),
    ("vercel", [("User-Agent", "ai/5.0.39 ai-sdk/openai/2.0.27 runtime/node.js/22")], "vercel-ai-sdk", "5.0.39"),
    ("curl", [("User-Agent", "curl/8.7.1")], "curl", "8.7.1"),
    ("requests", [("User-Agent", "python-requests/2.32.3")], "python-requests", "2.32.3"),
    ("httpx", [("User-Agent", "python-httpx/0.28.1")], "python-httpx", "0.28.1"),
    ("aiohttp", [("User-Agent", "Python/3.12 aiohttp/3.13.3")], "python-aiohttp", "3.13.3"),
    ("go", [("User-Agent", "Go-http-client/1.1")], "go-http-client", "1.1"),
    ("browser", [("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")], "browser", None),
    ("unknown", [("User-Agent", "something-else/3")], None, None),
    ("nothing", [], None, None),
    ("first of two", [("user-agent", "curl/8.1"), ("User-Agent", "Mozilla/5.0")], "curl", "8.1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "version"), [case[1:] for case in CLIENTS], ids=[case[0] for case in CLIENTS])
def test_kind_and_version(fields: list[tuple[str, str]], kind: str | None, version: str | None) -> None:
    assert client_of(fields) == Client(kind, version)


def test_a_desktop_without_the_agent_is_a_browser() -> None:
    assert client_of([("User-Agent", DESKTOP), ("Anthropic-Client-Platform", "desktop_app")]).kind == "browser"


@given(st.lists(st.tuples(st.sampled_from(["user-agent", "x-stainless-lang", "x-goog-api-client", "x-title"]), st.text())))
def test_any_fields_are_read(fields: list[tuple[str, str]]) -> None:
    client = client_of(fields)
    assert client.version is None or len(client.version) <= 64


NEAR = [ip_network("127.0.0.0/8"), ip_network("::1/128")]

ADDRESSES = [
    ([("X-Forwarded-For", "10.0.0.5, 8.8.8.8")], "8.8.8.8"),
    ([("X-Forwarded-For", "garbage, 100.64.0.1, fe80::1"), ("x-forwarded-for", "8.8.4.4:1234, 8.8.8.8")], "8.8.4.4"),
    ([("X-Forwarded-For", '"[2001:4860:4860::8888]:443"')], "2001:4860:4860::8888"),
    ([("X-Real-IP", "172.70.47.73"), ("Cf-Connecting-Ip", "240e:37c::1")], "240e:37c::1"),
    ([("X-Real-IP", "8.8.8.8"), ("True-Client-Ip", "9.9.9.9")], "9.9.9.9"),
    ([("X-Real-IP", "172.70.47.73")], "172.70.47.73"),
    ([("X-Real-IP", "192.168.1.1")], "127.0.0.1:5555"),
    ([("X-Forwarded-For", "127.0.0.1")], "127.0.0.1:5555"),
    ([], "127.0.0.1:5555"),
]


@pytest.mark.parametrize(("fields", "address"), ADDRESSES)
def test_the_address_that_trusted_proxies_tell(fields: list[tuple[str, str]], address: str) -> None:
    assert client_address("127.0.0.1:5555", fields, NEAR) == address
    assert client_address("[::1]:5555", [*fields, ("X-Forwarded-For", "1.1.1.1")], NEAR) != "[::1]:5555"


@pytest.mark.parametrize("peer", ["8.8.8.8:1", "[2001:db8::1]:1", "unix", ""])
def test_others_are_not_believed(peer: str) -> None:
    assert client_address(peer, [("X-Forwarded-For", "9.9.9.9")], NEAR) == peer
