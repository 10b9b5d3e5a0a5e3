"""From the records of an exchange that has ended to what its row and the other tables have of its bodies. Pure.

The seam to `llmdump.reading`: what that package tells is put into columns here, and nowhere else.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.assembly import Exchange
from llmdump.reading import from_records, sessions
from llmdump.reading.canonical import decode
from llmdump.reading.client import client_of
from llmdump.reading.from_records import Told
from llmdump.reading.hints import Hints, hints_of
from llmdump.reading.prices import PriceTable
from llmdump.reading.project import project_of
from llmdump.reading.turns import is_answer, is_system, new_text
from llmdump.record import DamageError, Record
from llmdump.values import integer, text
from llmdump_indexer.read import (
    CANDIDATES_MAX,
    MESSAGE_CHARS_MAX,
    NEW_TEXT_CHARS_MAX,
    TOOL_CALLS_MAX,
    Candidate,
    Read,
    nano_usd,
    per_second,
    tokens,
)

_CUT_BY: Final = {
    "client_closed": "client", "upstream_closed": "backend", "upstream_error": "backend", "timeout": "timeout",
    "shutdown": "proxy", "lost": "proxy", "bad_request": "client",
}  # fmt: skip
# Images, sounds and files within messages: parts of a type, or data in place. Within texts, quotes are escaped.
_MEDIA: Final = re.compile(
    rb'"type"\s*:\s*"(?:image|image_url|input_image|input_audio|input_file|document|file|audio|video)"|"inline_?[dD]ata"\s*:'
)


def understand(table: PriceTable, records: Iterable[Record], exchange: Exchange) -> Read:
    """What the bodies of an exchange tell. Raises what reading the records raises, and nothing of its own."""
    try:
        return _understand(table, records, exchange)
    except (OSError, DamageError):
        raise
    except Exception as err:  # bytes that reading cannot take must not stop the index of all others
        count_swallowed("reading_failed")
        log.error("reading_failed", exchange=exchange.id, error=f"{type(err).__name__}: {err}")
        return Read(problem="reading_failed")


def _understand(table: PriceTable, records: Iterable[Record], exchange: Exchange) -> Read:
    told = from_records.read(records, exchange.started_us, ended=exchange.end_reason == "complete", table=table)
    document = decode(told.request.body) if told.request.body else None
    hints = hints_of(told.request.fields, document)
    read = _columns(told, exchange)
    client = client_of(told.request.fields)
    read.client_kind, read.client_version = client.kind, client.version
    read.client_project = text(project_of(document))
    read.user_hint, read.session_hint, read.traceparent = text(hints.user), text(hints.session), text(hints.trace)
    read.media_count = len(_MEDIA.findall(told.request.body))
    _link(read, told, document, hints)
    return read


def _columns(told: Told, exchange: Exchange) -> Read:
    own, same = told.reading.reading, told.reading.normalised
    complete = bool(same["complete"])
    return Read(
        provider=text(own["provider"]), api=text(own["api"]), framing=text(own["framing"]), model=text(same["model"]),
        model_asked=exchange.model, stream=_is_stream(own) or None, complete=complete,
        cut_by=None if complete else _CUT_BY.get(exchange.end_reason or "", "capture" if told.answer_cut else None),
        prompt_tokens=tokens(own["input_tokens"]), completion_tokens=tokens(own["output_tokens"]),
        cached_tokens=tokens(own["cache_read_tokens"]), cache_creation_tokens=tokens(own["cache_write_tokens"]),
        reasoning_tokens=tokens(same["reasoning"]), total_tokens=tokens(same["total"]), input_tokens=tokens(same["input"]),
        input_uncached_tokens=tokens(same["input_uncached"]), cache_read_tokens=tokens(same["cached"]),
        cache_write_tokens=tokens(same["cache_write"]), output_tokens=tokens(same["output"]),
        cost_nano_usd=nano_usd(same["cost_usd"]), prompt_per_second=per_second(same["prompt_per_second"]),
        tokens_per_second=per_second(same["tokens_per_second"]),
        output_tokens_per_second=per_second(same["output_tokens_per_second"]),
        **{name: integer(same[name]) for name in ("ttft_us", "last_token_us", "gap_p50_us", "gap_p99_us", "gap_worst_us")},
        event_count=integer(own["event_count"]), finish_reason=_word(same["finish_reason"]), response_id=text(same["id"]),
        n_choices=integer(own["n_choices"]), tool_calls=_tool_calls(same["calls"]),
        refusal=text(same["refusal"], MESSAGE_CHARS_MAX), error_type=_word(same["error_type"]),
        error_code=_word(same["error_code"]), error_message=text(same["error_message"], MESSAGE_CHARS_MAX),
        problem=told.problem or None, answer_new=_cut(told.reading.text),
    )  # fmt: skip


def _link(read: Read, told: Told, document: Any, hints: Hints) -> None:
    """What links it to others, and what is new in this turn: all since a model last spoke."""
    asked = sessions.conversation(read.api, document, hints)
    read.prefix_hash, read.prefix_len = asked.prefix_hash, asked.prefix_len
    read.is_first = asked.is_first
    read.previous_response_id = next((one.key[2:] for one in asked.candidates if one.by == "response_id"), None)
    read.keys = asked.keys + sessions.answer_keys(read.response_id, told.reading.normalised["calls"])
    read.candidates = tuple(Candidate(one.key, one.by) for one in asked.candidates[:CANDIDATES_MAX])
    known = max((index for index, turn in enumerate(asked.turns, 1) if is_answer(turn)), default=0)
    new = asked.turns[known:]
    if read.previous_response_id is not None:
        new = [turn for turn in new if not is_system(turn)]
    read.prompt_new = _cut(new_text(new, 0))


def _is_stream(own: dict[str, Any]) -> bool:
    """Messages of nobody's API are no stream of an answer."""
    return bool(own["stream"] and (own["api"] or own["framing"] != "websocket"))


def _word(value: Any) -> str | None:
    return text(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _tool_calls(calls: list[dict[str, Any]]) -> str | None:
    """Names and ids as JSON; None if there are none."""
    named = [
        {"name": text(call.get("name")), "id": text(call.get("id"))} for call in calls[:TOOL_CALLS_MAX] if call.get("name")
    ]
    return orjson.dumps(named).decode() if named else None


def _cut(said: str) -> str:
    return said[:NEW_TEXT_CHARS_MAX].replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
