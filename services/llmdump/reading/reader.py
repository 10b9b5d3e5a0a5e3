"""A reading of one exchange: a fold over the events of its answer.

    reader = Reader(request, status, fields)       the response's status and header fields
    for event in …: reader.event(event)
    reading = reader.finish(complete=True, framing="sse")

The API is found from the request, or from the first document of the answer where the request does not tell. A plain
answer is a stream of one event. Nothing that is in an event can raise: decoding answers `BROKEN`, and all fields are
taken only if they are of the right type.
"""

from collections.abc import Callable
from typing import Any, Final

from llmdump.reading import detect, failures
from llmdump.reading.answer import NAME_CHARS_MAX, Answer
from llmdump.reading.asked import asked
from llmdump.reading.dialects import anthropic, bedrock, chat, chunk, cohere, gemini, llama, ollama, openai, responses
from llmdump.reading.exchange import Event, Reading, Request
from llmdump.reading.normal import normalised
from llmdump.reading.typed import BROKEN, at, clean, count, decoded, text

Dialect = Callable[[Answer, dict[str, Any], str], None]

DIALECTS: Final[dict[str, Dialect]] = {
    "anthropic.batches": anthropic.read_batches,
    "anthropic.complete": anthropic.read_complete,
    "anthropic.count_tokens": anthropic.read_count,
    "anthropic.messages": anthropic.read,
    "bedrock.converse": bedrock.read,
    "bedrock.converse_stream": bedrock.read,
    "bedrock.count_tokens": bedrock.read_count,
    "bedrock.invoke": bedrock.read_invoke,
    "bedrock.invoke_stream": bedrock.read_invoke,
    "cohere.chat_v1": cohere.read_v1,
    "cohere.chat_v2": cohere.read,
    "cohere.embed": cohere.read_other,
    "cohere.rerank": cohere.read_other,
    "gemini.count_tokens": gemini.read_count,
    "gemini.embed": gemini.read_embedding,
    "gemini.generate": gemini.read,
    "gemini.interactions": gemini.read_interaction,
    "gemini.stream": gemini.read,
    "llama.completion": llama.read,
    "llama.infill": llama.read,
    "ollama.chat": ollama.read,
    "ollama.embed": ollama.read_embedding,
    "ollama.generate": ollama.read,
    "openai.audio_speech": openai.read_media,
    "openai.audio_text": openai.read_transcript,
    "openai.chat": chat.read,
    "openai.completions": chat.read_completions,
    "openai.embeddings": openai.read,
    "openai.images": openai.read_media,
    "openai.moderations": openai.read,
    "openai.realtime": responses.read,
    "openai.responses": responses.read,
    "openai.responses_other": responses.read_other,
    "openai.responses_retrieve": responses.read,
    "rerank": openai.read,
    "vertex.raw_predict": bedrock.read_maker,
}

WITHOUT_OUTPUT: Final = frozenset(
    ("anthropic.count_tokens", "bedrock.count_tokens", "gemini.count_tokens", "openai.responses_other", "openai.embeddings",
     "cohere.embed", "gemini.embed", "ollama.embed", "rerank", "cohere.rerank", "openai.moderations")
)  # fmt: skip
"""What generates nothing: output is 0 where anything was counted."""
STREAMS: Final = frozenset(("sse", "ndjson", "json_array", "eventstream", "websocket"))
ENDS_WITH_DONE: Final = frozenset(
    (
        None,
        "openai.chat",
        "openai.completions",
        "openai.audio_speech",
        "openai.audio_text",
        "openai.images",
        "gemini.interactions",
    )
)
"""APIs whose streams end with a `[DONE]` rather than an event of their own."""
WITHOUT_END: Final = frozenset(("anthropic.batches",))
"""APIs whose streams end where their lines do."""
HELD_BACK: Final = frozenset(("gemini.interactions",))
"""`reading` has only the model of these; `normalised` has all."""
UNSPOKEN: Final = HELD_BACK | frozenset(("openai.audio_text",))
"""The text of these was not generated as an answer, or is not told as such in `reading`."""
GENERATING: Final = frozenset(
    ("anthropic.complete", "anthropic.messages", "bedrock.converse", "bedrock.converse_stream", "cohere.chat_v1",
     "cohere.chat_v2", "gemini.generate", "gemini.stream", "ollama.chat", "ollama.generate", "openai.chat",
     "openai.completions", "openai.responses", "openai.responses_retrieve")
)  # fmt: skip
"""Where an answer without a text is one with an empty text."""
UNSURE_EVENTS_MAX: Final = 16
"""So many events are looked at to tell an API that the path does not tell."""
NO_BODY: Final = frozenset((204, 205, 304))


