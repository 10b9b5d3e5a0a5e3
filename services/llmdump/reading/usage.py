"""Token counts: collected as each service reports them, and told in one way for all.

    reported    the last value that is not null, under one name for all services
    kept        the same, but a later 0 does not replace a positive value: gateways that translate send zeros where they
                do not know yet, or not again. A lone 0 is real (a prompt that was wholly cached).
    banked      sums of finished parts, for answers that hold several (an array of results, a socket's responses)

Counts are running totals wherever a stream repeats them: replaced, never added up.

    normalised  input   the whole prompt: uncached + read from the cache + written to it
                output  what was generated, reasoning included
    Cached tokens are inside the reported input, except where the keys are Anthropic's or Bedrock's own, which count them
    beside it. Reasoning is inside the reported output, except Gemini's thoughts, and where a total of input + output +
    reasoning says so (xAI).
"""

from typing import Any, Final

from llmdump.reading.typed import EMPTY, at, count, mapping, number

RAW_KEYS_MAX: Final = 256
"""Keys of a usage object that are kept; real ones have up to 20."""

Paths = tuple[tuple[str, ...], ...]

# The first path with a count in it wins. Names of one service are never another's with another meaning.
PATHS: Final[dict[str, Paths]] = {
    "input_tokens": (
        ("prompt_tokens",), ("tokens", "input_tokens"), ("input_tokens",), ("inputTokens",), ("promptTokenCount",),
        ("prompt_eval_count",), ("billed_units", "input_tokens"), ("tokens_evaluated",), ("inputTextTokenCount",),
        ("prompt_token_count",), ("total_input_tokens",),
    ),
    "output_tokens": (
        ("completion_tokens",), ("tokens", "output_tokens"), ("output_tokens",), ("outputTokens",),
        ("candidatesTokenCount",), ("eval_count",), ("billed_units", "output_tokens"), ("tokens_predicted",),
        ("generation_token_count",), ("total_output_tokens",),
    ),
    "cache_read_tokens": (
        ("prompt_tokens_details", "cached_tokens"), ("input_tokens_details", "cached_tokens"),
        ("input_token_details", "cached_tokens"), ("cached_tokens",), ("prompt_cache_hit_tokens",), ("num_cached_tokens",),
        ("cache_read_input_tokens",), ("cachedContentTokenCount",), ("cacheReadInputTokens",), ("total_cached_tokens",),
    ),
    "cache_write_tokens": (
        ("prompt_tokens_details", "cache_write_tokens"), ("input_tokens_details", "cache_write_tokens"),
        ("cache_write_tokens",), ("cache_creation_input_tokens",), ("cacheWriteInputTokens",),
    ),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"), ("output_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "thinking_tokens"), ("reasoning_tokens",), ("thinking_tokens",), ("thoughtsTokenCount",),
        ("total_thought_tokens",),
    ),
    "total_tokens": (("total_tokens",), ("totalTokens",), ("totalTokenCount",)),
    "tool_use_tokens": (("toolUsePromptTokenCount",), ("total_tool_use_tokens",)),
    "nova_cache_read": (("cacheReadInputTokenCount",),),
    "nova_cache_write": (("cacheWriteInputTokenCount",),),
}  # fmt: skip
TOP: Final = {path[0] for paths in PATHS.values() for path in paths}

# Whoever counts the cache beside the input says so with these names.
BESIDE_INPUT: Final = ("input_tokens", "inputTokens")
BESIDE_CACHE: Final = (
    "cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens", "cacheWriteInputTokens",
    "cacheReadInputTokenCount", "cacheWriteInputTokenCount",
)  # fmt: skip
BESIDE_OUTPUT: Final = ("thoughtsTokenCount", "total_thought_tokens")


class Usage:
    """The counts of one answer, as they come in."""

    def __init__(self) -> None:
        self.reported: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.banked: dict[str, int] = {}
        self.parts = 0
        self.raw: dict[str, Any] | None = None
        self.cost: float | None = None
        """What the service says it costs, in its own unit."""
        self.cache_beside = False
        self.reasoning_beside = False

    def take(self, usage: Any) -> None:
        """The counts of a usage object; anything else says nothing."""
        if not isinstance(usage, dict) or not usage:
            return
        self._keep_raw(usage)
        for name, paths in PATHS.items():
            value = _first(usage, paths)
            if value is not None:
                self.reported[name] = value
                self.kept[name] = value or self.kept.get(name, 0)
        self._shape(usage)

    def next(self) -> None:
        """What comes from here on counts beside what came, and does not replace it."""
        if self.kept:
            self.parts += 1
        for name, value in self.kept.items():
            self.banked[name] = self.banked.get(name, 0) + value
        self.kept = {}

    def total(self) -> dict[str, int]:
        """What was kept, with the parts before it."""
        return {name: self.kept.get(name, 0) + self.banked.get(name, 0) for name in self.kept | self.banked}

    def told(self) -> dict[str, int]:
        """What was reported; of several parts their sum."""
        return self.total() if self.parts else self.reported

    def _keep_raw(self, usage: dict[str, Any]) -> None:
        kept = self.raw or {}
        fresh = {key: value for key, value in usage.items() if value is not None or key not in kept}
        self.raw = dict(list((kept | fresh).items())[:RAW_KEYS_MAX])

    def _shape(self, usage: dict[str, Any]) -> None:
        if "prompt_tokens" not in usage and any(count(usage.get(key)) is not None for key in BESIDE_CACHE):
            self.cache_beside = True
        if any(count(usage.get(key)) is not None for key in BESIDE_OUTPUT):
            self.reasoning_beside = True
        cost = number(usage.get("cost"))
        if cost is not None:
            self.cost = cost


