"""A request body in parts, in the order in which providers put a prompt together, each with the place where it stands. Pure.

    model ─ tool_choice, thinking … ─ tools ─ system ─ messages ┊ temperature, max_tokens, metadata …

Whatever changes before the last ends what can be read from a cache. A place is a JSON pointer (RFC 6901).
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from llmdump.reading.canonical import encode, plain_content, without_marks
from llmdump.reading.turns import SYSTEM_ROLE, is_system, turns_of

# Parameters that end the cache where they change, by the providers' pages on prompt caching (Anthropic, OpenAI; 2026-06).
OF_THE_PROMPT: Final = frozenset(
    {"tool_choice", "toolConfig", "thinking", "reasoning", "response_format", "output_config", "text"}
)
_SYSTEMS: Final = ("system", "systemInstruction", "system_instruction", "instructions", "preamble")
_HISTORIES: Final = ("messages", "contents", "chat_history", "message", "input")


class Part(NamedTuple):
    """A piece of a request."""

    what: str
    """`model`, `parameter`, `tool`, `system` or `message`."""
    name: str
    """Of a parameter or tool; the role of a message."""
    pointer: str
    value: Any
    spelt: bytes
    """The canonical value: equal for what is the same to a model."""

    @property
    def is_prompt(self) -> bool:
        """Whether it is within what a cache holds, or decides which cache is read."""
        return self.what != "parameter" or self.name in OF_THE_PROMPT


def parts(document: dict[str, Any], api: str | None) -> Iterator[Part]:
    """All of a decoded request. Raises RecursionError for one nested too deep."""
    if "model" in document:
        yield _part("model", "", "/model", document["model"])
    others = sorted(document.keys() - {"model", "tools", *_SYSTEMS, *_HISTORIES})
    parameters = [_part("parameter", name, pointer("", name), document[name]) for name in others]
    yield from (part for part in parameters if part.is_prompt)
    yield from _tools(document.get("tools"))
    yield from _turns(document, api)
    yield from (part for part in parameters if not part.is_prompt)


def pointer(base: str, name: str | int) -> str:
    """The pointer to a member or an item of what `base` points to."""
    return f"{base}/{str(name).replace('~', '~0').replace('/', '~1')}"


def _part(what: str, name: str, at: str, value: Any) -> Part:
    bare = without_marks(value)
    if isinstance(bare, dict) and "content" in bare:
        bare = {**bare, "content": plain_content(bare["content"])}
    return Part(what, name, at, value, encode(plain_content([bare]) if what == "system" else bare))


def _tools(tools: Any) -> Iterator[Part]:
    for at, tool in enumerate(tools if isinstance(tools, list) else []):
        declared = tool.get("functionDeclarations") if isinstance(tool, dict) else None
        if isinstance(declared, list):  # Gemini's
            for inner, one in enumerate(declared):
                yield _part("tool", _tool_name(one), f"/tools/{at}/functionDeclarations/{inner}", one)
        else:
            yield _part("tool", _tool_name(tool), f"/tools/{at}", tool)


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return ""
    declared = tool.get("function")
    found = (tool.get("name"), declared.get("name") if isinstance(declared, dict) else None, tool.get("type"))
    return next((name for name in found if isinstance(name, str)), "")


def _turns(document: dict[str, Any], api: str | None) -> Iterator[Part]:
    places = _places(document)
    for turn in turns_of(api, document):
        if isinstance(turn, dict) and turn.get("role") == SYSTEM_ROLE:
            yield from _system(next(f"/{key}" for key in _SYSTEMS if document.get(key)), turn["content"])
        else:
            role = turn.get("role") or turn.get("type") if isinstance(turn, dict) else None
            yield _part("system" if is_system(turn) else "message", str(role or ""), next(places, ""), turn)


def _system(at: str, content: Any) -> Iterator[Part]:
    """A system text, block by block."""
    for number, block in enumerate(content if isinstance(content, list) else []):
        yield _part("system", "", f"{at}/{number}", block)
    if not isinstance(content, list):
        yield _part("system", "", at, content)


def _places(document: dict[str, Any]) -> Iterator[str]:
    """Where the turns of `turns_of` stand."""
    key = next((key for key in _HISTORIES if document.get(key) is not None), "")
    value = document.get(key)
    yield from (f"/{key}/{at}" for at in range(len(value))) if isinstance(value, list) else [f"/{key}"]
    if key == "chat_history":
        yield "/message"
