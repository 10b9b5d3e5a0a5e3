"""Small captures with one thing odd about each, by the names that the list of cases gives them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2

from tests.inspecting.made import BP, CP, PB, PC, Tape, answer, ask, delta, header, item, sent, sse

ONE = {"sid": "s1", "rid": "r1"}


def plain(seq: int, at_s: float = 0.0) -> list[bytes]:
    """A request, sent on and answered: three entries."""
    meta = {"sid": f"s{seq}", "rid": f"r{seq}"}
    return [
        item(seq, at_s, CP, ask(), **meta),
        item(seq + 1, at_s + 0.1, PB, sent(ask(), ""), **meta, be="openai"),
        item(seq + 2, at_s + 0.2, BP, answer(200, {"choices": []}), **meta, be="openai", http_status=200),
    ]


def exchange(
    *answers: tuple[float, int, bytes, dict[str, Any]], request: bytes = b"", path: str = "/v1/chat/completions"
) -> list[bytes]:
    """A request that was sent on, and what came back: time, direction, bytes, metadata."""
    tape = Tape()
    tape.put(0.0, CP, request or ask(), **ONE)
    tape.put(0.1, PB, sent(request or ask(), "", path), **ONE, be="openai")
    for at_s, direction, data, meta in answers:
        tape.put(at_s, direction, data, **ONE, **meta)
    return tape.items


def stream(*events: bytes, path: str = "/v1/chat/completions", **last: Any) -> list[bytes]:
    """A stream of these chunks that ended."""
    chunks = [(0.2 + index / 100, BP, event, {"ci": index + 1}) for index, event in enumerate(events)]
    return exchange((0.15, BP, b"", {"ss": True, "sc": 200}), *chunks, (0.9, BP, b"", {"se": True, **last}), path=path)


def gaps(meta: dict[str, Any], *gaps_s: float) -> list[bytes]:
    """Chunks of one answer with these gaps between them."""
    at_s, items = 0.0, [item(0, 0.0, BP, b"x", **meta)]
    for index, gap_s in enumerate(gaps_s, 1):
        at_s += gap_s
        items.append(item(index, at_s, BP, b"x", **meta))
    return items


def interleaved() -> list[bytes]:
    """A stall of 12 s, in the middle of which another session goes on."""
    one, two = {"sid": "s1", "rid": "r1"}, {"sid": "s2", "rid": "r2"}
    return [item(0, 0.0, BP, b"x", **one), item(1, 6.0, BP, b"y", **two), item(2, 12.0, BP, b"z", **one)]


def retried() -> list[bytes]:
    """Sent twice, answered the second time."""
    again = (0.3, PB, sent(ask(), ""), {"be": "openai", "rtry": True, "rat": 1})
    return exchange(again, (0.4, BP, answer(200, {"choices": []}), {"be": "openai", "http_status": 200}))


def disordered() -> list[bytes]:
    """Batches written in the wrong order."""
    one, two, three = plain(0)
    return [three, one, two]


def quota() -> list[bytes]:
    """An error of quota, passed on to the client, and one that has `rate` within a word."""
    spent = sse(error={"type": "insufficient_quota", "message": "spent"})
    other = sse(error={"type": "generated_content_error", "message": "odd"})
    return exchange(
        (0.2, BP, spent, {"ci": 1}), (0.21, PC, spent, {"ci": 1}), (0.3, BP, other, {"ci": 2}), (0.9, BP, b"", {"se": True})
    )


def chat_error(error: Any) -> list[bytes]:
    """A stream that tells of this error."""
    return stream(sse(error=error))


def anthropic(path: str = "/v1/messages") -> list[bytes]:
    """Five characters as Anthropic streams them."""
    usage = {"input_tokens": 3, "output_tokens": 1}
    documents = [
        {"type": "message_start", "message": {"id": "m", "model": "claude-haiku-4.5", "role": "assistant", "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return stream(*(f"event: {one['type']}\n".encode() + sse(**one) for one in documents), path=path)


def split() -> list[bytes]:
    """Events cut anywhere."""
    whole = delta("Hel") + delta("lo") + delta(finish="stop") + b"data: [DONE]\n\n"
    return stream(*(whole[at : at + 50] for at in range(0, len(whole), 50)))


def nospace() -> list[bytes]:
    """`data:` without a blank."""
    return stream(*((event.replace(b"data: ", b"data:")) for event in (delta("Hello"), delta(finish="stop"))))


def heuristics() -> list[bytes]:
    """Everything that an analysis of a request remarks on."""
    usage = sse(id="c1", model="m", choices=[], usage={"prompt_tokens": 1, "completion_tokens": 0})
    stop = delta(finish="stop", id_="fallback-1")
    leaked = sse(id="c1", model="code-assist-x", choices=[])
    return exchange(
        (0.2, BP, usage, {"ci": 1}), (0.3, BP, stop, {"ci": 2}), (0.4, PC, leaked, {"ci": 1}), (0.9, BP, b"", {"se": True})
    )


def damaged(kind: str) -> bytes:
    """The entries of two exchanges with something in the middle that is none."""
    first, second = b"".join(plain(0)), b"".join(plain(3, 1.0))
    middle = {
        "nondict": cbor2.dumps([1, "two"]) + cbor2.dumps(7),
        "badzlib": cbor2.dumps({"ts": 1.0, "dir": 3, "seq": 9, "data": b"no zlib", "enc": "zlib"}),
        "garbage": bytes(random.Random(7).randrange(256) for _ in range(61)),
        "noentry": cbor2.dumps({"dir": 3, "data": b"without a time"}),
        "no cbor": b"\x1c\xfe\x1d" * 9,
    }[kind]
    return header() + first + middle + second


def thinking() -> list[bytes]:
    """Messages on a WebSocket; the client takes 12 s before its second one."""
    frame = {**ONE, "transport": "websocket"}
    times = ((0.0, CP), (0.1, PB), (0.2, BP), (12.2, CP), (12.3, PB), (12.4, BP))
    return [item(index, at_s, direction, b"{}", **frame) for index, (at_s, direction) in enumerate(times)]


FILES: dict[str, Callable[[], list[bytes]]] = {
    "gap10": lambda: gaps(ONE, 10.0, 10.001, 29.9999, 30.0001),
    "gapinterleave": interleaved,
    "gapnosid": lambda: gaps({}, 11.0),
    "asking": lambda: [item(0, 0.0, CP, ask()), item(1, 11.0, CP, ask())],
    "asking again": lambda: [item(0, 0.0, CP, ask(), **ONE), item(1, 11.0, CP, ask(), **ONE)],
    "client only": lambda: exchange((0.2, PC, sse(error={"message": "no backend left"}), {"ci": 1})),
    "status line": lambda: exchange((0.2, BP, answer(503, {"why": "full"}), {"be": "openai"})),
    "retry2": retried,
    "outoforder": disordered,
    "quota": quota,
    "http500": lambda: exchange((0.2, BP, answer(500, {"error": {"message": "boom"}}), {"be": "openai", "http_status": 500})),
    "contentnull": lambda: stream(delta(tool_calls=[{"index": 0, "function": {"name": "bash"}}]), delta(finish="tool_calls")),
    "choicesnull": lambda: stream(sse(id="c", model="m", choices=None)),
    "ssearray": lambda: stream(b"data: [1, 2]\n\n", delta(finish="stop")),
    "errstr": lambda: chat_error("boom"),
    "errnulltype": lambda: chat_error({"type": None, "message": "typeless"}),
    "reqarray": lambda: exchange((0.2, BP, answer(200, {"choices": []}), {"http_status": 200}), request=b"[1, 2]"),
    "split_sse": split,
    "nospace_sse": nospace,
    "anthropic": anthropic,
    "translated": lambda: anthropic("/v1/chat/completions"),
    "thinking": thinking,
    "usage0": heuristics,
    "dir9": lambda: [item(0, 0.0, 9, b"x")],
    "ext": lambda: [cbor2.dumps({"ts": 1.0, "dir": 3, "seq": 0, "data": b"x", "x_new": 1, "meta": {"x_stream_id": "abc-1"}})],
    "unknownenc": lambda: [cbor2.dumps({"ts": 1.0, "dir": 3, "seq": 0, "data": b"packed", "enc": "lz4"})],
}


def file(directory: Path, name: str) -> Path:
    """The capture of this name."""
    path = directory / f"{name}.cbor"
    path.write_bytes(header(name, x_unknown=True) + b"".join(FILES[name]()))
    return path


def lines(directory: Path) -> Path:
    """A buffered JSONL capture with all twelve directions, 19 lines."""
    names = [
        "system_init", "inbound_request", "outbound_request", "stream_start", "outbound_stream_start",
        *["stream_chunk", "outbound_stream_chunk"] * 3, "stream_end", "outbound_stream_end", "stream_completion",
        "inbound_request", "outbound_request", "inbound_response", "outbound_response", "stream_completion",
    ]  # fmt: skip
    directory.mkdir(exist_ok=True)
    path = directory / "sample.jsonl"
    path.write_text("".join(json.dumps(_line(number, name)) + "\n" for number, name in enumerate(names, 1)))
    return path


def _line(number: int, direction: str) -> dict[str, Any]:
    request = "req_1" if number < 15 else "req_2"
    payload: Any = {"model": "gpt-4o", "messages": []}
    if direction.endswith("_chunk"):
        payload = (delta("He"), delta("llo"), delta(finish="stop"))[(number - 6) // 2].decode()
    elif direction == "outbound_response":
        payload = {"encoding": "base64", "data": "eyJvayI6dHJ1ZX0="}
    elif direction.endswith(("_start", "_completion")):
        payload = {}
    metadata = {"client_host": "127.0.0.1", "user_agent": None, "request_id": None if direction == "system_init" else request}
    if direction.endswith("_chunk"):
        metadata["chunk_number"] = (number - 6) // 2 + 1
    return {
        "timestamp_iso": "2026-01-01T00:00:00+00:00", "timestamp_unix": 1_767_225_600.0 + number / 100, "sequence": number,
        "direction": direction, "source": "127.0.0.1", "destination": "openai", "session_id": f"session-{request}",
        "backend": "openai", "model": "gpt-4o", "key_name": "primary", "content_type": "json", "content_length": 2,
        "payload": payload, "metadata": metadata,
    }  # fmt: skip


def live(directory: Path) -> Path:
    """What a proxy wrote that captures a backend's streams twice and never marks their end: 44 entries.

    r1 a stream of 11 characters, r2 a plain answer of 5, r3 a stream that was reset (the client waited 19.9 s for its [DONE]),
    r4 a 429 whose answer to the client was not captured.
    """
    tape = Tape()
    _twice(tape, 1, 0.0, ["Hel", "lo ", "wor", "ld"], finish=True)
    legs = {"asid": "a-2", "bsid": "b-2", "rid": "r2"}
    tape.put(5.0, CP, ask(), sid="a-2", rid="r2", be="client")
    tape.put(5.1, PB, sent(ask(), ""), **legs, be="openai")
    message = {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    tape.put(5.2, BP, answer(200, {"choices": [message]}), **legs, be="openai", http_status=200)
    tape.put(5.3, PC, b"{}", sid="a-2", rid="r2", be="proxy", http_status=200)
    _twice(tape, 3, 10.0, ["par"], finish=False)
    tape.put(30.2, PC, b"data: [DONE]\n\n", sid="a-3", rid="r3", ci=3)
    limited = {"error": {"type": "rate_limit_error", "message": "slow down"}}
    tape.put(31.0, CP, ask(), sid="a-4", rid="r4", be="client")
    tape.put(31.1, PB, sent(ask(), ""), sid="b-4", rid="r4", be="openai")
    tape.put(31.2, BP, answer(429, limited), sid="b-4", rid="r4", be="openai", http_status=429)
    while len(tape.items) < 44:
        tape.put(31.3, BP, b"", sid="a-1", rid="r1", cu={"completion_outcome": "incomplete"})
    return tape.file(directory / "e2e.cbor", "e2e")


def _twice(tape: Tape, number: int, at_s: float, pieces: list[str], *, finish: bool) -> None:
    one = {"sid": f"a-{number}", "rid": f"r{number}"}
    boundary, translated = {"sid": f"b-{number}", "rid": f"r{number}"}, one
    tape.put(at_s, CP, ask(stream=True), **one, be="client")
    tape.put(at_s + 0.1, PB, sent(ask(stream=True), ""), **boundary, be="openai")
    tape.put(at_s + 0.2, BP, **boundary, ss=True, sc=200)
    tape.put(at_s + 0.2, BP, **translated, ss=True, sc=200)
    tape.put(at_s + 0.2, PC, **one, ss=True, sc=200)
    events = [delta(piece) for piece in pieces] + ([delta(finish="stop"), b"data: [DONE]\n\n"] if finish else [])
    for index, event in enumerate(events, 1):
        for direction, meta in ((BP, boundary), (BP, translated), (PC, one)):
            tape.put(at_s + 0.2 + index / 10, direction, event, **meta, ci=index)
