"""What an exchange said and how long it took, for those who look at single ones: `--analyze`, `--analyze-streaming`,
`--track-request`. Pure.

Every event goes through the readers that the index is made with, so split events, all APIs and tool calls are understood.
"""

from itertools import pairwise
from typing import Any, Final

from llmdump import heads
from llmdump.captures.entry import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_CLIENT, Entry, as_text
from llmdump.inspecting.issues import failures_of
from llmdump.inspecting.pairing import Attempt, Exchange, Leg, Paired
from llmdump.reading.exchange import Event, Request
from llmdump.reading.reader import Reader
from llmdump.reading.typed import at, decoded, mapping, objects, text

STALL_S: Final = 5.0
SLOW_S: Final = 10.0
NOTES_MAX: Final = 20
"""Remarks on one request."""
_NAMES_MAX: Final = 32
_SHOWN_CHARS: Final = 50


class Telling:
    """What one leg said."""

    def __init__(self, request: Request, status: int | None, fields: list[tuple[str, str]]) -> None:
        self._reader = Reader(request, status, fields)
        # A proxy may translate: then the path is that of another API than the answer.
        self._by_shape = Reader(Request("POST", ""), status, [])
        self.models: list[str] = []
        self.notes: list[str] = []
        self.done = False
        self._said = False

    def take(self, events: list[Event]) -> None:
        """The next events."""
        for event in events:
            if event.data[:6] == b"[DONE]":
                self.done = True
            else:
                self._look(event)
            self._reader.event(event)
            self._by_shape.event(event)

    def _look(self, event: Event) -> None:
        document = decoded(event.data)
        for one in [document] if isinstance(document, dict) else objects(document):
            self._name(one)
            self._remark(one)
        for failure in failures_of([event]):
            self._note(f"Backend Error: {failure.message or failure.type or 'unknown'}")

    def _name(self, document: dict[str, Any]) -> None:
        for holder in (document, at(document, "message"), at(document, "response")):
            model = text(at(holder, "model")) or text(at(holder, "modelVersion"))
            if model and model not in self.models and len(self.models) < _NAMES_MAX:
                self.models.append(model)

    def _remark(self, document: dict[str, Any]) -> None:
        usage = mapping(document.get("usage"))
        if usage and usage.get("completion_tokens") == 0 and not isinstance(usage["completion_tokens"], bool):
            self._note("Usage-only chunk with 0 completion tokens")
        choices = objects(document.get("choices"))
        said = any(_says(choice) for choice in choices)
        if any(choice.get("finish_reason") == "stop" for choice in choices) and not (said or self._said):
            self._note("Immediate stop: finish_reason stop with nothing before it")
        self._said = self._said or said
        if "fallback" in (text(document.get("id")) or ""):
            self._note("Fallback mechanism: the answer's id says so")

    def _note(self, note: str) -> None:
        if note not in self.notes and len(self.notes) < NOTES_MAX:
            self.notes.append(note)

    def told(self) -> dict[str, Any]:
        """What was said in all."""
        reading = self._reader.finish(complete=True, framing="sse")
        if not reading.text and not reading.reading["tool_calls"]:
            reading = self._by_shape.finish(complete=True, framing="sse")
        return {
            "chars": len(reading.text),
            "tool_calls": [name for name in reading.reading["tool_calls"] if name],
            "finish_reason": reading.normalised["finish_reason"],
            "models": self.models,
            "model": reading.reading["model"],
            "done": self.done,
        }


def _says(choice: dict[str, Any]) -> bool:
    for holder in (mapping(choice.get("delta")), mapping(choice.get("message")), choice):
        if holder.get("content") or holder.get("text") or holder.get("tool_calls") or holder.get("reasoning_content"):
            return True
    return False


def listen(paired: Paired) -> None:
    """Keep what this entry says at its exchange; its exchanges are walked `whole`."""
    exchange, attempt, entry = paired.exchange, paired.attempt, paired.entry
    if exchange is None or not paired.events:
        return
    if entry.direction == BACKEND_TO_PROXY and attempt is not None:
        if attempt.telling is None:
            attempt.telling = Telling(request_of(exchange, attempt), attempt.answer.status, attempt.answer.content.fields)
        attempt.telling.take(paired.events)
    elif entry.direction == PROXY_TO_CLIENT:
        if exchange.telling is None:
            exchange.telling = Telling(request_of(exchange, None), exchange.to_client.status, exchange.to_client.content.fields)
        exchange.telling.take(paired.events)


