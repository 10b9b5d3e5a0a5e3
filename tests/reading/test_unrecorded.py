"""Exchanges as the services' own documents describe them, of which there is no recording: each field that is expected."""

import base64
import hashlib
import json
from typing import Any, Final, NamedTuple

import pytest

from llmdump.reading.exchange import Reading
from tests.reading.exchanges import messages, ndjson, plain, sse

CHAT: Final = "/v1/chat/completions"
CLAUDE: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"
GEMINI: Final = "/v1beta/models/gemini-2.5-flash"


class Case(NamedTuple):
    """A reading and what it must have, of `reading`; `same` of `normalised`."""

    reading: Reading
    expected: dict[str, Any]
    same: dict[str, Any] = {}  # noqa: RUF012 -- never changed


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": choices}
    return {**base, **more}


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def started(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stopped(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def begun(**counts: Any) -> dict[str, Any]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
            **counts,
        },
    }
    return {"type": "message_start", "message": message}


def ended(reason: str, **counts: Any) -> list[dict[str, Any]]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": counts},
        {"type": "message_stop"},
    ]


def response(status: str = "completed", **more: Any) -> dict[str, Any]:
    base = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-x",
        "status": status,
        "error": None,
        "output": [],
        "usage": None,
    }
    return {**base, **more}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "sequence_number": 1, **fields}


def said(value: str) -> dict[str, Any]:
    return {"text": value, "text_chars": len(value), "text_sha256": hashlib.sha256(value.encode()).hexdigest()}


