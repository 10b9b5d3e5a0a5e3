"""The chunk that a chat stream consists of, some text or thought and nothing else, taken in a short way.

Nearly all events of all streams are these, so they are decoded into a struct that only they fit: one choice, its index
0, and null for whatever else a chunk may tell. All others, and all of a wrong type, do not fit and are left to
`chat.read`. What is read from a chunk must be the same on both ways.
"""

from typing import Final, Literal

import msgspec

from llmdump.reading.answer import Answer
from llmdump.reading.typed import decoded


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: None = None
    reasoning_text: None = None
    thinking: None = None
    tool_calls: None = None
    function_call: None = None
    refusal: None = None
    audio: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: Literal[0] = 0
    finish_reason: None = None
    usage: None = None
    message: None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: tuple[_Choice]
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: None = None
    timings: None = None
    metrics: None = None
    stats: None = None
    x_groq: None = None
    type: None = None


_NULL_BYTES: Final = 4
_DECODE: Final = msgspec.json.Decoder(_Chunk).decode


def take(answer: Answer, data: bytes, at_us: int) -> bool:
    """Takes a plain chunk and says so; of anything else nothing is taken."""
    try:
        chunk = _DECODE(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if answer.text is None or chunk.model != answer.model:
        answer.named(chunk.model, chunk.id)
        answer.chose(0)
        answer.say(None)
    if len(chunk.usage) > _NULL_BYTES:
        answer.usage.take(decoded(bytes(chunk.usage)))
    delta = chunk.choices[0].delta
    thought = delta.reasoning_content or delta.reasoning
    if thought:
        answer.reasoning.add(thought)
    if delta.content:
        answer.say(delta.content)
    if delta.content or thought:
        answer.times.token(at_us)
    return True
