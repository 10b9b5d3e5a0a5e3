"""Anthropic, Gemini, Bedrock, Cohere, Ollama and llama-server beyond the recordings, case by case."""

import base64
import json
from typing import Any

import pytest

from tests.reading.exchanges import messages, ndjson, plain, sse

CLAUDE = "/v1/messages"
GEMINI = "/v1beta/models/gemini-x:generateContent"
LLAMA_TIMINGS = {"prompt_n": 4, "predicted_n": 2, "prompt_per_second": 100.0, "predicted_per_second": 50.0, "cache_n": 0}


def block(kind: str, index: int, **fields: Any) -> list[dict[str, Any]]:
    start = {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}
    return [start, {"type": "content_block_stop", "index": index}]


def block_delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


START = {
    "type": "message_start",
    "message": {"id": "msg", "model": "m", "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}},
}
END = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}, {"type": "message_stop"}]


def test_claude_thinks_searches_and_calls() -> None:
    reading = sse(
        CLAUDE,
        START,
        {"type": "ping"},
        *block("thinking", 0, thinking="", signature=""),
        block_delta(0, type="thinking_delta", thinking="hm"),
        block_delta(0, type="signature_delta", signature="sig"),
        *block("redacted_thinking", 1, data="xx"),
        *block("server_tool_use", 2, id="srvtoolu", name="web_search", input={}),
        block_delta(2, type="input_json_delta", partial_json='{"query":"x"}'),
        *block("web_search_tool_result", 3, tool_use_id="srvtoolu", content=[{"type": "web_search_result"}]),
        *block("mcp_tool_use", 4, id="mcptoolu", name="echo", server_name="s", input={}),
        *block("text", 5, text=""),
        block_delta(5, type="text_delta", text="so"),
        block_delta(5, type="citations_delta", citation={"type": "web_search_result_location"}),
        *block("tool_use", 6, id="toolu", name="f", input={}),
        block_delta(6, type="input_json_delta", partial_json=""),
        block_delta(6, type="input_json_delta", partial_json='{"a":1}'),
        *END,
    )
    assert (reading.text, reading.reasoning_text) == ("so", "hm")
    assert reading.reading["builtin_tool_calls"] == ["web_search", "echo"]
    assert reading.normalised["calls"] == [{"name": "f", "id": "toolu", "arguments": '{"a":1}'}]
    assert reading.normalised["ttft_us"] == 5000, "the thought is the first token"


def test_claude_whole_with_a_tool() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]
    reading = plain(CLAUDE, {"type": "message", "id": "i", "model": "m", "content": content, "stop_reason": "tool_use"})
    assert reading.normalised["calls"] == [{"name": "f", "id": "t", "arguments": '{"a":1}'}]
    assert (reading.text, reading.reasoning_text, reading.reading["text_chars"]) == ("", "hm", 0)


def test_claude_refuses_by_its_reason() -> None:
    answer = {"type": "message", "id": "i", "model": "m", "content": [], "stop_reason": "refusal"}
    assert plain(CLAUDE, answer).normalised["refusal"] == "refusal"


def test_results_of_a_batch_add_up() -> None:
    def line(number: int) -> dict[str, Any]:
        message = {"type": "message", "id": f"msg_{number}", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 2}}
        return {"custom_id": str(number), "result": {"type": "succeeded", "message": message}}

    reading = ndjson("/v1/messages/batches/msgbatch_1/results", line(1), line(2))
    assert (reading.normalised["input"], reading.normalised["output"]) == (6, 4)
    batch = plain("/v1/messages/batches", {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress"})
    assert (batch.reading["api"], batch.reading["response_id"], batch.reading["finish_reason"]) == (
        "anthropic.batches",
        "msgbatch_1",
        "in_progress",
    )


def candidate(*parts: dict[str, Any], finish: str | None = "STOP", index: int = 0) -> dict[str, Any]:
    return {"index": index, "content": {"role": "model", "parts": list(parts)}, "finishReason": finish}


def test_gemini_thinks_runs_code_and_calls() -> None:
    parts = [
        {"text": "hm", "thought": True},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"text": "so"},
        {"functionCall": {"name": "f", "args": {"a": 1}, "id": "x"}, "thoughtSignature": "sig"},
        {"functionCall": {"name": "f", "args": {}}},
    ]
    grounded = {**candidate(*parts), "groundingMetadata": {"webSearchQueries": ["q"]}}
    reading = plain(GEMINI, {"candidates": [grounded, candidate({"text": "other"}, index=1)], "modelVersion": "g"})
    assert (reading.text, reading.reasoning_text) == ("so", "hm")
    assert reading.reading["tool_calls"] == ["f", "f"]
    assert reading.reading["builtin_tool_calls"] == ["executableCode"]
    assert reading.reading["n_choices"] == 2
    assert reading.normalised["calls"][0] == {"name": "f", "id": "x", "arguments": '{"a":1}'}


def test_gemini_blocks_a_prompt() -> None:
    answer = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
    }
    reading = plain(GEMINI, answer)
    assert (reading.normalised["refusal"], reading.normalised["input"], reading.normalised["output"]) == (
        "PROHIBITED_CONTENT",
        4,
        None,
    )
    assert plain(GEMINI, {"candidates": [candidate(finish="SAFETY")]}).normalised["refusal"] == "SAFETY"


