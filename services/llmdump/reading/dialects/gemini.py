"""Gemini, on AI Studio and on Vertex: generating, streaming, counting, embedding, and interactions.

    {candidates: [{index, content: {parts: [{text, thought, functionCall, executableCode}]}, finishReason}],
     usageMetadata, modelVersion, responseId, promptFeedback: {blockReason}}

A stream repeats this object, as SSE (`alt=sse`) or as the elements of one array; the counts are running totals. With
`enum-encoding=int` reasons are numbers. Code Assist, which Gemini CLI asks after a login, has it in `response`. A prompt that
is blocked has no candidates, and so no reason to end: its answer is whole all the same.
"""

from typing import Any

from llmdump.reading.answer import Answer
from llmdump.reading.typed import at, count, mapping, objects, text


def read(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes a whole answer or an element of a stream."""
    wrapped = document.get("response")
    document = wrapped if isinstance(wrapped, dict) and "candidates" not in document else document
    answer.named(document.get("modelVersion"), document.get("responseId"))
    answer.usage.take(document.get("usageMetadata"))
    block = at(document, "promptFeedback", "blockReason")
    answer.blocked = text(block) or answer.blocked
    for position, candidate in enumerate(objects(document.get("candidates"))):
        index = candidate.get("index")
        index = index if isinstance(index, int) else position
        answer.chose(index)
        if index == 0:
            _candidate(answer, candidate)


def _candidate(answer: Answer, candidate: dict[str, Any]) -> None:
    answer.say(None)
    for part in objects(at(candidate, "content", "parts")):
        _part(answer, part)
    reason = candidate.get("finishReason")
    answer.ended(reason)
    answer.done = answer.done or bool(reason)


def _part(answer: Answer, part: dict[str, Any]) -> None:
    if part.get("thought") is True:
        answer.think(part.get("text"))
    elif "text" in part:
        answer.say(part["text"])
    function = mapping(part.get("functionCall"))
    if text(function.get("name")):
        answer.called(function["name"], function.get("id"), function.get("args"))
    if mapping(part.get("executableCode")):
        answer.built_in("executableCode")
        answer.generated = True
    if mapping(part.get("inlineData")) or function.get("partialArgs"):
        answer.generated = True


def read_count(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes the answer to a question for a count."""
    answer.counted = count(document.get("totalTokens"))


def read_embedding(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes embeddings; Vertex counts each one's tokens."""
    answer.usage.take(document.get("usageMetadata"))
    for prediction in objects(document.get("predictions")):
        tokens = count(at(prediction, "embeddings", "statistics", "token_count"))
        if tokens is not None:
            answer.usage.take({"promptTokenCount": tokens})
            answer.usage.next()


def read_interaction(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes an interaction or an event of its stream."""
    interaction = document.get("interaction", document)
    if isinstance(interaction, dict):
        answer.named(interaction.get("model"), interaction.get("id"))
        answer.usage.take(interaction.get("usage"))
        answer.ended(interaction.get("status"))
        for index, step in enumerate(objects(interaction.get("steps") or interaction.get("outputs"))):
            _step(answer, step, index)
    _step(answer, mapping(document.get("step")), document.get("index"))
    delta = mapping(document.get("delta"))
    if delta:
        _content(answer, delta, document.get("index"))
    answer.done = answer.done or document.get("event_type") == "interaction.completed"


def _step(answer: Answer, step: dict[str, Any], index: Any) -> None:
    for part in objects(step.get("content")) or ([step] if step else []):
        _content(answer, part, index)


def _content(answer: Answer, part: dict[str, Any], index: Any) -> None:
    kind = part.get("type")
    if kind == "text":
        answer.say(part.get("text"))
    elif kind in ("thought", "thought_summary"):
        answer.think(part.get("text") or at(part, "content", "text"))
    elif kind == "function_call":
        key = index if isinstance(index, int) else None
        answer.call(key, part.get("name"), part.get("id"), part.get("arguments") or None)
    elif isinstance(kind, str) and kind.endswith("_call"):
        answer.built_in(kind)
