"""An exchange as a conversation: messages, tool calls and what tools gave back, in one shape whatever the API. Pure.

    OpenAI chat, Ollama      messages, `tool_calls`, role `tool`
    Anthropic, Bedrock       messages of blocks: text, tool_use, tool_result; `system` beside them
    OpenAI Responses         `instructions`, items of `input`: message, function_call, function_call_output
    Gemini                   `contents` of parts: text, functionCall, functionResponse; `systemInstruction`

The last message is the answer, put together from its stream. What a model thought is left out. What this shape cannot
hold as it was (pictures, sounds, history that the server keeps, answers that are not whole) makes an exchange unfit.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import orjson

from llmdump.reading.canonical import decode
from llmdump.reading.from_records import Told
from llmdump.reading.turns import unwrapped

_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
_ROLES: Final = {"developer": "system", "model": "assistant"}
_CUT: Final = frozenset({"length", "max_tokens", "max_output_tokens", "MAX_TOKENS", "incomplete"})


class UnfitError(ValueError):
    """This exchange is no such conversation; the message says why, in a few words of a closed set."""


class Call(NamedTuple):
    """A tool that the model asked for."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(NamedTuple):
    """One of `system`, `user`, `assistant`, `tool`."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    answers: str = ""
    """The id of the call that a tool's message answers."""


class Tool(NamedTuple):
    """A tool that the model may ask for."""

    name: str
    description: str
    schema: dict[str, Any]


class Conversation(NamedTuple):
    """What was said, the answer last, and the tools there were."""

    messages: list[Message]
    tools: list[Tool]


def conversation(told: Told, *, ended: bool) -> Conversation:
    """The conversation of an exchange. Raises UnfitError."""
    document = decode(told.request.body) if told.request.body_whole else None
    if not isinstance(document, dict):
        raise UnfitError("request is no JSON")
    if not ended or not told.reading.normalised["complete"] or told.answer_cut:
        raise UnfitError("answer is not whole")
    asked = _Asked()
    asked.read(unwrapped(document))
    if not any(message.role in {"user", "tool"} for message in asked.messages):
        raise UnfitError("no messages")
    return Conversation([*_joined(asked.messages), _answer(told, asked)], list(_tools(unwrapped(document).get("tools"))))


def _answer(told: Told, asked: "_Asked") -> Message:
    read, same = told.reading.reading, told.reading.normalised
    if read["is_error"] or same["refusal"]:
        raise UnfitError("answer is an error or a refusal")
    if same["finish_reason"] in _CUT or (read["text_chars"] or 0) > len(told.reading.text):
        raise UnfitError("answer is not whole")
    calls = tuple(asked.call(call["id"], call["name"], call["arguments"]) for call in same["calls"])
    if not told.reading.text and not calls:
        raise UnfitError("answer has no text")
    return Message("assistant", told.reading.text, calls)


