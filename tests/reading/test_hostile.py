"""What nobody should send: wrong types in every place, deep and huge JSON, halves of characters, endless streams.

A reading is always given, and always one that can be written down.
"""

import copy
import json
import time
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmdump.reading.answer import Answer
from llmdump.reading.exchange import Event, Reading, Request
from llmdump.reading.reader import DIALECTS, Reader
from tests.reading.exchanges import VECTORS, ask, decoded, lines, plain, sse

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/r",
    "/v1/responses/r/cancel",
    "/v1/messages",
    "/v1/complete",
    "/v1/messages/count_tokens",
    "/v1/messages/batches/b/results",
    "/v1beta/models/g:generateContent",
    "/v1beta/models/g:streamGenerateContent",
    "/v1beta/models/g:countTokens",
    "/v1beta/models/g:predict",
    "/v1beta/interactions",
    "/model/m/converse",
    "/model/m/converse-stream",
    "/model/m/invoke",
    "/model/m/invoke-with-response-stream",
    "/model/m/count-tokens",
    "/v1/chat",
    "/v2/chat",
    "/v1/embed",
    "/v1/rerank",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/audio/transcriptions",
    "/v1/moderations",
    "/v1/audio/speech",
    "/v1/realtime",
    "/completion",
    "/infill",
    "/x:rawPredict",
    "/unknown",
]
NAMES = ["", "error", "messageStart", "contentBlockStart", "contentBlockDelta", "messageStop", "metadata", "chunk"]

# What is put where something else was.
WRONG = st.sampled_from(
    [
        None,
        True,
        False,
        -1,
        0,
        1,
        2**63 - 1,
        2**63,
        2**70,
        1.5,
        -0.0,
        1e308,
        "",
        "x",
        "\ud83d",
        "\x00",
        "response.completed",
        [],
        {},
        [[]],
        [None],
        [{}],
        {"a": 1},
        [1, "x", None, {}],
        {"type": []},
        {"name": {}},
        {"text": ["x"]},
        {"function": {"name": [], "arguments": 5}},
    ]
)


def documents() -> list[Any]:
    """What the vectors have in them: bodies and events of all kinds."""
    found: list[Any] = []
    for case in lines(VECTORS):
        body = case.get("body") or decoded(case.get("body_b64")).decode("latin-1")
        for line in [body, *body.replace("\r", "\n").split("\n")]:
            try:
                found.append(json.loads(line.removeprefix("data:")))
            except ValueError:
                continue
    # Of those that have the same places one is enough.
    unlike = {repr(sorted(map(repr, places(document)))): document for document in found + MORE if isinstance(document, dict)}
    return list(unlike.values())


MORE: list[Any] = [
    {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": {"type": "function_call", "name": "f", "call_id": "a", "arguments": "{}"},
    },
    {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
    {
        "type": "response.done",
        "response": {"status": "failed", "status_details": {"error": {"type": "x"}}, "usage": {"input_tokens": 1}},
    },
    {
        "candidates": [
            {"index": 0, "content": {"parts": [{"functionCall": {"name": "f", "args": {}}}, {"executableCode": {"code": "1"}}]}}
        ]
    },
    {
        "output": {
            "message": {
                "content": [{"toolUse": {"name": "f", "toolUseId": "t", "input": {}}}, {"reasoningContent": {"text": "x"}}]
            }
        }
    },
    {"contentBlockIndex": 0, "start": {"toolUse": {"name": "f"}}, "delta": {"toolUse": {"input": "{}"}}, "stopReason": "x"},
    {
        "type": "tool-call-start",
        "index": 0,
        "delta": {"message": {"tool_calls": {"id": "a", "function": {"name": "f", "arguments": "{"}}}},
    },
    {
        "event_type": "stream-end",
        "response": {"response_id": "r", "tool_calls": [{"name": "f", "parameters": {}}], "meta": {"tokens": {}}},
    },
    {
        "interaction": {"id": "i", "steps": [{"content": [{"type": "function_call", "name": "f", "arguments": {}}]}]},
        "delta": {"type": "text"},
    },
    {
        "results": [{"tokenCount": 1, "outputText": "x"}],
        "inputTextTokenCount": 1,
        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 1},
    },
    {"predictions": [{"embeddings": {"statistics": {"token_count": 3}}}]},
    {
        "result": {"message": {"usage": {"input_tokens": 1}, "model": "m"}},
        "errors": [{"code": 1, "message": "x"}],
        "detail": [{"msg": "x"}],
    },
]


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(document)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return changed


DOCUMENTS = documents()


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """An event's data, right but for some values."""
    document = draw(st.sampled_from(DOCUMENTS))
    for _ in range(draw(st.integers(0, 3))):
        found = places(document)
        document = replaced(document, found[draw(st.integers(0, len(found) - 1))], draw(WRONG))
    return json.dumps(document).encode()


def read_all(path: str, data: list[tuple[bytes, str]], status: int | None, framing: str, request: bytes = b"") -> Reading:
    reader = Reader(Request("POST", path, body=request), status, [("Content-Type", "application/json")])
    for number, (each, name) in enumerate(data):
        reader.event(Event(each, name, number))
    return reader.finish(True, framing, "")


def is_sound(reading: Reading) -> bool:
    """All can be written down, counts are counts, and names are names."""
    orjson.dumps([reading.reading, reading.normalised, reading.usage_raw, reading.text, reading.reasoning_text])
    for key in ("input", "output", "cached", "cache_write", "reasoning", "input_uncached", "total"):
        value = reading.normalised[key]
        assert value is None or (type(value) is int and 0 <= value < 2**63), key
    for key in ("model", "id", "error", "refusal"):
        assert reading.normalised[key] is None or isinstance(reading.normalised[key], str), key
    assert all(isinstance(name, str) for name in reading.reading["tool_calls"])
    return True


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(PATHS),
    st.lists(st.tuples(spoiled(), st.sampled_from(NAMES)), max_size=4),
    st.sampled_from([None, 200, 200, 200, 400, 999]),
    st.sampled_from(["sse", "json", "eventstream", "websocket"]),
)
def test_wrong_types_anywhere_never_stop_a_reading(
    path: str, data: list[tuple[bytes, str]], status: int | None, framing: str
) -> None:
    assert is_sound(read_all(path, data, status, framing))


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_type_in_each_place_of_each_document(path: str) -> None:
    for document in DOCUMENTS:
        for place in places(document):
            data = [(orjson.dumps(replaced(document, place, value)), "") for value in ([], {"x": []}, 7)]
            read_all(path, data, 200, "sse")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(PATHS), spoiled())
def test_a_request_may_be_anything(body: bytes, path: str, document: bytes) -> None:
    for each in (body, document, document[: len(document) // 2]):
        assert is_sound(read_all(path, [(b'{"choices":[]}', "")], 200, "json", each))


DEEP = [
    b"[" * 200_000,
    b'{"usage":' * 100_000,
    b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":' + b'{"a":' * 3000 + b"1" + b"}" * 3007,
]


@pytest.mark.parametrize("data", DEEP, ids=["array", "object", "arguments"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/unknown"])
def test_deep_json_is_no_reading_and_no_harm(data: bytes, path: str) -> None:
    assert is_sound(read_all(path, [(data, "")], 200, "json", data))


def test_numbers_of_any_size_are_no_counts() -> None:
    for number in ("9" * 30, "9" * 5000, "1e999", "-1", "NaN", "Infinity", "true", '"12"', "[12]"):
        body = f'{{"id":"c","choices":[],"usage":{{"prompt_tokens":{number},"completion_tokens":3}}}}'.encode()
        reading = read_all("/v1/chat/completions", [(body, "")], 200, "json")
        assert is_sound(reading)
        assert reading.normalised["input"] is None, number


def test_half_characters_are_joined_across_pieces_and_replaced_where_they_stay_alone() -> None:
    pieces = [
        f'{{"id":"c","choices":[{{"index":0,"delta":{{"content":"{half}"}}}}]}}'
        for half in ("a\\ud83d", "\\ude00b", "\\ud83d", "c")
    ]
    reading = sse("/v1/chat/completions", *pieces, "[DONE]")
    assert reading.text == "a😀b�c"
    assert is_sound(reading)
    lone = read_all("/v1/chat/completions", [(b'{"id":"\\ud800","model":"m\\udfff","choices":[]}', "")], 200, "json")
    assert is_sound(lone)
    assert lone.normalised["model"] == "m?"


def test_damaged_utf8_costs_only_the_characters_that_are_damaged() -> None:
    body = b'{"id":"c","choices":[{"index":0,"message":{"content":"a\xffb"},"finish_reason":"stop"}]}'
    assert read_all("/v1/chat/completions", [(body, "")], 200, "json").text == "a�b"


def test_tiny_events_cost_no_memory_of_their_own() -> None:
    data = b'{"id":"c","choices":[{"index":0,"delta":{"content":"ab"}}]}'
    reader = Reader(ask("/v1/chat/completions"), 200, [])
    tracemalloc.start()
    for number in range(20_000):
        reader.event(Event(data, "", number))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_000_000
    assert reader.finish(False, "sse").reading["text_chars"] == 40_000


def test_text_beyond_the_limit_is_hashed_and_counted_but_not_held() -> None:
    from hashlib import sha256

    from llmdump.reading.text import HELD_CHARS_MAX

    piece = "x" * 100_000
    chunks = ({"id": "c", "choices": [{"index": 0, "delta": {"content": piece}}]} for _ in range(60))
    reading = sse("/v1/chat/completions", *chunks)
    assert len(reading.text) == HELD_CHARS_MAX
    assert reading.reading["text_chars"] == 6_000_000
    assert reading.reading["text_sha256"] == sha256(piece.encode() * 60).hexdigest()


def test_a_thousand_calls_and_endless_arguments_are_bounded() -> None:
    from llmdump.reading.answer import ARGUMENTS_CHARS_MAX, CALLS_MAX

    def call(index: int) -> dict[str, Any]:
        tool = {"index": index, "id": f"i{index}", "function": {"name": "f", "arguments": "y" * 5000}}
        return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [tool]}}]}

    reading = sse("/v1/chat/completions", *(call(index) for index in range(3 * CALLS_MAX)))
    assert len(reading.normalised["calls"]) == CALLS_MAX
    assert sum(len(each["arguments"]) for each in reading.normalised["calls"]) <= 4 * ARGUMENTS_CHARS_MAX


def test_arguments_of_a_hundred_thousand_pieces_take_linear_time() -> None:
    """Twice as many pieces take about twice as long, and not four times."""

    def seconds(pieces: int) -> float:
        answer = Answer()
        began = time.process_time()
        for _ in range(pieces):
            answer.call(0, "f", "i", "xyz")
        assert len(answer.calls[0].told()["arguments"] or "") == 3 * pieces
        return time.process_time() - began

    assert min(seconds(200_000) for _ in range(3)) < 20 * min(seconds(20_000) for _ in range(3))


def test_a_usage_of_a_million_keys_is_not_kept() -> None:
    usage = {f"k{number}": number for number in range(20_000)} | {"prompt_tokens": 3}
    reading = plain("/v1/chat/completions", {"choices": [], "usage": usage})
    assert len(reading.usage_raw or {}) <= 256
    assert reading.normalised["input"] == 3


def test_every_dialect_is_in_the_paths_above() -> None:
    asked = [
        ask(path, host=host, method=method) for path in PATHS for host in ("", "api.cohere.com") for method in ("GET", "POST")
    ]
    found = {Reader(request, 200, []).api for request in asked}
    assert set(DIALECTS) <= found


PLAIN = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}]}
CHUNKS = [
    PLAIN,
    {
        **PLAIN,
        "choices": [{"index": 0, "delta": {"content": "b", "reasoning_content": "r"}, "finish_reason": None, "logprobs": None}],
    },
    {**PLAIN, "choices": [{"index": 0, "delta": {"reasoning": "r", "content": None}, "finish_reason": "stop"}], "usage": None},
    {**PLAIN, "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}},
    {
        **PLAIN,
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}}
        ],
    },
    {**PLAIN, "choices": [{"index": 1, "delta": {"content": "other"}}], "error": None, "timings": {"prompt_n": 1}},
    {**PLAIN, "choices": [], "error": {"message": "x"}, "x_groq": {"usage": {"prompt_tokens": 4}}, "type": "error"},
    {**PLAIN, "id": "", "model": "", "choices": [{"delta": {"content": "c", "refusal": "no", "audio": {"transcript": "t"}}}]},
]


@st.composite
def spoiled_chunk(draw: st.DrawFn) -> bytes:
    document: Any = draw(st.sampled_from(CHUNKS))
    found = places(document)
    if draw(st.booleans()):
        document = replaced(document, found[draw(st.integers(0, len(found) - 1))], draw(WRONG))
    return json.dumps(document).encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(spoiled_chunk(), max_size=8))
@example([json.dumps({**PLAIN, "usage": {"prompt_tokens": 2**70, "completion_tokens": 2}}).encode()])
def test_the_short_way_of_reading_chunks_says_the_same_as_the_long_one(chunks: list[bytes]) -> None:
    """An API that is found from an answer goes the long way."""
    data = [(each, "") for each in [json.dumps(PLAIN).encode(), *chunks]]
    short, long = (read_all(path, data, 200, "sse") for path in ("/v1/chat/completions", "/found/later"))
    assert short == long