def finish(exchange: Exchange) -> None:
    """What ends with the exchange: bodies without an end of their own."""
    for leg, attempt in [(one.answer, one) for one in exchange.attempts] + [(exchange.to_client, None)]:
        events = leg.content.finish(0)
        if events and attempt is not None:
            if attempt.telling is None:
                attempt.telling = Telling(request_of(exchange, attempt), leg.status, leg.content.fields)
            attempt.telling.take(events)
        elif events and exchange.telling is not None:
            exchange.telling.take(events)


def request_of(exchange: Exchange, attempt: Attempt | None) -> Request:
    """The question, as far as readers need it."""
    sent = exchange.head or (attempt.request if attempt else b"")
    is_head = b" HTTP/" in sent[:8192].partition(b"\n")[0]
    head = heads.parse(sent) if is_head else heads.Head(("POST", "", ""), [])
    body = b"".join(exchange.body) or (sent.partition(b"\r\n\r\n")[2] if is_head else sent)
    return Request(head.start[0], head.start[1], head.first("host"), "", head.fields, body)


def analysis(exchange: Exchange) -> dict[str, Any]:
    """What was asked, how long it took, what came back."""
    finish(exchange)
    backend = _sum([attempt.telling.told() for attempt in exchange.attempts if attempt.telling is not None])
    client = exchange.telling.told() if exchange.telling is not None else None
    leg = exchange.to_client
    if exchange.is_ours and exchange.attempts and not leg.entries:
        client, leg = backend, exchange.attempts[-1].answer  # passed on as it came
    return {
        "id": exchange.id,
        "model": _model(exchange),
        "ttft_s": ttft_s(exchange),
        "duration_s": duration_s(exchange),
        "backends": list(dict.fromkeys(attempt.backend for attempt in exchange.attempts if attempt.backend)),
        "backend_models": backend["models"] if backend else [],
        "backend_content": backend,
        "client_content": client,
        "client_chunk_sizes": leg.sizes,
        "retries": exchange.retries,
        "issues": _notes(exchange),
    }


