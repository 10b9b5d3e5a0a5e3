"""OpenAI Responses and Realtime beyond the recordings: tools, refusals, late joiners, several responses on one socket."""

import json
from typing import Any

from llmdump.reading.exchange import Event, Reading
from llmdump.reading.reader import Reader
from tests.reading.exchanges import ask, plain, sse

PATH = "/v1/responses"
USAGE = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14, "input_tokens_details": {"cached_tokens": 2}}


def state(kind: str, status: str, identity: str = "r", **more: Any) -> dict[str, Any]:
    response = {"id": identity, "object": "response", "model": "m", "status": status, "output": [], "usage": None, **more}
    return {"type": f"response.{kind}", "response": response}


def delta(kind: str, text: str, index: int = 0) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": index, "item_id": "i", "delta": text}


def item(kind: str, index: int, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": fields}


CREATED = state("created", "in_progress")
COMPLETED = state("completed", "completed", usage=USAGE)


def test_tools_and_thoughts_of_a_stream() -> None:
    reading = sse(
        PATH,
        CREATED,
        item("added", 0, type="reasoning", id="rs"),
        delta("reasoning_summary_text", "hm"),
        item("added", 1, type="function_call", id="fc", call_id="a", name="f", arguments=""),
        delta("function_call_arguments", '{"x":', 1),
        delta("function_call_arguments", "1}", 1),
        item("done", 1, type="function_call", id="fc", call_id="a", name="f", arguments='{"x":1}'),
        item("added", 2, type="custom_tool_call", call_id="b", name="sql", input=""),
        delta("custom_tool_call_input", "select 1", 2),
        item("done", 2, type="custom_tool_call", call_id="b", name="sql", input="select 1"),
        item("added", 3, type="web_search_call", status="in_progress"),
        item("done", 3, type="web_search_call", status="completed"),
        COMPLETED,
    )
    assert reading.normalised["calls"] == [
        {"name": "f", "id": "a", "arguments": '{"x":1}'},
        {"name": "sql", "id": "b", "arguments": "select 1"},
    ]
    assert reading.reading["builtin_tool_calls"] == ["web_search_call"]
    assert (reading.text, reading.reasoning_text) == ("", "hm")
    assert reading.normalised["ttft_us"] == 3000


def test_items_that_the_end_repeats_count_once() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    message = {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}
    end = state("completed", "completed", usage=USAGE, output=[call, message])
    reading = sse(PATH, CREATED, item("added", 0, **call), item("done", 0, **call), delta("output_text", "hi", 1), end)
    assert (reading.reading["tool_calls"], reading.text) == (["f"], "hi")


def test_one_who_joins_late_reads_the_end() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    reading = sse(PATH, state("completed", "completed", usage=USAGE, output=[message, call]))
    assert (reading.text, reading.reading["tool_calls"]) == ("hi", ["f"])
    assert reading.normalised["ttft_us"] is None


def test_a_refusal_is_no_text() -> None:
    reading = sse(PATH, CREATED, delta("refusal", "No."), COMPLETED)
    assert (reading.text, reading.normalised["refusal"]) == ("", "No.")
    message = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    assert plain(PATH, state("x", "completed", output=[message])["response"]).normalised["refusal"] == "No."


def test_what_came_before_the_end_is_not_told_again_by_it() -> None:
    picture = {"id": "ig", "type": "image_generation_call", "status": "completed", "result": "AA"}
    done = {"type": "response.output_item.done", "output_index": 0, "item": picture}
    end = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [picture]}}
    assert sse("/v1/responses", done, end).reading["builtin_tool_calls"] == ["image_generation_call"]
    refused = {"type": "message", "content": [{"type": "refusal", "refusal": "No"}]}
    piece = {"type": "response.refusal.delta", "output_index": 0, "delta": "No"}
    end = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [refused]}}
    assert sse("/v1/responses", piece, end).normalised["refusal"] == "No"


def test_a_message_without_pieces_is_told_by_its_item() -> None:
    message = {"id": "m", "type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    done = {"type": "response.output_item.done", "output_index": 0, "item": message}
    end = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}}
    piece = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"}
    assert sse("/v1/responses", done, end).text == "Hi"
    assert sse("/v1/responses", piece, done, end).text == "Hi"


