"""Token counts that may be compared and added up between services.

    input   the whole prompt: uncached + read from the cache + written to it
    output  what was generated, reasoning included

Cached tokens are inside the reported input, except where the keys are Anthropic's or Bedrock's own, which count them
beside it. Reasoning is inside the reported output, except Gemini's thoughts, and where a total of input + output +
reasoning says so (xAI).
"""

from typing import Any

from llmdump.reading.speed import Speed
from llmdump.reading.typed import COUNT_MAX
from llmdump.reading.usage import Usage


def normalised(usage: Usage, speed: Speed, generates: bool) -> dict[str, Any]:
    """The counts under the names that are the same for all; `generates` is false where output is 0 by what is asked."""
    counts = usage.total()
    tokens = _input(usage, counts)
    if tokens["input"] is None:
        tokens["input"] = speed.counts.get("input")
    if tokens["cached"] is None:
        tokens["cached"] = speed.counts.get("cached")
    output, reasoning = _output(usage, counts)
    if output is None:
        output = speed.counts.get("output")
    if tokens["input"] is None and not generates:
        tokens["input"] = counts.get("total_tokens")
    if not generates and tokens["input"] is not None:
        output = output or 0
    tokens["input_uncached"] = _uncached(tokens)
    told = {**tokens, "output": output, "reasoning": reasoning, "total": _total(tokens["input"], output, counts)}
    # Sums of what is believed one by one.
    return {name: value if value is None else min(value, COUNT_MAX) for name, value in told.items()}


def _total(whole: int | None, output: int | None, counts: dict[str, int]) -> int | None:
    """The sum, or the reported total if that is more: some count audio or thoughts only there."""
    reported = counts.get("total_tokens")
    if whole is None or output is None:
        return reported
    return max(whole + output, reported or 0)


def _input(usage: Usage, counts: dict[str, int]) -> dict[str, int | None]:
    read = counts.get("cache_read_tokens", counts.get("nova_cache_read"))
    written = counts.get("cache_write_tokens", counts.get("nova_cache_write"))
    whole = counts.get("input_tokens")
    if whole is not None:
        cached = (read or 0) + (written or 0)
        # More from the cache than there was: whoever passed these counts on took over the other way of counting.
        beside = usage.cache_beside or cached > whole
        whole += counts.get("tool_use_tokens", 0) + (cached if beside else 0)
    return {"input": whole, "input_uncached": None, "cached": read, "cache_write": written}


def _uncached(tokens: dict[str, Any]) -> int | None:
    if tokens["input"] is None:
        return None
    left: int = tokens["input"] - (tokens["cached"] or 0) - (tokens["cache_write"] or 0)
    return max(left, 0)


def _output(usage: Usage, counts: dict[str, int]) -> tuple[int | None, int | None]:
    output, reasoning = counts.get("output_tokens"), counts.get("reasoning_tokens")
    if usage.reasoning_beside and reasoning is not None:
        output = (output or 0) + reasoning
    elif output is not None and reasoning and counts.get("total_tokens") == _sum(counts, output, reasoning):
        output += reasoning
    return output, reasoning


def _sum(counts: dict[str, int], output: int, reasoning: int) -> int:
    return counts.get("input_tokens", 0) + output + reasoning
