"""A recorded request as a command line that sends it again, to the backend it went to. Pure.

    # set OPENAI_API_KEY first
    curl --http1.1 --globoff --path-as-is --request POST 'https://api.example.com:443/v1/chat/completions' \\
      --header 'Authorization: Bearer '"${OPENAI_API_KEY}" \\
      --header 'Content-Type: application/json' \\
      --data-raw '{"model":"m"}'

For sh. What was captured comes from strangers, and a command is pasted into a shell: everything of it stands in single
quotes, and bytes that are not printable come from printf, so that neither the shell nor the terminal takes them for
anything else. curl sends the fields it would add by itself only where they were recorded, framing it makes anew.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from llmdump import heads
from llmdump.record import CLIENT_TO_PROXY, Record

BODY_INLINE_BYTES_MAX: Final = 64 * 1024
"""Larger ones go into a file. Linux takes 128 KiB in one argument, and quoting can make it longer."""
_MASKED = re.compile(r"masked:[0-9a-f]{16}")
_KEY_FIELDS: Final = frozenset({"authorization", "x-api-key", "x-goog-api-key", "api-key"})
_FIELD_VARIABLES: Final = {"x-api-key": "ANTHROPIC_API_KEY", "x-goog-api-key": "GEMINI_API_KEY"}
# Of the connection, or made by curl from what it is told otherwise.
_LEFT_OUT: Final = frozenset({"connection", "keep-alive", "proxy-connection", "upgrade", "content-length", "expect"})
_CURLS_OWN: Final = ("User-Agent", "Accept")
# Control characters but LF and TAB, and those that turn the direction of writing.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class NotSentAgainError(RuntimeError):
    """It cannot be sent again; the message says why."""


class _Recorded:
    """What there is of a request, and whether that is all of it."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.head = b""
        self.origin = ""
        self.body: bytearray | None = bytearray()
        """None: too long for a command line."""
        self.sent_bytes = 0
        self.is_whole = True
        self.is_altered = False
        for record in records:
            self._take(record)

    def _take(self, record: Record) -> None:
        if record.kind == "head" and record.direction == CLIENT_TO_PROXY:
            self.head = record.data
            if "x_bad" in record.meta:
                raise NotSentAgainError("the request was malformed, and curl sends only what is well-formed")
            self.is_whole = not _has_body(record.data)
        elif record.kind == "forward":
            self.head, self.origin = record.data, str(record.meta.get("x_up", ""))
        elif record.kind == "chunk" and record.direction == CLIENT_TO_PROXY:
            self._body(record)
        elif record.kind == "head" and record.meta.get("sc") == 101:
            raise NotSentAgainError("the connection was switched to another protocol, which curl cannot do again")

    def _body(self, record: Record) -> None:
        meta = record.meta
        if "x_cut" in meta:
            raise NotSentAgainError("not all of the request body was kept when it was recorded")
        self.is_altered = self.is_altered or "x_alt" in meta
        self.is_whole = self.is_whole or bool(meta.get("x_z"))
        self.sent_bytes += len(record.data)
        if self.sent_bytes > BODY_INLINE_BYTES_MAX:
            self.body = None
        elif self.body is not None:
            self.body += record.data


def _has_body(head: bytes) -> bool:
    parsed = heads.parse(head)
    return parsed.first("content-length").strip("0") != "" or parsed.first("transfer-encoding") != ""


def command(records: Iterable[Record], row: Mapping[str, Any], api_url: str) -> str:
    """The command, with comments about what must be there first. `api_url` is this api's. Raises NotSentAgainError."""
    recorded = _Recorded(records)
    if not recorded.head:
        raise NotSentAgainError("the request head was not recorded")
    if recorded.sent_bytes and recorded.head.startswith(b"HEAD "):
        raise NotSentAgainError("a HEAD request with a body is more than curl can do")
    if not recorded.is_whole:
        raise NotSentAgainError("the request ended before its body did")
    variables = _Variables(str(row["provider"] or ""))
    lines = list(_options(recorded, variables, f"{row['id']}.request"))
    return "\n".join([*_comments(recorded, variables, row["id"], api_url), " \\\n  ".join(lines), ""])


def _comments(recorded: _Recorded, variables: "_Variables", id_: str, api_url: str) -> Iterable[str]:
    if variables.names:
        yield f"# set {', '.join(variables.names)} first"
    if _in_file(recorded):
        where = f"{api_url}/api/traces/{id_}/request"
        yield f'# get the body first: curl -o {id_}.request -H "Authorization: Bearer $(cat data/admin_token)" {_quoted(where)}'
    if recorded.is_altered:
        yield "# secrets in the body were masked when it was recorded: this is not what was sent"


