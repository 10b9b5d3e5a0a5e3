"""The project that a coding agent works on, by the name that its instructions carry.

Agents put the project's AGENTS.md or CLAUDE.md into the system text, or into the first thing the user says. So:

1. where such a file is referred to by a path (`Contents of /x/CLAUDE.md`), the first heading within 400 characters of it;
2. else a heading that the system text begins with, after at most one closing tag.

A heading is a Markdown heading; its backticks and the entities of `<`, `>` and `&` are undone.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

NAME_CHARS_MAX: Final = 200
# Instructions are tens of kilobytes; the file that is wanted stands in them somewhere.
TEXT_CHARS_MAX: Final = 1024 * 1024
_WITHIN_CHARS: Final = 400

_FILE: Final = re.compile(r"(?:Contents of [^\n]{0,400}?|[/\\])(?:AGENTS|CLAUDE)\.md")
_HEADING: Final = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(\S[^\n]*)", re.MULTILINE)
_BEGINNING: Final = re.compile(r"\s*(?:</[\w:-]{1,100}>\s*)?#{1,6}[ \t]+(\S[^\n]*)")
_TEXT_TYPES: Final = ("text", "input_text", None)


def project_of(document: Any) -> str | None:
    """The project's name in a request's decoded JSON body; None if there is none."""
    if not isinstance(document, dict):
        return None
    system = "\n\n".join(_system(document))[:TEXT_CHARS_MAX]
    said = "\n\n".join(_first_said(document))[:TEXT_CHARS_MAX]
    return _of_file(system) or _of_file(said) or _of_beginning(system)


def _of_file(text: str) -> str | None:
    for file in _FILE.finditer(text):
        heading = _HEADING.search(text, file.end(), min(file.end() + _WITHIN_CHARS, len(text)))
        if heading:
            # The window may end within the heading; its line goes on.
            line = text[heading.start(1) : heading.start(1) + NAME_CHARS_MAX].partition("\n")[0]
            return _name(line)
    return None


def _of_beginning(text: str) -> str | None:
    found = _BEGINNING.match(text)
    return _name(found[1]) if found else None


def _name(heading: str) -> str | None:
    plain = heading.replace("`", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return plain.strip().rstrip("#").strip()[:NAME_CHARS_MAX] or None


def _system(document: dict[str, Any]) -> Iterator[str]:
    for key in ("system", "instructions", "systemInstruction", "system_instruction"):
        yield from _texts(document.get(key))
    for message in _messages(document):
        if message.get("role") in ("system", "developer"):
            yield from _texts(message.get("content"))


def _first_said(document: dict[str, Any]) -> Iterator[str]:
    for message in _messages(document):
        if message.get("role") == "user":
            yield from _texts(message.get("content", message.get("parts")))
            return


def _messages(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in ("messages", "input", "contents"):
        messages = document.get(key)
        if isinstance(messages, list):
            yield from (message for message in messages if isinstance(message, dict))


def _texts(content: Any) -> Iterator[str]:
    """The texts of a content that is a string, a list of parts, or an object with such parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from _texts(content.get("parts"))
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, dict) and part.get("type") in _TEXT_TYPES and isinstance(part.get("text"), str):
                yield part["text"]
