"""Which part of a request changed first, where, and what that cost in the cache."""

import json
import random
from typing import Any

import pytest

from llmdump.reading import prices
from llmdump.reading.cache_cost import billed
from llmdump.reading.difference import ALIGNED_PARTS_MAX, DIFFERENCES_MAX, compare, same_length

U1, A1, U2 = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}
MARK = {"cache_control": {"type": "ephemeral"}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def tool(name: str, about: str = "") -> dict[str, Any]:
    return {"name": name, "description": about, "input_schema": {"type": "object"}}


def chat(name: str, about: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": about}}


BASE = {"model": "m", "max_tokens": 5, "system": [text("You help. Today is 2026-01-30."), text("Rules.", **MARK)],
        "tools": [tool("read", "Reads."), tool("write")], "messages": [U1, A1, U2]}  # fmt: skip
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "systemInstruction": {"parts": [{"text": "be kind"}]},
          "tools": [{"functionDeclarations": [{"name": "f"}, {"name": "g", "description": "x"}]}]}  # fmt: skip
RESPONSES = {
    "model": "m",
    "instructions": "be kind",
    "input": [{"role": "user", "content": "hi"}],
    "reasoning": {"effort": "low"},
}
CHAT = {"model": "m", "messages": [{"role": "system", "content": "Sunday, June 7"}, U1], "tools": [chat("f"), chat("g")]}

# What changes in which request; of the first difference kind, what, name, the two places, character, does it end the cache.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "a message's text": (
        BASE, {"messages": [U1, {"role": "assistant", "content": "oh"}, U2]},
        ("text", "message", "assistant", "/messages/1/content", "/messages/1/content", 1, True)),
    "a role": (
        BASE, {"messages": [U1, {"role": "tool", "content": "ok"}, U2]},
        ("role", "message", "tool", "/messages/1/role", "/messages/1/role", 0, True)),
    "a text in a block, written plainly in the other": (
        BASE, {"messages": [U1, {"role": "assistant", "content": [text("on", **MARK)]}, U2]},
        ("text", "message", "assistant", "/messages/1/content", "/messages/1/content/0/text", 1, True)),
    "a character beyond the BMP before it": (
        BASE | {"messages": [{"role": "user", "content": "😀ab"}]}, {"messages": [{"role": "user", "content": "😀ac"}]},
        ("text", "message", "user", "/messages/0/content", "/messages/0/content", 2, True)),
    "a date in the system text": (
        BASE, {"system": [text("You help. Today is 2026-01-31."), text("Rules.")]},
        ("date", "system", "", "/system/0/text", "/system/0/text", 28, True)),
    "more than a date": (
        BASE, {"system": [text("You help. Today is sunny."), text("Rules.")]},
        ("text", "system", "", "/system/0/text", "/system/0/text", 19, True)),
    "a day's name in a chat": (
        CHAT, {"messages": [{"role": "system", "content": "Monday, July 8"}, U1]},
        ("date", "system", "system", "/messages/0/content", "/messages/0/content", 0, True)),
    "a mark that moves": (
        BASE, {"system": [text("You help. Today is 2026-01-30.", **MARK), text("Rules.")]},
        ("cache_control", "system", "", "/system/0", "/system/0", None, False)),
    "a text that is a list now": (
        BASE, {"messages": [{"role": "user", "content": [text("hi")]}, A1, U2]},
        ("shape", "message", "user", "/messages/0", "/messages/0", None, False)),
    "a mark, and behind it a text": (
        BASE, {"system": [text("You help. Today is 2026-01-30."), text("Rules.")], "messages": [U1, A1, U1]},
        ("text", "message", "user", "/messages/2/content", "/messages/2/content", 0, True)),
    "tools in another order": (
        BASE, {"tools": [tool("write"), tool("read", "Reads.")]},
        ("order", "tool", "write", "/tools/0", "/tools/0", None, True)),
    "a tool's description": (
        CHAT, {"tools": [chat("f"), chat("g", "x")]},
        ("text", "tool", "g", "/tools/1/function/description", "/tools/1/function/description", 0, True)),
    "a tool more": (
        BASE, {"tools": [tool("ask"), tool("read", "Reads."), tool("write")]},
        ("added", "tool", "ask", None, "/tools/0", None, True)),
    "a tool less": (BASE, {"tools": [tool("read", "Reads.")]}, ("removed", "tool", "write", "/tools/1", None, None, True)),
    "a tool of Gemini's": (
        GEMINI, {"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}]},
        ("removed", "tool", "g", "/tools/0/functionDeclarations/1/description", None, None, True)),
    "Gemini's system text": (
        GEMINI, {"systemInstruction": {"parts": [{"text": "be mean"}]}},
        ("text", "system", "", "/systemInstruction/parts/0/text", "/systemInstruction/parts/0/text", 3, True)),
    "instructions": (
        RESPONSES, {"instructions": "be mean"},
        ("text", "system", "", "/instructions", "/instructions", 3, True)),
    "an item of a Responses request": (
        RESPONSES, {"input": [{"role": "user", "content": "ho"}]},
        ("text", "message", "user", "/input/0/content", "/input/0/content", 1, True)),
    "reasoning": (
        RESPONSES, {"reasoning": {"effort": "high"}},
        ("text", "parameter", "reasoning", "/reasoning/effort", "/reasoning/effort", 0, True)),
    "the model, before all else": (
        BASE, {"model": "n", "messages": [U2]}, ("text", "model", "", "/model", "/model", 0, True)),
    "a number": (BASE, {"max_tokens": 6}, ("value", "parameter", "max_tokens", "/max_tokens", "/max_tokens", None, False)),
    "a name that a pointer escapes": (
        BASE | {"a/b~c": 1}, {"a/b~c": 2}, ("value", "parameter", "a/b~c", "/a~1b~0c", "/a~1b~0c", None, False)),
    "a message more, at the end": (
        BASE, {"messages": [U1, A1, U2, A1]}, ("added", "message", "assistant", None, "/messages/3", None, False)),
    "a message less, in the middle": (
        BASE, {"messages": [U1, U2]}, ("removed", "message", "assistant", "/messages/1", None, None, True)),
    "a message more, in the middle": (
        BASE, {"messages": [U1, {"role": "user", "content": "and"}, A1, U2]},
        ("added", "message", "user", None, "/messages/1", None, True)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_difference_is_told_by_kind_and_place(case: str) -> None:
    before, change, wanted = CASES[case]
    first = compare(json.dumps(before).encode(), json.dumps(before | change).encode()).first
    assert first is not None
    told = (first.kind, first.what, first.name, first.a_pointer, first.b_pointer, first.character, first.ends_cache)
    assert told == wanted


def test_equal_requests_differ_in_nothing_and_spelling_is_told_as_such() -> None:
    body = json.dumps(BASE).encode()
    assert compare(body, body).first is None
    other = json.dumps(BASE, separators=(",", ":")).encode()
    first = compare(body, other).first
    assert first is not None
    assert (first.kind, first.character, first.ends_cache) == ("spelling", same_length(body, other), False)
    assert compare(body, other).relation == "same"


@pytest.mark.parametrize(("messages", "relation", "same"), [
    ([U1, A1, U2], "same", 3), ([U1, A1, U2, A1], "continues", 3), ([U1], "begins", 1), ([U1, U2], "differs", 1),
])  # fmt: skip
def test_how_two_prompts_are_related(messages: list[Any], relation: str, same: int) -> None:
    found = compare(json.dumps(BASE).encode(), json.dumps(BASE | {"messages": messages, "max_tokens": 9}).encode())
    assert (found.relation, found.same_messages, found.a_messages, found.b_messages) == (relation, same, 3, len(messages))


def test_what_is_not_json_is_compared_by_bytes() -> None:
    for a, b in ((b"\xff\xfeab", b"\xff\xfeac"), (b"[1]", b'{"model":1}'), (b"", b"{}"), (b"[" * 9000, b"[" * 8999)):
        first = compare(a, b).first
        assert first is not None
        assert (first.kind, first.character) == ("body", same_length(a, b))


def test_many_differences_are_cut_and_long_histories_take_no_time() -> None:
    turns = [{"role": "user", "content": f"{number}"} for number in range(5 * ALIGNED_PARTS_MAX)]
    others = [{"role": "user", "content": f"{number} "} for number in range(5 * ALIGNED_PARTS_MAX)]
    found = compare(json.dumps({"messages": turns}).encode(), json.dumps({"messages": others}).encode())
    assert (len(found.differences), found.is_cut) == (DIFFERENCES_MAX, True)


def test_nothing_in_a_body_makes_it_fail() -> None:
    drawn = random.Random(5)
    values = [None, 1, 1.5, "x", [], {}, [U1], {"role": 3}, [[1]], [None], "\ud800", {"text": 5}, [text("a"), 7], True, 10**30]
    keys = ["model", "messages", "contents", "input", "system", "instructions", "tools", "message", "chat_history", "text", ""]
    for _ in range(3000):
        a, b = ({key: drawn.choice(values) for key in drawn.sample(keys, drawn.randrange(6))} for _ in range(2))
        found = compare(json.dumps(a).encode(), json.dumps(b).encode())
        assert (found.first is None) == (json.dumps(a) == json.dumps(b))
        assert 0 <= found.prefix_bytes <= found.shared_bytes <= found.b_bytes


# --- what it cost


TABLE = prices.load("")
MODEL = "claude-sonnet-4-5"
PADDED = BASE | {"system": [text("x" * 1000), text("y" * 1000)], "messages": [{"role": "user", "content": "z" * 1000}]}


def reading(whole: int, read: int = 0, written: int = 0) -> dict[str, Any]:
    uncached = whole - read - written
    return {"input": whole, "cached": read, "cache_write": written, "input_uncached": uncached, "output": 10, "model": MODEL}


def test_tokens_behind_a_change_are_billed_again_for_it() -> None:
    changed = PADDED | {"system": [text("x" * 1000), text("w" * 1000)]}
    found = compare(json.dumps(PADDED).encode(), json.dumps(changed).encode())
    told = billed(found, reading(3000, 0, 3000), None, TABLE, "anthropic")
    assert told.prefix_tokens == pytest.approx(1000, rel=0.15)
    assert told.shared_tokens == pytest.approx(2000, rel=0.15)
    assert told.again_tokens == told.shared_tokens
    assert told.for_change_tokens is not None
    assert told.prefix_tokens is not None
    assert told.for_change_tokens == told.again_tokens - told.prefix_tokens
    assert told.again_usd == pytest.approx(told.again_tokens * (3.75 - 0.30) / 1e6)


def test_what_is_around_a_date_in_one_long_text_was_sent_before() -> None:
    a, b = ({"system": f"{'x' * 1000} day {day} {'y' * 3000}", "messages": [U1]} for day in (1, 2))
    found = compare(json.dumps(a).encode(), json.dumps(b).encode())
    assert found.prefix_bytes == pytest.approx(1000, abs=20)
    assert found.shared_bytes == found.b_bytes - 1


def test_what_was_read_from_the_cache_is_not_billed_again() -> None:
    found = compare(json.dumps(PADDED).encode(), json.dumps(PADDED | {"max_tokens": 7}).encode())
    assert billed(found, reading(3000, 3000), None, TABLE, "anthropic")[2:] == (0, 0, 0.0)
    missed = billed(found, reading(3000, 1000), None, TABLE, "anthropic")
    assert missed[2:4] == (2000, 0), "it was not in the cache; nothing changed"
    assert missed.again_usd == pytest.approx(2000 * (3.0 - 0.30) / 1e6)


def test_what_is_not_known_is_not_estimated() -> None:
    found = compare(json.dumps(PADDED).encode(), json.dumps(PADDED).encode())
    assert set(billed(found, {"input": None}, None, TABLE, None)) == {None}
    assert billed(found, reading(3000) | {"model": "nobody's"}, None, TABLE, "anthropic").again_usd is None