def wrapped(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "chunk", {"bytes": base64.b64encode(json.dumps(document).encode()).decode()}


def claude() -> dict[str, Case]:
    found = [{"type": "web_search_result", "url": "https://x", "title": "t", "encrypted_content": "e", "page_age": None}]
    search = sse(
        CLAUDE,
        begun(),
        {"type": "ping"},
        started(0, "text", text=""),
        delta(0, "text_delta", text="I look. "),
        stopped(0),
        started(1, "server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        delta(1, "input_json_delta", partial_json=""),
        delta(1, "input_json_delta", partial_json='{"query": "x"}'),
        stopped(1),
        started(2, "web_search_tool_result", tool_use_id="srvtoolu_1", content=found),
        stopped(2),
        started(3, "text", text="", citations=[]),
        delta(3, "citations_delta", citation={"cited_text": "c"}),
        delta(3, "text_delta", text="Found."),
        stopped(3),
        *ended(
            "end_turn",
            input_tokens=6039,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=0,
            output_tokens=500,
            server_tool_use={"web_search_requests": 1},
        ),
    )
    overloaded = sse(
        CLAUDE,
        begun(),
        started(0, "text", text=""),
        delta(0, "text_delta", text="Hel"),
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
    )
    cut = sse(
        CLAUDE,
        begun(cache_read_input_tokens=7),
        started(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="h"),
        complete=False,
    )
    paused = plain(
        CLAUDE,
        {
            "id": "msg_2",
            "type": "message",
            "role": "assistant",
            "model": "claude-x",
            "stop_reason": "pause_turn",
            "content": [
                {"type": "server_tool_use", "id": "s1", "name": "bash_code_execution", "input": {"command": "ls"}},
                {"type": "bash_code_execution_tool_result", "tool_use_id": "s1", "content": {"stdout": "a"}},
                {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "echo", "server_name": "s", "input": {}},
                {"type": "text", "text": "So"},
            ],
            "usage": {
                "input_tokens": 3,
                "output_tokens": 4,
                "cache_creation_input_tokens": 100,
                "cache_read_input_tokens": 20,
                "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
            },
        },
    )
    compacted = sse(
        CLAUDE,
        begun(),
        started(0, "redacted_thinking", data="xx"),
        stopped(0),
        started(1, "tool_use", id="toolu_1", name="f", input={}),
        delta(1, "input_json_delta", partial_json="{}"),
        stopped(1),
        started(2, "tool_use", id="toolu_2", name="g", input={}),
        stopped(2),
        *ended("tool_use", output_tokens=30),
        '{"type": "unknown_event"}',
    )
    return {
        "claude searches": Case(
            search,
            {
                **said("I look. Found."),
                "builtin_tool_calls": ["web_search"],
                "tool_calls": [],
                "input_tokens": 6039,
                "output_tokens": 500,
                "finish_reason": "end_turn",
                "stream_done": True,
                "event_count": 17,
            },
        ),
        "claude is overloaded in a stream": Case(
            overloaded,
            {
                **said("Hel"),
                "is_error": True,
                "error_type": "overloaded_error",
                "error_code": None,
                "stream_done": False,
                "output_tokens": 1,
                "finish_reason": None,
            },
            {"complete": False, "error_message": "Overloaded"},
        ),
        "claude is cut while it thinks": Case(
            cut,
            {**said(""), "stream_done": False, "cache_read_tokens": 7, "is_error": False, "finish_reason": None},
            {"complete": False, "input": 17, "input_uncached": 10, "cached": 7},
        ),
        "claude pauses": Case(
            paused,
            {
                **said("So"),
                "builtin_tool_calls": ["bash_code_execution", "echo"],
                "finish_reason": "pause_turn",
                "input_tokens": 3,
                "cache_write_tokens": 100,
                "cache_read_tokens": 20,
                "stream_done": None,
                "event_count": None,
            },
            {"input": 123, "input_uncached": 3},
        ),
        "claude calls twice": Case(
            compacted,
            {**said(""), "tool_calls": ["f", "g"], "finish_reason": "tool_use", "output_tokens": 30, "event_count": 11},
        ),
    }


def openai_responses() -> dict[str, Case]:
    counts = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 32},
        "total_tokens": 150,
    }
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hi!", "annotations": [{"type": "file_citation"}]}],
    }
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    search = {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"], "results": None}
    done = response(output=[reasoning, search, message], usage=counts)
    whole = sse(
        RESPONSES,
        event("created", response=response("in_progress")),
        event("in_progress", response=response("in_progress")),
        event("output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1", "summary": []}),
        event(
            "reasoning_summary_part.added",
            item_id="rs_1",
            output_index=0,
            summary_index=0,
            part={"type": "summary_text", "text": ""},
        ),
        event("reasoning_summary_text.delta", item_id="rs_1", output_index=0, summary_index=0, delta="hm"),
        event("reasoning_summary_text.done", item_id="rs_1", output_index=0, summary_index=0, text="hm"),
        event("output_item.done", output_index=0, item=reasoning),
        event("output_item.added", output_index=1, item={**search, "status": "in_progress"}),
        event("file_search_call.in_progress", output_index=1, item_id="fs_1"),
        event("file_search_call.completed", output_index=1, item_id="fs_1"),
        event("output_item.done", output_index=1, item=search),
        event("output_item.added", output_index=2, item={**message, "content": []}),
        event("content_part.added", output_index=2, content_index=0, part={"type": "output_text", "text": ""}),
        event("output_text.delta", output_index=2, content_index=0, delta="Hi"),
        event("output_text.delta", output_index=2, content_index=0, delta="!"),
        event("output_text.annotation.added", output_index=2, annotation={"type": "file_citation"}),
        event("output_text.done", output_index=2, content_index=0, text="Hi!"),
        event("output_item.done", output_index=2, item=message),
        event("completed", response=done),
    )
    short = sse(
        RESPONSES,
        event("created", response=response("in_progress")),
        event("output_text.delta", output_index=0, delta="Hi"),
        event("incomplete", response=response("incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=counts)),
    )
    failed = sse(
        RESPONSES,
        event("created", response=response("in_progress")),
        event("failed", response=response("failed", error={"code": "server_error", "message": "The model failed."})),
    )
    tools = plain(
        RESPONSES,
        response(
            usage=counts,
            output=[
                {"type": "web_search_call", "id": "ws", "status": "completed"},
                {"type": "code_interpreter_call", "id": "ci", "code": "1"},
                {"type": "image_generation_call", "id": "ig", "result": "QUJD"},
                {"type": "mcp_list_tools", "id": "l", "tools": []},
                {"type": "mcp_call", "id": "m", "name": "echo", "arguments": "{}"},
                {"type": "computer_call", "id": "cc", "call_id": "c0"},
                {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "custom_tool_call", "id": "ct", "call_id": "c2", "name": "g", "input": "x"},
                message,
            ],
        ),
    )
    queued = plain(RESPONSES, response("queued", background=True))
    limited = sse(
        RESPONSES,
        event("created", response=response("in_progress")),
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None, "sequence_number": 2},
    )
    return {
        "responses reason and search": Case(
            whole,
            {
                **said("Hi!"),
                "builtin_tool_calls": ["file_search_call"],
                "tool_calls": [],
                "finish_reason": "completed",
                "input_tokens": 100,
                "cache_read_tokens": 64,
                "reasoning_tokens": 32,
                "output_tokens": 50,
                "total_tokens": 150,
                "stream_done": True,
                "event_count": 19,
                "response_id": "resp_1",
                "n_choices": None,
            },
            {"complete": True, "input_uncached": 36},
        ),
        "a response reaches its limit": Case(
            short,
            {**said("Hi"), "finish_reason": "incomplete", "stream_done": True, "is_error": False},
            {"finish_reason": "max_output_tokens"},
        ),
        "a response fails": Case(
            failed,
            {"is_error": True, "error_code": "server_error", "finish_reason": "failed", "stream_done": True},
            {"complete": False},
        ),
        "a response with all tools": Case(
            tools,
            {
                **said("Hi!"),
                "tool_calls": ["f", "g"],
                "builtin_tool_calls": [
                    "web_search_call",
                    "code_interpreter_call",
                    "image_generation_call",
                    "mcp_call",
                    "computer_call",
                ],
            },
        ),
        "a response waits": Case(queued, {"finish_reason": "queued", "input_tokens": None, **said("")}),
        "a response's stream ends with an error": Case(
            limited,
            {"is_error": True, "error_code": "rate_limit_exceeded", "error_type": None, "stream_done": False},
        ),
    }


def gemini() -> dict[str, Case]:
    def part(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
        candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}} | (
            {"finishReason": finish} if finish else {}
        )
        return {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r1", **more}

    calls = sse(
        f"{GEMINI}:streamGenerateContent?alt=sse",
        part(
            {"text": "hm", "thought": True},
            usageMetadata={"promptTokenCount": 20, "totalTokenCount": 30, "thoughtsTokenCount": 10},
        ),
        part(
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"},
            {"functionCall": {"name": "f", "args": {"a": 2}}},
        ),
        part(
            {"text": ""},
            finish="STOP",
            usageMetadata={
                "promptTokenCount": 20,
                "candidatesTokenCount": 8,
                "totalTokenCount": 38,
                "thoughtsTokenCount": 10,
                "cachedContentTokenCount": 5,
            },
        ),
    )
    blocked = sse(
        f"{GEMINI}:streamGenerateContent?alt=sse",
        {
            "promptFeedback": {"blockReason": "SAFETY"},
            "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
            "modelVersion": "gemini-2.5-flash",
        },
    )
    broken = sse(
        f"{GEMINI}:streamGenerateContent?alt=sse",
        part({"text": "a"}),
        {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}},
    )
    coded = plain(
        f"{GEMINI}:generateContent",
        part(
            {"executableCode": {"language": "PYTHON", "code": "1+1"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
            {"text": "two"},
            {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
            finish="STOP",
            usageMetadata={
                "promptTokenCount": 9,
                "candidatesTokenCount": 3,
                "toolUsePromptTokenCount": 50,
                "totalTokenCount": 62,
            },
        ),
    )
    return {
        "gemini calls in parallel": Case(
            calls,
            {
                **said(""),
                "tool_calls": ["f", "f"],
                "reasoning_tokens": 10,
                "output_tokens": 8,
                "input_tokens": 20,
                "cache_read_tokens": 5,
                "total_tokens": 38,
                "finish_reason": "STOP",
                "stream_done": True,
                "event_count": 3,
                "n_choices": 1,
                "response_id": "r1",
            },
            {"output": 18},
        ),
        "gemini blocks a prompt in a stream": Case(
            blocked,
            {"finish_reason": None, "stream_done": False, "input_tokens": 4, "output_tokens": None, "is_error": False},
        ),
        "gemini fails in a stream": Case(
            broken,
            {**said("a"), "is_error": True, "error_type": "UNAVAILABLE", "error_code": "503", "stream_done": False},
        ),
        "gemini runs code": Case(
            coded,
            {**said("two"), "builtin_tool_calls": ["executableCode"], "tool_calls": [], "input_tokens": 9, "output_tokens": 3},
            {"input": 59, "output": 3},
        ),
    }


def bedrock() -> dict[str, Case]:
    path = "/model/anthropic.claude-x%3A0"
    trace = {"guardrail": {"modelOutput": ["no"], "actionReason": "Guardrail blocked."}}
    guarded = messages(
        f"{path}/converse-stream",
        ("messageStart", {"role": "assistant", "p": "ab"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Blocked by us."}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "guardrail_intervened"}),
        (
            "metadata",
            {
                "usage": {
                    "inputTokens": 0,
                    "outputTokens": 0,
                    "totalTokens": 0,
                    "cacheReadInputTokens": 0,
                    "cacheWriteInputTokens": 0,
                },
                "metrics": {"latencyMs": 5},
                "trace": trace,
            },
        ),
    )
    thinks = plain(
        f"{path}/converse",
        {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                        {"text": "Hi"},
                        {"citationsContent": {"content": [{"text": " there"}], "citations": []}},
                        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}},
                    ],
                }
            },
            "stopReason": "tool_use",
            "usage": {
                "inputTokens": 5,
                "outputTokens": 6,
                "totalTokens": 21,
                "cacheReadInputTokens": 10,
                "cacheWriteInputTokens": 0,
            },
            "metrics": {"latencyMs": 9},
        },
    )
    thrown = messages(
        f"{path}/invoke-with-response-stream",
        wrapped(begun()),
        wrapped(started(0, "text", text="")),
        wrapped(delta(0, "text_delta", text="a")),
        ("!modelStreamErrorException", {"message": "bad", "originalStatusCode": 500}),
    )
    return {
        "bedrock's guardrail steps in": Case(
            guarded,
            {
                **said("Blocked by us."),
                "finish_reason": "guardrail_intervened",
                "input_tokens": 0,
                "output_tokens": 0,
                "stream_done": True,
                "event_count": 5,
                "model": "anthropic.claude-x:0",
            },
            {"refusal": "guardrail_intervened", "complete": True},
        ),
        "bedrock thinks, cites and calls": Case(
            thinks,
            {**said("Hi there"), "tool_calls": ["f"], "input_tokens": 5, "cache_read_tokens": 10, "total_tokens": 21},
            {"input": 15},
        ),
        "bedrock throws in the middle": Case(
            thrown,
            {**said("a"), "is_error": True, "error_type": "modelStreamErrorException", "stream_done": False, "event_count": 4},
            {"complete": False},
        ),
    }


