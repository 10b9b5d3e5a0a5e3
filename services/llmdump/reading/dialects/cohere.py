"""Cohere: chat in both versions, embeddings, reranking.

v2   {id, message: {content: [{type, text}], tool_calls}, finish_reason, usage: {tokens, billed_units, cached_tokens}}
     stream: message-start, content-delta, tool-call-start, tool-call-delta, message-end {delta: {finish_reason, usage}}
v1   {response_id, generation_id, text, tool_calls, finish_reason, meta: {tokens, billed_units}}
     stream, NDJSON: stream-start, text-generation, tool-calls-generation, stream-end {response}
"""

from typing import Any

from llmdump.reading.answer import Answer
from llmdump.reading.dialects.chat import content
from llmdump.reading.typed import at, mapping, objects


def read(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes an event or a whole answer of version 2."""
    kind = document.get("type") or name
    message = mapping(at(document, "delta", "message"))
    if kind == "content-delta":
        part = mapping(message.get("content"))
        answer.say(part.get("text"))
        answer.think(part.get("thinking"))
    elif kind == "tool-plan-delta":
        answer.think(message.get("tool_plan"))
    elif kind in ("tool-call-start", "tool-call-delta"):
        _piece(answer, mapping(message.get("tool_calls")), document.get("index"))
    elif kind == "message-start":
        answer.named(None, document.get("id"))
        answer.say(None)
    elif kind == "message-end":
        _end(answer, mapping(document.get("delta")))
        answer.done = True
    elif "message" in document:
        _whole(answer, document)


def _whole(answer: Answer, document: dict[str, Any]) -> None:
    answer.named(document.get("model"), document.get("id"))
    message = mapping(document.get("message"))
    if message:
        content(answer, message.get("content") or "")
        answer.think(message.get("tool_plan"))
        for call in objects(message.get("tool_calls")):
            answer.called(at(call, "function", "name"), call.get("id"), at(call, "function", "arguments"))
    _end(answer, document)


def _end(answer: Answer, holder: dict[str, Any]) -> None:
    answer.ended(holder.get("finish_reason"))
    answer.usage.take(holder.get("usage"))


def _piece(answer: Answer, call: dict[str, Any], index: Any) -> None:
    key = index if isinstance(index, int) else None
    answer.call(key, at(call, "function", "name"), call.get("id"), at(call, "function", "arguments"))
    answer.generated = True


def read_v1(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes an event or a whole answer of version 1."""
    kind = document.get("event_type")
    if kind == "text-generation":
        answer.say(document.get("text"))
    elif kind == "tool-calls-generation":
        _tools(answer, document)
    elif kind == "stream-start":
        answer.named(None, document.get("generation_id"))
        answer.say(None)
    elif kind == "stream-end":
        answer.done = True
        _close(answer, mapping(document.get("response")), document)
    elif kind is None and "text" in document:
        answer.say(document["text"])
        _tools(answer, document)
        _close(answer, document, document)


def _tools(answer: Answer, holder: dict[str, Any]) -> None:
    for call in objects(holder.get("tool_calls")):
        answer.called(call.get("name"), None, call.get("parameters"))


def _close(answer: Answer, response: dict[str, Any], end: dict[str, Any]) -> None:
    answer.renamed = True
    answer.named(None, response.get("response_id") or response.get("generation_id"))
    answer.ended(end.get("finish_reason") or response.get("finish_reason"))
    answer.usage.take(response.get("meta"))


def read_other(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes embeddings or a ranking."""
    answer.named(document.get("model"), document.get("id"))
    answer.usage.take(document.get("meta"))
