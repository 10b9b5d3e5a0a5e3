"""What speaks like OpenAI and is not quite it: chat, completions and their dialects, case by case."""

from typing import Any

from llmdump.reading.exchange import Reading
from tests.reading.exchanges import plain, sse

CHAT = "/v1/chat/completions"


def chat(message: dict[str, Any], finish: str = "stop", **more: Any) -> Reading:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return plain(CHAT, {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], **more})


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def piece(
    index: int | None, name: str | None = None, arguments: str | None = None, identity: str | None = None
) -> dict[str, Any]:
    call: dict[str, Any] = {"function": {}}
    if index is not None:
        call["index"] = index
    if identity:
        call |= {"id": identity, "type": "function"}
    call["function"] = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [call]}


def test_parallel_tool_calls_in_pieces_are_put_together() -> None:
    reading = sse(
        CHAT,
        chunk({"role": "assistant", "content": None}),
        chunk(piece(0, "weather", "", "a")),
        chunk(piece(0, None, '{"city":')),
        chunk(piece(1, "time", "", "b")),
        chunk(piece(0, None, '"Bonn"}')),
        chunk(piece(1, None, "{}")),
        chunk({}, "tool_calls"),
        "[DONE]",
    )
    assert reading.reading["tool_calls"] == ["weather", "time"]
    assert reading.normalised["calls"] == [
        {"name": "weather", "id": "a", "arguments": '{"city":"Bonn"}'},
        {"name": "time", "id": "b", "arguments": "{}"},
    ]
    assert reading.normalised["tool_calls"] == 2
    assert reading.normalised["ttft_us"] == 2000, "a tool's name is generated, a role is not"


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    reading = sse(
        CHAT, chunk(piece(None, "f", "{}", "a")), chunk(piece(None, "g", "{}", "b")), chunk({}, "tool_calls"), "[DONE]"
    )
    assert [call["name"] for call in reading.normalised["calls"]] == ["f", "g"]


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids() -> None:
    reading = sse(CHAT, chunk(piece(0, "f", "{}", "a")), chunk(piece(0, "f", "{}", "b")), chunk({}, "tool_calls"), "[DONE]")
    assert reading.reading["tool_calls"] == ["f", "f"]


def test_a_name_repeated_in_each_piece_of_a_call_is_one_call() -> None:
    reading = sse(CHAT, *(chunk(piece(0, "f", part, "a")) for part in ("{", "}")), chunk({}, "tool_calls"), "[DONE]")
    assert reading.normalised["calls"] == [{"name": "f", "id": "a", "arguments": "{}"}]


def test_only_the_first_choice_is_read_and_all_are_counted() -> None:
    reading = sse(
        CHAT,
        chunk({"content": "B"}, index=1),
        chunk({"content": "A"}),
        chunk(piece(0, "f", "{}"), index=1),
        chunk({}, "length", index=1),
        chunk({}, "stop"),
        "[DONE]",
    )
    assert reading.text == "A"
    assert reading.reading["n_choices"] == 2
    assert reading.reading["finish_reason"] == "stop"
    assert reading.reading["tool_calls"] == []


def test_logprobs_do_not_stand_in_the_way() -> None:
    first = chunk({"content": "hi"})
    first["choices"][0]["logprobs"] = {"content": [{"token": "hi", "logprob": -0.1, "bytes": [104], "top_logprobs": []}]}
    assert sse(CHAT, first, chunk({}, "stop"), "[DONE]").text == "hi"


def test_reasoning_under_any_name_is_not_in_the_text() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        streamed = sse(CHAT, chunk({"content": None, name: "hm"}), chunk({"content": "so"}), chunk({}, "stop"), "[DONE]")
        assert (streamed.text, streamed.reasoning_text) == ("so", "hm"), name
        whole = chat({"content": "so", name: "hm"})
        assert (whole.text, whole.reasoning_text) == ("so", "hm"), name


def test_openrouter_tells_its_reasoning_twice_and_it_counts_once() -> None:
    details = [{"type": "reasoning.text", "text": "hm"}]
    reading = sse(
        CHAT, chunk({"content": "", "reasoning": "hm", "reasoning_details": details}), chunk({"content": "so"}), "[DONE]"
    )
    assert reading.reasoning_text == "hm"
    alone = chat({"content": "so", "reasoning_details": [*details, {"type": "reasoning.summary", "summary": "!"}]})
    assert alone.reasoning_text == "hm!"


def test_content_in_parts_is_joined_without_its_thoughts() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    for reading in (chat({"content": parts}), sse(CHAT, chunk({"content": parts}), "[DONE]")):
        assert (reading.text, reading.reasoning_text) == ("ab", "hm")


