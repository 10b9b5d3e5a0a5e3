"""OpenAI chat completions and completions, and all that speak like them.

    plain    {id, model, choices: [{index, message: {content, refusal, reasoning…, tool_calls}, finish_reason}], usage}
    stream   {id, model, choices: [{index, delta: {…}, finish_reason}], usage: null or object}  …  [DONE]

Only the first choice is read for text and tools: that of index 0 in a stream, the first one in a plain answer. Where
the dialects differ: usage in `x_groq`, in `choices[0]` (Moonshot); reasoning under the names below; content as a list
of parts (Mistral, Databricks); a tool call without an index; `message` beside `delta` (Perplexity).
"""

from typing import Any, Final

from llmdump.reading.answer import Answer
from llmdump.reading.dialects import llama
from llmdump.reading.typed import at, mapping, objects, text

# The first one that is there counts: some send the same thoughts under two names.
REASONING: Final = ("reasoning_content", "reasoning", "reasoning_text", "thinking")


def read(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes a chunk or a whole answer of chat completions."""
    choices = document.get("choices")
    figures(answer, document, choices)
    if isinstance(choices, list):
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                _choice(answer, choice, position)


def read_completions(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes a chunk or a whole answer of completions; without `/v1`, llama-server answers there in its own way."""
    choices = document.get("choices")
    if choices is None and "content" in document and "stop" in document:
        llama.read(answer, document, "")
        return
    figures(answer, document, choices)
    for position, choice in enumerate(objects(choices)):
        index = choice.get("index")
        index = index if isinstance(index, int) else position
        answer.chose(index)
        if index == 0:
            answer.say(choice.get("text"))
            answer.ended(choice.get("finish_reason") or choice.get("stop_reason"))


def figures(answer: Answer, document: dict[str, Any], choices: Any = None) -> None:
    """Takes what is the same in all that OpenAI's way of speaking has: model, id, usage and its strays."""
    answer.named(document.get("model"), document.get("id"))
    usage = document.get("usage") or at(document, "x_groq", "usage")
    if usage is None and isinstance(choices, list) and choices:
        usage = at(choices[0], "usage")
    if usage:
        answer.usage.take(usage)
    if "timings" in document:
        answer.speed.timings(document["timings"])
    if "metrics" in document:
        answer.speed.metrics(document["metrics"])
    if "stats" in document:
        answer.speed.stats(document["stats"])


def _choice(answer: Answer, choice: dict[str, Any], position: int) -> None:
    delta = choice.get("delta")
    index = position
    if isinstance(delta, dict):
        found = choice.get("index")
        index = found if isinstance(found, int) else position
    # Beside an empty delta Perplexity sends the message: all of a plain answer, and in a stream what was said before.
    if not isinstance(delta, dict) or ("message" in choice and not answer.text and not delta.get("content")):
        delta = mapping(choice.get("message"))
    answer.chose(index)
    if index == 0:
        message(answer, delta)
        answer.ended(choice.get("finish_reason"))


def message(answer: Answer, delta: dict[str, Any]) -> None:
    """Takes an assistant's message or a piece of one."""
    content(answer, delta.get("content"))
    for key in REASONING:
        if thought := delta.get(key):
            answer.think(thought if isinstance(thought, str) else at(thought, "content"))
            break
    else:
        for part in objects(delta.get("reasoning_details")):
            answer.think(part.get("text") or part.get("summary"))
    answer.refuse(delta.get("refusal"))
    if calls := delta.get("tool_calls"):
        _calls(answer, calls)
    if "function_call" in delta:
        _function(answer, delta["function_call"])
    if "audio" in delta and text(at(delta, "audio", "transcript") or at(delta, "audio", "data")):
        answer.generated = True


def content(answer: Answer, value: Any) -> None:
    """Takes content: a text, null, or a list of parts of which texts are said and thoughts are not."""
    if not isinstance(value, list):
        answer.say(value)
        return
    answer.say(None)
    for part in value:
        if isinstance(part, str):
            answer.say(part)
        elif isinstance(part, dict):
            _part(answer, part)


def _part(answer: Answer, part: dict[str, Any]) -> None:
    kind = part.get("type")
    if kind in ("thinking", "reasoning"):
        thought = part.get("thinking") or part.get("summary") or part.get("text")
        for piece in objects(thought) or [{"text": thought}]:
            answer.think(piece.get("text"))
    elif kind == "refusal":
        answer.refuse(part.get("refusal"))
    else:
        answer.say(part.get("text"))


def _calls(answer: Answer, calls: Any) -> None:
    for position, call in enumerate(objects(calls)):
        index = call.get("index")
        function = mapping(call.get("function") or call.get("custom"))
        key = index if isinstance(index, int) else (text(call.get("id")) or position)
        arguments = function.get("arguments", function.get("input"))
        answer.call(key, function.get("name"), call.get("id"), arguments)
        answer.generated = answer.generated or bool(text(function.get("name")))


def _function(answer: Answer, function: Any) -> None:
    """The one call that there was before there were tools."""
    if isinstance(function, dict) and function:
        answer.call("function", function.get("name"), None, function.get("arguments"))
