"""Calls as real clients make them: each is made twice, straight to a backend and through the proxy, at a base URL.

A call gives what the client made of the answer, as plain values, so that the two can be compared.
"""

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import anthropic
import openai
import websockets.sync.client
from google import genai
from google.genai import types
from needs import needs_tool

PROMPT: Final = "What does a recorder record?"
MESSAGES: Final[Any] = [{"role": "user", "content": PROMPT}]
KEY: Final = "sk-e2e-000000000000000000000000"

Make = Callable[["Where"], Any]


class Where(NamedTuple):
    """A base URL, the model there, header fields that go along, and a directory for files."""

    url: str
    model: str
    headers: dict[str, str]
    place: Path


class Call(NamedTuple):
    """One call, and what its row must say."""

    name: str
    make: Make
    path: str
    """May hold a `*` where clients differ."""
    provider: str
    stream: bool = False
    status: int = 200
    method: str = "POST"
    names_model: bool = True
    may_leave_early: bool = False
    """The OpenAI client closes its connection at `[DONE]`, and may be quicker than the end of the message behind it."""

    def __repr__(self) -> str:
        return self.name


def _openai(where: Where) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{where.url}/v1", api_key=KEY, default_headers=where.headers, max_retries=0)


def openai_chat(where: Where) -> Any:
    with _openai(where) as client:
        return client.chat.completions.create(model=where.model, messages=MESSAGES, max_tokens=12, temperature=0).model_dump()


def openai_chat_stream(where: Where) -> Any:
    with _openai(where) as client:
        stream = client.chat.completions.create(
            model=where.model,
            messages=MESSAGES,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        return [event.model_dump() for event in stream]


def openai_responses_stream(where: Where) -> Any:
    with _openai(where) as client:
        stream = client.responses.create(model=where.model, input=PROMPT, max_output_tokens=12, temperature=0, stream=True)
        return [event.model_dump() for event in stream]


def openai_embeddings(where: Where) -> Any:
    with _openai(where) as client:
        return client.embeddings.create(model=where.model, input=[PROMPT, "And what not?"]).model_dump()


def openai_refused(where: Where) -> Any:
    with _openai(where) as client:
        try:
            client.chat.completions.create(model=where.model, messages=[])
        except openai.BadRequestError as err:
            return str(err)
    raise AssertionError("no messages, and yet an answer")


def _anthropic(where: Where) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=where.url, api_key=KEY, default_headers=where.headers, max_retries=0)


def anthropic_message(where: Where) -> Any:
    with _anthropic(where) as client:
        return client.messages.create(model=where.model, max_tokens=12, messages=MESSAGES).model_dump()


def anthropic_message_stream(where: Where) -> Any:
    with (
        _anthropic(where) as client,
        client.messages.stream(model=where.model, max_tokens=12, messages=MESSAGES) as stream,
    ):
        return [event.model_dump(warnings=False) for event in stream]


def _gemini(where: Where) -> genai.Client:
    options = types.HttpOptions(base_url=where.url, headers=where.headers)
    return genai.Client(api_key=KEY, http_options=options)


def gemini_generate(where: Where) -> Any:
    client = _gemini(where)
    answer = client.models.generate_content(model=where.model, contents=PROMPT)
    client.close()
    return answer.text


def gemini_stream(where: Where) -> Any:
    client = _gemini(where)
    texts = [part.text for part in client.models.generate_content_stream(model=where.model, contents=PROMPT)]
    client.close()
    return texts


def ollama_chat(where: Where) -> Any:
    async def lines() -> list[Any]:
        body = {"model": where.model, "messages": MESSAGES}
        async with (
            aiohttp.ClientSession(headers=where.headers) as session,
            session.post(f"{where.url}/api/chat", json=body) as answer,
        ):
            return [json.loads(line) async for line in answer.content]

    return asyncio.run(lines())


