"""The simulated Gemini API: generateContent, and streamGenerateContent as server-sent events or as a JSON array.

Pure: an Ask in, a Reply out. The real service ends SSE lines with CR LF, so this one does too.
"""

from collections.abc import Iterator
from typing import Any

from llmdump.demo.reply import Ask, Reply, compact, json_reply, last_text, pieces, required, token_count


def generate(ask: Ask) -> Reply:
    """POST /{v1,v1beta}/models/{model}:generateContent."""
    words = _words(ask)
    return json_reply(_response(ask, "".join(words), len(words), last=True))


def stream_sse(ask: Ask) -> Reply:
    """POST /{v1,v1beta}/models/{model}:streamGenerateContent?alt=sse."""
    parts = tuple(b"data: " + compact(response) + b"\r\n\r\n" for response in _responses(ask))
    return Reply("text/event-stream", parts, streamed=True)


def stream_array(ask: Ask) -> Reply:
    """POST /{v1,v1beta}/models/{model}:streamGenerateContent: one JSON array, an element at a time."""
    elements = [compact(response) for response in _responses(ask)]
    parts = [b"[" + elements[0], *(b",\r\n" + element for element in elements[1:]), b"]"]
    return Reply("application/json; charset=UTF-8", tuple(parts), streamed=True)


def count_tokens(ask: Ask) -> Reply:
    """POST /{v1,v1beta}/models/{model}:countTokens."""
    return json_reply({"totalTokens": token_count(required(ask.body, "contents"))})


def _words(ask: Ask) -> list[str]:
    return pieces(ask, last_text(required(ask.body, "contents"))) or [""]


def _responses(ask: Ask) -> Iterator[dict[str, Any]]:
    words = _words(ask)
    for made, word in enumerate(words, 1):
        yield _response(ask, word, made, last=made == len(words))


def _response(ask: Ask, text: str, made: int, *, last: bool) -> dict[str, Any]:
    given = token_count(ask.body["contents"])
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": given, "candidatesTokenCount": made, "totalTokenCount": given + made}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": ask.model, "responseId": ask.tag}
