"""Anthropic: messages, on its own service, on Bedrock and on Vertex; counting, batches and the old completions.

    plain    {id, model, content: [block, …], stop_reason, usage}
    stream   message_start {message}, content_block_start {index, content_block}, content_block_delta {index, delta},
             content_block_stop, message_delta {delta: {stop_reason}, usage}, message_stop; ping and error between

Counts in `message_start` are a first word; those of `message_delta` are running totals and may raise the input.
"""

from typing import Any

from llmdump.reading.answer import Answer
from llmdump.reading.typed import count, mapping, objects


def read(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes an event of a stream or a whole message."""
    kind = document.get("type") or name
    if kind == "content_block_delta":
        _delta(answer, mapping(document.get("delta")), document.get("index"))
    elif kind == "content_block_start":
        _block(answer, mapping(document.get("content_block")), document.get("index"))
    elif kind == "message_start":
        answer.say(None)
        _message(answer, mapping(document.get("message")))
    elif kind == "message_delta":
        answer.usage.take(document.get("usage"))
        answer.ended(mapping(document.get("delta")).get("stop_reason"))
    elif kind == "message_stop":
        answer.done = True
    elif kind == "message" or "content" in document:
        answer.say(None)
        _message(answer, document)


def _message(answer: Answer, message: dict[str, Any]) -> None:
    answer.named(message.get("model"), message.get("id"))
    answer.usage.take(message.get("usage"))
    answer.ended(message.get("stop_reason"))
    for index, block in enumerate(objects(message.get("content"))):
        _block(answer, block, index, whole=True)


def _block(answer: Answer, block: dict[str, Any], index: Any, whole: bool = False) -> None:
    kind = block.get("type")
    if kind == "text":
        answer.say(block.get("text"))
    elif kind == "thinking":
        answer.think(block.get("thinking"))
    elif kind == "tool_use":
        # A stream starts with an empty object, and the arguments follow as text.
        arguments = block.get("input") if whole else block.get("input") or None
        answer.call(_key(index), block.get("name"), block.get("id"), arguments)
    elif kind in ("server_tool_use", "mcp_tool_use"):
        answer.built_in(block.get("name"))


def _delta(answer: Answer, delta: dict[str, Any], index: Any) -> None:
    kind = delta.get("type")
    if kind == "text_delta":
        answer.say(delta.get("text"))
    elif kind == "thinking_delta":
        answer.think(delta.get("thinking"))
    elif kind == "input_json_delta":
        answer.argue(_key(index), delta.get("partial_json"))


def _key(index: Any) -> Any:
    return index if isinstance(index, int | str) else None


def read_count(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes the answer to a question for a count."""
    answer.counted = count(document.get("input_tokens"))


def read_complete(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes an event or a whole answer of the old completions."""
    if "completion" not in document:
        return
    answer.named(document.get("model"), document.get("id"))
    answer.say(document.get("completion"))
    reason = document.get("stop_reason")
    answer.ended(reason)
    answer.done = answer.done or bool(reason)


def read_batches(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes a batch's state or a line of its results; the results' counts add up."""
    result = mapping(document.get("result"))
    if result:
        message = mapping(result.get("message"))
        answer.named(message.get("model"), None)
        answer.usage.take(message.get("usage"))
        answer.usage.next()
    else:
        answer.named(None, document.get("id"))
        answer.ended(document.get("processing_status"))