def _sum(told: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not told:
        return None
    return {
        **told[-1],
        "chars": sum(one["chars"] for one in told),
        "tool_calls": [name for one in told for name in one["tool_calls"]],
        "models": list(dict.fromkeys(model for one in told for model in one["models"])),
    }


def _notes(exchange: Exchange) -> list[str]:
    tellings = [attempt.telling for attempt in exchange.attempts] + [exchange.telling]
    notes = [note for telling in tellings if telling is not None for note in telling.notes]
    client = exchange.telling if exchange.telling is not None else tellings[0]
    leaked = [model for model in (client.models if client is not None else []) if "code-assist" in model]
    notes += [f"Internal model name leak: {model}" for model in leaked]
    return list(dict.fromkeys(notes))


def _model(exchange: Exchange) -> str | None:
    document = decoded(b"".join(exchange.body))
    asked = text(at(document, "model")) or text(at(document, "response", "model"))
    if asked:
        return asked
    # Some APIs have it in the path.
    found = Reader(request_of(exchange, exchange.attempts[0] if exchange.attempts else None), None, []).finish(False)
    model = found.reading["model"]
    return model if isinstance(model, str) else None


def ttft_s(exchange: Exchange) -> float | None:
    """To the first byte of an answer: as the recorder measured it, else since the request."""
    legs = [attempt.answer for attempt in exchange.attempts]
    measured = next((leg.ttfb_ms for leg in legs if leg.ttfb_ms is not None), None)
    if measured is not None:
        return measured / 1000
    first = next((leg.first for leg in legs if leg.first is not None), None)
    return None if first is None else round(first.ts - (exchange.asked or exchange.first).ts, 6)


def duration_s(exchange: Exchange) -> float | None:
    """Of the last stream, as the recorder measured it, else from the request to the last byte."""
    if exchange.end is not None:
        return round(exchange.end.ts - exchange.first.ts, 6)
    legs = [attempt.answer for attempt in exchange.attempts if attempt.answer.entries]
    if not legs:
        return None
    leg = legs[-1]
    for measured in (leg.sdur_ms, leg.latency_ms):
        if measured is not None:
            return measured / 1000
    return round(leg.last.ts - (exchange.asked or exchange.first).ts, 6) if leg.last else None


def stream(exchange: Exchange, attempt: Attempt) -> dict[str, Any]:
    """How the stream of one attempt came."""
    leg = attempt.answer
    sent = attempt.sent or exchange.asked or exchange.first
    first = leg.ttfb_ms / 1000 if leg.ttfb_ms is not None else None
    if first is None and leg.first is not None:
        first = round(leg.first.ts - sent.ts, 6)
    took_s = _stream_s(exchange, leg, sent.ts)
    return {
        "id": exchange.id,
        "entry": sent.seq,
        "backend": attempt.backend,
        "ttft_s": first,
        "duration_s": took_s,
        "chunks": leg.chunks,
        "bytes": leg.bytes,
        "average_s": round(took_s / (leg.chunks - 1), 6) if took_s is not None and leg.chunks > 1 else None,
        "slow_chunks": _slow_chunks(leg.stamps),
    }


def _stream_s(exchange: Exchange, leg: Leg, sent_s: float) -> float | None:
    for measured in (leg.sdur_ms, leg.latency_ms):
        if measured is not None:
            return measured / 1000
    return round(leg.last.ts - sent_s, 6) if leg.last else None


def _slow_chunks(stamps: list[tuple[float, int]]) -> list[dict[str, Any]]:
    gaps = [(seq, round(later - earlier, 6)) for (earlier, _), (later, seq) in pairwise(stamps)]
    return [{"entry": seq, "gap_s": gap_s} for seq, gap_s in gaps if gap_s > STALL_S]


def step(paired: Paired, began_s: float) -> dict[str, Any]:
    """One entry of a request that is followed."""
    entry = paired.entry
    return {
        "seq": entry.seq,
        "direction": entry.direction,
        "what": _description(paired),
        "t_s": round(entry.ts - began_s, 6),
        "slow": paired.gap_s > SLOW_S,
    }


def _description(paired: Paired) -> str:
    entry = paired.entry
    marks = [name for name, key in (("Stream start", "ss"), ("Stream end", "se")) if entry.meta.get(key) is True]
    if entry.kind in {"head", "forward", "interim", "answer"}:
        return _short(entry.data.partition(b"\r\n")[0])
    if entry.kind == "end":
        return f"End: {entry.meta.get('x_end')} {entry.meta.get('x_err') or ''}".rstrip()
    if not entry.data:
        return ", ".join(marks) or _of_empty(entry)
    if entry.direction in (BACKEND_TO_PROXY, PROXY_TO_CLIENT):
        return _of_events(paired)
    what = "Request" if entry.direction == CLIENT_TO_PROXY else f"Sent to {paired.backend or 'the backend'}"
    return f"{what}, {len(entry.data):,} bytes"


def _of_empty(entry: Entry) -> str:
    if entry.meta.get("eos") is True or "eos_term" in entry.meta:
        words = [str(entry.meta[key]) for key in ("eos_term", "eos_err_code", "eos_err_cls", "eos_reason") if key in entry.meta]
        return f"End of stream: {' '.join(words)}".rstrip(": ")
    return "Metadata"


def _of_events(paired: Paired) -> str:
    exchange = paired.exchange
    if not paired.events or exchange is None:
        return f"{len(paired.entry.data):,} bytes (Raw)"
    failure = next(failures_of(paired.events), None)
    if failure is not None:
        return f"ERROR: {_short((failure.message or failure.type or 'unknown').encode())}"
    reader = Reader(request_of(exchange, paired.attempt), None, [])
    for event in paired.events:
        reader.event(event)
    found = reader.finish(complete=True, framing="sse")
    if found.text:
        return f"Content: {_short(found.text.encode('utf-8', 'replace'))}"
    calls = [name for name in found.reading["tool_calls"] if name]
    return f"Tool call: {', '.join(calls)[:_SHOWN_CHARS]}" if calls else "Metadata"


def _short(data: bytes) -> str:
    shown = as_text(data).replace("\n", "\\n")
    return shown if len(shown) <= _SHOWN_CHARS else shown[: _SHOWN_CHARS - 1] + "…"
