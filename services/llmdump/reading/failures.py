"""What went wrong, as the services say it: type, code and message.

OpenAI and its like     {"error": {"message", "type", "code"}}            Anthropic  {"type": "error", "error": {…}}
Google                  {"error": {"code", "message", "status"}}, in a stream without SSE in an array
Ollama, llama-server    {"error": "text"}       FastAPI (Mistral, vLLM, Voyage)  {"detail": "text" or [{"msg"}]}
AWS, Cohere             {"message"}; AWS names the type in a header, in an exception frame or in `__type`
Cloudflare              {"errors": [{"code", "message"}]}     xAI, Snowflake  {"code", "error" or "message": "text"}
Responses, a stream     {"type": "error", "code", "message"}
"""

from http import HTTPStatus
from typing import Any, Final, NamedTuple

from llmdump.reading.typed import at, clean, mapping, objects, text

MESSAGE_CHARS_MAX: Final = 4096
NAME_CHARS_MAX: Final = 256


class Failure(NamedTuple):
    """What a service says of its failure; None for what it does not say."""

    type: str | None = None
    code: str | None = None
    message: str | None = None
    loose: bool = False
    """Type and code are not those of an `error` object, but of a body that is one as a whole, or of a list."""


def in_answer(document: Any, name: str = "") -> Failure | None:
    """The failure that a document tells of whatever the status is, if it tells of one; `name` is its event's."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, str) and error:
        return Failure(None, _short(_code(document.get("code"))), _cut(error), loose=True)
    if error:
        return _from(error)
    if document.get("type") == "error" or name == "error":
        return _from(document)
    return _from(document)._replace(loose=True) if document.get("object") == "error" else None


def of_status(status: int, document: Any) -> Failure:
    """The failure behind a status of 400 and more."""
    found = in_answer(document) or _from_body(mapping(document))
    return found if found.message else found._replace(message=_phrase(status))


def _from_body(document: dict[str, Any]) -> Failure:
    first = next(iter(objects(document.get("errors"))), None)
    if first is not None:
        return _from(first)._replace(loose=True)
    message = text(document.get("message")) or text(document.get("Message")) or _detail(document.get("detail"))
    kind = _aws_name(document.get("__type") or at(document, "Output", "__type"))
    code = None if kind else _short(_code(document.get("code")))
    return Failure(_short(kind), code, _cut(message), loose=kind is None)


def _from(error: Any) -> Failure:
    error = mapping(error)
    kind = text(error.get("type")) or text(error.get("status"))
    told = error.get("message")
    message = text(told) or _detail(at(told, "detail")) or _detail(error.get("detail")) or text(error.get("error"))
    kind = None if kind == "error" else kind
    return Failure(_short(kind), _short(_code(error.get("code"))), _cut(message or text(at(error, "metadata", "raw"))))


def _detail(detail: Any) -> str | None:
    if isinstance(detail, dict):
        return text(detail.get("message")) or text(detail.get("msg"))
    messages = [message for item in objects(detail) if (message := text(item.get("msg")))]
    return "; ".join(messages[:8]) or text(detail)


def _code(code: Any) -> str | None:
    return str(code) if isinstance(code, int | float) and not isinstance(code, bool) and abs(code) < 2**63 else text(code)


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def of_exception(name: str, document: dict[str, Any]) -> Failure:
    """The failure in a message of an event stream that is an exception."""
    message = text(document.get("message")) or text(document.get("originalMessage"))
    return Failure(_short(name), None, _cut(message or name))


def aws_type(fields: list[tuple[str, str]]) -> str | None:
    """The failure's type in the header of an AWS answer, without what follows the name (`Name:http://…`)."""
    return _short(_aws_name(next((value for name, value in fields if name.lower() == "x-amzn-errortype"), None)))


def _aws_name(value: Any) -> str | None:
    found = text(value)
    # The body's form is `prefix#Name`, the header's is `Name:url`.
    return found.partition(":")[0].rpartition("#")[2] or None if found else None


def _short(value: str | None) -> str | None:
    return clean(value, NAME_CHARS_MAX) if value else None


def _cut(value: str | None) -> str | None:
    return clean(value, MESSAGE_CHARS_MAX) if value else None
