"""Token counts, collected as each service reports them.

    reported    the last value that is not null, under one name for all services
    kept        the same, but a later 0 does not replace a positive value: gateways that translate send zeros where they
                do not know yet, or not again. A lone 0 is real (a prompt that was wholly cached).
    banked      sums of finished parts, for answers that hold several (an array of results, a socket's responses)

Counts are running totals wherever a stream repeats them: replaced, never added up.
"""

from typing import Any, Final

import orjson

from llmdump.reading.typed import count, number

RAW_KEYS_MAX: Final = 256
"""Keys of a usage object that are kept; real ones have up to 20."""

RAW_BYTES_MAX: Final = 64 * 1024
"""Of such an object in JSON; real ones have up to 2 KB."""

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
# The same by key, for one pass over what is there: key -> (name, rank), and key -> inner key -> (name, rank).
_FLAT: Final = {path[0]: (name, rank) for name, paths in PATHS.items() for rank, path in enumerate(paths) if len(path) == 1}
_NESTED: Final[dict[str, dict[str, tuple[str, int]]]] = {
    outer: {
        path[1]: (name, rank)
        for name, paths in PATHS.items()
        for rank, path in enumerate(paths)
        if path[0] == outer and len(path) == 2
    }
    for outer in {path[0] for paths in PATHS.values() for path in paths if path[1:]}
}

# Whoever counts the cache beside the input says so with these names, and has no `prompt_tokens`.
_BESIDE_CACHE: Final = frozenset(
    ("cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens", "cacheWriteInputTokens",
     "cacheReadInputTokenCount", "cacheWriteInputTokenCount")
)  # fmt: skip
_BESIDE_OUTPUT: Final = frozenset(("thoughtsTokenCount", "total_thought_tokens"))


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
        for name, (value, _) in _found(usage).items():
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

    def raw_whole(self) -> dict[str, Any] | None:
        """The service's own usage object, if it can be written down again and is of a usual size."""
        try:
            return self.raw if self.raw is not None and len(orjson.dumps(self.raw)) <= RAW_BYTES_MAX else None
        except orjson.JSONEncodeError:
            return None

    def _keep_raw(self, usage: dict[str, Any]) -> None:
        kept = self.raw
        if kept is None or (usage.keys() >= kept.keys() and None not in usage.values()):
            kept = usage
        else:
            kept = kept | {key: value for key, value in usage.items() if value is not None or key not in kept}
        self.raw = kept if len(kept) <= RAW_KEYS_MAX else dict(list(kept.items())[:RAW_KEYS_MAX])

    def _shape(self, usage: dict[str, Any]) -> None:
        if "prompt_tokens" not in usage and not _BESIDE_CACHE.isdisjoint(usage):
            self.cache_beside = self.cache_beside or any(count(usage.get(key)) is not None for key in _BESIDE_CACHE)
        if not _BESIDE_OUTPUT.isdisjoint(usage):
            self.reasoning_beside = True
        if "cost" in usage or "cost_in_usd_ticks" in usage:
            cost = _cost(usage)
            self.cost = self.cost if cost is None else cost


def _found(usage: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Of each name the count under the first of its paths, and the rank of that path."""
    found: dict[str, tuple[int, int]] = {}
    for key, value in usage.items():
        if (slot := _FLAT.get(key)) is not None:
            _offer(found, slot, value)
        elif isinstance(value, dict) and (inner := _NESTED.get(key)) is not None:
            for inner_key, inner_slot in inner.items():
                if inner_key in value:
                    _offer(found, inner_slot, value[inner_key])
    return found


def _cost(usage: dict[str, Any]) -> float | None:
    """What OpenRouter, Perplexity (an object with its total) and xAI (10,000,000,000 ticks a dollar) ask for it."""
    ticks = number(usage.get("cost_in_usd_ticks"))
    cost = usage.get("cost")
    return number(cost.get("total_cost") if isinstance(cost, dict) else cost) if ticks is None else ticks / 1e10


def _offer(found: dict[str, tuple[int, int]], slot: tuple[str, int], value: Any) -> None:
    name, rank = slot
    counted = count(value)
    if counted is not None and (name not in found or rank < found[name][1]):
        found[name] = (counted, rank)
