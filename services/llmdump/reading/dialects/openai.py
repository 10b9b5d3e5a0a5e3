"""OpenAI's routes that generate no chat: embeddings, images, transcriptions, moderations; and reranking, which copies them.

{model, id, usage}; a stream of a transcript: transcript.text.delta, transcript.text.done {text, usage}
a stream of an image: image_generation.partial_image, image_generation.completed {usage}
a stream of speech: speech.audio.delta, speech.audio.done {usage}
"""

from typing import Any

from llmdump.reading.answer import Answer
from llmdump.reading.dialects.chat import figures
from llmdump.reading.typed import count, mapping, text


def read(answer: Answer, document: dict[str, Any], _name: str) -> None:
    """Takes whatever has model, id and usage in the usual places."""
    figures(answer, document)


def read_media(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes images or speech, or an event of their stream."""
    figures(answer, document)
    kind = text(document.get("type")) or name
    if kind.endswith((".completed", ".done")):
        answer.done = True
    elif kind.endswith((".delta", ".partial_image")):
        answer.generated = True


def read_transcript(answer: Answer, document: dict[str, Any], name: str) -> None:
    """Takes a transcript, or an event of its stream. One that is charged by its seconds has no tokens."""
    kind = text(document.get("type")) or name
    if kind == "transcript.text.delta":
        answer.say(document.get("delta"))
        return
    if mapping(document.get("usage")).get("type") != "duration":
        figures(answer, {key: value for key, value in document.items() if key != "id"})
    if kind == "transcript.text.done":
        answer.done = True
    if "text" in document and not answer.text and kind != "transcript.text.segment":
        answer.say(document["text"])
    if seconds := count(mapping(document.get("usage")).get("seconds")):
        answer.usage.raw = {"type": "duration", "seconds": seconds}
