"""A request's history as a list of turns, one for each message or item that was sent, whatever the API.

    OpenAI chat, Ollama chat, Cohere v2   `messages`
    Anthropic, Bedrock                    `system`, if any, as a turn of its own, then `messages`
    OpenAI Responses                      `instructions` as a turn, then `input`: a text is one user's turn, else each item one
    Gemini                                `systemInstruction` as a turn, then `contents`; from Code Assist in `request`
    Cohere v1                             `preamble` as a turn, then `chat_history` and `message`

Which of these it is, the keys tell; requests of other kinds (embeddings, images, counting) have no history.
"""

from collections.abc import Iterator
from typing import Any, Final

# A turn that no client sends: the system text that stands outside the messages. The name is the one api-log's hashes have.
SYSTEM_ROLE: Final = "__apilog_system__"
TURNS_MAX: Final = 20_000
# What is searched of one request's new turns.
NEW_TEXT_CHARS_MAX: Final = 1024 * 1024

# Parts of the names of APIs whose requests have none.
_WITHOUT_HISTORY: Final = ("embed", "count", "rerank", "images", "audio", "moderations", "models", "batches", "complet",
                           "infill", "responses_other", "retrieve", "ollama.generate")  # fmt: skip
_ANSWERS: Final = ("assistant", "model", "chatbot")
_ANSWER_ITEMS: Final = ("function_call", "reasoning", "custom_tool_call", "item_reference", "computer_call", "local_shell_call")

_TEXT_KEYS: Final = ("text", "content", "parts", "output", "message")


def turns_of(api: str | None, document: Any) -> list[Any]:
    """The turns of a request to this API (None: not known), by its decoded JSON body; empty if it has no history."""
    if not isinstance(document, dict) or any(kind in (api or "") for kind in _WITHOUT_HISTORY):
        return []
    system, messages = _parts(unwrapped(document), api)
    first = [{"role": SYSTEM_ROLE, "content": system}] if system else []
    return [*first, *messages[:TURNS_MAX]]


def unwrapped(document: dict[str, Any]) -> dict[str, Any]:
    """A request's body, without what Code Assist puts around Gemini's."""
    inner = document.get("request")
    return inner if isinstance(inner, dict) and "contents" in inner else document


def _parts(document: dict[str, Any], api: str | None) -> tuple[Any, list[Any]]:
    messages = document.get("messages")
    if isinstance(messages, list):
        return document.get("system"), messages
    contents = document.get("contents")
    if isinstance(contents, list | dict | str):
        system = document.get("systemInstruction") or document.get("system_instruction")
        return system, contents if isinstance(contents, list) else [contents]
    if isinstance(document.get("message"), str):
        history = document.get("chat_history")
        return document.get("preamble"), [
            *(history if isinstance(history, list) else []),
            {"role": "USER", "message": document["message"]},
        ]
    return document.get("instructions"), _items(document.get("input"), is_known=bool(api) or "instructions" in document)


def _items(asked: Any, *, is_known: bool) -> list[Any]:
    """The items of an `input`. Where it is not known to be of a Responses request, texts are something to embed."""
    if isinstance(asked, str) and is_known:
        return [{"role": "user", "content": asked}]
    return asked if isinstance(asked, list) and all(isinstance(item, dict) for item in asked) else []


def is_answer(turn: Any) -> bool:
    """Whether a turn is what a model said before: nothing new."""
    if not isinstance(turn, dict):
        return False
    return str(turn.get("role")).lower() in _ANSWERS or turn.get("type") in _ANSWER_ITEMS


def is_system(turn: Any) -> bool:
    """Whether a turn is instructions rather than conversation."""
    return isinstance(turn, dict) and turn.get("role") in (SYSTEM_ROLE, "system", "developer")


def texts_of(content: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a turn or a part of one: what was said, and what tools gave back."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list) and depth < 8:
        for part in content:
            yield from texts_of(part, depth + 1)
    elif isinstance(content, dict) and depth < 8:
        for key in _TEXT_KEYS:
            yield from texts_of(content.get(key), depth + 1)


def new_text(turns: list[Any], known: int) -> str:
    """What the turns after the first `known` add, apart from the model's own; what is searched for."""
    pieces, chars = [], 0
    for turn in turns[known:]:
        for text in () if is_answer(turn) else texts_of(turn):
            pieces.append(text[: NEW_TEXT_CHARS_MAX - chars])
            chars += len(pieces[-1])
            if chars >= NEW_TEXT_CHARS_MAX:
                return "\n".join(pieces)
    return "\n".join(piece for piece in pieces if piece)
