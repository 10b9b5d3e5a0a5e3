"""Amazon Bedrock: Converse, and InvokeModel with the bodies of the models' makers.

Converse        {output: {message: {content: [block, …]}}, stopReason, usage}
                block: {text | toolUse | reasoningContent | citationsContent: {content: [{text}], citations}}
ConverseStream  messages of an event stream: messageStart, contentBlockStart, contentBlockDelta, contentBlockStop,
                messageStop {stopReason}, metadata {usage}; an exception message on failure
InvokeModel     as the maker says; streamed, each message is {bytes: base64 of the maker's event}. The last one has
                `amazon-bedrock-invocationMetrics`, whose counts are taken only where the maker's are not there.
"""

import base64
import binascii
from typing import Any, Final

from llmdump.reading.answer import Answer
from llmdump.reading.dialects import anthropic, chat
from llmdump.reading.typed import BROKEN, at, count, decoded, mapping, objects, text

EVENTS: Final = frozenset(
    ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")
)
METRICS: Final = "amazon-bedrock-invocationMetrics"


def read(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes an answer of Converse, or a message of its stream with its `:event-type` as name."""
    if name == "contentBlockDelta":
        _delta(answer, mapping(document.get("delta")), document.get("contentBlockIndex"))
    elif name == "contentBlockStart":
        _tool(answer, mapping(at(document, "start", "toolUse")), document.get("contentBlockIndex"))
    elif name == "messageStart":
        answer.say(None)
    elif name in ("messageStop", "metadata"):
        answer.ended(document.get("stopReason"))
        answer.usage.take(document.get("usage"))
        answer.done = answer.done or name == "messageStop"
    elif "output" in document:
        _whole(answer, document)


def _whole(answer: Answer, document: dict[str, Any]) -> None:
    answer.say(None)
    answer.ended(document.get("stopReason"))
    answer.usage.take(document.get("usage"))
    for index, block in enumerate(objects(at(document, "output", "message", "content"))):
        _delta(answer, block, index)
        tool = mapping(block.get("toolUse"))
        _tool(answer, tool, index, tool.get("input"))


def _delta(answer: Answer, delta: dict[str, Any], index: Any) -> None:
    if "text" in delta:
        answer.say(delta["text"])
    elif "reasoningContent" in delta:
        thought = mapping(delta["reasoningContent"])
        answer.think(thought.get("text") or at(thought, "reasoningText", "text"))
    elif "citationsContent" in delta:
        for cited in objects(at(delta, "citationsContent", "content")):
            answer.say(cited.get("text"))
    elif isinstance(at(delta, "toolUse", "input"), str):
        answer.argue(_key(index), delta["toolUse"]["input"])


def _tool(answer: Answer, tool: dict[str, Any], index: Any, arguments: Any = None) -> None:
    if tool.get("type") == "server_tool_use":
        answer.built_in(tool.get("name"))
    elif tool:
        answer.call(_key(index), tool.get("name"), tool.get("toolUseId"), arguments)


def _key(index: Any) -> Any:
    return index if isinstance(index, int) else None


def read_invoke(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes an answer of InvokeModel, or a message of its stream."""
    wrapped = document.get("bytes")
    if isinstance(wrapped, str):
        document = mapping(_unwrapped(wrapped))
    read_maker(answer, document, name)
    if METRICS in document:
        _metrics(answer, mapping(document[METRICS]))


def _unwrapped(wrapped: str) -> Any:
    try:
        return decoded(base64.b64decode(wrapped))
    except (binascii.Error, ValueError):
        return BROKEN


def _metrics(answer: Answer, metrics: dict[str, Any]) -> None:
    answer.done = True
    found = {"inputTokens": metrics.get("inputTokenCount"), "outputTokens": metrics.get("outputTokenCount")}
    names = {"inputTokens": "input_tokens", "outputTokens": "output_tokens"}
    answer.usage.take({key: value for key, value in found.items() if names[key] not in answer.usage.kept})


def read_maker(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes a body in the words of a model's maker, told by its shape."""
    event = next((key for key in document if key in EVENTS), None)
    kind = document.get("type")
    if event is not None:
        read(answer, mapping(document[event]), event)
    elif isinstance(document.get("output"), dict):
        read(answer, document, "")
    elif isinstance(document.get("choices"), list):
        chat.read(answer, document, "")
        _texts(answer, objects(document["choices"]))
    elif isinstance(kind, str) and (kind == "message" or kind.startswith(("message_", "content_block_"))):
        anthropic.read(answer, document, "")
    else:
        _old_maker(answer, document)


def _old_maker(answer: Answer, document: dict[str, Any]) -> None:
    """Llama: generation. Titan: results or outputText. Mistral: outputs. Cohere: generations or text. Claude 2: completion."""
    said = next((document[key] for key in ("generation", "outputText", "completion", "text") if text(document.get(key))), None)
    lists = ("results", "outputs", "generations", "completions")
    parts = next((objects(document[key]) for key in lists if isinstance(document.get(key), list)), [])
    if said or parts or "generation" in document:
        answer.say(said)
    _texts(answer, parts)
    answer.ended(document.get("stop_reason") or document.get("completionReason") or document.get("finish_reason"))
    tokens = [found for part in parts if (found := count(part.get("tokenCount"))) is not None]
    output = {"outputTokens": sum(tokens)} if tokens else {}
    if (
        count(document.get("inputTextTokenCount")) is not None
        or count(document.get("prompt_token_count")) is not None
        or output
    ):
        answer.usage.take({**{key: document[key] for key in document if key.endswith(("TokenCount", "token_count"))}, **output})


def _texts(answer: Answer, parts: list[dict[str, Any]]) -> None:
    for part in parts[:1]:
        said = part.get("text") or part.get("outputText") or at(part, "data", "text")
        if said:
            answer.say(said)
        reason = part.get("stop_reason") or part.get("completionReason") or part.get("finish_reason")
        answer.ended(reason if isinstance(reason, str) else at(part, "finishReason", "reason"))


def read_count(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes the answer to a question for a count."""
    answer.counted = count(document.get("inputTokens"))
