"""What a server says of its own pace, and the counts it says only there.

    llama-server  timings {prompt_n, cache_n, predicted_n, prompt_per_second, predicted_per_second, draft_n, …}
    vLLM          metrics {time_to_first_token_ms, mean_itl_ms, speculative_decoding}
    LM Studio     stats {tokens_per_second}        Groq  usage {prompt_time, completion_time} in s
    Ollama        prompt_eval_duration, eval_duration in ns

Nothing is computed anew that the server told: some count n tokens in n-1 intervals, some in n.
"""

from typing import Any

from llmdump.reading.typed import EMPTY, count, mapping, number


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