def test_a_refusal_is_no_text() -> None:
    reading = chat({"content": None, "refusal": "I cannot."})
    assert (reading.text, reading.normalised["refusal"]) == ("", "I cannot.")
    streamed = sse(CHAT, chunk({"refusal": "I can"}), chunk({"refusal": "not."}), chunk({}, "stop"), "[DONE]")
    assert (streamed.text, streamed.normalised["refusal"]) == ("", "I cannot.")


def test_a_filter_is_a_refusal_by_its_reason() -> None:
    assert chat({"content": ""}, "content_filter").normalised["refusal"] == "content_filter"


def test_speech_is_generated_but_no_text() -> None:
    spoken = {"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "hello"}}
    assert chat(spoken).text == ""
    reading = sse(CHAT, chunk({"role": "assistant"}), chunk({"audio": {"transcript": "hel"}}), chunk({}, "stop"), "[DONE]")
    assert (reading.text, reading.normalised["ttft_us"]) == ("", 2000)


def test_the_old_function_call_is_a_tool_call() -> None:
    reading = sse(
        CHAT,
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
        "[DONE]",
    )
    assert reading.normalised["calls"] == [{"name": "f", "id": None, "arguments": "{}"}]


def test_a_custom_tool_has_an_input() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    assert chat({"content": None, "tool_calls": [call]}).normalised["calls"][0]["arguments"] == "select 1"


def test_azure_filters_beside_a_delta_do_not_stand_in_the_way() -> None:
    first: dict[str, Any] = {"id": "", "model": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    second = chunk({"content": "hi"})
    second["choices"][0]["content_filter_results"] = {"hate": {"filtered": False}}
    offset = chunk({}, None)
    offset["choices"][0] |= {"content_filter_offsets": {"check_offset": 1}}
    reading = sse("/openai/deployments/d/chat/completions?api-version=1", first, second, offset, chunk({}, "stop"), "[DONE]")
    assert (reading.text, reading.reading["model"], reading.reading["response_id"]) == ("hi", "m", "c")


def test_perplexity_sends_the_whole_message_beside_each_delta() -> None:
    def both(delta: str, whole: str, finish: str | None = None) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": delta},
            "message": {"content": whole},
            "finish_reason": finish,
        }
        return {"id": "c", "object": "chat.completion", "model": "sonar", "choices": [choice]}

    assert sse(CHAT, both("Hel", "Hel"), both("lo", "Hello"), both("", "Hello", "stop")).text == "Hello"


def test_counts_of_an_error_in_a_stream_are_kept() -> None:
    reading = sse(
        CHAT,
        chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": 1}),
        {"error": {"message": "no more", "type": "server_error", "code": 502}},
    )
    told = reading.normalised
    assert (told["input"], told["output"], told["complete"], told["error"]) == (5, 1, False, "no more")
    assert (told["error_type"], told["error_code"]) == ("server_error", "502")
    assert reading.reading["is_error"]


def test_openrouter_finishes_with_an_error_in_a_choice() -> None:
    failed = chunk({"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"})
    reading = sse(CHAT, chunk({"content": "a"}), failed)
    assert (reading.text, reading.normalised["error"], reading.normalised["complete"]) == ("a", "Provider disconnected", False)


def test_a_cut_stream_is_not_complete() -> None:
    assert sse(CHAT, chunk({"content": "a"}), complete=False).normalised["complete"] is False
    assert sse(CHAT, chunk({"content": "a"})).normalised["complete"] is False
    ended = [chunk({"content": "a"}), chunk({}, "stop")]
    assert sse(CHAT, *ended).normalised["complete"] is True, "some never send [DONE]"
    assert sse(CHAT, *ended, complete=False).normalised["complete"] is False
    assert sse(CHAT, *ended, "[DONE]", complete=False).normalised["complete"] is True, "many clients leave at [DONE]"


def test_litellm_tells_the_cache_in_anthropics_words_but_inside_the_prompt() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}
    told = chat({"content": "a"}, usage=usage).normalised
    assert (told["input"], told["input_uncached"], told["cached"], told["cache_write"]) == (100, 30, 60, 10)


def test_more_from_the_cache_than_there_was_is_counted_beside() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 90}}
    told = chat({"content": "a"}, usage=usage).normalised
    assert (told["input"], told["input_uncached"], told["cached"]) == (100, 10, 90)


def test_completions_with_several_prompts_and_echoes() -> None:
    choices = [{"index": 0, "text": "a", "finish_reason": "stop"}, {"index": 1, "text": "b", "finish_reason": "length"}]
    reading = plain("/v1/completions", {"id": "c", "model": "m", "choices": choices})
    assert (reading.text, reading.reading["n_choices"], reading.reading["finish_reason"]) == ("a", 2, "stop")


