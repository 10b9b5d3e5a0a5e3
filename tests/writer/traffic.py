"""Exchanges as a proxy records them, made with the base's own encoder."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from llmdump import record
from llmdump.record import NO_EXCHANGE, Identity

INSTANCE = "00000000000000aa"
T0 = 1736524721.0


class Tape:
    """Numbers and times records as they come."""

    def __init__(self, instance: str = INSTANCE) -> None:
        self.records: list[bytes] = []
        self.instance = instance
        self.put(
            0, "hello", b"", {"x_about": {"version": "1", "pid": 1, "host": "h", "listen": "127.0.0.1:7861"}}, NO_EXCHANGE, {}
        )

    def put(
        self, direction: int, kind: str, data: bytes, meta: Mapping[str, Any], exchange: str, common: Mapping[str, Any]
    ) -> None:
        """One record more."""
        extra, count = record.entries(meta) if meta else (b"", 0)
        number = len(self.records) + 1
        identity = Identity(self.instance, exchange, common)
        ts = T0 + number / 64
        self.records.append(record.encode(ts, direction, number, data, identity, record.kind_entry(kind), extra, count))

    def exchange(
        self,
        number: int,
        path: str,
        request: Iterable[bytes],
        response: Iterable[bytes] | None,
        *,
        backend: str = "openai",
        status: int = 200,
        content_type: str = "application/json",
        fields: str = "",
        request_fields: str = "",
        end: str = "complete",
        method: str = "POST",
    ) -> str:
        """One exchange from head to end; its id. `response` None: the backend never answered."""
        exchange = f"01900000-0000-7000-8000-{number:012d}"
        common = {"sid": f"connection-{number}", "be": backend}
        asked, answered = list(request), list(response or ())
        framing = f"Content-Length: {sum(map(len, asked))}\r\n" if asked else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost:7861\r\nUser-Agent: OpenAI/Python 1.2\r\n"
            f"Authorization: Bearer masked:0123456789abcdef\r\n{request_fields}{framing}\r\n"
        ).encode()
        peer = {"x_peer": "127.0.0.1:50000", "x_key": "0123456789abcdef"}
        self.put(0, "head", head, peer, exchange, common)
        self._chunks(0, asked, exchange, common)
        self.put(
            2,
            "forward",
            head,
            {"x_up": "https://host", "x_addr": "1.2.3.4:443", "x_dial": 1.5, "x_new": True},
            exchange,
            common,
        )
        if response is not None:
            answer = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{fields}\r\n".encode()
            self.put(3, "head", answer, {"sc": status, "ttfb": 12.5}, exchange, common)
            self._chunks(3, answered, exchange, common, cut=end != "complete")
        over = {"se": True, "tc": len(answered), "tb": sum(map(len, answered)), "x_req": sum(map(len, asked))}
        why = {"x_end": end, "x_err": "" if end == "complete" else "reset", "x_own": [1, 2, 3], "x_lost": 0}
        self.put(1, "end", b"", over | why, exchange, common)
        return exchange

    def _chunks(
        self, direction: int, bodies: list[bytes], exchange: str, common: Mapping[str, Any], *, cut: bool = False
    ) -> None:
        for index, body in enumerate(bodies, 1):
            last = {"x_z": True} if index == len(bodies) and not cut else {}
            self.put(direction, "chunk", body, {"ci": index, **last}, exchange, common)


def sse(*events: dict[str, Any] | str) -> list[bytes]:
    """A chunk an event."""
    return [b"data: " + (one if isinstance(one, str) else json.dumps(one)).encode() + b"\n\n" for one in events]


CHAT = {"model": "gpt-4o", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo?"}]}
ANSWER = {
    "id": "c1", "model": "gpt-4o-2024", "choices": [{"message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}  # fmt: skip
REFUSED = {"error": {"type": "rate_limit_error", "message": "slow down"}}


def compact(value: Any) -> bytes:
    """As clients send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def pretty(value: Any) -> bytes:
    """As some servers send it, over several lines."""
    return json.dumps(value, indent=2).encode()


def realistic() -> Tape:
    """Chat plain (in one chunk, and pretty in several), chat streamed, Anthropic streamed and cut off, an error, a GET."""
    tape = Tape()
    chat = compact(CHAT)
    tape.exchange(1, "/v1/chat/completions", [chat], [compact(ANSWER)])
    whole = pretty(ANSWER)
    tape.exchange(2, "/v1/chat/completions", [chat[:40], chat[40:]], [whole[:100], whole[100:]])
    events = [{"choices": [{"delta": {"content": word}}]} for word in ("Hi", " there")]
    tape.exchange(
        3, "/v1/chat/completions", [compact(CHAT | {"stream": True})], sse(*events, "[DONE]"),
        content_type="text/event-stream; charset=utf-8",
    )  # fmt: skip
    claude = {"model": "claude-3", "stream": True, "messages": [{"role": "user", "content": "Count"}]}
    tape.exchange(
        4, "/v1/messages", [compact(claude)], sse({"type": "message_start"}, {"type": "content_block_delta"}),
        backend="anthropic", content_type="text/event-stream", end="upstream_closed",
    )  # fmt: skip
    tape.exchange(5, "/v1/chat/completions", [chat], [compact(REFUSED)], status=429)
    tape.exchange(6, "/v1/models", [], [b'["not", "an object"]'], method="GET")
    tape.put(0, "bye", b"", {"x_last": len(tape.records) + 1}, NO_EXCHANGE, {})
    return tape
