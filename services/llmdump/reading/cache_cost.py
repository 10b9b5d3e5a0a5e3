"""What a changed prompt cost: tokens that were sent before and were billed as new, and their price. Pure.

Providers tell how many tokens they read from their cache, not which. So what two prompts have in common is estimated: b's
input tokens, divided among its parts as their canonical bytes are.

    b's prompt   ██████████████▒▒▒▒▒▒▒▒▒▒▒▒░░░░░░     █ the same from the beginning   ▒ a had it too   ░ new
                 ├─ prefix ───┤           │
                 ├─ shared ───────────────┤
                 ├─ read ──┤├─ billed again ─┤         of it behind `prefix`: for the change; before: it was not in the cache

Their price is the difference between what b cost and what it had cost if they had been read from the cache.
"""

from typing import Any, NamedTuple

from llmdump.reading.difference import Compared
from llmdump.reading.prices import PriceTable, Tokens, tokens_of


class Billed(NamedTuple):
    """Tokens and dollars, None where they are not known. All but `read` are estimates."""

    prefix_tokens: int | None
    shared_tokens: int | None
    again_tokens: int | None
    """Shared, and not read from the cache."""
    for_change_tokens: int | None
    """Of these, those that stand behind the first difference; the others were not in the cache."""
    again_usd: float | None


def billed(compared: Compared, normalised: dict[str, Any], usage: Any, table: PriceTable, provider: str | None) -> Billed:
    """What b was billed again; `normalised` and `usage` are b's, as a reading has them. Does not raise."""
    whole, read = normalised.get("input"), normalised.get("cached") or 0
    if whole is None or not compared.b_bytes:
        return Billed(None, None, None, None, None)
    prefix, shared = (whole * part // compared.b_bytes for part in (compared.prefix_bytes, compared.shared_bytes))
    again = min(max(0, shared - read), max(0, whole - read))
    for_change = min(again, max(0, shared - max(prefix, read)))
    tokens = tokens_of(normalised, usage)
    usd = _price(tokens, again, table, provider, normalised.get("model")) if tokens is not None else None
    return Billed(prefix, shared, again, for_change, usd)


def _price(tokens: Tokens, again: int, table: PriceTable, provider: str | None, model: str | None) -> float | None:
    """What reading so many of the tokens from the cache would have saved."""
    of_5m = min(again, tokens.cache_write_5m)
    of_1h = min(again - of_5m, tokens.cache_write_1h)
    plain = min(again - of_5m - of_1h, tokens.uncached)
    cached = tokens._replace(
        uncached=tokens.uncached - plain,
        cache_read=tokens.cache_read + plain + of_5m + of_1h,
        cache_write_5m=tokens.cache_write_5m - of_5m,
        cache_write_1h=tokens.cache_write_1h - of_1h,
    )
    paid, least = (table.cost_usd(provider, model, one) for one in (tokens, cached))
    return None if paid is None or least is None else max(0.0, paid - least)