def _first(usage: dict[str, Any], paths: Paths) -> int | None:
    for path in paths:
        # Most keys are not there.
        if path[0] in usage:
            value = count(at(usage, *path))
            if value is not None:
                return value
    return None


def normalised(usage: Usage, speed: "Speed", generates: bool) -> dict[str, Any]:
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
    total = tokens["input"] + output if tokens["input"] is not None and output is not None else counts.get("total_tokens")
    return {**tokens, "output": output, "reasoning": reasoning, "total": total}


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


class Speed:
    """What a server says of its own pace, in tokens per second; and counts, where it says them only there."""

    def __init__(self) -> None:
        self.parts = 0
        self._timings: dict[str, Any] = EMPTY
        self._part: dict[str, Any] = EMPTY
        self._metrics: dict[str, Any] = EMPTY
        self._stats: dict[str, Any] = EMPTY
        self._sums: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        """`input` (the whole prompt), `cached` and `output`, as far as they are known."""

    def timings(self, timings: Any) -> None:
        """llama-server's `timings`: prompt_n is without cache_n."""
        timings = mapping(timings)
        if not timings:
            return
        self._timings = self._part = timings
        self._count()

    def metrics(self, metrics: Any) -> None:
        """vLLM's `metrics`."""
        self._metrics = mapping(metrics) or self._metrics

    def stats(self, stats: Any) -> None:
        """LM Studio's `stats`."""
        self._stats = mapping(stats) or self._stats

    def next(self) -> None:
        """What comes from here on counts beside what came."""
        self.parts += 1
        self._sums = self.counts
        self._part = EMPTY

    def _count(self) -> None:
        prompt, cached = count(self._part.get("prompt_n")), count(self._part.get("cache_n"))
        whole = None if prompt is None else prompt + (cached or 0)
        now = {"input": whole, "cached": cached, "output": count(self._part.get("predicted_n"))}
        self.counts = self._sums | {name: value + self._sums.get(name, 0) for name, value in now.items() if value is not None}

    def rates(self, tokens: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
        """Reported rates and speculative tokens. A rate of 0 is what a one-token answer gets: unknown."""
        prompt = number(self._timings.get("prompt_per_second")) or self._prefill(tokens, usage)
        decode = number(self._timings.get("predicted_per_second")) or self._decode(tokens, usage)
        draft, accepted = self._draft()
        several = self.parts > 1
        return {
            "prompt_per_second": None if several else prompt or None,
            "tokens_per_second": None if several else decode or None,
            "draft": draft,
            "draft_accepted": accepted,
        }

    def _prefill(self, tokens: dict[str, Any], usage: dict[str, Any]) -> float | None:
        milliseconds = number(self._metrics.get("time_to_first_token_ms")) or _milliseconds(
            usage, "prompt_eval_duration", "prompt_time"
        )
        return _rate(tokens["input_uncached"], milliseconds)

    def _decode(self, tokens: dict[str, Any], usage: dict[str, Any]) -> float | None:
        between = number(self._metrics.get("mean_itl_ms"))
        if between:
            return 1000 / between
        return number(self._stats.get("tokens_per_second")) or _rate(
            tokens["output"], _milliseconds(usage, "eval_duration", "completion_time")
        )

    def _draft(self) -> tuple[int | None, int | None]:
        found = (count(self._timings.get("draft_n")), count(self._timings.get("draft_n_accepted")))
        if None in found:
            guessed = mapping(self._metrics.get("speculative_decoding"))
            found = (count(guessed.get("num_draft_tokens")), count(guessed.get("num_accepted_draft_tokens")))
        return (None, None) if None in found else found


def _milliseconds(usage: dict[str, Any], in_ns: str, in_s: str) -> float | None:
    """Ollama's nanoseconds, or Groq's seconds."""
    nanoseconds, seconds = number(usage.get(in_ns)), number(usage.get(in_s))
    if nanoseconds is not None:
        return nanoseconds / 1e6
    return None if seconds is None else seconds * 1000


def _rate(tokens: int | None, milliseconds: float | None) -> float | None:
    return tokens * 1000 / milliseconds if tokens and milliseconds else None
