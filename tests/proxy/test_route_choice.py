"""Which backend a path goes to with the default routes, and whose API it is taken for."""

import pytest

from llmdump.settings import Settings
from llmdump_proxy.routes import Routes, provider

CHOICES = [
    ("/v1/chat/completions", "api.openai.com", "openai"),
    ("/v1/models", "api.openai.com", "openai"),
    ("/v1/models/ft:gpt-4o:org::id", "api.openai.com", "openai"),
    ("/v1/messages", "api.anthropic.com", "anthropic"),
    ("/v1/messages/count_tokens", "api.anthropic.com", "anthropic"),
    ("/v1/messagesque", "api.openai.com", "openai"),
    ("/v1beta/models/gemini-x:streamGenerateContent", "generativelanguage.googleapis.com", "gemini"),
    ("/v1/models/gemini-x:generateContent", "generativelanguage.googleapis.com", "gemini"),
    ("/v1/models/gemini-x:streamGenerateContent", "generativelanguage.googleapis.com", "gemini"),
    ("/gemini/v1/models/gemini-x:countTokens", "generativelanguage.googleapis.com", "gemini"),
    (
        "/v1/projects/p-1/publishers/google/models/g:generateContent",
        "generativelanguage.googleapis.com",
        "gemini",
    ),
    ("/api/chat", "127.0.0.1", "ollama"),
    ("/demo/v1/messages", "127.0.0.1", "anthropic"),
]


@pytest.mark.parametrize(("path", "host", "api"), CHOICES)
def test_a_path_goes_where_its_api_lives(path: str, host: str, api: str) -> None:
    route = Routes(Settings()).find(path)
    assert route is not None
    assert (route.origin.host, provider(path)) == (host, api)


def test_a_path_that_no_prefix_fits_has_no_route() -> None:
    assert Routes(Settings()).find("/favicon.ico") is None
    assert provider("/favicon.ico") == "unknown"


def test_one_upstream_serves_every_path_below_its_own() -> None:
    route = Routes(Settings(upstream="http://gateway:8080/llm/")).find("/v1/messages")
    assert route is not None
    assert route.target(b"/v1/messages?beta=true") == b"/llm/v1/messages?beta=true"
    assert (route.origin.text, route.host) == ("http://gateway:8080", b"gateway:8080")
