"""The simulated Anthropic API: messages and count_tokens. Pure: an Ask in, a Reply out.

A stream is message_start, content_block_start, ping, content_block_delta…, content_block_stop, message_delta,
message_stop, as the real API sends it (Anthropic API reference, streaming messages, read November 2026).
"""

from collections.abc import Iterator
from typing import Any

from llmdump.demo.reply import Ask, Reply, json_reply, last_text, pieces, required, sse, token_count


def count_tokens(ask: Ask) -> Reply:
    """POST /v1/messages/count_tokens."""
    return json_reply({"input_tokens": token_count(required(ask.body, "messages"))}, headers=_headers(ask))


def messages(ask: Ask) -> Reply:
    """POST /v1/messages."""
    given = required(ask.body, "messages")
    required(ask.body, "max_tokens")
    words = pieces(ask, last_text(given))
    message = {
        "id": f"msg_{ask.tag}", "type": "message", "role": "assistant", "model": required(ask.body, "model"),
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(token_count(given), 1),
    }  # fmt: skip
    if ask.wants_stream:
        parts = tuple(sse({"type": name, **fields}, name) for name, fields in _events(message, words))
        return Reply("text/event-stream; charset=utf-8", parts, streamed=True, headers=_headers(ask))
    content = [{"type": "text", "text": "".join(words)}]
    usage = _usage(token_count(given), len(words))
    return json_reply({**message, "content": content, "stop_reason": "end_turn", "usage": usage}, headers=_headers(ask))


def _events(message: dict[str, Any], words: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    yield "ping", {}
    for word in words:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "content_block_stop", {"index": 0}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    yield "message_delta", {"delta": stop, "usage": {"output_tokens": len(words)}}
    yield "message_stop", {}


def _usage(given: int, made: int) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": given, **cache, "output_tokens": made, "service_tier": "standard"}


def _headers(ask: Ask) -> tuple[tuple[str, str], ...]:
    return (("request-id", f"req_{ask.tag}"), ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"))