class Reader:
    """One exchange being read."""

    def __init__(self, request: Request, status: int | None, fields: list[tuple[str, str]]) -> None:
        path = detect.path_of(request.target)
        self._request = request
        self._status = status
        self._fields = fields
        self._asked = asked(request, path)
        self._provider = detect.provider_of(request, fields)
        self.api = detect.api_of(request, self._asked, path, self._provider)
        """The name of the API, None while it is not known."""
        self._dialect = DIALECTS.get(self.api or "")
        # A route that others have too is believed only until an answer says otherwise.
        self._unsure = self.api is None or (self.api in detect.SHARED and self._provider != "cohere")
        self._short = self.api == "openai.chat" and (status is None or status < 400)
        self._failed = status is not None and status >= 400
        self._answer = Answer()
        self._events = 0
        self._broken = 0
        self._spoke = False
        self._listed = False
        self._document: Any = None

    def event(self, event: Event) -> None:
        """Takes the next event of the answer."""
        self._events += 1
        data = event.data
        if self._short and chunk.take(self._answer, data, event.at_us):
            return
        if data[:6] == b"[DONE]":
            self._answer.done = self._answer.done or self.api in ENDS_WITH_DONE
            return
        document = decoded(data)
        if isinstance(document, dict):
            self._take(document, event)
        elif isinstance(document, list):
            for item in document:
                if isinstance(item, dict):
                    self._take(item, event)
        elif document is BROKEN:
            self._broken += 1

    def _take(self, document: dict[str, Any], event: Event) -> None:
        answer = self._answer
        if event.kind == "exception":
            answer.failure = failures.of_exception(event.name, document)
            return
        if document.get("error") or event.name == "error" or "error" in (document.get("type"), document.get("object")):
            answer.failure = failures.in_answer(document, event.name) or answer.failure
        if self._failed:
            self._document = document
            return
        if self._unsure:
            self._find(document, event.name)
        self._listed = self._listed or document.get("object") == "list" or document.get("deleted") is True
        if self._dialect is not None:
            answer.generated = False
            self._spoke = True
            self._dialect(answer, document, event.name)
            if answer.generated:
                answer.times.token(event.at_us)

    def _find(self, document: dict[str, Any], name: str) -> None:
        self.api = detect.by_shape(document, name) or self.api
        self._unsure = self.api is None and self._events < UNSURE_EVENTS_MAX
        # Whatever it is, there may be a usage in it.
        self._dialect = DIALECTS.get(self.api or "", openai.read)

    def client_event(self, event: Event) -> None:
        """Takes a message that the client sent after a change to WebSocket; it may name the model."""
        document = decoded(event.data)
        for holder in (document, at(document, "response"), at(document, "session")):
            model = text(at(holder, "model"))
            if model:
                self._asked = self._asked._replace(model=clean(model, NAME_CHARS_MAX))

    def finish(self, complete: bool, framing: str = "", problem: str = "") -> Reading:
        """The reading. `complete`: the answer came to its end by the rules of HTTP; `problem` is the framing's."""
        self._close()
        # An array is a stream only where it is one by the API; others answer with a list.
        stream = framing in STREAMS and (framing != "json_array" or (self.api == "gemini.stream" and not self._failed))
        answer = self._answer
        reading = self._reading(stream, framing)
        told = self._normalised(complete, stream, framing, problem)
        held = answer.text.held() if answer.text is not None else ""
        return Reading(reading, told, answer.usage.raw_whole(), held, answer.reasoning.held())

    def _close(self) -> None:
        answer = self._answer
        if self._failed:
            found = failures.of_status(self._status or 0, self._document)
            kind = failures.aws_type(self._fields) if found.type is None else None
            answer.failure = found if kind is None else found._replace(type=kind, loose=False)
            tokens = count(at(self._document, "error", "n_prompt_tokens"))
            if tokens is not None:
                answer.usage.kept["input_tokens"] = tokens
        elif self.api in ("bedrock.invoke", "bedrock.invoke_stream") and not answer.usage.kept:
            answer.usage.take(_header_counts(self._fields))
        if self._spoke and answer.text is None and answer.failure is None and self.api in GENERATING and not self._listed:
            answer.say(None)
        if answer.failure is not None and answer.failure.message is None and answer.failure.type:
            answer.failure = answer.failure._replace(message=answer.failure.type)

    def _reading(self, stream: bool, framing: str) -> dict[str, Any]:
        answer = self._answer
        failure = answer.failure
        held_back = self.api in HELD_BACK
        told = {} if held_back else answer.usage.told()
        spoken = answer.text if self.api not in UNSPOKEN else None
        return {
            "provider": self._provider,
            "api": self.api,
            "framing": framing,
            "stream": stream,
            "model": answer.model or self._asked.model,
            **{name: told.get(name) for name in _COUNTS},
            "finish_reason": None if held_back else answer.finish,
            "response_id": None if held_back else answer.id,
            "tool_calls": [call.name for call in answer.calls if call.name and not held_back],
            "builtin_tool_calls": [] if held_back else list(answer.builtins),
            "text": None if spoken is None else spoken.held(),
            "text_sha256": None if spoken is None else spoken.sha256(),
            "text_chars": None if spoken is None else spoken.chars(),
            "event_count": self._events if stream else None,
            "stream_done": answer.done if stream else None,
            "is_error": failure is not None,
            "error_type": failure.type if failure is not None and not failure.loose else None,
            "error_code": failure.code if failure is not None and not failure.loose else None,
            "n_choices": None if answer.choices is None else len(answer.choices),
            "total_tokens": told.get("total_tokens"),
            "counted_tokens": answer.counted,
        }

    def _normalised(self, complete: bool, stream: bool, framing: str, problem: str) -> dict[str, Any]:
        answer = self._answer
        failure = answer.failure
        if answer.counted is not None:
            answer.usage.kept["input_tokens"] = answer.counted
        generates = self.api not in WITHOUT_OUTPUT
        tokens = normalised(answer.usage, answer.speed, generates)
        visible = tokens["output"]
        if visible is not None and not answer.reasoning:
            visible -= tokens["reasoning"] or 0
        return {
            **tokens,
            **answer.speed.rates(tokens, answer.usage.raw or {}),
            "model": answer.model or self._asked.model or self._asked.form_model,
            "id": answer.id,
            "finish_reason": answer.detail or answer.finish,
            "tool_calls": sum(1 for call in answer.calls if call.name),
            "calls": [call.told() for call in answer.calls],
            "complete": self._complete(complete, stream, framing, problem),
            "error": failure and failure.message,
            "error_type": failure and failure.type,
            "error_code": failure and failure.code,
            "error_message": failure and failure.message,
            "refusal": _refusal(answer),
            "cost": answer.usage.cost,
            "cost_usd": None,
            **(answer.times.told(visible) if stream else _NO_TIMES),
        }

    def _complete(self, complete: bool, stream: bool, framing: str, problem: str) -> bool:
        answer = self._answer
        if self._failed:
            return complete
        if stream:
            has_end = (
                answer.finish is not None or answer.blocked is not None or self._dialect is None or self.api in WITHOUT_END
            )
            ended = answer.done or (complete and has_end)
            return ended and answer.failure is None
        if framing == "empty":
            return complete and (self._status in NO_BODY or self._request.method == "HEAD")
        return complete and problem in ("", "unknown_coding") and not (self._broken and _says_json(self._fields))


_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_NO_TIMES: Final = dict.fromkeys(
    ("ttft_us", "last_token_us", "gap_p50_us", "gap_p99_us", "gap_worst_us", "output_tokens_per_second")
)
_REFUSALS: Final = frozenset(
    ("refusal", "content_filter", "content_filtered", "guardrail_intervened", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST",
     "RECITATION", "SPII", "IMAGE_SAFETY", "ERROR_TOXIC")
)  # fmt: skip


def _refusal(answer: Answer) -> str | None:
    """The words of a refusal, else the reason that says there was one."""
    if answer.refusal:
        return answer.refusal.held()
    reason = answer.detail or answer.finish
    return reason if isinstance(reason, str) and reason in _REFUSALS else answer.blocked


def _header_counts(fields: list[tuple[str, str]]) -> dict[str, int]:
    names = {"x-amzn-bedrock-input-token-count": "inputTokens", "x-amzn-bedrock-output-token-count": "outputTokens"}
    return {
        names[name.lower()]: int(value)
        for name, value in fields
        if name.lower() in names and value.isascii() and value.isdigit()
    }


def _says_json(fields: list[tuple[str, str]]) -> bool:
    return any(name.lower() == "content-type" and "json" in value.lower() for name, value in fields)
