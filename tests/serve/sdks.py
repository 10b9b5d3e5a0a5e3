"""Recorded exchanges asked for again by the official SDKs: openai, anthropic, google-genai.

`complete` makes the call that the recorded request is, through the SDK's own methods (what a method has no parameter for
goes into `extra_body`), reads the answer to its end as the SDK gives it, and says what a caller would have got.
"""

import base64
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import anthropic
import openai
from google import genai
from google.genai import errors, types

TIMEOUT_S: Final = 20.0


class Outcome(NamedTuple):
    """What a caller gets."""

    status: int
    """200, or that of the error which the SDK raised."""
    text: str | None = None
    """Of the first choice; None where there is none."""
    id: str | None = None


Call = Callable[[str, dict[str, Any]], Outcome]


def complete(url: str, exchange: dict[str, Any]) -> Outcome:
    """The exchange again, at this base URL. Raises what the SDK raises but for an answer with an error status."""
    return CALLS[exchange["api"]](url, exchange)


def body_of(exchange: dict[str, Any]) -> Any:
    """The recorded request's JSON."""
    return json.loads(base64.b64decode(exchange["request"]["body_b64"]) or b"{}")


def _split(exchange: dict[str, Any], suffix: str) -> tuple[str, dict[str, str]]:
    path, _, query = exchange["endpoint"].partition("?")
    assert path.endswith(suffix), path
    return path.removesuffix(suffix), dict(parse_qsl(query))


def _arguments(method: Callable[..., Any], body: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(method).parameters
    rest = {key: value for key, value in body.items() if key not in known}
    return {key: value for key, value in body.items() if key in known} | ({"extra_body": rest} if rest else {})


# --- openai


@functools.cache
def _openai() -> openai.OpenAI:
    """One for all, for each would read the system's certificates anew."""
    return openai.OpenAI(api_key="sk-none", base_url="http://none.invalid", max_retries=0, timeout=TIMEOUT_S)


def _by_openai(suffix: str, method: Callable[[openai.OpenAI], Any], read: Callable[[Any], Outcome]) -> Call:
    def call(url: str, exchange: dict[str, Any]) -> Outcome:
        base, query = _split(exchange, suffix)
        make = method(_openai().with_options(base_url=url + base, default_query=query))
        try:
            return read(make(**_arguments(make, body_of(exchange))))
        except openai.APIStatusError as err:
            return Outcome(err.status_code)

    return call


def _chat(answer: Any) -> Outcome:
    if not isinstance(answer, openai.Stream):
        choices = answer.choices or []
        return Outcome(200, (choices[0].message.content or "") if choices else None, answer.id)
    text, found = "", None
    for chunk in answer:
        found = found or chunk.id
        text += "".join(choice.delta.content or "" for choice in chunk.choices or [] if not choice.index and choice.delta)
    return Outcome(200, text, found)


def _completion(answer: Any) -> Outcome:
    if not isinstance(answer, openai.Stream):
        return Outcome(200, answer.choices[0].text, answer.id)
    chunks = list(answer)
    text = "".join(choice.text or "" for chunk in chunks for choice in chunk.choices or [] if not choice.index)
    return Outcome(200, text, chunks[0].id)


def _response(answer: Any) -> Outcome:
    if not isinstance(answer, openai.Stream):
        return Outcome(200, answer.output_text, answer.id)
    last = None
    for event in answer:
        last = event.response if event.type in {"response.completed", "response.incomplete", "response.failed"} else last
    return Outcome(200, last.output_text if last else None, last.id if last else None)


def _embeddings(answer: Any) -> Outcome:
    assert answer.data
    return Outcome(200)


def _retrieved(url: str, exchange: dict[str, Any]) -> Outcome:
    path, _, query = exchange["endpoint"].partition("?")
    base, _, name = path.rpartition("/responses/")
    client = _openai().with_options(base_url=url + base, default_query=dict(parse_qsl(query)))
    if exchange["method"] == "DELETE":
        client.responses.delete(name)
        return Outcome(200)
    return _response(client.responses.retrieve(name))


# --- anthropic


@functools.cache
def _anthropic() -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="none", base_url="http://none.invalid", max_retries=0, timeout=TIMEOUT_S)


def _by_anthropic(suffix: str, method: Callable[[anthropic.Anthropic], Any], read: Callable[[Any], Outcome]) -> Call:
    def call(url: str, exchange: dict[str, Any]) -> Outcome:
        base, query = _split(exchange, suffix)
        make = method(_anthropic().with_options(base_url=url + base, default_query=query))
        try:
            return read(make(**_arguments(make, body_of(exchange))))
        except anthropic.APIStatusError as err:
            return Outcome(err.status_code)

    return call


