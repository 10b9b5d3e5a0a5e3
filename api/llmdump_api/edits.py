"""Changes to a JSON document from a command line: values at paths, and merge patches (RFC 7396). Pure.

model=gpt-5            the text, for it is no JSON
temperature=0.2        the number
messages.0.content=Hi  an element of an array by its place; one behind the last is added
"""

import json
from typing import Any, Final

DEPTH_MAX: Final = 100


class EditError(ValueError):
    """A change does not fit the document; the message says where."""


def assignment(text: str) -> tuple[list[str], Any]:
    """The path and the value in `PATH=VALUE`: JSON if it is some, else the text. Raises EditError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise EditError(f"{text!r} is not PATH=VALUE, as in messages.0.content=Hello")
    try:
        return path.split("."), json.loads(value)
    except ValueError:
        return path.split("."), value


def put(document: Any, path: list[str], value: Any) -> None:
    """Set what is at a path, in place. Raises EditError."""
    for depth, name in enumerate(path[:-1]):
        if isinstance(document, dict) and name not in document:
            document[name] = {}
        document = _child(document, name, path[: depth + 1])
    last = path[-1]
    if isinstance(document, dict):
        document[last] = value
    elif isinstance(document, list) and last.isdecimal() and int(last) <= len(document):
        document[int(last) : int(last) + 1] = [value]
    else:
        raise EditError(f"{'.'.join(path)}: there is nothing of this name to set")


def _child(document: Any, name: str, path: list[str]) -> Any:
    if isinstance(document, dict):
        return document[name]
    if isinstance(document, list) and name.isdecimal() and int(name) < len(document):
        return document[int(name)]
    raise EditError(f"{'.'.join(path)}: there is nothing of this name")


def merged(document: Any, patch: Any, depth: int = 0) -> Any:
    """The document with a merge patch applied. Raises EditError for one nested too deep."""
    if depth > DEPTH_MAX:
        raise EditError(f"the patch is nested deeper than {DEPTH_MAX}")
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, depth + 1)
    return result
