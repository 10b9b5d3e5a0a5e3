"""Capture files as other programs write them, from the description of the formats alone: no encoder of ours is used.

`sample` is one capture of 41 entries in which much goes wrong: r1 a clean stream that stalls, r2 a slow plain answer, r3 a 429,
then a retry with errors in its stream, r4 not forwarded, r5 unanswered, r6 a stream that breaks, r7 a WebSocket.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import cbor2

T0 = 1_767_225_600.0
CP, PC, PB, BP = 0, 1, 2, 3
KEY = "Bearer sk-live-0123456789abcdef"


def header(session: str = "x", **more: Any) -> bytes:
    """The first item of a file."""
    first = {"magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at": T0, "session_id": session}
    return cbor2.dumps({**first, "metadata": {"config_file": None}, **more})


def item(seq: int, at_s: float, direction: int, data: bytes = b"", **meta: Any) -> bytes:
    """An entry; a payload of more than 128 bytes is compressed where that makes it smaller."""
    entry: dict[str, Any] = {"ts": T0 + at_s, "dir": direction, "seq": seq, "data": data}
    packed = zlib.compress(data)
    if len(data) > 128 and len(packed) < len(data):
        entry |= {"data": packed, "enc": "zlib"}
    return cbor2.dumps(entry | ({"meta": meta} if meta else {}))


class Tape:
    """Entries in the order in which they are put."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.bytes = 0

    def put(self, at_s: float, direction: int, data: bytes = b"", **meta: Any) -> None:
        """One more, numbered from 0."""
        self.items.append(item(len(self.items), at_s, direction, data, **meta))
        self.bytes += len(data)

    def file(self, path: Path, session: str = "x") -> Path:
        """All of them in a file."""
        path.write_bytes(header(session) + b"".join(self.items))
        return path


