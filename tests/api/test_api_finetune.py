"""Fine-tuning files: any API's conversations in two shapes, and what is unfit told by its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmdump.data_dir import DataDir
from llmdump_api.export import selection
from llmdump_api.export.forms import FORMS
from llmdump_api.export.selection import Archive, Selection
from tests.api.exported import ANSWER, ASKED_CLAUDE, CHAT, CLAUDE, Made, compact
from tests.writer.traffic import sse

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "least": {"type": "number", "minimum": 0.5}}}
CALLED: dict[str, Any] = {"id": "call_9", "type": "function", "function": {"name": "ls", "arguments": '{"path":"/x"}'}}
TOOL_TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "in /x?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_9", "content": "a b"},
]


def told(data: DataDir, form: str, **asked: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines, oldest first, and why exchanges are not in it."""
    archive = Archive(data)
    chosen = Selection([archive], selection.parse({"format": form, **asked}, FORMS, form, 0))
    lines = [json.loads(line) for line in b"".join(FORMS[form].stream(chosen)).splitlines()]
    archive.close()
    assert chosen.told.exchanges == len(lines)
    return lines[::-1], chosen.told.unfit


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path).create()


def one(data: DataDir, *call: Any, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An exchange in both shapes."""
    made = Made()
    made.call(*call, **how)
    made.store(data)
    [[openai], no], [[anthropic], nor] = told(data, "openai-finetune"), told(data, "anthropic-finetune")
    assert not no and not nor
    return openai, anthropic


def test_a_chat_with_tools_is_itself(data: DataDir) -> None:
    tools = [{"type": "function", "function": {"name": "ls", "description": "List.", "parameters": SCHEMA}}]
    asked = {"model": "gpt-4o", "messages": [CHAT["messages"][0], *TOOL_TURNS], "tools": tools}
    openai, anthropic = one(data, "/v1/chat/completions", [compact(asked)], [compact(ANSWER)])
    assert openai["messages"] == [
        CHAT["messages"][0], {"role": "user", "content": "What is in /x?"}, *TOOL_TURNS[1:],
        {"role": "assistant", "content": "Hi"},
    ]  # fmt: skip
    assert openai["tools"] == tools
    assert anthropic == {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "What is in /x?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "call_9", "name": "ls", "input": {"path": "/x"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_9", "content": "a b"}]},
            {"role": "assistant", "content": "Hi"},
        ],
        "tools": [{"name": "ls", "description": "List.", "input_schema": SCHEMA}],
    }


def test_a_streamed_answer_of_anthropic_with_a_call_is_put_together(data: DataDir) -> None:
    openai, anthropic = one(
        data, "/v1/messages", [compact(ASKED_CLAUDE)], sse(*CLAUDE), content_type="text/event-stream",
        upstream="https://api.anthropic.com", backend="anthropic",
    )  # fmt: skip
    call = {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {"path": "/x"}}
    assert anthropic["system"] == "You look."
    assert anthropic["tools"] == ASKED_CLAUDE["tools"]
    assert anthropic["messages"] == [
        {"role": "user", "content": "What is in /x?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, call]},
    ]
    function = {"name": "ls", "arguments": '{"path":"/x"}'}
    assert openai["messages"] == [
        {"role": "system", "content": "You look."},
        {"role": "user", "content": "What is in /x?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        },
    ]


def test_items_of_responses_become_messages(data: DataDir) -> None:
    asked = {
        "model": "gpt-5", "instructions": "Look.", "tools": [{"type": "web_search"}, {"type": "function", "name": "ls",
                                                              "parameters": SCHEMA}],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "And?"}]}, {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "ls", "arguments": ""},
            {"type": "function_call_output", "call_id": "c2", "output": "b"},
            {"type": "function_call_output", "call_id": "c1", "output": "a"},
        ],
    }  # fmt: skip
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]}
    answer = {"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5", "output": [said]}
    openai, anthropic = one(data, "/v1/responses", [compact(asked)], [compact(answer)])
    calls = [{"id": one, "type": "function", "function": {"name": "ls", "arguments": "{}"}} for one in ("c1", "c2")]
    assert openai["messages"] == [
        {"role": "system", "content": "Look."}, {"role": "user", "content": "And?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c2", "content": "b"}, {"role": "tool", "tool_call_id": "c1", "content": "a"},
        {"role": "assistant", "content": "Two."},
    ]  # fmt: skip
    assert [tool["name"] for tool in anthropic["tools"]] == ["ls"]
    assert [block["tool_use_id"] for block in anthropic["messages"][2]["content"]] == ["c2", "c1"]


def test_calls_without_ids_get_some(data: DataDir) -> None:
    asked = {
        "systemInstruction": {"parts": [{"text": "Look."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "And?"}]},
            {"role": "model", "parts": [{"text": "hm", "thought": True},
                                        {"functionCall": {"name": "ls", "args": {"least": 1.5}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": {"files": ["a"]}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "ls", "parameters": SCHEMA}]}],
    }  # fmt: skip
    part = {"content": {"role": "model", "parts": [{"text": "One."}]}, "finishReason": "STOP", "index": 0}
    answer = {"candidates": [part], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}}
    openai, anthropic = one(
        data, "/v1beta/models/gemini-2.5-flash:generateContent", [compact(asked)], [compact(answer)], backend="gemini",
        upstream="https://generativelanguage.googleapis.com",
    )  # fmt: skip
    roles = [message["role"] for message in openai["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert openai["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"least":1.5}'
    assert openai["messages"][3] == {"role": "tool", "tool_call_id": "call_1", "content": '{"files":["a"]}'}
    assert anthropic["messages"][1]["content"] == [{"type": "tool_use", "id": "call_1", "name": "ls", "input": {"least": 1.5}}]


def cut_at_length() -> dict[str, Any]:
    return {**ANSWER, "choices": [{**ANSWER["choices"][0], "finish_reason": "length"}]}


WITHOUT_END = sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})[0]
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}


@pytest.mark.parametrize(
    ("asked", "answer", "how", "reason"),
    [
        (CHAT, ANSWER, {"end": "upstream_closed"}, "answer is not whole"),
        (CHAT, cut_at_length(), {}, "answer is not whole"),
        (CHAT, ANSWER, {"status": "429 No"}, "answer is an error or a refusal"),
        (CHAT, {**ANSWER, "choices": []}, {}, "answer has no text"),
        (CHAT, WITHOUT_END, {"content_type": "text/event-stream"}, "answer is not whole"),
        ({**CHAT, "messages": [PICTURE]}, ANSWER, {}, "pictures, sounds or files"),
        ({**CHAT, "messages": [TOOL_TURNS[2]]}, ANSWER, {}, "a tool's answer to no call"),
        ({**CHAT, "messages": [3]}, ANSWER, {}, "unknown sort of message"),
        ({**CHAT, "messages": []}, ANSWER, {}, "no messages"),
        ({"model": "gpt-5", "input": "x", "previous_response_id": "r"}, ANSWER, {}, "history is kept by the server"),
        ([], ANSWER, {}, "request is no JSON"),
    ],
)
def test_what_is_unfit_is_told(data: DataDir, asked: Any, answer: Any, how: dict[str, Any], reason: str) -> None:
    made = Made()
    made.call("/v1/chat/completions", [compact(asked)], [answer if isinstance(answer, bytes) else compact(answer)], **how)
    made.store(data)
    for form in ("openai-finetune", "anthropic-finetune"):
        assert told(data, form) == ([], {reason: 1})


def test_only_the_last_turns_of_sessions_if_wanted(data: DataDir) -> None:
    made = Made()
    first = CHAT["messages"]
    second = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More?"}]
    for messages in (first, second, [*first[:1], {"role": "user", "content": "Alone"}]):
        made.call("/v1/chat/completions", [compact({"model": "gpt-4o", "messages": messages})], [compact(ANSWER)])
    made.store(data)
    assert len(told(data, "openai-finetune")[0]) == 3
    lines, _ = told(data, "openai-finetune", turns="last")
    assert [len(line["messages"]) for line in lines] == [5, 3]
