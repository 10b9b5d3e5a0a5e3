"""Fine-tuning files of OpenAI and Anthropic: a line a conversation that came to its end, tools included.

    openai-finetune      {"messages": [{role, content, tool_calls?, tool_call_id?}, …], "tools"?: […]}
    anthropic-finetune   {"system"?: text, "messages": [{role, content: text or blocks}, …], "tools"?: […]}

Either is made of any API's exchanges (see `llmdump.reading.conversation`). What is unfit is left out and counted by its
reason. Those who read these files take nothing but such lines, so the file itself says nothing of where to go on.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from llmdump.reading import from_records
from llmdump.reading.canonical import spelt
from llmdump.reading.conversation import Call, Conversation, Message, UnfitError, conversation
from llmdump_api.export.selection import Exchange, Selection


def openai(selection: Selection) -> Iterator[bytes]:
    """Lines of the form `openai-finetune`. Raises what reading the selection raises."""
    return _lines(selection, _openai)


def anthropic(selection: Selection) -> Iterator[bytes]:
    """Lines of the form `anthropic-finetune`. Raises what reading the selection raises."""
    return _lines(selection, _anthropic)


def _lines(selection: Selection, shape: Callable[[Conversation], dict[str, Any]]) -> Iterator[bytes]:
    for exchange in selection.newest_first():
        try:
            yield orjson.dumps(shape(_conversation(exchange)), default=spelt, option=orjson.OPT_APPEND_NEWLINE)
        except (UnfitError, orjson.JSONEncodeError) as err:
            selection.told.leave_out(str(err) if isinstance(err, UnfitError) else "no JSON can hold it")


def _conversation(exchange: Exchange) -> Conversation:
    row = exchange.row
    if not row["status"] or not 200 <= row["status"] < 300:
        raise UnfitError("answer is an error or a refusal")
    ended = row["end_reason"] == "complete"
    return conversation(from_records.read(exchange.records(), exchange.started_us, ended=ended), ended=ended)


# --- OpenAI


def _openai(said: Conversation) -> dict[str, Any]:
    shaped: dict[str, Any] = {"messages": [_openai_message(message) for message in said.messages]}
    if said.tools:
        shaped["tools"] = [
            {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema}}
            for tool in said.tools
        ]
    return shaped


def _openai_message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.answers, "content": message.text}
    if not message.calls:
        return {"role": message.role, "content": message.text}
    return {"role": message.role, "content": message.text or None, "tool_calls": [_openai_call(call) for call in message.calls]}


def _openai_call(call: Call) -> dict[str, Any]:
    arguments = orjson.dumps(call.arguments, default=spelt).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


# --- Anthropic


def _anthropic(said: Conversation) -> dict[str, Any]:
    shaped: dict[str, Any] = {}
    if system := "\n\n".join(message.text for message in said.messages if message.role == "system" and message.text):
        shaped["system"] = system
    shaped["messages"] = list(_turns(said.messages))
    if said.tools:
        shaped["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in said.tools
        ]
    return shaped


def _turns(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """User and assistant in turn; a tool's answer is the user's."""
    role, blocks = "", list[dict[str, Any]]()
    for message in messages:
        if message.role == "system":
            continue
        turn = "assistant" if message.role == "assistant" else "user"
        if turn != role and blocks:
            yield {"role": role, "content": _content(blocks)}
            blocks = []
        role = turn
        blocks += _blocks(message)
    yield {"role": role, "content": _content(blocks)}


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield {"type": "tool_result", "tool_use_id": message.answers, "content": message.text}
        return
    if message.text:
        yield {"type": "text", "text": message.text}
    for call in message.calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}


def _content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return str(blocks[0]["text"]) if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks
