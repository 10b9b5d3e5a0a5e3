"""Which API and which provider: by the path's end behind any prefix, the host, the question, the answer's shape."""

from typing import Any

import pytest

from llmdump.reading import detect
from llmdump.reading.asked import asked
from llmdump.reading.exchange import Request
from llmdump.reading.reader import Reader
from tests.reading.exchanges import ask, plain

PATHS = {
    "/v1/chat/completions": "openai.chat",
    "/v1/chat/completions/": "openai.chat",
    "/v1/chat/completions?x=/v1/messages": "openai.chat",
    "http://host/v1/chat/completions": "openai.chat",
    "/v1/completions": "openai.completions",
    "/openai/v1/responses": "openai.responses",
    "/v1/responses/resp_1/cancel": "openai.responses_other",
    "/v1/messages?beta=true": "anthropic.messages",
    "/v1/messages/count_tokens": "anthropic.count_tokens",
    "/v1/messages/batches/b/results": "anthropic.batches",
    "/v1/complete": "anthropic.complete",
    "/v1beta/models/g:generateContent": "gemini.generate",
    "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse": "gemini.stream",
    "/v1/projects/p/locations/l/publishers/anthropic/models/c@1:streamRawPredict": "vertex.raw_predict",
    "/model/arn%3Aaws%3Ax%2Fy/converse-stream": "bedrock.converse_stream",
    "/model/m/invoke-with-response-stream": "bedrock.invoke_stream",
    "/v2/chat": "cohere.chat_v2",
    "/api/chat": "ollama.chat",
    "/api/v1/chat/completions": "openai.chat",
    "/v1/rerank": "rerank",
    "/v1/audio/translations": "openai.audio_text",
    "/v1/models": "openai.models",
    "/completion": "llama.completion",
    "/v1/completionist": None,
    "/": None,
    "": None,
}


@pytest.mark.parametrize("target", PATHS)
def test_a_path_tells_its_api_behind_any_prefix(target: str) -> None:
    for prefix in ("", "/gateway/team-a"):
        method = "GET" if target.endswith("models") else "POST"
        request = ask(target if target.startswith("http") else prefix + target, method=method)
        assert Reader(request, 200, []).api == PATHS[target]


HOSTS = {
    "api.openai.com": "openai",
    "API.OpenAI.com:443": "openai",
    "notapi.openai.com": None,
    "my.openai.azure.com": "azure",
    "us-east5-aiplatform.googleapis.com": "google_vertex",
    "bedrock-runtime.eu-west-1.amazonaws.com": "bedrock",
    "bedrock-runtime-fips.us-east-1.amazonaws.com": "bedrock",
    "s3.us-east-1.amazonaws.com": None,
    "localhost:11434": "ollama",
    "evil-x.ai": None,
    "": None,
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_tells_its_provider(host: str) -> None:
    assert detect.provider_of(ask("/", host=host), []) == HOSTS[host]


def test_a_host_tells_before_a_header_a_header_before_a_port_and_a_route_last() -> None:
    llama = [("Server", "llama.cpp")]
    assert detect.provider_of(ask("/", host="api.openai.com", provider="mine"), llama) == "openai"
    assert detect.provider_of(ask("/", host="10.0.0.1:11434", provider="openai"), llama) == "llama_server"
    assert detect.provider_of(ask("/", host="10.0.0.1:11434", provider="openai"), []) == "ollama"
    assert detect.provider_of(ask("/", host="10.0.0.1", provider="mine"), []) == "mine"


def test_what_routes_call_their_backends_are_names_of_providers_or_none() -> None:
    assert [detect.by_route(name) for name in ("gemini", "unknown", "", "openai")] == ["google", None, None, "openai"]


SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"choices": [{"message": {"content": "hi"}}]}, "openai.chat"),
    ({"choices": [{"text": "hi"}]}, "openai.completions"),
    (
        {"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]},
        "openai.responses",
    ),
    ({"type": "message", "content": [{"type": "text", "text": "hi"}]}, "anthropic.messages"),
    ({"candidates": [{"content": {"parts": [{"text": "hi"}]}}]}, "gemini.generate"),
    ({"model": "m", "created_at": "now", "message": {"content": "hi"}}, "ollama.chat"),
    ({"model": "m", "created_at": "now", "response": "hi"}, "ollama.generate"),
    ({"output": {"message": {"content": [{"text": "hi"}]}}, "stopReason": "x", "usage": {}}, "bedrock.converse"),
    ({"id": "c", "message": {"content": [{"type": "text", "text": "hi"}]}, "finish_reason": "COMPLETE"}, "cohere.chat_v2"),
    ({"generation_id": "g", "text": "hi"}, "cohere.chat_v1"),
    ({"content": "hi", "stop": True, "tokens_predicted": 1}, "llama.completion"),
]


@pytest.mark.parametrize(("answer", "api"), SHAPES, ids=[api for _, api in SHAPES])
def test_an_answer_tells_its_api_where_the_path_does_not(answer: dict[str, Any], api: str) -> None:
    reading = plain("/unheard/of", answer)
    assert (reading.reading["api"], reading.text) == (api, "hi")


def test_a_form_of_a_million_models_is_searched_in_linear_time() -> None:
    body = b"--b\r\n" + b'name="model"\r\n' * 200_000
    assert asked(Request("POST", "/v1/audio/transcriptions", body=body), "/v1/audio/transcriptions").form_model is None


def test_a_request_that_was_cut_still_names_its_model() -> None:
    body = b'{"messages":[],"model":"m","x":"cut he'
    assert asked(Request("POST", "/v1/chat/completions", body=body, body_whole=False), "/v1/chat/completions").model == "m"
