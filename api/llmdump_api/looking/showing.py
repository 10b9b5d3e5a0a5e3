"""`llmdump show` as lines: an exchange as a conversation, its tools, its times. Pure.

Texts are cut at `TEXT_CHARS` unless all is asked for; what was captured is shown, never obeyed (`screen.safe`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import orjson

from llmdump.reading import turns
from llmdump.reading.from_records import Told
from llmdump.reading.typed import decoded, mapping, objects, text
from llmdump.record import CLIENT_TO_PROXY, Record
from llmdump_api.looking.screen import count, dollars, moment, safe, span_ms

TEXT_CHARS: Final = 2000
"""Of one message."""
ROWS_MAX: Final = 40
"""Lines of a waterfall; chunks that come close together share one."""
EVENTS_MAX: Final = 200_000

Paint = Callable[[str, str], str]


def facts(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    """What the list knows of it."""
    status = "no status" if row["status"] is None else str(row["status"])
    ended = "open" if row["end_reason"] is None else row["end_reason"]
    yield paint(f"{row['id']}  {moment(row['ts_start'])}  {status}  {ended}", "head")
    yield f"{safe(row['method'] or '')} {safe(row['path'] or '')} -> {safe(row['upstream'] or 'no backend')}"
    asked = [
        ("model", row["model"]),
        ("client", row["client_kind"]),
        ("key", row["key_hash"]),
        ("session", row["session_root_id"]),
    ]
    yield "  ".join(f"{name} {safe(str(value))}" for name, value in asked if value)
    tokens = [
        ("in", row["input_tokens"]),
        ("cached", row["cache_read_tokens"]),
        ("out", row["output_tokens"]),
        ("thought", row["reasoning_tokens"]),
    ]
    counted = "  ".join(f"{name} {count(value)}" for name, value in tokens if value is not None)
    times = [("first token", row["ttft_ms"]), ("in all", row["duration_ms"])]
    took = "  ".join(f"{name} {span_ms(value)}" for name, value in times if value is not None)
    yield "  ".join(part for part in (f"tokens: {counted}" if counted else "", dollars(row["cost_usd"]), took) if part)
    if row["error_type"] or row["error_message"] or row["error_code"]:
        parts = [row["error_type"], row["error_code"], row["error_message"]]
        yield paint("error: " + ": ".join(safe(str(part)) for part in parts if part), "error")


def asked(row: dict[str, Any], told: Told, paint: Paint, *, whole: bool) -> Iterator[str]:
    """What the client said, and what was said before."""
    found = turns.turns_of(row["api"], decoded(told.request.body))
    for turn in found:
        yield from _turn(turn, paint, whole=whole)
    if not found and told.request.body:
        yield paint("── request", "head")
        yield from _text(told.request.body.decode("utf-8", "replace"), whole=whole)


def answered(told: Told, body: str, paint: Paint, *, whole: bool) -> Iterator[str]:
    """The answer; where nothing of it was understood, `body`."""
    normalised, reading = told.reading.normalised, told.reading
    finish = normalised["finish_reason"]
    yield paint(f"── answer{f' ({safe(str(finish))})' if finish else ''}", "good")
    if reading.reasoning_text:
        yield paint("thought:", "dim")
        yield from (paint(one, "dim") for one in _text(reading.reasoning_text, whole=whole))
    yield from _text(reading.text or ("" if normalised["calls"] or reading.reasoning_text else body), whole=whole)
    for call in normalised["calls"]:
        yield from _call(call["name"], call["arguments"], whole=whole)
    if normalised["refusal"]:
        yield paint(f"refused: {safe(str(normalised['refusal']))}", "warning")


def _turn(turn: Any, paint: Paint, *, whole: bool) -> Iterator[str]:
    turn = mapping(turn)
    role = "system" if turn.get("role") == turns.SYSTEM_ROLE else text(turn.get("role")) or text(turn.get("type")) or "?"
    yield paint(f"── {safe(role)}", "head")
    yield from _text("\n".join(turns.texts_of(turn)), whole=whole)
    for name, arguments in _calls(turn):
        yield from _call(name, arguments, whole=whole)


def _calls(turn: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tool calls within a turn of the history, of all APIs."""
    for call in objects(turn.get("tool_calls")):
        function = mapping(call.get("function"))
        yield text(function.get("name")) or text(call.get("name")) or "?", function.get("arguments", call.get("parameters"))
    for part in [*objects(turn.get("content")), *objects(turn.get("parts"))]:
        if part.get("type") == "tool_use":
            yield text(part.get("name")) or "?", part.get("input")
        elif isinstance(part.get("functionCall"), dict):
            yield text(part["functionCall"].get("name")) or "?", part["functionCall"].get("args")
    if turn.get("type") == "function_call":
        yield text(turn.get("name")) or "?", turn.get("arguments")


