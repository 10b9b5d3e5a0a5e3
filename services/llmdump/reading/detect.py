"""Which API an exchange speaks, and who serves it.

The end of the path tells most; gateways put prefixes before it. What ends alike is told apart by the host, the route's
name, or the shape of the question; what ends like nothing known, by the shape of the answer's first document.
"""

import re
from typing import Any, Final

from llmdump.reading.asked import Asked
from llmdump.reading.exchange import Request

# The first that fits the end of the path wins.
_PATHS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern + "$"), api)
    for pattern, api in (
        (r":streamGenerateContent", "gemini.stream"),
        (r":generateContent", "gemini.generate"),
        (r":countTokens", "gemini.count_tokens"),
        (r"/imagen[^/]*:predict", "gemini.images"),
        (r":(embedContent|batchEmbedContents|predict)", "gemini.embed"),
        (r"/count-tokens:rawPredict", "anthropic.count_tokens"),
        (r":(rawPredict|streamRawPredict)", "vertex.raw_predict"),
        (r"/model/[^/]+/converse", "bedrock.converse"),
        (r"/model/[^/]+/converse-stream", "bedrock.converse_stream"),
        (r"/model/[^/]+/invoke", "bedrock.invoke"),
        (r"/model/[^/]+/invoke-with-response-stream", "bedrock.invoke_stream"),
        (r"/model/[^/]+/count-tokens", "bedrock.count_tokens"),
        (r"/messages/count_tokens", "anthropic.count_tokens"),
        (r"/messages/batches(/.*)?", "anthropic.batches"),
        (r"/messages", "anthropic.messages"),
        (r"/v1/complete", "anthropic.complete"),
        (r"/chat/completions(/[^/]+)?", "openai.chat"),
        (r"/(agents|fim)/completions", "openai.chat"),  # Mistral's answer like chat
        (r"/completions", "openai.completions"),
        (r"/responses", "openai.responses"),
        (r"/responses/(input_tokens|compact)|/responses/[^/]+/[^/]+", "openai.responses_other"),
        (r"/responses/[^/]+", "openai.responses_retrieve"),
        (r"/realtime", "openai.realtime"),
        (r"/v2/chat", "cohere.chat_v2"),
        (r"/v1/chat", "cohere.chat_v1"),
        (r"/v[12]/embed", "cohere.embed"),
        (r"/api/chat", "ollama.chat"),
        (r"/api/generate", "ollama.generate"),
        (r"/api/(embed|embeddings)", "ollama.embed"),
        (r"/embeddings", "openai.embeddings"),
        (r"/(rerank|reranking)", "rerank"),
        (r"/images/(generations|edits|variations)", "openai.images"),
        (r"/audio/(transcriptions|translations)", "openai.audio_text"),
        (r"/audio/speech", "openai.audio_speech"),
        (r"/moderations", "openai.moderations"),
        (r"/models(/[^:]+)?", "openai.models"),
        (r"/interactions(/[^/]+)?", "gemini.interactions"),
        (r"/completion", "llama.completion"),
        (r"/infill", "llama.infill"),
        (r"/embedding", "llama.embedding"),
    )
)

SHARED: Final = frozenset(("cohere.chat_v1", "cohere.chat_v2", "rerank"))
"""What only Cohere's host tells for sure."""

# Short names, the same as in recordings; the first whose end fits the host wins.
_HOSTS: Final = (
    ("openai.azure.com", "azure"), ("services.ai.azure.com", "azure"), ("inference.ai.azure.com", "azure"),
    ("cognitiveservices.azure.com", "azure"), ("api.openai.com", "openai"), ("api.anthropic.com", "anthropic"),
    ("aiplatform.googleapis.com", "google_vertex"), ("generativelanguage.googleapis.com", "google"),
    ("cloudcode-pa.googleapis.com", "google"), ("chatgpt.com", "openai"),
    ("openrouter.ai", "openrouter"), ("cohere.com", "cohere"), ("cohere.ai", "cohere"), ("x.ai", "xai"),
    ("deepseek.com", "deepseek"), ("mistral.ai", "mistral"), ("groq.com", "groq"), ("ai-gateway.vercel.sh", "vercel_gateway"),
    ("huggingface.co", "huggingface"), ("z.ai", "zai"), ("bigmodel.cn", "zai"), ("perplexity.ai", "perplexity"),
    ("cloudflare.com", "cloudflare"), ("writer.com", "writer"), ("avian.io", "avian"), ("snowflakecomputing.com", "snowflake"),
    ("together.ai", "together"), ("together.xyz", "together"), ("voyageai.com", "voyageai"), ("cerebras.ai", "cerebras"),
    ("portkey.ai", "portkey"), ("azuredatabricks.net", "databricks"), ("databricks.com", "databricks"),
    ("aliyuncs.com", "alibaba"), ("moonshot.ai", "moonshot"), ("moonshot.cn", "moonshot"), ("fireworks.ai", "fireworks"),
    ("nvidia.com", "nvidia"), ("jina.ai", "jina"), ("githubcopilot.com", "github_copilot"), ("models.github.ai", "github"),
    ("replicate.com", "replicate"), ("minimax.io", "minimax"), ("ollama.com", "ollama"),
)  # fmt: skip
_BEDROCK: Final = re.compile(r"(^|\.)bedrock[a-z-]*\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|api\.aws)$")
_PORTS: Final = {"11434": "ollama", "1234": "lmstudio"}
# Names that routes have and providers have not. What a route says is a guess by the path, so it is believed last.
_CALLED: Final = {"gemini": "google", "unknown": ""}
_SERVERS: Final = (("llama.cpp", "llama_server"), ("vllm", "vllm"))
MEMORY: Final = 4096
"""Characters of a path that are looked at, from its end."""