def websocket_echo(where: Where) -> Any:
    url = where.url.replace("http:", "ws:") + "/ws/echo"
    messages: list[str | bytes] = ["hello", b"\x00\xff" * 500, "ü" * 40_000]
    with websockets.sync.client.connect(url, additional_headers=where.headers, compression=None) as socket:
        back = []
        for message in messages:
            socket.send(message)
            back.append(socket.recv(10))
    assert back == messages
    return back


def curl(where: Where, target: str, *arguments: str) -> bytes:
    """The body that curl got; fails where curl does."""
    headers = [part for name, value in where.headers.items() for part in ("-H", f"{name}: {value}")]
    command = [needs_tool("curl"), "-sS", "--max-time", "30", *headers, *arguments, where.url + target]
    return subprocess.run(command, capture_output=True, timeout=40, check=True).stdout


def curl_plain(where: Where) -> Any:
    return curl(where, "/v1/models")


def curl_stream(where: Where) -> Any:
    body = json.dumps({"model": where.model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, "stream": True})
    return curl(where, "/v1/chat/completions", "-N", "--json", body)


def curl_compressed(where: Where) -> Any:
    return curl(where, "/v1/models", "--compressed")


def curl_http_1_0(where: Where) -> Any:
    return curl(where, "/v1/models", "--http1.0")


def curl_upload(where: Where) -> Any:
    file = where.place / "upload"
    file.write_bytes(bytes(range(256)) * 4096)
    return json.loads(curl(where, "/sim/echo", "-T", str(file), "-H", "Content-Type: application/octet-stream"))["body_sha256"]


def curl_upload_chunked(where: Where) -> Any:
    file = where.place / "upload"
    file.write_bytes(b"as it comes " * 50_000)
    arguments = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{file}")
    return json.loads(curl(where, "/sim/echo", *arguments, "-H", "Content-Type: text/plain"))["body_sha256"]


def curl_head(where: Where) -> Any:
    return curl(where, "/sim/bytes/1000", "--head").split(b"\r\n")[0]


CHAT: Final = "/v1/chat/completions"
_BOTH: Final = (
    Call("openai_chat", openai_chat, CHAT, "openai"),
    Call("openai_chat_stream", openai_chat_stream, CHAT, "openai", stream=True, may_leave_early=True),
    Call("openai_responses_stream", openai_responses_stream, "/v1/responses", "openai", stream=True),
    Call("anthropic_message", anthropic_message, "/v1/messages", "anthropic"),
    Call("anthropic_message_stream", anthropic_message_stream, "/v1/messages", "anthropic", stream=True),
    Call("curl_plain", curl_plain, "/v1/models", "openai", method="GET", names_model=False),
    Call("curl_stream", curl_stream, CHAT, "openai", stream=True),
    Call("curl_compressed", curl_compressed, "/v1/models", "openai", method="GET", names_model=False),
    Call("curl_http_1_0", curl_http_1_0, "/v1/models", "openai", method="GET", names_model=False),
)
# google-genai says v1 or v1beta, by its release.
_GEMINI_PATH: Final = "/v1*/models/sim-large"
SIMULATED: Final = (
    *_BOTH,
    Call("openai_embeddings", openai_embeddings, "/v1/embeddings", "openai"),
    Call("openai_refused", openai_refused, CHAT, "openai", status=400),
    Call("gemini_generate", gemini_generate, f"{_GEMINI_PATH}:generateContent", "gemini"),
    Call("gemini_stream", gemini_stream, f"{_GEMINI_PATH}:streamGenerateContent", "gemini", stream=True),
    Call("ollama_chat", ollama_chat, "/api/chat", "ollama", stream=True),
    Call("websocket_echo", websocket_echo, "/ws/echo", "unknown", status=101, method="GET", names_model=False),
    Call("curl_upload", curl_upload, "/sim/echo", "unknown", method="PUT", names_model=False),
    Call("curl_upload_chunked", curl_upload_chunked, "/sim/echo", "unknown", names_model=False),
    Call("curl_head", curl_head, "/sim/bytes/1000", "unknown", method="HEAD", names_model=False),
)
LLAMA: Final = _BOTH