def chat() -> dict[str, Case]:
    azure_first = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
    }
    azure = sse(
        "/openai/deployments/dep/chat/completions?api-version=x",
        azure_first,
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hi"}),
        chunk({}, "content_filter"),
        {**chunk(), "usage": usage(4, 2)},
        "[DONE]",
    )
    details = [{"type": "reasoning.text", "text": "h", "format": "anthropic", "index": 0}]
    counts = usage(
        14,
        163,
        cost=0.95,
        is_byok=False,
        cost_details={"upstream_inference_cost": None},
        prompt_tokens_details={"cached_tokens": 3, "cache_write_tokens": 2},
        completion_tokens_details={"reasoning_tokens": 100},
    )
    router = sse(
        "/api/v1/chat/completions",
        chunk({"role": "assistant", "content": "", "reasoning": "h", "reasoning_details": details}, id="gen-1"),
        chunk({"content": "Hi", "reasoning": None}, id="gen-1", provider="Anthropic"),
        {**chunk({"content": ""}, "stop", id="gen-1"), "provider": "Anthropic"},
        {**chunk({"content": ""}, id="gen-1"), "usage": counts},
        "[DONE]",
        host="openrouter.ai",
    )
    router_error = sse(
        "/api/v1/chat/completions",
        chunk({"content": "Hi"}),
        {**chunk({"content": ""}, "error"), "error": {"code": 502, "message": "Provider disconnected"}},
        "[DONE]",
        host="openrouter.ai",
    )
    groq = sse(
        "/openai/v1/chat/completions",
        chunk({"role": "assistant", "content": "", "reasoning": "h"}, x_groq={"id": "req_1"}),
        chunk({"content": "Hi"}),
        {
            **chunk({}, "stop"),
            "x_groq": {
                "id": "req_1",
                "usage": {**usage(9, 4), "queue_time": 0.1, "prompt_time": 0.01, "completion_time": 0.02, "total_time": 0.03},
            },
        },
        "[DONE]",
        host="api.groq.com",
    )
    mistral = sse(
        CHAT,
        chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]}),
        chunk({"content": [{"type": "text", "text": "Hi"}, {"type": "reference", "reference_ids": [1]}]}),
        {
            **chunk(
                {"content": "", "tool_calls": [{"id": "a1", "function": {"name": "f", "arguments": "{}"}, "index": 0}]},
                "tool_calls",
            ),
            "usage": usage(5, 6),
        },
        "[DONE]",
        host="api.mistral.ai",
    )
    deepseek = plain(
        "/chat/completions",
        {
            "id": "d",
            "object": "chat.completion",
            "model": "deepseek-reasoner",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hi", "reasoning_content": "h"},
                    "finish_reason": "stop",
                }
            ],
            "usage": usage(
                20, 9, prompt_cache_hit_tokens=16, prompt_cache_miss_tokens=4, completion_tokens_details={"reasoning_tokens": 7}
            ),
        },
        host="api.deepseek.com",
    )
    timings = {
        "cache_n": 10,
        "prompt_n": 2,
        "prompt_ms": 10.0,
        "prompt_per_second": 200.0,
        "predicted_n": 5,
        "predicted_ms": 50.0,
        "predicted_per_second": 100.0,
    }
    llama = sse(
        CHAT,
        chunk({"role": "assistant", "content": None}, index=1),
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}),
        chunk({}, "stop", index=1),
        {**chunk({}, "length"), "timings": timings},
        "[DONE]",
    )
    refused = sse(
        CHAT,
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"refusal": "I can"}),
        chunk({"refusal": "not."}),
        chunk({}, "stop"),
        "[DONE]",
    )
    vllm_error = sse(
        CHAT,
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "a"}),
        {"error": {"object": "error", "message": "boom", "type": "InternalServerError", "param": None, "code": 500}},
        "[DONE]",
    )
    cut = sse(CHAT, chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), complete=False)
    xai = sse(
        CHAT,
        chunk({"role": "assistant", "reasoning_content": "h"}),
        chunk({"content": "a"}),
        chunk({}, "stop"),
        {
            **chunk(),
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 1,
                "total_tokens": 31,
                "num_sources_used": 0,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        },
        "[DONE]",
        host="api.x.ai",
    )
    perplexity = plain(
        "/chat/completions",
        {
            "id": "p",
            "model": "sonar",
            "object": "chat.completion",
            "citations": ["https://x"],
            "search_results": [],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "Hi[1]"},
                    "delta": {"role": "assistant", "content": ""},
                }
            ],
            "usage": {**usage(5, 6), "search_context_size": "low", "cost": {"input_tokens_cost": 0.0, "total_cost": 0.006}},
        },
        host="api.perplexity.ai",
    )
    legacy_error = plain(
        CHAT,
        {"error": {"message": "Incorrect API key", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}},
        401,
        asked={"model": "gpt-x"},
    )
    speech = plain(
        CHAT,
        {
            "id": "s",
            "model": "gpt-audio",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": None,
                        "audio": {"id": "a", "data": "QUJD", "transcript": "hello"},
                    },
                }
            ],
            "usage": usage(5, 6),
        },
    )
    moderated = plain(
        CHAT,
        {"error": {"message": "flagged", "code": 403, "metadata": {"reasons": ["x"], "flagged_input": "y"}}},
        403,
        asked={"model": "a/b"},
        host="openrouter.ai",
    )
    return {
        "azure filters": Case(
            azure,
            {
                **said("Hi"),
                "model": "m-1",
                "response_id": "chatcmpl-1",
                "finish_reason": "content_filter",
                "n_choices": 1,
                "event_count": 6,
                "stream_done": True,
                "input_tokens": 4,
            },
            {"refusal": "content_filter"},
        ),
        "openrouter reasons and costs": Case(
            router,
            {
                **said("Hi"),
                "response_id": "gen-1",
                "input_tokens": 14,
                "cache_read_tokens": 3,
                "cache_write_tokens": 2,
                "reasoning_tokens": 100,
                "provider": "openrouter",
                "event_count": 5,
            },
            {"cost": 0.95, "input": 14},
        ),
        "openrouter's provider leaves": Case(
            router_error,
            {
                **said("Hi"),
                "is_error": True,
                "error_code": "502",
                "error_type": None,
                "finish_reason": "error",
                "stream_done": True,
            },
            {"complete": False, "error_message": "Provider disconnected"},
        ),
        "groq counts aside": Case(
            groq,
            {**said("Hi"), "input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
            {"prompt_per_second": 900.0, "tokens_per_second": 200.0},
        ),
        "mistral thinks in parts": Case(
            mistral, {**said("Hi"), "tool_calls": ["f"], "input_tokens": 5, "finish_reason": "tool_calls"}
        ),
        "deepseek hits its cache": Case(
            deepseek,
            {**said("Hi"), "cache_read_tokens": 16, "reasoning_tokens": 7},
            {"input": 20, "input_uncached": 4, "output": 9},
        ),
        "llama-server answers twice": Case(
            llama,
            {**said("a"), "n_choices": 2, "finish_reason": "length", "input_tokens": None, "output_tokens": None},
            {"input": 12, "cached": 10, "output": 5, "tokens_per_second": 100.0},
        ),
        "a refusal in pieces": Case(refused, {**said(""), "finish_reason": "stop"}, {"refusal": "I cannot."}),
        "vllm fails in a stream": Case(
            vllm_error,
            {**said("a"), "is_error": True, "error_type": "InternalServerError", "error_code": "500", "stream_done": True},
            {"complete": False},
        ),
        "a chat is cut": Case(
            cut, {**said("a"), "stream_done": False, "finish_reason": None, "is_error": False}, {"complete": False}
        ),
        "xai counts its reasoning beside": Case(
            xai, {**said("a"), "output_tokens": 1, "reasoning_tokens": 20, "total_tokens": 31}, {"output": 21}
        ),
        "perplexity's whole answer": Case(
            perplexity, {**said("Hi[1]"), "n_choices": 1, "provider": "perplexity"}, {"cost": 0.006}
        ),
        "a wrong key": Case(
            legacy_error,
            {
                "is_error": True,
                "error_type": "invalid_request_error",
                "error_code": "invalid_api_key",
                "model": "gpt-x",
                "text_sha256": None,
                "n_choices": None,
            },
        ),
        "speech": Case(speech, {**said(""), "finish_reason": "stop"}),
        "openrouter moderates": Case(moderated, {"is_error": True, "error_code": "403", "error_type": None, "model": "a/b"}),
    }


def others() -> dict[str, Case]:
    def cohere(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, **fields}

    cites = sse(
        "/v2/chat",
        cohere(
            "message-start",
            id="c1",
            delta={"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}},
        ),
        cohere("content-start", index=0, delta={"message": {"content": {"type": "text", "text": ""}}}),
        cohere("content-delta", index=0, delta={"message": {"content": {"text": "Emperor"}}}),
        cohere(
            "citation-start",
            index=0,
            delta={"message": {"citations": {"start": 0, "end": 7, "text": "Emperor", "sources": []}}},
        ),
        cohere("citation-end", index=0),
        cohere("content-end", index=0),
        cohere(
            "message-end",
            delta={
                "finish_reason": "COMPLETE",
                "usage": {
                    "billed_units": {"input_tokens": 3, "output_tokens": 2},
                    "tokens": {"input_tokens": 70, "output_tokens": 9},
                    "cached_tokens": 16,
                },
            },
        ),
        "[DONE]",
        host="api.cohere.com",
        asked={"model": "command-a", "messages": []},
    )
    plan = plain(
        "/v2/chat",
        {
            "id": "c2",
            "finish_reason": "TOOL_CALL",
            "message": {
                "role": "assistant",
                "tool_plan": "I will",
                "tool_calls": [{"id": "f0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "usage": {
                "billed_units": {"input_tokens": 3, "output_tokens": 2},
                "tokens": {"input_tokens": 70, "output_tokens": 9},
            },
        },
        asked={"model": "command-a", "messages": []},
        host="api.cohere.com",
    )
    ollama = ndjson(
        "/api/chat",
        {"model": "q", "created_at": "t", "message": {"role": "assistant", "content": "", "thinking": "h"}, "done": False},
        {
            "model": "q",
            "created_at": "t",
            "message": {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
            },
            "done": False,
        },
        {
            "model": "q",
            "created_at": "t",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 5,
            "load_duration": 1,
            "prompt_eval_count": 20,
            "prompt_eval_duration": 1000000000,
            "eval_count": 30,
            "eval_duration": 2000000000,
        },
    )
    ollama_error = ndjson(
        "/api/generate", {"model": "q", "created_at": "t", "response": "a", "done": False}, {"error": "runner died"}
    )
    generated = plain(
        "/api/generate",
        {
            "model": "q",
            "created_at": "t",
            "response": "Hi",
            "thinking": "h",
            "done": True,
            "done_reason": "length",
            "context": [1, 2],
            "prompt_eval_count": 2,
            "eval_count": 3,
        },
    )
    native = sse(
        "/completion",
        {"index": 0, "content": "a", "tokens": [1], "stop": False, "id_slot": -1, "tokens_predicted": 1, "tokens_evaluated": 4},
        {
            "index": 0,
            "content": "",
            "tokens": [],
            "stop": True,
            "model": "l",
            "tokens_predicted": 2,
            "tokens_evaluated": 4,
            "stop_type": "limit",
            "tokens_cached": 5,
            "timings": {"cache_n": 3, "prompt_n": 1, "predicted_n": 2, "prompt_per_second": 10.0, "predicted_per_second": 20.0},
        },
    )
    completions = sse(
        "/v1/completions",
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": "m",
            "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}],
        },
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": "m",
            "choices": [{"index": 0, "text": "b", "finish_reason": "length"}],
            "usage": usage(1, 2),
        },
        "[DONE]",
    )
    return {
        "cohere cites": Case(
            cites,
            {
                **said("Emperor"),
                "model": "command-a",
                "input_tokens": 70,
                "output_tokens": 9,
                "cache_read_tokens": 16,
                "finish_reason": "COMPLETE",
                "response_id": "c1",
                "stream_done": True,
                "event_count": 8,
            },
        ),
        "cohere plans": Case(
            plan, {**said(""), "tool_calls": ["f"], "finish_reason": "TOOL_CALL", "input_tokens": 70, "model": "command-a"}
        ),
        "ollama thinks and calls": Case(
            ollama,
            {**said(""), "tool_calls": ["f"], "input_tokens": 20, "output_tokens": 30, "stream_done": True, "event_count": 3},
            {
                "prompt_per_second": 20.0,
                "tokens_per_second": 15.0,
                "calls": [{"name": "f", "id": "call_1", "arguments": '{"a":1}'}],
            },
        ),
        "ollama's runner dies": Case(
            ollama_error,
            {**said("a"), "is_error": True, "error_type": None, "stream_done": False, "event_count": 2},
            {"complete": False, "error_message": "runner died"},
        ),
        "ollama generates": Case(generated, {**said("Hi"), "finish_reason": "length", "stream_done": None, "output_tokens": 3}),
        "llama-server's own stream": Case(
            native,
            {**said("a"), "stream_done": True, "input_tokens": 4, "output_tokens": 2, "model": "l"},
            {"input": 4, "cached": 3, "finish_reason": "length", "tokens_per_second": 20.0},
        ),
        "a completion in a stream": Case(
            completions,
            {**said("ab"), "finish_reason": "length", "n_choices": 1, "output_tokens": 2, "stream_done": True},
        ),
    }


CASES: Final = {**claude(), **openai_responses(), **gemini(), **bedrock(), **chat(), **others()}


@pytest.mark.parametrize("name", CASES)
def test_what_is_described_is_told(name: str) -> None:
    reading, expected, same = CASES[name]
    assert {key: reading.reading[key] for key in expected} == expected
    assert {key: reading.normalised[key] for key in same} == same