class _Asked:
    """The request's history being read."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._unanswered: list[Call] = []
        self._calls = 0

    def read(self, document: dict[str, Any]) -> None:
        """Take a request's body. Raises UnfitError."""
        if document.get("previous_response_id") or document.get("conversation"):
            raise UnfitError("history is kept by the server")
        for name in ("system", "instructions", "systemInstruction", "system_instruction"):
            if document.get(name):
                self._say("system", _text(document[name]))
        turns = next((document[name] for name in ("messages", "contents", "input") if document.get(name)), None)
        if isinstance(turns, str):
            self._say("user", turns)
        for turn in turns if isinstance(turns, list) else ():
            if not isinstance(turn, dict):
                raise UnfitError("unknown sort of message")
            self._turn(turn)

    def call(self, told_id: Any, name: Any, arguments: Any) -> Call:
        """A call with an id, its arguments as an object. Raises UnfitError."""
        self._calls += 1
        call = Call(told_id if isinstance(told_id, str) and told_id else f"call_{self._calls}", str(name), _object(arguments))
        self._unanswered.append(call)
        return call

    def _turn(self, turn: dict[str, Any]) -> None:
        kind, role = turn.get("type"), str(turn.get("role") or "user")
        if kind == "function_call":
            self._say("assistant", "", [self.call(turn.get("call_id"), turn.get("name"), turn.get("arguments"))])
        elif kind == "function_call_output":
            self._result(turn.get("call_id"), None, turn.get("output"))
        elif role == "tool":
            self._result(turn.get("tool_call_id"), turn.get("tool_name") or turn.get("name"), turn.get("content"))
        elif kind not in _THOUGHTS:
            if kind not in {None, "message"} or role not in {"system", "developer", "user", "assistant", "model"}:
                raise UnfitError("unknown sort of message")
            self._message(_ROLES.get(role, role), turn)

    def _message(self, role: str, turn: dict[str, Any]) -> None:
        content = turn.get("content", turn.get("parts"))
        texts: list[str] = []
        calls: list[Call] = []
        for part in content if isinstance(content, list) else [content]:
            self._part(part, texts, calls)
        for call in turn.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                raise UnfitError("unknown sort of message")
            calls.append(self.call(call.get("id"), function.get("name"), function.get("arguments")))
        if any(texts) or calls:
            self._say(role, "".join(texts), calls)

    def _part(self, part: Any, texts: list[str], calls: list[Call]) -> None:
        if part is None or isinstance(part, str):
            texts.append(part or "")
            return
        if not isinstance(part, dict):
            raise UnfitError("unknown sort of message")
        kind = part.get("type")
        called, given = part.get("functionCall"), part.get("functionResponse")
        if kind in _TEXTS or (kind is None and isinstance(part.get("text"), str)):
            texts.append("" if part.get("thought") else str(part.get("text") or ""))
        elif kind == "tool_use":
            calls.append(self.call(part.get("id"), part.get("name"), part.get("input")))
        elif kind == "tool_result":
            self._result(part.get("tool_use_id"), None, part.get("content"))
        elif isinstance(called, dict):
            calls.append(self.call(called.get("id"), called.get("name"), called.get("args")))
        elif isinstance(given, dict):
            self._result(given.get("id"), given.get("name"), given.get("response"))
        elif kind not in _THOUGHTS:
            raise UnfitError("pictures, sounds or files")

    def _result(self, told_id: Any, name: Any, content: Any) -> None:
        """What a tool gave back; where it does not say to which call, to the first of that name that waits."""
        match = [call for call in self._unanswered if call.id == told_id]
        match = match or [call for call in self._unanswered if not told_id and name in {None, call.name}]
        if not match:
            raise UnfitError("a tool's answer to no call")
        self._unanswered.remove(match[0])
        self.messages.append(Message("tool", _text(content), answers=match[0].id))

    def _say(self, role: str, text: str, calls: Iterable[Call] = ()) -> None:
        self.messages.append(Message(role, text, tuple(calls)))


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages of a model that follow one another are one: some APIs have an item for each call."""
    held: Message | None = None
    for message in messages:
        if held and held.role == message.role == "assistant":
            held = held._replace(text=held.text + message.text, calls=held.calls + message.calls)
            continue
        if held:
            yield held
        held = message
    if held:
        yield held


def _text(content: Any) -> str:
    """The text of what may be a text, or parts of one; a value of a tool as JSON. Raises UnfitError."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict) and isinstance(content.get("parts"), list):
        content = content["parts"]
    if isinstance(content, dict) and set(content) <= {"type", "text", "cache_control"} and isinstance(content.get("text"), str):
        return str(content["text"])
    if not isinstance(content, list) or not all(isinstance(part, dict | str) for part in content):
        return orjson.dumps(content, default=float).decode()
    for part in content:
        if isinstance(part, dict) and part.get("type") not in {None, *_TEXTS}:
            raise UnfitError("pictures, sounds or files")
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)


def _object(arguments: Any) -> dict[str, Any]:
    """The arguments of a call. Raises UnfitError."""
    if isinstance(arguments, str):
        arguments = decode(arguments.encode()) if arguments.strip() else {}
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise UnfitError("arguments of a call are no JSON object")
    return arguments


def _tools(tools: Any) -> Iterator[Tool]:
    """The functions among the tools; what the provider runs by itself is none."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        declared = tool.get("functionDeclarations") or tool.get("function_declarations") or [tool.get("function") or tool]
        for one in declared if isinstance(declared, list) else ():
            schema = next((one[name] for name in _SCHEMAS if isinstance(one, dict) and isinstance(one.get(name), dict)), None)
            if isinstance(one, dict) and isinstance(one.get("name"), str) and (schema is not None or "function" in tool):
                yield Tool(one["name"], str(one.get("description") or ""), schema or {"type": "object", "properties": {}})


_SCHEMAS: Final = ("parameters", "input_schema", "parametersJsonSchema")