def test_a_model_is_told_by_the_answer_else_by_the_request_else_by_the_path() -> None:
    error = {"error": {"message": "no", "type": "x", "code": None}}
    assert plain(CHAT, {"model": "a", "choices": []}, asked={"model": "b"}).reading["model"] == "a"
    assert plain(CHAT, error, 404, asked={"model": "b"}).reading["model"] == "b"
    assert plain("/openai/deployments/c/chat/completions", error, 404, asked={}).reading["model"] == "c"


def test_paths_behind_any_prefix_are_known() -> None:
    for prefix in ("", "/openai", "/proxy/a/b", "/api/v1/accounts/x/ai", "//openai"):
        assert plain(prefix + CHAT, {"choices": []}).reading["api"] == "openai.chat"


def test_an_unknown_path_is_told_by_its_answer() -> None:
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    reading = plain(
        "/some/route", {"id": "c", "model": "m", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    )
    assert (reading.reading["api"], reading.text, reading.normalised["input"]) == ("openai.chat", "a", 3)
    assert sse("/x", chunk({"content": "a"}), "[DONE]").reading["api"] == "openai.chat"


def test_an_unknown_api_is_read_as_far_as_it_goes() -> None:
    reading = plain("/v9/things", {"id": "t", "model": "m", "usage": {"input_tokens": 4, "output_tokens": 2}})
    assert reading.reading["api"] is None
    assert (reading.normalised["input"], reading.normalised["output"], reading.normalised["id"]) == (4, 2, "t")
    assert reading.normalised["complete"] is True


def test_writers_chat_is_not_coheres() -> None:
    answer = {"id": "c", "model": "palmyra", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
    assert plain("/v1/chat", answer, asked={"messages": []}, host="api.writer.com").reading["api"] == "openai.chat"
    assert plain("/v1/chat", answer).reading["api"] == "openai.chat"
    assert plain("/v1/chat", {"text": "a", "generation_id": "g"}, host="api.cohere.com").reading["api"] == "cohere.chat_v1"
    assert plain("/v1/chat", {"text": "a", "generation_id": "g"}).reading["api"] == "cohere.chat_v1"


def test_images_in_a_stream() -> None:
    usage = {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
    reading = sse(
        "/v1/images/generations",
        {"type": "image_generation.partial_image", "b64_json": "AA=="},
        {"type": "image_generation.completed", "b64_json": "AA==", "usage": usage},
    )
    assert (reading.normalised["input"], reading.normalised["output"], reading.normalised["complete"]) == (5, 9, True)


def test_a_transcript_in_a_stream_has_its_text_beside_the_reading() -> None:
    reading = sse(
        "/v1/audio/transcriptions",
        {"type": "transcript.text.delta", "delta": "hel"},
        {"type": "transcript.text.delta", "delta": "lo"},
        {"type": "transcript.text.done", "text": "hello", "usage": {"type": "tokens", "input_tokens": 4, "output_tokens": 2}},
    )
    assert (reading.text, reading.reading["text_sha256"], reading.normalised["complete"]) == ("hello", None, True)


def test_a_form_names_the_model() -> None:
    from llmdump.reading.exchange import Request
    from tests.reading.exchanges import read

    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
    request = Request("POST", "/v1/audio/transcriptions", "", "", [("Content-Type", "multipart/form-data; boundary=x")], form)
    reading = read(request, 200, [("Content-Type", "application/json")], [b'{"text":"hi"}'])
    assert reading.normalised["model"] == "whisper-1"
    assert reading.reading["model"] is None


def test_a_last_chunk_with_the_whole_message_and_an_empty_delta_says_nothing_twice() -> None:
    last = chunk({}, "stop")
    last["choices"][0]["message"] = {"role": "assistant", "content": "Hello"}
    assert sse(CHAT, chunk({"content": "Hel"}), chunk({"content": "lo"}), last).text == "Hello"


def test_what_a_service_asks_for_it_is_told() -> None:
    for usage in ({"cost": 0.02}, {"cost": {"total_cost": 0.02}}, {"cost_in_usd_ticks": 200_000_000}):
        assert chat({"content": "a"}, usage={"prompt_tokens": 1, **usage}).normalised["cost"] == 0.02


ERRORS: list[tuple[int, dict[str, Any], str, str | None, str | None]] = [
    (400, {"object": "error", "message": "no", "type": "invalid_model", "code": "1500"}, "no", "invalid_model", "1500"),
    (422, {"object": "error", "message": {"detail": [{"loc": ["x"], "msg": "bad"}]}, "type": "t"}, "bad", "t", None),
    (422, {"detail": [{"loc": ["body"], "msg": "a", "type": "missing"}, {"msg": "b"}]}, "a; b", None, None),
    (400, {"success": False, "errors": [{"code": 7003, "message": "no route"}], "result": None}, "no route", None, "7003"),
    (429, {"error": {"message": "quota", "status": "RESOURCE_EXHAUSTED", "code": 429}}, "quota", "RESOURCE_EXHAUSTED", "429"),
    (500, {"error": "boom"}, "boom", None, None),
    (500, {"error": {"error": "boom"}}, "boom", None, None),
    (503, {"unheard": "of"}, "503 Service Unavailable", None, None),
    (499, {}, "499", None, None),
]


def test_errors_in_all_their_shapes() -> None:
    for status, body, message, kind, code in ERRORS:
        told = plain(CHAT, body, status).normalised
        assert (told["error"], told["error_type"], told["error_code"]) == (message, kind, code), body


def test_a_body_that_is_an_error_as_a_whole_has_no_error_object_in_the_reading() -> None:
    told = plain(CHAT, {"object": "error", "message": "no", "type": "invalid_model", "code": "1500"}, 400).reading
    assert (told["is_error"], told["error_type"], told["error_code"]) == (True, None, None)


def test_an_api_is_told_later_if_the_first_events_say_nothing() -> None:
    assert sse("/x", {"hello": 1}, chunk({"content": "a"}), "[DONE]").text == "a"


def test_counts_that_rise_in_every_chunk_are_the_last_ones() -> None:
    rising = [chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": count}) for count in (1, 2, 3)]
    assert sse(CHAT, *rising, chunk({}, "stop"), "[DONE]").normalised["output"] == 3
    assert sse(CHAT, *rising, chunk({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 0})).normalised["input"] == 5


def test_times_are_those_of_tokens() -> None:
    reading = sse(
        CHAT,
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "a"}),
        chunk({"content": "b"}),
        chunk({}),
        chunk({"content": "c"}),
        chunk({}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 5}),
        "[DONE]",
    )
    told = reading.normalised
    assert (told["ttft_us"], told["last_token_us"]) == (2000, 5000)
    assert (told["gap_p50_us"], told["gap_p99_us"], told["gap_worst_us"]) == (1000, 2000, 2000)
    assert told["output_tokens_per_second"] == 4 / 0.003


def test_hidden_reasoning_is_not_in_the_measured_rate() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 105, "completion_tokens_details": {"reasoning_tokens": 100}}
    told = sse(CHAT, chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop", usage=usage)).normalised
    assert told["output_tokens_per_second"] == 4 / 0.001
    assert plain(CHAT, {"choices": [], "usage": usage}).normalised["ttft_us"] is None


def test_speech_in_a_stream_has_its_counts_at_the_end() -> None:
    reading = sse(
        "/v1/audio/speech",
        {"type": "speech.audio.delta", "audio": "AA=="},
        {"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}},
    )
    told = reading.normalised
    assert (told["input"], told["output"], told["complete"], told["ttft_us"]) == (3, 9, True, 1000)
    assert reading.reading["text_sha256"] is None


def test_a_total_that_is_more_than_its_parts_is_believed() -> None:
    usage = {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}
    assert chat({"content": "a"}, usage=usage).normalised["total"] == 109
    assert chat({"content": "a"}, usage={**usage, "total_tokens": 1}).normalised["total"] == 47
    huge = {"prompt_tokens": 2**63 - 1, "completion_tokens": 2**63 - 1}
    assert chat({"content": "a"}, usage=huge).normalised["total"] == 2**63 - 1


def test_mistrals_agents_and_its_filling_in_answer_like_chat() -> None:
    message = {
        "role": "assistant",
        "content": "return a",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    }
    answer = {"id": "a", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    for path in ("/v1/agents/completions", "/v1/fim/completions"):
        reading = plain(path, answer, asked={"prompt": "def f("})
        assert (reading.reading["api"], reading.text, reading.reading["tool_calls"]) == ("openai.chat", "return a", ["f"])
        assert sse(path, chunk({"content": "return"}), chunk({"content": " a"}, "stop"), "[DONE]").text == "return a"


def test_lists_and_deletions_have_no_text() -> None:
    listed = {"object": "list", "data": [{"id": "c", "object": "chat.completion", "model": "m", "choices": []}]}
    deleted = {"object": "chat.completion.deleted", "id": "c", "deleted": True}
    for reading in (plain(CHAT, listed), plain(f"{CHAT}/c", deleted)):
        assert (reading.reading["api"], reading.reading["text_sha256"]) == ("openai.chat", None)