def test_a_failed_response_tells_its_error_also_without_a_stream() -> None:
    response = state("x", "failed", error={"code": "server_error", "message": "oops"})["response"]
    reading = plain(PATH, response)
    assert (reading.reading["is_error"], reading.normalised["error"], reading.reading["error_code"]) == (
        True,
        "oops",
        "server_error",
    )


def test_an_error_event_has_its_fields_at_the_top() -> None:
    reading = sse(PATH, CREATED, {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None})
    told = reading.normalised
    assert (told["error"], told["error_code"], told["complete"]) == ("slow down", "rate_limit_exceeded", False)


def test_deletion_and_counting_generate_nothing() -> None:
    deleted = plain("/v1/responses/resp_1", {"id": "resp_1", "object": "response.deleted", "deleted": True})
    assert deleted.reading["api"] == "openai.responses_other"
    assert deleted.reading["text_sha256"] is None
    counted = plain("/v1/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": 11})
    assert (counted.reading["counted_tokens"], counted.normalised["input"], counted.normalised["output"]) == (11, 11, 0)


def test_a_compaction_is_counted_and_says_nothing() -> None:
    counts = {"input_tokens": 139, "output_tokens": 438, "output_tokens_details": {"reasoning_tokens": 64}, "total_tokens": 577}
    answer = {"id": "resp_c", "object": "response.compaction", "output": [{"type": "compaction"}], "usage": counts}
    reading = plain("/v1/responses/compact", answer, asked={"model": "gpt-x", "input": []})
    assert (reading.reading["api"], reading.reading["model"], reading.reading["text_sha256"]) == (
        "openai.responses_other",
        "gpt-x",
        None,
    )
    assert (reading.normalised["input"], reading.normalised["output"], reading.normalised["reasoning"]) == (139, 438, 64)


def socket(path: str, *events: dict[str, Any], client: dict[str, Any] | None = None) -> Reading:
    reader = Reader(ask(path, method="GET"), 101, [("Upgrade", "websocket")])
    if client is not None:
        reader.client_event(Event(json.dumps(client).encode()))
    for number, event in enumerate(events):
        reader.event(Event(json.dumps(event).encode(), "", number * 1000))
    return reader.finish(True, "websocket")


def test_responses_of_one_socket_add_up() -> None:
    second = [
        state("created", "in_progress", "r2"),
        delta("output_text", "b"),
        state("completed", "completed", "r2", usage=USAGE),
    ]
    reading = socket(
        PATH, CREATED, delta("output_text", "a"), COMPLETED, *second, client={"type": "response.create", "model": "asked"}
    )
    told = reading.normalised
    assert (told["input"], told["cached"], told["output"], reading.text) == (20, 4, 8, "ab")
    assert (told["id"], told["model"], told["complete"], told["ttft_us"]) == ("r2", "m", True, 1000)


def test_a_client_names_the_model() -> None:
    assert socket(PATH, client={"type": "response.create", "response": {"model": "asked"}}).normalised["model"] == "asked"
    assert socket("/v1/realtime?model=gpt-realtime").normalised["model"] == "gpt-realtime"


def test_realtime_speaks_and_counts() -> None:
    usage = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10, "input_token_details": {"cached_tokens": 5}}
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    reading = socket(
        "/v1/realtime?model=gpt-realtime",
        {"type": "session.created", "session": {"model": "gpt-realtime"}},
        {"type": "response.created", "response": {"id": "r", "object": "realtime.response", "status": "in_progress"}},
        {"type": "response.output_audio_transcript.delta", "delta": "hi"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "hello"},
        item("added", 1, **{**call, "arguments": ""}),
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
        item("done", 1, **call),
        {
            "type": "response.done",
            "response": {"id": "r", "object": "realtime.response", "status": "completed", "usage": usage},
        },
    )
    told = reading.normalised
    assert reading.reading["api"] == "openai.realtime"
    assert (told["input"], told["cached"], told["output"], told["finish_reason"]) == (20, 5, 10, "completed")
    assert (reading.text, reading.reading["tool_calls"], told["complete"], told["ttft_us"]) == ("hello", ["f"], True, 2000)