def test_gemini_fails_in_an_array() -> None:
    error = [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}]
    reading = plain("/v1beta/models/gemini-x:streamGenerateContent", error, 429)
    told = reading.reading
    assert (told["is_error"], told["error_type"], told["error_code"], told["model"]) == (
        True,
        "RESOURCE_EXHAUSTED",
        "429",
        "gemini-x",
    )
    assert reading.normalised["error"] == "quota"


def test_gemini_counts_embeds_and_interacts() -> None:
    counted = plain("/v1beta/models/g:countTokens", {"totalTokens": 7})
    assert (counted.reading["counted_tokens"], counted.normalised["input"], counted.normalised["output"]) == (7, 7, 0)
    vertex = {"predictions": [{"embeddings": {"statistics": {"token_count": 3}, "values": [0.1]}}] * 2}
    assert plain("/v1/projects/p/locations/l/publishers/google/models/e:predict", vertex).normalised["input"] == 6
    usage = {
        "total_input_tokens": 9,
        "total_output_tokens": 4,
        "total_thought_tokens": 6,
        "total_tokens": 19,
        "total_cached_tokens": 0,
    }
    steps = [{"type": "model_output", "content": [{"type": "text", "text": "hi"}]}]
    interaction = plain(
        "/v1beta/interactions", {"id": "v1", "model": "g", "status": "completed", "usage": usage, "steps": steps}
    )
    told = interaction.normalised
    assert (told["input"], told["output"], told["reasoning"], told["id"], interaction.text) == (9, 10, 6, "v1", "hi")


def test_bedrock_converses_with_tools_and_thoughts() -> None:
    reading = messages(
        "/model/us.x%3A0/converse-stream",
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "so"}}),
        ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"name": "f", "toolUseId": "t"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a":1}'}}}),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}, "metrics": {"latencyMs": 5}}),
    )
    assert (reading.text, reading.reasoning_text, reading.reading["model"]) == ("so", "hm", "us.x:0")
    assert reading.normalised["calls"] == [{"name": "f", "id": "t", "arguments": '{"a":1}'}]
    assert (reading.normalised["input"], reading.reading["stream_done"], reading.normalised["ttft_us"]) == (3, True, 1000)


def test_bedrock_fails_in_the_middle() -> None:
    reading = messages(
        "/model/m/converse-stream",
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "a"}}),
        ("!throttlingException", {"message": "too fast"}),
    )
    told = reading.reading
    assert (told["is_error"], told["error_type"], told["stream_done"], reading.text) == (
        True,
        "throttlingException",
        False,
        "a",
    )
    assert (reading.normalised["error"], reading.normalised["complete"]) == ("too fast", False)


def test_aws_names_its_error_in_a_header() -> None:
    fields = [("x-amzn-ErrorType", "ValidationException:http://internal.amazon.com/x/")]
    reading = plain("/model/m/invoke", {"message": "bad"}, 400, fields=fields)
    assert (reading.reading["error_type"], reading.normalised["error"]) == ("ValidationException", "bad")
    reading = plain("/model/m/invoke", {"__type": "com.amazon#AccessDenied", "Message": "x"}, 403)
    assert reading.reading["error_type"] == "AccessDenied"


