"""What reading the bodies of an exchange told: columns of its row, and what other tables have of it. Pure.

Bodies come from strangers, so every number has a limit beyond which it is not believed, and every text is cut.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

TOKENS_MAX: Final = 10**10
COST_USD_MAX: Final = 10_000.0
PER_SECOND_MAX: Final = 1e9
MESSAGE_CHARS_MAX: Final = 1000
NEW_TEXT_CHARS_MAX: Final = 8192
"""Of what is new in a turn, each of prompt and answer, that is kept for search."""


CANDIDATES_MAX: Final = 512
TOOL_CALLS_MAX: Final = 64


class Candidate(NamedTuple):
    """A key that the exchange which this one goes on from would have left."""

    key: str
    by: str
    """`response_id`, `prefix`, `masked_prefix`, `same`, `task` or `session`."""


@dataclass(slots=True)
class Read:
    """One exchange as read; columns under their names, and behind them what is not a column."""

    provider: str | None = None
    api: str | None = None
    framing: str | None = None
    model: str | None = None
    model_asked: str | None = None
    stream: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_tokens: int | None = None
    input_uncached_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    cost_nano_usd: int | None = None
    prompt_per_second: float | None = None
    tokens_per_second: float | None = None
    output_tokens_per_second: float | None = None
    ttft_us: int | None = None
    last_token_us: int | None = None
    gap_p50_us: int | None = None
    gap_p99_us: int | None = None
    gap_worst_us: int | None = None
    event_count: int | None = None
    complete: bool | None = None
    cut_by: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    previous_response_id: str | None = None
    n_choices: int | None = None
    tool_calls: str | None = None
    refusal: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    problem: str | None = None
    media_count: int = 0
    client_kind: str | None = None
    client_version: str | None = None
    client_project: str | None = None
    user_hint: str | None = None
    session_hint: str | None = None
    traceparent: str | None = None

    prefix_hash: str | None = None
    prefix_len: int | None = None

    keys: tuple[str, ...] = ()
    """By which those that go on from this one find it."""
    candidates: tuple[Candidate, ...] = ()
    """What it goes on from would have one of these keys; the best first."""
    is_first: bool = False
    """No model has said anything in its history yet."""
    prompt_new: str = ""
    answer_new: str = ""


def tokens(value: Any) -> int | None:
    """A count of tokens, if it can be one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX else None


def nano_usd(value: Any) -> int | None:
    """A cost in dollars as thousand-millionths, if it can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= COST_USD_MAX:
        return None
    return round(value * 1e9)


def per_second(value: Any) -> float | None:
    """A rate, if it can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= PER_SECOND_MAX:
        return None
    return float(value) if math.isfinite(value) else None


def magnitude(value: int | None) -> int | None:
    """The length of a number in bits: what ranges are looked up by."""
    return None if value is None else value.bit_length()
