"""What an issue is: the rules, over paired entries. Pure.

    slow_response         more than 10 s between two entries of one exchange; 30 s and more is an error. What a client takes to
                          think, before it asks, is no gap
    stream_stall          more than 5 s, up to 10 s, within a backend's stream
    rate_limit            the backend said 429, or that it is about a rate or a quota
    backend_error         the backend said any other status from 400 on, or told of an error within an answer
    client_visible_error  the proxy's own leg to the client has a status from 400 on
    missing_response      a request that was not forwarded, or that no backend answered
    broken_stream         a stream that neither ended nor said that it is whole
    client_disconnect     the client left before the end (told by our own recorder)
    bad_request           the client sent what is no HTTP (told by our own recorder)
    plaintext_credential  a key in clear in a recorded head
    damage                bytes of the file that are no entry, a tail that is cut, an encoding that is not known

An error that is passed on to the client is told once, where the backend said it. A status that its body explains is one
issue, at the status. A retry is no issue; it is counted.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from llmdump.captures.entry import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND, PROXY_TO_CLIENT, Entry, Mark, text
from llmdump.inspecting.pairing import Attempt, Exchange, Paired
from llmdump.reading import failures
from llmdump.reading.exchange import Event
from llmdump.reading.failures import Failure
from llmdump.reading.typed import decoded, mapping

SLOW_S: Final = 10.0
VERY_SLOW_S: Final = 30.0
STALL_S: Final = 5.0
KINDS: Final = (
    "slow_response", "stream_stall", "rate_limit", "backend_error", "client_visible_error", "missing_response",
    "broken_stream", "client_disconnect", "bad_request", "plaintext_credential", "damage",
)  # fmt: skip
FOUND_MAX: Final = 64
"""Issues of one exchange that are kept."""

_HEAD_BYTES_MAX: Final = 64 * 1024
_CREDENTIAL: Final = re.compile(
    rb"^(authorization|proxy-authorization|x-api-key|api-key|x-goog-api-key|cookie):[ \t]*([^\r\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_IN_TARGET: Final = re.compile(rb"^[A-Z]+ \S*[?&](key|api_key|access_token)=([^&\s]+)")
_IS_HEAD: Final = re.compile(rb"[A-Z]{3,10} \S+ HTTP/")
_MASKED: Final = (b"masked:", b"REDACTED", b"***")
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LIMITS: Final = frozenset({"rate", "quota", "ratelimit", "throttling", "throttled", "exhausted", "429"})
_FINISHED: Final = re.compile(
    rb'^\[DONE\]|"(?:finish_reason|finishReason|stop_reason)"\s*:\s*"|"done"\s*:\s*true'
    rb'|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed))"'
)
_ENDS: Final = {"client_closed": "client_disconnect", "bad_request": "bad_request"}


class Issue(NamedTuple):
    """Something that went wrong."""

    kind: str
    """Of `KINDS`."""
    severity: str
    """`error` or `warning`."""
    text: str
    at: Mark
    """The entry it is told at."""
    exchange: str = ""


def of_entry(paired: Paired) -> Iterator[Issue]:
    """What is wrong with an entry, or with the time before it."""
    entry, exchange, attempt = paired.entry, paired.exchange, paired.attempt
    if entry.flag:
        yield Issue("damage", "warning", entry.flag, entry.mark, entry.rid)
    if exchange is None:
        return
    if paired.gap_s > STALL_S:
        yield from _slow(paired, exchange)
    if entry.direction == BACKEND_TO_PROXY and attempt is not None:
        yield from _of_answer(entry, exchange, attempt, paired.events)
    elif entry.direction == PROXY_TO_CLIENT and entry.kind != "end":
        yield from _of_client(entry, exchange, paired.events)
    elif entry.data and entry.direction in (PROXY_TO_BACKEND, CLIENT_TO_PROXY) and entry.kind != "chunk":
        names = credentials(entry.data)
        if names:
            yield Issue("plaintext_credential", "warning", f"Credential in clear: {', '.join(names)}", entry.mark, exchange.id)


def _slow(paired: Paired, exchange: Exchange) -> Iterator[Issue]:
    entry, gap_s = paired.entry, paired.gap_s
    if gap_s > SLOW_S and not _is_note(entry):
        severity = "error" if gap_s >= VERY_SLOW_S else "warning"
        yield Issue("slow_response", severity, f"Long gap of {gap_s:.1f}s before this entry", entry.mark, exchange.id)
    elif gap_s <= SLOW_S and entry.direction == BACKEND_TO_PROXY and entry.data and _is_within(paired.attempt):
        yield Issue("stream_stall", "warning", f"Stream stalled for {gap_s:.1f}s", entry.mark, exchange.id)


def _is_within(attempt: Attempt | None) -> bool:
    """Whether a chunk of a stream came before the one at hand."""
    if attempt is None or attempt.answer.chunks < 2:
        return False
    return attempt.answer.begun or attempt.answer.content.is_stream


def _is_note(entry: Entry) -> bool:
    """Whether this is what a recorder adds to an exchange that is over, at a time that means nothing."""
    if entry.kind or entry.data:
        return False
    meta = entry.meta
    return not (meta.get("ss") or meta.get("se")) and ("cu" in meta or meta.get("eos") is True)


def _of_answer(entry: Entry, exchange: Exchange, attempt: Attempt, events: list[Event]) -> Iterator[Issue]:
    status = entry.status if (entry.kind == "head" or not entry.kind) and not _is_note(entry) else None
    failed = status is not None and status >= 400 and not attempt.failed
    for event in events:
        if not attempt.finished and _FINISHED.search(event.data[-4096:] if len(event.data) > 8192 else event.data):
            attempt.finished = True
        failure = _failure(event)
        if failure is not None and not failed and not _is_explained(exchange, attempt, failure):
            yield _told(failure, attempt, entry.mark, exchange.id)
            attempt.failed += 1
        elif failure is not None and failed:
            failed = False
            yield _told(failure, attempt, entry.mark, exchange.id, status)
            attempt.failed += 1
    if failed and status is not None:
        attempt.failed += 1
        yield _told(Failure(), attempt, entry.mark, exchange.id, status)


def _is_explained(exchange: Exchange, attempt: Attempt, failure: Failure) -> bool:
    """Whether the status told of it before; then its issue gets the words."""
    status = attempt.answer.status
    if status is None or status < 400 or attempt.failed != 1:
        return False
    for index, issue in enumerate(exchange.found):
        if issue.kind in {"rate_limit", "backend_error"} and issue.text == f"HTTP {status}":
            exchange.found[index] = _told(failure, attempt, issue.at, exchange.id, status)
            return True
    return False


def _told(failure: Failure, attempt: Attempt, at: Mark, exchange: str, status: int | None = None) -> Issue:
    limited = status == 429 or is_about_limits(failure)
    words = ": ".join(word for word in (failure.type or failure.code, failure.message) if word)
    told = " ".join(part for part in (f"HTTP {status}" if status else "", f"({words})" if status and words else words) if part)
    kind = "rate_limit" if limited else "backend_error"
    return Issue(kind, "warning" if limited else "error", told or "error without a word", at, exchange)


def is_about_limits(failure: Failure) -> bool:
    """Whether type or code have a word for limits in them: `rate_limit_error` has, `generated_error` has not."""
    words = _WORDS.findall(f"{failure.type or ''} {failure.code or ''}".replace("_", " "))
    return any(word.lower() in _LIMITS for word in words)


def _failure(event: Event) -> Failure | None:
    """The failure that an event of an answer tells of."""
    if event.kind == "exception":
        return failures.of_exception(event.name, mapping(decoded(event.data)))
    if b"error" not in event.data and event.name != "error":
        return None
    document = decoded(event.data)
    return failures.in_answer(document, event.name) if isinstance(document, dict) else None


def failures_of(events: list[Event]) -> Iterator[Failure]:
    """The failures that these events tell of."""
    for event in events:
        failure = _failure(event)
        if failure is not None:
            yield failure


def _of_client(entry: Entry, exchange: Exchange, events: list[Event]) -> Iterator[Issue]:
    status = entry.status
    if any(issue.kind == "client_visible_error" for issue in exchange.found):
        return
    if status is None or status < 400:
        failure = next(failures_of(events), None)
        if failure is not None and not any(attempt.failed for attempt in exchange.attempts):
            told = f"The client got an error: {failure.message or failure.type or 'without a word'}"
            yield Issue("client_visible_error", "warning", told, entry.mark, exchange.id)
        return
    by = "from the proxy itself" if entry.kind == "answer" else ""
    yield Issue("client_visible_error", "warning", f"The client got HTTP {status} {by}".rstrip(), entry.mark, exchange.id)


def credentials(data: bytes) -> list[str]:
    """The fields of a request head that hold a secret in clear; nothing if this is no head."""
    if not _IS_HEAD.match(data[:_HEAD_BYTES_MAX]):
        return []
    head = data[:_HEAD_BYTES_MAX].partition(b"\r\n\r\n")[0]
    found = [*_CREDENTIAL.findall(head), *_IN_TARGET.findall(head)]
    return [name.decode("latin-1").lower() for name, value in found if not any(mask in value for mask in _MASKED)]


def of_exchange(exchange: Exchange) -> Iterator[Issue]:
    """What is wrong with an exchange as a whole, now that it is over."""
    if exchange.end is not None:
        yield from _of_end(exchange, exchange.end.meta)
    elif not exchange.is_ours:
        yield from _of_missing(exchange)
        yield from _of_streams(exchange)


def _of_end(exchange: Exchange, meta: dict[str, Any]) -> Iterator[Issue]:
    """Our own recorder knows how it ended."""
    reason, code = text(meta.get("x_end")), text(meta.get("x_err"))
    end = exchange.end
    if reason in ("", "complete") or end is None:
        return
    told = f"{reason}: {code}" if code else reason
    if reason in _ENDS:
        yield Issue(_ENDS[reason], "warning", f"{told}, after {meta.get('tb', 0):,} bytes of the answer", end.mark, exchange.id)
    elif exchange.attempts and exchange.attempts[-1].answer.status is not None:
        yield Issue("broken_stream", "error", f"Answer broken off ({told})", end.mark, exchange.id)
    else:
        yield Issue("missing_response", "error", f"No answer from the backend ({told})", end.mark, exchange.id)


def _of_missing(exchange: Exchange) -> Iterator[Issue]:
    asked = exchange.asked
    if asked is None:
        return
    if not exchange.attempts:
        if not exchange.to_client.entries:
            yield Issue("missing_response", "warning", "Request was not forwarded to a backend", asked, exchange.id)
    elif not any(attempt.is_answered or attempt.answer.begun for attempt in exchange.attempts):
        yield Issue("missing_response", "error", "Incomplete or missing backend response", asked, exchange.id)


def _of_streams(exchange: Exchange) -> Iterator[Issue]:
    """Streams of the last attempt; of those before, the retry tells."""
    attempt = exchange.attempts[-1] if exchange.attempts else None
    if attempt is None:
        return
    leg = attempt.answer
    if leg.failure is not None:
        meta = leg.failure.meta
        words = [str(meta[key]) for key in ("eos_err_code", "eos_err_cls", "eos_reason") if meta.get(key)]
        told = f"Stream broken: {' '.join(words)}".removesuffix(": ")
        yield Issue("broken_stream", "error", told, leg.failure.mark, exchange.id)
    elif (leg.begun or leg.content.is_stream) and not (leg.ended or attempt.finished or attempt.failed) and leg.last:
        yield Issue("broken_stream", "error", "Stream broken: no end after this entry", leg.last, exchange.id)