def _options(recorded: _Recorded, variables: "_Variables", file: str) -> Iterable[str]:
    head = heads.parse(recorded.head)
    method, target, _ = head.start
    yield " ".join(["curl --http1.1 --globoff --path-as-is", _method(method), variables.quoted(_url(recorded, head), "key")])
    if target == "*":
        yield "--request-target '*'"
    for name, value in head.fields:
        if name.lower() not in _LEFT_OUT and not (name.lower() == "host" and value == _authority(recorded, head)):
            yield f"--header {variables.quoted(f'{name}: {value}' if value else f'{name};', name.lower())}"
    for name in _unwanted(head, has_body=recorded.sent_bytes > 0):
        yield f"--header '{name}:'"
    yield from _body(recorded, head, file)


def _method(method: str) -> str:
    return "--head" if method == "HEAD" else f"--request {_quoted(method)}"


def _url(recorded: _Recorded, head: heads.Head) -> str:
    target = head.start[1]
    if "://" in target.partition("?")[0]:
        return target
    origin = recorded.origin or f"http://{head.first('host')}"
    return origin + ("/" if target == "*" else target)


def _authority(recorded: _Recorded, head: heads.Head) -> str:
    """What curl will put into Host: the URL's, without a port that goes without saying."""
    url = urlsplit(_url(recorded, head))
    usual = {"http": ":80", "https": ":443"}.get(url.scheme, "")
    return url.netloc.removesuffix(usual) if usual else url.netloc


def _unwanted(head: heads.Head, *, has_body: bool) -> Iterable[str]:
    """The fields that curl sends unless told not to, and that were not recorded."""
    wanted = [*_CURLS_OWN, *(["Content-Type", "Expect"] if has_body or _announces_body(head) else [])]
    recorded = {name.lower() for name, _ in head.fields} - {"expect"}
    return [name for name in wanted if name.lower() not in recorded]


def _announces_body(head: heads.Head) -> bool:
    return bool(head.first("content-length") or head.first("transfer-encoding"))


def _in_file(recorded: _Recorded) -> bool:
    return recorded.body is None or not _is_text(bytes(recorded.body))


def _body(recorded: _Recorded, head: heads.Head, file: str) -> Iterable[str]:
    if _in_file(recorded):
        yield f"--data-binary @{file}"
    elif recorded.body or _announces_body(head):
        assert recorded.body is not None
        yield f"--data-raw {_quoted(recorded.body.decode('utf-8'))}"


def _is_text(body: bytes) -> bool:
    """Whether a terminal shows it as it is."""
    try:
        return not _UNSEEN.search(body.decode("utf-8"))
    except UnicodeDecodeError:
        return False


class _Variables:
    """The shell variables that stand for masked credentials: one for each, named after its place."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self.names: dict[str, str] = {}
        """The mask that each variable stands for."""

    def quoted(self, text: str, place: str) -> str:
        """Text for sh; `place` is the field, in lower case."""
        parts: list[str] = []
        at = 0
        for found in _MASKED.finditer(text):
            parts += [_quoted_octets(text[at : found.start()]), f'"${{{self._name(found[0], place)}}}"']
            at = found.end()
        return "".join([*parts, _quoted_octets(text[at:])])

    def _name(self, mask: str, place: str) -> str:
        wanted = name = self._wanted(place)
        number = 1
        while self.names.setdefault(name, mask) != mask:
            number += 1
            name = f"{wanted}_{number}"
        return name

    def _wanted(self, place: str) -> str:
        if place in _FIELD_VARIABLES:
            return _FIELD_VARIABLES[place]
        if place in _KEY_FIELDS or place == "key":
            return _shell_name(self._provider, "_API_KEY") if self._provider not in {"", "unknown"} else "API_KEY"
        return _shell_name(place, "")


def _shell_name(text: str, suffix: str) -> str:
    return "LLM_"[: 4 * text[:1].isdigit()] + re.sub("[^A-Z0-9]", "_", text.upper()) + suffix


def _quoted(text: str) -> str:
    """Text for sh."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _quoted_octets(text: str) -> str:
    """Bytes of a head for sh; those that are not printable ASCII in octal."""
    parts = re.split(r"([^\x20-\x7e]+)", text)
    plain, other = parts[::2], [*parts[1::2], ""]
    octal = ("".join(f"\\{byte:03o}" for byte in run.encode("latin-1")) for run in other)
    return "".join(
        (_quoted(run) if run else "") + (f"\"$(printf '{codes}')\"" if codes else "")
        for run, codes in zip(plain, octal, strict=True)
    )
