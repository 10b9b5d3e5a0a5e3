"""Costs: by the table, or as the provider told; unknown rather than wrong."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmdump.reading import prices
from llmdump.reading.prices import PriceFileError, Tokens, load, reported_cost_usd, tokens_of

TABLE = load("")


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return path


ENTRY = '[[price]]\nproviders = ["p"]\nmodels = ["m"]\ninput = 1.0\noutput = 2.0\nsource = "s"\ndate = "d"\n'


@pytest.mark.parametrize(
    ("provider", "model", "tokens", "cost"),
    [
        ("openai", "gpt-4.1", Tokens(1_000_000, 0), 2.0),
        ("openai", "gpt-4.1-2025-04-14", Tokens(0, 1_000_000, 1_000_000), 8.5),
        ("openai", "gpt-4.1-mini", Tokens(1_000_000, 0), 0.4),
        ("openai", "gpt-4o-2024-05-13", Tokens(1_000_000, 0), 5.0),
        (None, "gpt-4o", Tokens(1_000_000, 0), 2.5),
        ("anthropic", "claude-haiku-4-5-20251001", Tokens(1, 1, 1, 1, 1), (1 + 5 + 0.1 + 1.25 + 2) / 1e6),
        ("google", "models/gemini-2.5-pro", Tokens(200_000, 0), 0.25),
        ("google", "gemini-2.5-pro", Tokens(150_000, 1000, 50_001), 150_000 * 2.5e-6 + 1000 * 15e-6 + 50_001 * 0.25e-6),
        ("openai", "text-embedding-3-small", Tokens(1_000_000, 0), 0.02),
        ("openai", "gpt-4.1-turbo", Tokens(1, 1), None),
        ("groq", "gpt-4.1", Tokens(1, 1), None),
        ("openai", "gpt-3.5-turbo", Tokens(1, 1, 1), None),
        ("openai", None, Tokens(1, 1), None),
        ("openai", "gpt-4.1", Tokens(-1, 1), None),
    ],
)
def test_costs(provider: str | None, model: str | None, tokens: Tokens, cost: float | None) -> None:
    assert TABLE.cost_usd(provider, model, tokens) == (None if cost is None else pytest.approx(cost, rel=1e-9))


def test_every_entry_says_where_it_is_from_and_none_hides_another() -> None:
    seen: set[tuple[str, str]] = set()
    for entry in TABLE.entries:
        assert entry.source.startswith("https://")
        assert entry.date >= "2025"
        for key in ((provider, model) for provider in entry.providers for model in entry.models):
            assert key not in seen
            seen.add(key)
            assert TABLE.cost_usd(*key, Tokens(1_000_000, 0)) in (entry.input, entry.above[0].input if entry.above else None)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    table = load(str(own(tmp_path, ENTRY)))
    assert table.cost_usd("p", "m-latest", Tokens(1_000_000, 1_000_000)) == 3.0
    assert table.cost_usd("openai", "gpt-4.1", Tokens(1, 1)) is None
    assert load(str(own(tmp_path, ENTRY + ENTRY.replace("1.0", "9.0")))).cost_usd("p", "m", Tokens(1_000_000, 0)) == 1.0


@pytest.mark.parametrize(
    "text", ["[[price]", "price = 3", ENTRY.replace("input", "inputs"), ENTRY.replace("1.0", '"1"'), "x = 1\n" + ENTRY]
)
def test_a_table_that_cannot_be_used_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    path = own(tmp_path, text)
    with pytest.raises(PriceFileError, match=r"price table .*prices\.toml: "):
        load(str(path))
    with pytest.raises(PriceFileError):
        load(str(tmp_path / "absent"))


def test_the_table_is_plain_toml() -> None:
    assert tomllib.loads(Path(prices.__file__).with_name("prices.toml").read_text())["price"]


@pytest.mark.parametrize(
    ("normalised", "usage", "tokens"),
    [
        ({"input": 10, "input_uncached": 4, "cached": 4, "cache_write": 2, "output": 7}, None, Tokens(4, 7, 4, 2, 0)),
        ({"input": 10, "input_uncached": None, "cached": 4, "cache_write": None, "output": 7}, {}, Tokens(6, 7, 4)),
        (
            {"input_uncached": 1, "cache_write": 9, "output": 0},
            {"cache_creation": {"ephemeral_1h_input_tokens": 5}},
            Tokens(1, 0, 0, 4, 5),
        ),
        (
            {"input_uncached": 1, "cache_write": 3, "output": 0},
            {"cache_creation": {"ephemeral_1h_input_tokens": 5}},
            Tokens(1, 0, 0, 0, 3),
        ),
        ({"input_uncached": 1, "output": None}, {}, None),
        ({"input": None, "output": 1}, {}, None),
    ],
)
def test_tokens_by_the_price_they_have(normalised: dict[str, Any], usage: Any, tokens: Tokens | None) -> None:
    assert tokens_of(normalised, usage) == tokens


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.25}, 0.25), ({"cost": 0}, 0.0), ({"cost": {"total_cost": 1.5}}, 1.5),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 0.21),
        ({"cost": 0.25, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 0.25),
        ({"cost": True}, None), ({"cost": "1"}, None), ({"cost": -1}, None), ({"cost": float("nan")}, None),
        ({"cost": 10**400}, None),
        ({"cost": {}}, None), ({}, None), (None, None), ([], None),
    ],
)  # fmt: skip
def test_what_the_provider_says_it_charged(usage: Any, cost: float | None) -> None:
    assert reported_cost_usd(usage) == (None if cost is None else pytest.approx(cost))
