"""The simulated OpenAI API: chat completions, responses, embeddings, models. Pure: an Ask in, a Reply out.

Streams have the events of the real API in their order (platform.openai.com API reference, read November 2026): a chat
begins with the role and ends with the finish reason, then usage if it was asked for, then `[DONE]`; a response goes
from `response.created` to `response.completed`, each event numbered.
"""

import base64
import struct
from collections.abc import Iterator
from typing import Any, Final

from llmdump.demo.reply import Ask, Reply, json_reply, last_text, pieces, required, sse, token_count

MODELS: Final = ("sim-large", "sim-small", "sim-embed")
EMBEDDING_DIMENSIONS: Final = 8
_CREATED: Final = 1_735_689_600
_DONE: Final = b"data: [DONE]\n\n"


def models(_: Ask) -> Reply:
    """GET /v1/models."""
    return json_reply({"object": "list", "data": [_model(name) for name in MODELS]})


def model(ask: Ask) -> Reply:
    """GET /v1/models/{model}: any name exists."""
    return json_reply(_model(ask.model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "llmdump"}


def embeddings(ask: Ask) -> Reply:
    """POST /v1/embeddings; vectors as floats, or base64 of little-endian float32 if the client asks for it."""
    texts = required(ask.body, "input")
    inputs = [texts] if isinstance(texts, str) else list(texts)
    as_base64 = ask.body.get("encoding_format") == "base64"
    data = [{"object": "embedding", "index": at, "embedding": _vector(str(text), as_base64)} for at, text in enumerate(inputs)]
    used = token_count(inputs)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_reply({"object": "list", "data": data, "model": required(ask.body, "model"), "usage": usage})


def _vector(text: str, as_base64: bool) -> list[float] | str:
    seed = sum(text.encode())
    values = [((seed * (at + 1)) % 200 - 100) / 100 for at in range(EMBEDDING_DIMENSIONS)]
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if as_base64 else values


def chat(ask: Ask) -> Reply:
    """POST /v1/chat/completions."""
    messages = required(ask.body, "messages")
    words = pieces(ask, last_text(messages))
    base = {"id": f"chatcmpl-{ask.tag}", "created": ask.now, "model": required(ask.body, "model")}
    usage = _usage(token_count(messages), len(words), "prompt_tokens", "completion_tokens")
    if ask.wants_stream:
        include = bool((ask.body.get("stream_options") or {}).get("include_usage"))
        return _stream(ask, (*_chat_events(base, words, usage if include else None), _DONE))
    message = {"role": "assistant", "content": "".join(words), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return json_reply({**base, "object": "chat.completion", "choices": [choice], "usage": usage}, headers=_headers(ask))


def _chat_events(base: dict[str, Any], words: list[str], usage: dict[str, Any] | None) -> Iterator[bytes]:
    base = {**base, "object": "chat.completion.chunk"}
    more = {} if usage is None else {"usage": None}

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse({**base, "choices": [choice], **more})

    yield event({"role": "assistant", "content": ""})
    yield from (event({"content": word}) for word in words)
    yield event({}, "stop")
    if usage is not None:
        yield sse({**base, "choices": [], "usage": usage})


def responses(ask: Ask) -> Reply:
    """POST /v1/responses."""
    given = required(ask.body, "input")
    words = pieces(ask, last_text(given))
    usage = _usage(token_count(given), len(words), "input_tokens", "output_tokens")
    response = {
        "id": f"resp_{ask.tag}", "object": "response", "created_at": ask.now, "model": required(ask.body, "model"),
        "error": None, "incomplete_details": None, "instructions": ask.body.get("instructions"), "metadata": {},
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
    }  # fmt: skip
    if ask.wants_stream:
        return _stream(ask, tuple(_numbered(_response_events(response, ask.tag, words, usage))))
    item = _message_item(ask.tag, "completed", [_output_text("".join(words))])
    return json_reply({**response, "status": "completed", "output": [item], "usage": usage}, headers=_headers(ask))


def _response_events(
    response: dict[str, Any], tag: str, words: list[str], usage: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    text = "".join(words)
    done = _message_item(tag, "completed", [_output_text(text)])
    place = {"item_id": done["id"], "output_index": 0, "content_index": 0}
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    yield "response.output_item.added", {"output_index": 0, "item": _message_item(tag, "in_progress", [])}
    yield "response.content_part.added", {**place, "part": _output_text("")}
    for word in words:
        yield "response.output_text.delta", {**place, "delta": word, "logprobs": []}
    yield "response.output_text.done", {**place, "text": text, "logprobs": []}
    yield "response.content_part.done", {**place, "part": _output_text(text)}
    yield "response.output_item.done", {"output_index": 0, "item": done}
    yield "response.completed", {"response": {**response, "status": "completed", "output": [done], "usage": usage}}


def _numbered(events: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[bytes]:
    for number, (name, fields) in enumerate(events):
        yield sse({"type": name, "sequence_number": number, **fields}, name)


def _message_item(tag: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"msg_{tag}", "type": "message", "status": status, "role": "assistant", "content": content}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(given: int, made: int, given_name: str, made_name: str) -> dict[str, Any]:
    details = {f"{given_name}_details": {"cached_tokens": 0}, f"{made_name}_details": {"reasoning_tokens": 0}}
    return {given_name: given, made_name: made, "total_tokens": given + made, **details}


def _headers(ask: Ask) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", f"req_{ask.tag}"), ("openai-processing-ms", "3"), ("openai-version", "2020-10-01"))


def _stream(ask: Ask, parts: tuple[bytes, ...]) -> Reply:
    headers = (*_headers(ask), ("Cache-Control", "no-cache"))
    return Reply("text/event-stream; charset=utf-8", parts, streamed=True, headers=headers)
