"""What an exchange cost: a table of prices, and the sum.

The table is a TOML file of `[[price]]` entries, prices in USD for a million tokens:

    providers    names of providers as the rows have them; an exchange whose provider is not known fits any
    models       names; one also fits with a date or `latest` behind it (gpt-4.1-2025-04-14, claude-sonnet-4-5@20250929)
    input, output, cache_read, cache_write_5m, cache_write_1h
    above        optional list of {input_tokens, input, output, …}: whole prices of a prompt longer than that
    source, date where the provider says so, and when it did

What is not in the table has no cost, and neither has an exchange with tokens of a kind that its entry has no price for:
unknown is not 0. Where a provider says itself what it charged, that counts.
"""

import math
import re
import tomllib
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
# `-2025-04-14`, `-20250929`, `@20250929`, `-latest`, and the revision that Bedrock and Vertex put behind it.
_SNAPSHOT: Final = r"([-@](\d{4}-\d{2}-\d{2}|\d{8}|latest|\d{3}))?"
_VENDOR: Final = re.compile(r"\A(models|publishers/[a-z]+/models)/")
_MILLION: Final = 1_000_000


class Tokens(NamedTuple):
    """Tokens of one exchange by the price they have."""

    uncached: int
    output: int
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """USD for a million tokens; None: not sold, or not known."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None

    def cost_usd(self, tokens: Tokens) -> float | None:
        """The sum; None if it has tokens without a price."""
        rates = (self.input, self.output, self.cache_read, self.cache_write_5m, self.cache_write_1h)
        if any(count and rate is None for count, rate in zip(tokens, rates, strict=True)):
            return None
        return sum(count * (rate or 0.0) for count, rate in zip(tokens, rates, strict=True)) / _MILLION


class Above(Rates, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rates of a prompt longer than so many tokens."""

    input_tokens: int


class Entry(Rates, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The prices of some models of some providers."""

    providers: list[str]
    models: list[str]
    above: list[Above] = []
    source: str
    date: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    price: list[Entry]


class PriceFileError(ValueError):
    """The price file cannot be used; the message says where and why, in one line."""


class PriceTable:
    """Prices by provider and model."""

    def __init__(self, entries: list[Entry]) -> None:
        """Of two entries for the same model the first one counts."""
        self.entries = entries
        self._patterns = [
            (re.compile("(?:" + "|".join(map(re.escape, entry.models)) + ")" + _SNAPSHOT), entry) for entry in entries
        ]
        self._found = lru_cache(maxsize=1024)(self._find)

    def cost_usd(self, provider: str | None, model: str | None, tokens: Tokens) -> float | None:
        """What it cost; None if that is not known. Does not raise."""
        entry = self._found(provider or "", (model or "")[:512])
        if entry is None or min(tokens) < 0:
            return None
        prompt = sum(tokens) - tokens.output
        above = max(
            (tier for tier in entry.above if prompt > tier.input_tokens), key=lambda tier: tier.input_tokens, default=None
        )
        return (above or entry).cost_usd(tokens)

    def _find(self, provider: str, model: str) -> Entry | None:
        name = _VENDOR.sub("", model.lower())
        fitting = (entry for pattern, entry in self._patterns if pattern.fullmatch(name))
        return next((entry for entry in fitting if not provider or provider in entry.providers), None)


def load(file: str) -> PriceTable:
    """The table in this TOML file; an empty name: the one that comes with the program. Reads it. Raises PriceFileError."""
    try:
        path = Path(file) if file else resources.files("llmdump.reading") / "prices.toml"
        text = path.read_text("utf-8")
        if len(text) > FILE_BYTES_MAX:
            raise PriceFileError(f"price table {file}: longer than {FILE_BYTES_MAX} bytes")
        return PriceTable(msgspec.convert(tomllib.loads(text), _File).price)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PriceFileError(f"price table {file}: {error}") from error


def tokens_of(normalised: dict[str, Any], usage: Any) -> Tokens | None:
    """The tokens in a reading's `normalised` and the provider's own usage object; None if input or output are not known."""
    uncached, output = normalised.get("input_uncached"), normalised.get("output")
    read, written = normalised.get("cached") or 0, normalised.get("cache_write") or 0
    if uncached is None and normalised.get("input") is not None:
        uncached = normalised["input"] - read - written
    if uncached is None or output is None:
        return None
    hour = _written_for_an_hour(usage)
    return Tokens(uncached, output, read, max(written - hour, 0), min(hour, written))


def reported_cost_usd(usage: Any) -> float | None:
    """What the provider says it charged (OpenRouter, Perplexity), and what the user's own key was charged behind it."""
    cost = usage.get("cost") if isinstance(usage, dict) else None
    if isinstance(cost, dict):
        return _amount(cost.get("total_cost"))
    charged = _amount(cost)
    details = usage.get("cost_details") if isinstance(usage, dict) and usage.get("is_byok") is True else None
    behind = _amount(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
    return charged if charged is None or behind is None else charged + behind


def _written_for_an_hour(usage: Any) -> int:
    creation = usage.get("cache_creation") if isinstance(usage, dict) else None
    count = creation.get("ephemeral_1h_input_tokens") if isinstance(creation, dict) else None
    return count if type(count) is int and count > 0 else 0


def _amount(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None
