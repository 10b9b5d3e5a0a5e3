"""Which requests are taken for the same, at which level."""

import json
from typing import Any

import pytest

from llmdump.reading.exchange import Request
from llmdump_api import alike, no_match
from llmdump_api.alike import asked

CHAT = "/v1/chat/completions"


def request(target: str, body: Any = None, method: str = "POST", content_type: str = "application/json") -> Request:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Request(method, target, fields=[("Content-Type", content_type)], body=data)


def same(one: Request, other: Request) -> str:
    """The first level at which they are the same; empty if at none."""
    mine, theirs = asked(one), asked(other)
    for level in alike.LEVELS:
        keys = [set(alike.keys(each, level, each.path)) for each in (mine, theirs)]
        if keys[0] & keys[1]:
            return level
    return ""


def form(boundary: str, text: bytes = b"words") -> Request:
    line = boundary.encode()
    body = b"--" + line + b'\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + text + b"\r\n--" + line + b"--\r\n"
    return request("/v1/audio/transcriptions", body, content_type=f'multipart/form-data; boundary="{boundary}"')


def chat(**changes: Any) -> Request:
    return request(CHAT, {"model": "m", "messages": [{"role": "user", "content": "hi"}], **changes})


def google(body: Any, query: str = "") -> Request:
    return request(f"/v1beta/models/g:generateContent{query}", body)


PARTS = [{"inlineData": {"mimeType": "image/png", "data": "ab+/"}}, {"text": "what is it?"}]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        (request(CHAT, b'{"a":1.0,"b":[2]}'), request(CHAT, b'{ "b" : [2], "a" : 1 }'), "exact"),
        (form("one"), form("another"), "exact"),
        (form("one"), form("one", b"other words"), "path"),
        (request("/v1/models?b=2&a=1&key=x", method="GET"), request("/v1/models?a=1&b=2&key=y", method="GET"), "exact"),
        (request("/v1/models?a=1", method="GET"), request("/v1/models?a=2", method="GET"), "path"),
        (request("/v1/models/a%3Ab", method="GET"), request("/v1/models/a:b", method="GET"), "exact"),
        (request("/v1/models", method="GET"), request("/v1/models", method="DELETE"), ""),
        (google({"contents": [{"parts": PARTS}]}),
         google({"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "ab-_"}}, PARTS[1]]}]}), "exact"),
        (chat(), chat(temperature=1), "conversation"),
        (chat(), chat(model="n"), "any-model"),
        (chat(), chat(stream=True), ""),
        (chat(), chat(stream=False), "conversation"),
        (chat(), chat(messages=[{"role": "user", "content": "ho"}]), "path"),
        (chat(messages=[{"role": "system", "content": "It is 2026-01-01"}, {"role": "user", "content": "hi"}]),
         chat(messages=[{"role": "system", "content": "It is 2026-11-21"}, {"role": "user", "content": "hi"}]), "conversation"),
        (request("/v1/responses", {"model": "m", "input": "hi", "previous_response_id": "r1"}),
         request("/v1/responses", {"model": "m", "input": "hi", "previous_response_id": "r2"}), "path"),
        (google({"contents": []}), google({"contents": []}, "?alt=sse"), ""),
    ],
)  # fmt: skip
def test_the_level_at_which_requests_are_the_same(one: Request, other: Request, level: str) -> None:
    assert same(one, other) == same(other, one) == level


def test_a_body_nested_too_deep_is_compared_as_it_is() -> None:
    deep = request(CHAT, b"[" * 5000 + b"]" * 5000)
    assert same(deep, deep) == "exact"


def test_paths_lose_a_prefix_that_a_route_takes_off_and_no_other() -> None:
    assert alike.paths("/openai/v1/x", ["/openai", "/demo"]) == ["/openai/v1/x", "/v1/x"]
    assert alike.paths("/openai2/v1/x", ["/openai"]) == ["/openai2/v1/x"]


def test_differences_are_found_where_they_are_and_long_texts_shown_where_they_differ() -> None:
    long = "x" * 500
    found = no_match.differences(asked(chat(a=[1, {"b": long + "1"}])), asked(chat(a=[1, {"b": long + "2"}], c=None)))
    assert [one.at for one in found] == ["a.1.b", "c"]
    assert found[0].asked.endswith('x1"')
    assert found[0].recorded.endswith('x2"')
    assert found[1][1:] == ("absent", "null")
    assert len(no_match.differences(asked(chat(a=list(range(500)))), asked(chat()))) == 1
    assert len(no_match.differences(asked(chat(a=[1] * 500)), asked(chat(a=[2] * 500)))) == no_match.DIFFERENCES_MAX
