"""OpenAI Responses, over HTTP and WebSocket, and Realtime.

    plain    {id, model, status, incomplete_details, error, output: [item, …], usage}
    stream   response.created, response.output_item.added, response.output_text.delta …, then one of
             response.completed | .incomplete | .failed with the whole response; Realtime: response.done

A text is taken from its deltas; from the item that has it whole only if there were none, and from the final response only
if nothing came before (a stream that was joined late). A socket may carry several responses: each counts beside the ones
before it.
"""

from typing import Any, Final

from llmdump.reading.answer import Answer
from llmdump.reading.dialects.chat import figures
from llmdump.reading.failures import in_answer
from llmdump.reading.typed import at, count, mapping, objects, text

TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed", "response.done", "response.cancelled")
SPOKEN: Final = ("response.output_text.delta", "response.text.delta")
THOUGHT: Final = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta")
ARGUED: Final = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
# Something generated that is no text of ours: code of a tool that the service runs, speech and its transcript.
HEARD: Final = (
    "response.audio.delta", "response.output_audio.delta", "response.audio_transcript.delta",
    "response.output_audio_transcript.delta", "response.code_interpreter_call_code.delta", "response.mcp_call_arguments.delta",
)  # fmt: skip
CLIENT_CALLS: Final = ("function_call", "custom_tool_call")


def read(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes an event or a whole response."""
    kind = text(document.get("type")) or name
    if "output" in document or document.get("object") == "response":
        _whole(answer, document)
    elif kind in SPOKEN:
        answer.say(document.get("delta"))
    elif kind in THOUGHT:
        answer.think(document.get("delta"))
    elif kind in ARGUED:
        answer.argue(_key(document.get("output_index")), document.get("delta"))
    elif kind in HEARD:
        answer.generated = True
    elif kind == "response.refusal.delta":
        answer.refuse(document.get("delta"))
    elif kind in ("response.output_item.added", "response.output_item.done"):
        _item(answer, mapping(document.get("item")), document.get("output_index"), kind.endswith(".done"))
    elif isinstance(document.get("response"), dict):
        _state(answer, document, kind)


def read_other(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes the answer to a question about responses that answers nothing: deletion, input items, counting, compaction."""
    if document.get("object") == "response.input_tokens":
        answer.counted = count(document.get("input_tokens"))
    elif document.get("object") in ("response", "response.compaction"):
        _head(answer, document)


def _whole(answer: Answer, response: dict[str, Any]) -> None:
    _head(answer, response)
    answer.say(None)
    _items(answer, response)


def _head(answer: Answer, response: dict[str, Any]) -> None:
    answer.renamed = True
    figures(answer, response)
    answer.ended(response.get("status"), at(response, "incomplete_details", "reason"))


def _items(answer: Answer, response: dict[str, Any]) -> None:
    for index, item in enumerate(objects(response.get("output"))):
        if item.get("type") == "message":
            _message(answer, item)
            continue
        _item(answer, item, index, True)
        if item.get("type") == "reasoning":
            for part in objects(item.get("summary")) + objects(item.get("content")):
                answer.think(part.get("text"))


def _message(answer: Answer, item: dict[str, Any]) -> None:
    for part in objects(item.get("content")):
        if part.get("type") in ("output_text", "text"):
            answer.say(part.get("text"))
        elif part.get("type") == "refusal":
            answer.refuse(part.get("refusal"))


def _item(answer: Answer, item: dict[str, Any], index: Any, done: bool) -> None:
    """An item of the output: announced, and then told as a whole."""
    key = _key(index)
    kind = text(item.get("type")) or ""
    if kind in CLIENT_CALLS:
        arguments = item.get("arguments", item.get("input"))
        answer.call(key, item.get("name"), item.get("call_id") or item.get("id"), None)
        if done:
            answer.argued(key, arguments)
    elif done and kind.endswith("_call"):
        answer.built_in(kind)
    elif done and kind == "message" and not answer.text and not answer.refusal:
        _message(answer, item)


def _key(index: Any) -> int | None:
    return index if isinstance(index, int) else None


def _state(answer: Answer, document: dict[str, Any], kind: str) -> None:
    """An event that shows the response as it is now."""
    response = document["response"]
    if answer.done and kind == "response.created":
        answer.usage.next()
        answer.forget_calls()
        answer.done = False
    heard = answer.text or answer.reasoning or answer.refusal or answer.calls or answer.builtins
    _head(answer, response)
    answer.say(None)
    answer.speed.timings(document.get("timings"))
    if kind in TERMINAL:
        answer.done = True
        if not heard:
            _items(answer, response)
            # It came late, but when its tokens came is not known from this.
            answer.generated = False
        if failure := in_answer(response) or in_answer(mapping(response.get("status_details"))):
            answer.failure = failure
