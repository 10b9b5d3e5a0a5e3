"""Ollama: chat, generate, embed. Plain, or NDJSON of which the last line has `done` and the figures.

{model, message: {content, thinking, tool_calls: [{function: {name, arguments}}]}, done, done_reason,
 prompt_eval_count, eval_count, prompt_eval_duration, eval_duration}      durations in ns; generate: `response`
"""

from typing import Any, Final

from llmdump.reading.answer import Answer
from llmdump.reading.typed import at, mapping, objects

FIGURES: Final = (
    "prompt_eval_count", "eval_count", "prompt_eval_duration", "eval_duration", "total_duration", "load_duration",
)  # fmt: skip


def read(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes a line or a whole answer of chat or generate."""
    answer.named(document.get("model"), None)
    message = mapping(document.get("message"))
    if message or "response" in document:
        answer.say(message.get("content") or document.get("response"))
        answer.think(message.get("thinking") or document.get("thinking"))
    for call in objects(message.get("tool_calls")):
        answer.called(at(call, "function", "name"), call.get("id"), at(call, "function", "arguments"))
    if document.get("done") is True:
        answer.ended(document.get("done_reason"))
        answer.done = True
        _figures(answer, document)


def read_embedding(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes embeddings."""
    answer.named(document.get("model"), None)
    _figures(answer, document)


def _figures(answer: Answer, document: dict[str, Any]) -> None:
    answer.usage.take({key: document[key] for key in FIGURES if key in document})
