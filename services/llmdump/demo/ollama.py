"""The simulated Ollama API: chat, generate, tags. Pure: an Ask in, a Reply out.

Ollama streams unless it is told `"stream": false`: JSON lines, the last one with `done` and the counts.
"""

from datetime import UTC, datetime
from typing import Any

from llmdump.demo.reply import Ask, Reply, compact, json_reply, last_text, pieces, required, token_count


def tags(_: Ask) -> Reply:
    """GET /api/tags."""
    details = {"format": "gguf", "family": "sim", "parameter_size": "0B", "quantization_level": "Q8_0"}
    return json_reply({"models": [{"name": "sim:latest", "model": "sim:latest", "size": 1, "details": details}]})


def chat(ask: Ask) -> Reply:
    """POST /api/chat."""
    given = required(ask.body, "messages")
    return _reply(ask, given, lambda text: {"message": {"role": "assistant", "content": text}})


def generate(ask: Ask) -> Reply:
    """POST /api/generate."""
    given = required(ask.body, "prompt")
    return _reply(ask, given, lambda text: {"response": text})


def _reply(ask: Ask, given: Any, spoken: Any) -> Reply:
    words = pieces(ask, last_text(given))
    created = datetime.fromtimestamp(ask.now, UTC).isoformat().replace("+00:00", "Z")
    base = {"model": required(ask.body, "model"), "created_at": created}
    counts = {
        "done_reason": "stop", "done": True, "total_duration": 1_000_000, "load_duration": 1000,
        "prompt_eval_count": token_count(given), "prompt_eval_duration": 1000,
        "eval_count": len(words), "eval_duration": 1000,
    }  # fmt: skip
    if ask.body.get("stream") is False:
        return json_reply({**base, **spoken("".join(words)), **counts})
    lines = [{**base, **spoken(word), "done": False} for word in words]
    parts = tuple(compact(line) + b"\n" for line in [*lines, {**base, **spoken(""), **counts}])
    return Reply("application/x-ndjson", parts, streamed=True)
