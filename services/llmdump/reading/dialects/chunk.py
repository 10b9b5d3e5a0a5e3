"""The chunk that a chat stream consists of, some text or thought and nothing else, taken in a short way.

Nearly all events of all streams are these, so they are decoded into a struct with just the fields that may be in one.
Whatever has more, a second choice, a finish reason, a usage, a tool call, a wrong type, is left to `chat.read`.
"""

from typing import Any, Final

import msgspec

from llmdump.reading.answer import Answer


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    reasoning_text: Any = None
    thinking: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int = 0
    finish_reason: Any = None
    usage: Any = None
    message: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: Any = None
    error: Any = None
    timings: Any = None
    metrics: Any = None
    stats: Any = None
    x_groq: Any = None
    type: Any = None
    object: str | None = None


_DECODE: Final = msgspec.json.Decoder(_Chunk).decode


def take(answer: Answer, data: bytes, at_us: int) -> bool:
    """Takes a plain chunk and says so; of anything else nothing is taken."""
    try:
        chunk = _DECODE(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if len(chunk.choices) != 1 or _more(chunk):
        return False
    choice = chunk.choices[0]
    delta = choice.delta
    if choice.index or choice.finish_reason or choice.usage or choice.message or delta.tool_calls or _rare(delta):
        return False
    if chunk.model != answer.model or answer.text is None:
        answer.named(chunk.model, chunk.id)
        answer.chose(0)
        answer.say(None)
    thought = delta.reasoning_content or delta.reasoning
    if thought:
        answer.reasoning.add(thought)
    if delta.content and answer.text is not None:
        answer.text.add(delta.content)
    if delta.content or thought:
        answer.times.token(at_us)
    return True


def _more(chunk: _Chunk) -> bool:
    if chunk.usage or chunk.timings or chunk.x_groq or chunk.error or chunk.metrics or chunk.stats:
        return True
    return chunk.type == "error" or chunk.object == "error"


def _rare(delta: _Delta) -> bool:
    return bool(
        delta.reasoning_details or delta.function_call or delta.refusal or delta.audio or delta.thinking or delta.reasoning_text
    )