def _message(answer: Any) -> Outcome:
    if not isinstance(answer, anthropic.Stream):
        return Outcome(200, "".join(block.text for block in answer.content if block.type == "text"), answer.id)
    text, found = "", None
    for event in answer:
        if event.type == "message_start":
            found = event.message.id
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            text += event.delta.text
    return Outcome(200, text, found)


# --- google


def _by_google(url: str, exchange: dict[str, Any]) -> Outcome:
    path = exchange["endpoint"].partition("?")[0]
    version, _, rest = path.strip("/").partition("/models/")
    name, _, method = rest.partition(":")
    try:
        return _GOOGLE[method](_genai(url, version), name, body_of(exchange))
    except errors.APIError as err:
        return Outcome(err.code)


@functools.cache
def _genai(url: str, version: str) -> genai.Client:
    options = types.HttpOptions(base_url=url, api_version=version, timeout=int(TIMEOUT_S * 1000))
    return genai.Client(api_key="none", http_options=options)


def _config(body: dict[str, Any]) -> types.GenerateContentConfig:
    """What the SDK takes beside the contents: all in one object, sent as several."""
    fields = dict(body.get("generationConfig") or {})
    fields |= {key: body[key] for key in ("systemInstruction", "tools", "toolConfig", "safetySettings") if key in body}
    return types.GenerateContentConfig.model_validate(fields)


def _generate(client: genai.Client, name: str, body: dict[str, Any]) -> Outcome:
    contents = [types.Content.model_validate(one) for one in body["contents"]]
    answer = client.models.generate_content(model=name, contents=contents, config=_config(body))
    return Outcome(200, _visible([answer]), answer.response_id)


def _stream(client: genai.Client, name: str, body: dict[str, Any]) -> Outcome:
    contents = [types.Content.model_validate(one) for one in body["contents"]]
    chunks = list(client.models.generate_content_stream(model=name, contents=contents, config=_config(body)))
    return Outcome(200, _visible(chunks), chunks[0].response_id)


def _visible(chunks: list[Any]) -> str:
    return "".join(
        part.text or ""
        for chunk in chunks
        for candidate in (chunk.candidates or [])[:1]
        for part in (candidate.content.parts if candidate.content else None) or []
        if not part.thought
    )


_GOOGLE: Final = {"generateContent": _generate, "streamGenerateContent": _stream}

CALLS: Final[dict[str, Call]] = {
    "openai.chat": _by_openai("/chat/completions", lambda client: client.chat.completions.create, _chat),
    "openai.completions": _by_openai("/completions", lambda client: client.completions.create, _completion),
    "openai.responses": _by_openai("/responses", lambda client: client.responses.create, _response),
    "openai.responses_retrieve": _retrieved,
    "openai.responses_other": _retrieved,
    "openai.embeddings": _by_openai("/embeddings", lambda client: client.embeddings.create, _embeddings),
    "anthropic.messages": _by_anthropic("/v1/messages", lambda client: client.messages.create, _message),
    "anthropic.count_tokens": _by_anthropic(
        "/v1/messages/count_tokens", lambda client: client.messages.count_tokens, lambda _: Outcome(200)
    ),
    "gemini.generate": _by_google,
    "gemini.stream": _by_google,
}


REFUSED: Final = "sdk_refused"


def not_theirs(exchange: dict[str, Any]) -> str:
    """Why the official SDKs cannot make this call, or read its answer; empty if they can."""
    api, path = exchange["api"], exchange["endpoint"].partition("?")[0]
    if api not in CALLS or not path.endswith(SUFFIXES.get(api, "")):
        return "no method for it"
    if REFUSED in (exchange["checked"] or {}).get("differs", ()):
        return "the SDK refuses the answer"
    if exchange["framing"] == "json_array" or (api.startswith("gemini") and "/models/" not in path):
        return "the SDK asks for SSE only"
    body = body_of(exchange)
    if api == "openai.embeddings" and "encoding_format" not in body:
        return "the SDK asks for base64 where nothing is said"
    if api == "openai.completions" and ("prompt" not in body or exchange["stream"] != bool(body.get("stream"))):
        return "not what was asked for"
    return ""


SUFFIXES: Final = {"openai.chat": "/chat/completions"}