INVOKED: dict[str, dict[str, Any]] = {
    "claude": {
        "type": "message",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    "nova": {
        "output": {"message": {"content": [{"text": "hi"}]}},
        "stopReason": "end",
        "usage": {"inputTokens": 3, "outputTokens": 2},
    },
    "llama": {"generation": "hi", "prompt_token_count": 3, "generation_token_count": 2, "stop_reason": "end"},
    "titan": {"inputTextTokenCount": 3, "results": [{"tokenCount": 2, "outputText": "hi", "completionReason": "end"}]},
    "openai": {
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "end"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    },
}


@pytest.mark.parametrize("maker", INVOKED)
def test_bedrock_invokes_models_of_many_makers(maker: str) -> None:
    reading = plain("/model/m/invoke", INVOKED[maker])
    told = reading.normalised
    assert (reading.text, told["finish_reason"], told["input"], told["output"]) == ("hi", "end", 3, 2)


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": [{"text": "hi", "stop_reason": "end"}]},
        {"generations": [{"text": "hi", "finish_reason": "end"}]},
        {"completion": "hi", "stop_reason": "end"},
    ],
)
def test_bedrock_counts_in_its_header_what_the_body_does_not(answer: dict[str, Any]) -> None:
    fields = [("X-Amzn-Bedrock-Input-Token-Count", "3"), ("X-Amzn-Bedrock-Output-Token-Count", "2")]
    reading = plain("/model/m/invoke", answer, fields=fields)
    told = reading.normalised
    assert (reading.text, told["finish_reason"], told["input"], told["output"]) == ("hi", "end", 3, 2)


def wrapped(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "chunk", {"bytes": base64.b64encode(json.dumps(document).encode()).decode(), "p": "abc"}


def test_bedrock_streams_nova_and_llama() -> None:
    metrics = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 2}}
    nova = messages(
        "/model/m/invoke-with-response-stream",
        wrapped({"messageStart": {"role": "assistant"}}),
        wrapped({"contentBlockDelta": {"delta": {"text": "hi"}, "contentBlockIndex": 0}}),
        wrapped({"messageStop": {"stopReason": "end_turn"}}),
        wrapped({"metadata": {"usage": {"inputTokens": 3, "outputTokens": 2}}, **metrics}),
    )
    llama = messages(
        "/model/m/invoke-with-response-stream",
        wrapped({"generation": "h", "prompt_token_count": 3}),
        wrapped({"generation": "i", "stop_reason": None}),
        wrapped({"generation": "", "stop_reason": "end_turn", **metrics}),
    )
    for reading in (nova, llama):
        told = reading.normalised
        assert (reading.text, told["finish_reason"], told["input"], told["output"], told["complete"]) == (
            "hi",
            "end_turn",
            3,
            2,
            True,
        )


