"""Histories as turns, whatever the API."""

from typing import Any

import pytest

from llmdump.reading.turns import NEW_TEXT_CHARS_MAX, SYSTEM_ROLE, is_answer, new_text, texts_of, turns_of

USER, SYSTEM = {"role": "user", "content": "hi"}, {"role": SYSTEM_ROLE, "content": "be kind"}


@pytest.mark.parametrize(
    ("api", "document", "turns"),
    [
        ("openai.chat", {"messages": [USER]}, [USER]),
        ("ollama.chat", {"messages": [USER], "system": ""}, [USER]),
        (None, {"messages": [USER]}, [USER]),
        ("anthropic.messages", {"system": "be kind", "messages": [USER]}, [SYSTEM, USER]),
        ("bedrock.converse", {"system": [{"text": "x"}], "messages": []}, [{"role": SYSTEM_ROLE, "content": [{"text": "x"}]}]),
        ("openai.responses", {"instructions": "be kind", "input": "hi"}, [SYSTEM, USER]),
        ("openai.responses", {"input": [{"type": "reasoning"}, USER]}, [{"type": "reasoning"}, USER]),
        (None, {"instructions": "be kind", "input": "hi"}, [SYSTEM, USER]),
        (None, {"input": "hi"}, []),
        (None, {"input": ["a", "b"]}, []),
        ("openai.embeddings", {"input": "hi"}, []),
        ("anthropic.count_tokens", {"messages": [USER]}, []),
        ("gemini.stream", {"contents": [{"parts": []}], "systemInstruction": {"parts": []}},
         [{"role": SYSTEM_ROLE, "content": {"parts": []}}, {"parts": []}]),
        ("gemini.generate", {"contents": {"parts": []}}, [{"parts": []}]),
        ("gemini.stream", {"model": "g", "request": {"contents": [{"parts": []}]}}, [{"parts": []}]),
        ("cohere.chat_v1", {"preamble": "be kind", "chat_history": [{"role": "CHATBOT", "message": "a"}], "message": "m"},
         [SYSTEM, {"role": "CHATBOT", "message": "a"}, {"role": "USER", "message": "m"}]),
        ("openai.completions", {"prompt": "x"}, []),
        ("openai.chat", {"messages": 7, "contents": None, "input": {}, "message": 1}, []),
        ("openai.chat", [], []),
        ("openai.chat", None, []),
    ],
)  # fmt: skip
def test_turns(api: str | None, document: Any, turns: list[Any]) -> None:
    assert turns_of(api, document) == turns


@pytest.mark.parametrize(
    "turn", [{"role": "assistant"}, {"role": "model"}, {"role": "CHATBOT"}, {"type": "function_call"}, {"type": "reasoning"}]
)
def test_what_a_model_said_is_an_answer(turn: dict[str, Any]) -> None:
    assert is_answer(turn)


@pytest.mark.parametrize(
    "turn", [USER, {"type": "function_call_output", "output": "x"}, {"role": "tool"}, "x", None, {"role": 3}]
)
def test_all_else_is_not(turn: Any) -> None:
    assert not is_answer(turn)


def test_texts_are_found_in_every_form_of_content() -> None:
    content = ["a", {"type": "text", "text": "b"}, {"type": "tool_result", "content": [{"text": "c"}]}, {"image": "no"}]
    turn = {"content": content, "parts": [{"text": "d"}], "output": "e", "role": "no"}
    assert sorted(texts_of(turn)) == ["a", "b", "c", "d", "e"]
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    assert list(texts_of(deep)) == []


def test_new_text_is_what_the_model_did_not_say_and_bounded() -> None:
    turns = [USER, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}, {"output": "result"}]
    assert new_text(turns, 0) == "hi\nmore\nresult"
    assert new_text(turns, 1) == "more\nresult"
    assert len(new_text([{"content": ["x" * 700_000] * 3}], 0).replace("\n", "")) == NEW_TEXT_CHARS_MAX
