"""llama-server's own routes: completion and infill.

    {index, content, model, stop, stop_type, tokens_evaluated, tokens_predicted, timings}

Of several prompts the answer is an array, or a stream of interleaved results with a final object for each `index`:
their counts add up, and no single rate is told. With `response_fields` a path becomes a key (`timings/predicted_n`).
`tokens_cached` is what the slot holds afterwards, not what was saved.
"""

from typing import Any, Final

from llmdump.reading.answer import Answer
from llmdump.reading.typed import mapping

REASONS: Final = {"limit": "length", "eos": "stop", "word": "stop"}
"""What the others call it."""
FLAT: Final = "timings/"


def read(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes an object of a stream or of an array, or a whole answer."""
    if document.get("index") in (None, 0):
        answer.say(document.get("content"))
    answer.named(document.get("model"), None)
    reason = document.get("stop_type")
    if isinstance(reason, str) and reason in REASONS:
        answer.ended(reason, REASONS[reason])
    final = document.get("stop") is not False
    timings = mapping(document.get("timings")) or _unflattened(document)
    if final:
        answer.usage.take({key: document[key] for key in ("tokens_evaluated", "tokens_predicted") if key in document})
        answer.speed.timings(timings)
        if timings or document.get("stop") is True:
            answer.done = answer.done or document.get("stop") is True
            answer.usage.next()
            answer.speed.next()


def _unflattened(document: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(FLAT): value for key, value in document.items() if key.startswith(FLAT)}