def test_cohere_plans_thinks_and_calls() -> None:
    def start(index: int, name: str) -> dict[str, Any]:
        call = {"id": f"{name}_1", "type": "function", "function": {"name": name, "arguments": ""}}
        return {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}}

    def more(index: int, arguments: str) -> dict[str, Any]:
        return {
            "type": "tool-call-delta",
            "index": index,
            "delta": {"message": {"tool_calls": {"function": {"arguments": arguments}}}},
        }

    reading = sse(
        "/v2/chat",
        {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will"}}},
        start(0, "f"),
        more(0, '{"a":'),
        more(0, "1}"),
        {"type": "tool-call-end", "index": 0},
        start(1, "g"),
        {
            "type": "message-end",
            "delta": {"finish_reason": "TOOL_CALL", "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}}},
        },
    )
    assert reading.reading["tool_calls"] == ["f", "g"]
    assert reading.normalised["calls"][0] == {"name": "f", "id": "f_1", "arguments": '{"a":1}'}
    assert (reading.text, reading.reasoning_text, reading.normalised["complete"]) == ("", "I will", True)


def test_ollama_thinks_and_calls() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    reading = ndjson(
        "/api/chat",
        {"model": "o", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"model": "o", "message": {"role": "assistant", "content": "so"}, "done": False},
        {"model": "o", "message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {
            "model": "o",
            "message": {"content": ""},
            "done": True,
            "done_reason": "stop",
            "eval_count": 5,
            "prompt_eval_count": 3,
        },
    )
    assert (reading.text, reading.reasoning_text) == ("so", "hm")
    assert reading.normalised["calls"] == [{"name": "f", "id": None, "arguments": '{"a":1}'}]
    assert (reading.normalised["ttft_us"], reading.normalised["complete"]) == (1000, True)


def test_a_rerank_without_usage_counts_nothing() -> None:
    reading = plain("/rerank", [{"index": 0, "score": 0.5}])
    assert (reading.normalised["input"], reading.normalised["output"], reading.normalised["complete"]) == (None, None, True)


def test_llama_server_in_pieces_is_the_sum_of_its_prompts() -> None:
    final = {
        "content": "",
        "stop": True,
        "stop_type": "eos",
        "tokens_evaluated": 4,
        "tokens_predicted": 2,
        "timings": LLAMA_TIMINGS,
    }
    one = sse("/completion", {"index": 0, "content": "a", "stop": False}, {"index": 0, **final})
    assert (one.normalised["input"], one.normalised["tokens_per_second"], one.normalised["finish_reason"]) == (4, 50.0, "stop")
    two = sse("/completion", {"index": 1, "content": "b", "stop": False}, {"index": 1, **final}, {"index": 0, **final})
    assert (two.normalised["input"], two.normalised["output"], two.normalised["tokens_per_second"]) == (8, 4, None)
    assert two.text == ""


def test_coheres_ranking_is_told_by_its_units() -> None:
    answer = {"id": "x", "results": [{"index": 0, "relevance_score": 0.9}], "meta": {"billed_units": {"search_units": 1}}}
    assert plain("/v2/rerank", answer).reading["api"] == "cohere.rerank"
    assert plain("/v1/rerank", {"results": [], "usage": {"total_tokens": 3}}).reading["api"] == "rerank"


def code_assist(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What Gemini CLI gets after a login: Gemini's answer in an envelope."""
    inner = {"candidates": [candidate(*parts, **more)], "modelVersion": "gemini-2.5-pro", "responseId": "r1"}
    return {"response": {**inner, "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}, "traceId": "t"}


def test_results_of_a_batch_are_whole_where_their_lines_end() -> None:
    lines = [{"custom_id": "a", "result": {"type": "expired"}}, {"custom_id": "b", "result": {"type": "canceled"}}]
    assert ndjson("/v1/messages/batches/b/results", *lines).normalised["complete"]


def test_code_assist_wraps_what_gemini_says() -> None:
    first, last = code_assist({"text": "Hi"}, finish=None), code_assist({"text": " you"})
    path = "/v1internal:streamGenerateContent?alt=sse"
    for reading in (
        sse(path, first, last, host="cloudcode-pa.googleapis.com"),
        sse("/some/gateway", first, last, host="cloudcode-pa.googleapis.com"),
    ):
        assert (reading.text, reading.reading["provider"], reading.reading["model"]) == ("Hi you", "google", "gemini-2.5-pro")
        assert (reading.reading["response_id"], reading.reading["input_tokens"], reading.normalised["complete"]) == (
            "r1",
            3,
            True,
        )


def test_a_blocked_prompt_is_a_whole_answer() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}
    path = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"
    assert sse(path, blocked).normalised["complete"]
    assert not sse(path, blocked, complete=False).normalised["complete"]


def test_a_picture_is_something_generated() -> None:
    picture = {"candidates": [candidate({"inlineData": {"mimeType": "image/png", "data": "AA"}}, finish=None)]}
    reading = sse("/v1beta/models/g:streamGenerateContent?alt=sse", picture, {"candidates": [candidate({"text": ""})]})
    assert (reading.normalised["ttft_us"], reading.reading["text"]) == (1000, "")
    pieces = {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "stringValue": "x"}], "willContinue": True}}
    named = {"functionCall": {"name": "f", "willContinue": True}}
    reading = sse(
        "/v1beta/models/g:streamGenerateContent?alt=sse",
        {"candidates": [candidate(named, finish=None)]},
        {"candidates": [candidate(pieces, finish=None)]},
        {"candidates": [candidate({"functionCall": {}})]},
    )
    assert reading.reading["tool_calls"] == ["f"]
    assert (reading.normalised["ttft_us"], reading.normalised["last_token_us"]) == (1000, 2000)


def test_vertex_and_studio_tell_what_a_prediction_is_by_its_model() -> None:
    pictures = plain("/v1beta/models/imagen-4.0-generate-001:predict", {"predictions": [{"bytesBase64Encoded": "AA"}]})
    assert (pictures.reading["api"], pictures.reading["model"]) == ("gemini.images", "imagen-4.0-generate-001")
    counted = plain(
        "/v1/publishers/anthropic/models/count-tokens:rawPredict", {"input_tokens": 14}, asked={"model": "claude-x"}
    )
    assert (counted.reading["api"], counted.reading["counted_tokens"], counted.reading["model"]) == (
        "anthropic.count_tokens",
        14,
        "claude-x",
    )


def test_the_old_path_of_llama_server_answers_in_its_own_way() -> None:
    asked = {"prompt": "x"}
    answer = {"index": 0, "content": "Hi", "stop": True, "model": "m", "tokens_predicted": 2, "tokens_evaluated": 4,
              "stop_type": "limit", "timings": LLAMA_TIMINGS}  # fmt: skip
    whole = plain("/completions", answer, asked=asked)
    pieces = (
        {"index": 0, "content": "H", "stop": False},
        {"index": 0, "content": "i", "stop": False},
        {**answer, "content": ""},
    )
    for reading in (whole, sse("/completions", *pieces, asked=asked)):
        assert (reading.text, reading.reading["finish_reason"], reading.normalised["input"]) == ("Hi", "limit", 4)
        assert (reading.normalised["tokens_per_second"], reading.normalised["complete"]) == (50.0, True)