def path_of(target: str) -> str:
    """The path of a request target without query, host and trailing slash."""
    path = target.partition("?")[0].partition("#")[0]
    scheme, separator, rest = path.partition("://")
    if separator and "/" not in scheme:
        path = "/" + rest.partition("/")[2]
    return path[-MEMORY:].rstrip("/")


def api_of(request: Request, asked: Asked, path: str, provider: str | None) -> str | None:
    """The API by the path's end, the host and the question; None if these do not tell."""
    api = next((api for pattern, api in _PATHS if pattern.search(path)), None)
    if api == "openai.responses_retrieve" and request.method not in ("GET", "HEAD"):
        return "openai.responses_other"
    if api in ("cohere.chat_v1", "cohere.chat_v2") and provider != "cohere" and "messages" in asked.keys:
        # Version 2 of Cohere has messages too; others' routes of that name speak like OpenAI.
        return "openai.chat" if api == "cohere.chat_v1" else api
    if api == "rerank" and provider == "cohere":
        return "cohere.rerank"
    if api == "openai.models" and request.method == "POST":
        return None
    return api


def provider_of(request: Request, fields: list[tuple[str, str]]) -> str | None:
    """Who serves it: by host name, by what the answer's header gives away, by port, else as the route calls its backend."""
    port = request.host.rpartition(":")[2]
    return by_host(request.host) or _by_header(fields) or _PORTS.get(port) or by_route(request.provider)


def by_route(name: str | None) -> str | None:
    """Who it is by the name that a route has for its backend."""
    return _CALLED.get(name or "", name) or None


def by_host(host: str) -> str | None:
    """Whose service a host name is, with or without a port; None for all others."""
    name = host.lower().partition(":")[0].rstrip(".")
    if _BEDROCK.search(name):
        return "bedrock"
    known = next((provider for end, provider in _HOSTS if name == end or name.endswith("." + end)), None)
    return "google_vertex" if known is None and name.endswith("aiplatform.googleapis.com") else known


def _by_header(fields: list[tuple[str, str]]) -> str | None:
    for name, value in fields:
        if name.lower() == "server":
            return next((provider for mark, provider in _SERVERS if mark in value.lower()), None)
    return None


def by_shape(document: dict[str, Any], name: str) -> str | None:
    """The API by the first document of an answer; `name` is its event's."""
    kind = str(document.get("type") or name)
    if kind.startswith("response.") or (document.get("object") == "response" and "output" in document):
        return "openai.responses"
    if kind in ("message_start", "content_block_start") or (kind == "message" and "content" in document):
        return "anthropic.messages"
    choices = document.get("choices")
    if isinstance(choices, list):
        if not choices and "usage" not in document:  # Azure says first what its filters found
            return None
        first = choices[0] if choices and isinstance(choices[0], dict) else {}
        return "openai.completions" if "text" in first and "message" not in first else "openai.chat"
    return next((api for keys, api in _SHAPES if all(key in document for key in keys)), None)


_SHAPES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("candidates",), "gemini.generate"),
    (("response", "traceId"), "gemini.generate"),
    (("usageMetadata", "modelVersion"), "gemini.generate"),
    (("model", "created_at", "message"), "ollama.chat"),
    (("model", "created_at", "response"), "ollama.generate"),
    (("content", "stop", "tokens_predicted"), "llama.completion"),
    (("output", "stopReason", "usage"), "bedrock.converse"),
    (("finish_reason", "message", "id"), "cohere.chat_v2"),
    (("generation_id", "text"), "cohere.chat_v1"),
    (("relevance_score",), "rerank"),
    (("results", "meta"), "cohere.rerank"),
    (("embeddings", "total_duration"), "ollama.embed"),
)
