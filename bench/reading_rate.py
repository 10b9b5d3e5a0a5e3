"""What a reading costs, one core, its own CPU time: streams of 200 events, plain answers of 2 KB, a request of 800 KB.

    python bench/reading_rate.py [--rounds N]

`read` is the fold over events alone; `framed` begins with the bytes of the body, 1 KB at a time.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from llmdump.reading.exchange import Event, Request
from llmdump.reading.framing import Body
from llmdump.reading.reader import Reader

EVENTS = 200
PIECE_BYTES = 1024
REQUEST = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "x" * 1900}]}).encode()
LONG = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "words and " * 200}] * 400}).encode()
USAGE = {"prompt_tokens": 100, "completion_tokens": 198, "total_tokens": 298, "prompt_tokens_details": {"cached_tokens": 64}}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of chat as OpenAI sends it today."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-0123456789abcdefghijABCDEFGHI", "object": "chat.completion.chunk", "created": 1700000000}
    rest = {"model": "gpt-4o-2024-08-06", "service_tier": "default", "system_fingerprint": "fp_0123456789", "usage": None}
    return {**head, **rest, "choices": [choice], "obfuscation": "abcdefgh", **more}


def chat() -> list[Any]:
    """A stream of chat."""
    said = [chunk({"content": f" word{number}"}) for number in range(EVENTS - 3)]
    return [chunk({"role": "assistant", "content": ""}), *said, chunk({}, "stop", usage=USAGE), "[DONE]"]


def chat_counting() -> list[Any]:
    """A stream of chat with counts in every chunk (vLLM's continuous_usage_stats)."""
    return [chunk({"content": f" word{number}"}, usage={**USAGE, "completion_tokens": number}) for number in range(EVENTS)]


def messages() -> list[Any]:
    """A stream of Anthropic's."""
    start = {
        "type": "message_start",
        "message": {"id": "msg", "model": "claude", "usage": {"input_tokens": 9, "output_tokens": 1}},
    }
    said = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f" word{number}"}}
        for number in range(EVENTS - 3)
    ]
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 198}}
    return [start, *said, end, {"type": "message_stop"}]


def responses() -> list[Any]:
    """A stream of Responses."""
    said = [
        {"type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_0123456789", "output_index": 0,
         "content_index": 0, "delta": f" word{number}", "logprobs": []}
        for number in range(EVENTS - 1)
    ]  # fmt: skip
    end = {
        "id": "resp",
        "object": "response",
        "status": "completed",
        "model": "gpt",
        "output": [],
        "usage": {"input_tokens": 9},
    }
    return [*said, {"type": "response.completed", "response": end}]


def plain() -> list[Any]:
    """A plain answer."""
    message = {"role": "assistant", "content": "y" * 1700}
    return [{"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}]


CASES: list[tuple[str, str, Callable[[], list[Any]], bytes]] = [
    ("chat", "/v1/chat/completions", chat, REQUEST),
    ("chat, counts in each", "/v1/chat/completions", chat_counting, REQUEST),
    ("messages", "/v1/messages", messages, REQUEST),
    ("responses", "/v1/responses", responses, REQUEST),
    ("plain", "/v1/chat/completions", plain, REQUEST),
    ("plain, 800 KB asked", "/v1/chat/completions", plain, LONG),
]


def read(path: str, request: bytes, events: list[Event], framing: str) -> None:
    """One reading of events."""
    reader = Reader(Request("POST", path, "api.example", "", [], request), 200, [])
    for event in events:
        reader.event(event)
    reader.finish(True, framing)


def framed(path: str, request: bytes, content_type: str, body: bytes) -> None:
    """One reading of a body."""
    reader = Reader(Request("POST", path, "api.example", "", [], request), 200, [])
    inner = Body(content_type)
    for at in range(0, len(body), PIECE_BYTES):
        for event in inner.feed(body[at : at + PIECE_BYTES], at):
            reader.event(event)
    for event in inner.finish(0):
        reader.event(event)
    reader.finish(True, inner.framing, inner.problem)


def best_us(once: Callable[[], None], rounds: int) -> float:
    """CPU of one call in µs, in the best of seven tries."""
    tries = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(rounds):
            once()
        tries.append((time.process_time() - began) / rounds)
    return min(tries) * 1e6


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print(f"{'':24}{'events':>8}{'read us':>10}{'framed us':>11}")
    for name, path, made, request in CASES:
        datas = [document if isinstance(document, str) else json.dumps(document, separators=(",", ":")) for document in made()]
        events = [Event(data.encode(), "", number) for number, data in enumerate(datas)]
        is_stream = len(datas) > 1
        body = "".join(f"data: {data}\n\n" for data in datas).encode() if is_stream else datas[0].encode()
        kind, label = ("sse", "text/event-stream") if is_stream else ("json", "application/json")
        alone = best_us(lambda: read(path, request, events, kind), rounds)  # noqa: B023 -- called before the loop goes on
        whole = best_us(lambda: framed(path, request, label, body), rounds)  # noqa: B023
        print(f"{name:24}{len(events):>8}{alone:>10.0f}{whole:>11.0f}")


if __name__ == "__main__":
    main()