def _call(name: str | None, arguments: Any, *, whole: bool) -> Iterator[str]:
    shown = arguments if isinstance(arguments, str) else orjson.dumps(arguments, default=str).decode()
    first, *rest = _text(f"{name}({shown})", whole=whole) or ["?"]
    yield f"  → {first.strip()}"
    yield from rest


def _text(value: str, *, whole: bool) -> list[str]:
    if not value:
        return []
    cut = value if whole else value[:TEXT_CHARS]
    lines = [f"  {one}" for one in safe(cut, lines=True).split("\n")]
    return lines if len(cut) == len(value) else [*lines, f"  … {len(value) - len(cut):,} more characters (--full)"]


def tools(told: Told, paint: Paint, *, whole: bool) -> Iterator[str]:
    """The tools that were offered, and the calls of the answer."""
    document = mapping(decoded(told.request.body))
    offered = list(_offered(document))
    yield paint(f"── {len(offered)} tools offered", "head")
    for name, about in offered:
        yield f"  {safe(name)}" + (f"  {safe(' '.join(about.split()))[: None if whole else 100]}" if about else "")
    calls = told.reading.normalised["calls"]
    yield paint(f"── {len(calls)} tool calls in the answer", "head")
    for call in calls:
        yield from _call(call["name"], call["arguments"], whole=whole)


def _offered(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for tool in objects(document.get("tools")):
        inner = objects(tool.get("functionDeclarations")) or objects(tool.get("function_declarations"))
        for one in inner or [mapping(tool.get("function")) or tool]:
            yield text(one.get("name")) or text(one.get("type")) or "?", text(one.get("description")) or ""


class Moment(NamedTuple):
    """Something at a time of an exchange."""

    t_ms: float
    what: str
    bytes: int


def moments(records: Iterable[Record]) -> list[Moment]:
    """What happened when, ms since the first record."""
    found: list[Moment] = []
    began: float | None = None
    for record in records:
        began = record.ts if began is None else began
        found.append(Moment(max(0.0, round((record.ts - began) * 1000, 3)), _what(record), len(record.data)))
        if len(found) >= EVENTS_MAX:
            break
    return found


def _what(record: Record) -> str:
    if record.kind in {"chunk", "pipe"}:
        return "request body" if record.direction == CLIENT_TO_PROXY else "chunk"
    if record.kind == "head":
        return "request" if record.direction == CLIENT_TO_PROXY else f"response {record.meta.get('sc')}"
    if record.kind == "end":
        return f"end: {safe(str(record.meta.get('x_end')))}"
    names = {"forward": "sent on", "interim": "interim response", "answer": "answered by the proxy"}
    return names.get(record.kind, record.kind)


def waterfall(found: list[Moment], width: int, paint: Paint) -> Iterator[str]:
    """The times as a drawing, from the request on top to the end; a mark's place is its time."""
    last = max((one.t_ms for one in found), default=0.0)
    room = max(10, width - 44)
    for t_ms, what, size in _rows(found, last):
        at = min(room - 1, int(room * t_ms / last)) if last else 0
        mark = "▇" if what.startswith("chunk") or " chunks" in what else "│"
        yield f"{span_ms(t_ms):>9} {' ' * at}{paint(mark, 'good')}{' ' * (room - at)} {what}{f', {size:,} B' if size else ''}"


def _rows(found: list[Moment], last_ms: float) -> Iterator[Moment]:
    """The moments, chunks of one stretch of time in one."""
    stretch_ms = last_ms / ROWS_MAX if sum(one.what == "chunk" for one in found) > ROWS_MAX else -1.0
    group: list[Moment] = []
    for one in found:
        if group and (one.what != "chunk" or one.t_ms - group[0].t_ms > stretch_ms):
            yield _joined(group)
            group = []
        if one.what == "chunk":
            group.append(one)
        else:
            yield one
    if group:
        yield _joined(group)


def _joined(group: list[Moment]) -> Moment:
    what = "chunk" if len(group) == 1 else f"{len(group)} chunks until {span_ms(group[-1].t_ms)}"
    return Moment(group[0].t_ms, what, sum(one.bytes for one in group))