def sse(**document: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def delta(content: str | None = None, *, finish: str | None = None, id_: str = "c1", **more: Any) -> bytes:
    """A chunk of a chat stream."""
    inner = {"role": "assistant"} if content is None and not more else {"content": content, **more}
    choice: dict[str, Any] = {"index": 0, "delta": {} if finish else inner}
    if finish:
        choice["finish_reason"] = finish
    return sse(id=id_, model="gpt-4o", choices=[choice])


def padded(event: bytes, size: int) -> bytes:
    """The event with a member that brings it to this size."""
    body = json.loads(event[6:])
    body["pad"] = ""
    body["pad"] = "x" * (size - len(sse(**body)))
    assert len(sse(**body)) == size
    return sse(**body)


def ask(model: str = "gpt-4o", **more: Any) -> bytes:
    """A request body."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}).encode()


def sent(body: bytes, credential: str = KEY, path: str = "/v1/chat/completions") -> bytes:
    """What goes to the backend, as the recorder makes HTTP of it."""
    field = f"authorization: {credential}\r\n" if credential else ""
    return f"POST {path} HTTP/1.1\r\nhost: api.openai.com\r\n{field}\r\n".encode() + body


def answer(status: int, body: dict[str, Any]) -> bytes:
    """A plain answer of a backend."""
    return f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\r\n".encode() + json.dumps(body).encode()


def reply(content: str) -> dict[str, Any]:
    """The body of a whole answer."""
    message = {"role": "assistant", "content": content}
    return {"id": "c2", "model": "claude-haiku-4.5", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


ALPHA, LEG = "sess-alpha-0001", "alpha-leg-a-0001"


def sample(path: Path) -> Path:
    """The capture described above."""
    tape = Tape()
    _clean_stream(tape)
    _plain(tape)
    _retry(tape)
    tape.put(33.2, CP, ask("gpt-4o", note="not forwarded"), sid="sess-gamma-0004", be="client", rid="req-4")
    tape.put(68.2, CP, ask("gemini-2.5-pro"), sid="sess-gamma-0004", be="client", rid="req-5")
    tape.put(68.205, PB, sent(ask("gemini-2.5-pro")), sid="sess-gamma-0004", be="gemini", rid="req-5")
    _broken(tape)
    _websocket(tape)
    return tape.file(path, "sample")


def _clean_stream(tape: Tape) -> None:
    one = {"sid": ALPHA, "rid": "req-1"}
    leg = {"asid": LEG, "bsid": "b-0001", "rid": "req-1"}
    sizes = (134, 118, 117, 119)
    pieces = (delta(), delta("He"), delta("llo"), delta(finish="stop"))
    events = [padded(event, size) for event, size in zip(pieces, sizes, strict=True)]
    tape.put(0.0, CP, ask(stream=True), **leg, be="client")
    tape.put(0.005, PB, sent(ask(stream=True)), **leg, be="openai")
    tape.put(0.15, BP, **one, be="openai", ss=True, sc=200)
    tape.put(0.15, PC, **one, be="openai", ss=True, sc=200)
    for index, (event, at_s) in enumerate(zip(events, (0.355, 0.36, 0.365, 6.365), strict=True), 1):
        first = {"ttfb": 349.9999} if index == 1 else {}
        tape.put(at_s, BP, event, **one, ci=index, **first)
        tape.put(at_s, PC, event, **one, ci=index)
    tape.put(6.38, BP, **one, be="openai", se=True, sc=200, tc=4, tb=488, sdur=6250.0)
    tape.put(6.38, PC, **one, be="openai", se=True, sc=200, tc=4, tb=488)
    tape.put(6.39, BP, **one, be="openai", cu={"prompt_tokens": 3, "completion_tokens": 2})
    tape.put(6.4, PC, asid=LEG, rid="req-1", be="openai", eos=True, eos_sig="done_sentinel", eos_term="normal")


def _plain(tape: Tape) -> None:
    two = {"sid": "sess-beta-0002", "rid": "req-2"}
    tape.put(18.4, CP, ask("claude-haiku-4.5"), **two, be="client")
    tape.put(18.405, PB, sent(ask("claude-haiku-4.5")), **two, be="anthropic")
    tape.put(30.905, BP, answer(200, reply("Good day")), **two, be="anthropic", http_status=200)
    tape.put(30.91, PC, json.dumps(reply("Good day")).encode(), **two, be="anthropic", http_status=200)


def _retry(tape: Tape) -> None:
    one, leg = {"sid": ALPHA, "rid": "req-3"}, {"asid": LEG, "bsid": "b-0002", "rid": "req-3"}
    limited = {"error": {"type": "rate_limit_error", "message": "slow down"}}
    tape.put(31.91, CP, ask(stream=True), **leg, be="client")
    tape.put(31.915, PB, sent(ask(stream=True)), **leg, be="openai")
    tape.put(32.31, BP, answer(429, limited), **leg, be="openai", http_status=429)
    tape.put(32.315, PB, sent(ask(stream=True)), **leg, be="openai", rtry=True, rat=1)
    tape.put(32.4, BP, **one, be="openai", ss=True, sc=200)
    errors = [
        sse(error={"type": "rate_limit_exceeded", "message": "again"}),
        sse(error={"type": "server_error", "message": "down"}),
    ]
    size = 156 - len(errors[0])
    tape.put(32.42, BP, errors[0], **one, ci=1)
    tape.put(32.44, BP, padded(errors[1], size), **one, ci=2)
    tape.put(32.5, BP, **one, be="openai", se=True, sc=200, tc=2, tb=156, sdur=200.0)
    tape.put(32.51, PC, json.dumps({"error": "too many requests"}).encode(), **leg, be="openai", http_status=429)


def _broken(tape: Tape) -> None:
    six = {"sid": "sess-delta-0006", "rid": "req-6"}
    tape.put(69.0, CP, ask(stream=True), **six, be="client")
    tape.put(69.01, PB, sent(ask(stream=True)), **six, be="openai")
    tape.put(69.1, BP, **six, be="openai", ss=True, sc=200)
    tape.put(69.2, BP, delta("abc"), **six, ci=1)
    tape.put(69.21, BP, **six, be="openai", eos=True, eos_sig="error_termination", eos_term="error",
             eos_err_cls="transport_error", eos_err_code=502)  # fmt: skip


def _websocket(tape: Tape) -> None:
    seven = {"sid": "sess-ws-0007", "rid": "req-7", "transport": "websocket", "ws_message_type": "text"}
    created = {"type": "response.create", "response": {"model": "gpt-5-codex"}}
    tape.put(70.2, CP, json.dumps(created).encode(), **seven, be="client", event="frame")
    tape.put(70.205, PB, json.dumps(created).encode(), **seven, be="openai-codex", event="frame")
    tape.put(71.2, BP, b'{"type":"response.output_text.delta","item_id":"m","delta":"hi"}', **seven, be="openai-codex")
    done = {"type": "response.completed", "response": {"id": "r", "model": "gpt-5-codex", "output": [], "pad": ""}}
    done["response"]["pad"] = "x" * (4674 - tape.bytes - len(json.dumps(done)))  # type: ignore[index]
    tape.put(72.2, BP, json.dumps(done).encode(), **seven, be="openai-codex")
