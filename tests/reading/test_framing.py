"""Bodies to events: the framing is told from the bytes, any split gives the same, and memory has a bound."""

import base64
import gzip
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.framing import EVENTS_AT_ONCE_MAX, Body
from llmdump.seekable import zstd
from tests.reading.pieces import CUTS, each_byte, outcome
from tests.reading.test_eventstream import message

CORPUS = Path(__file__).parents[3] / "shared/corpus/exchanges.jsonl"
ENCODERS = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress}

SSE = b'data: {"a":1}\n\ndata: [DONE]\n\n'
SSE_EVENTS = [b'{"a":1}', b"[DONE]"]
JSON = b'{"a": {"b": [1, 2]}}'
PRETTY = b'{\n  "a": {\n    "b": 1}\n}\n'
LINES = b'{"a":1}\n{"a":2}\n'
ARRAY = b'[{"a":1},\n{"a":2}]\n'
FRAMES = message(b"1") + message(b"2")

CASES = [
    ("text/event-stream", SSE, "sse", SSE_EVENTS),
    ("Text/Event-Stream; charset=UTF-8", SSE.replace(b"\n", b"\r\n"), "sse", SSE_EVENTS),
    ("text/event-stream", b"\xef\xbb\xbf\r\n" + SSE, "sse", SSE_EVENTS),
    ("text/event-stream", b": PROCESSING\n\n", "sse", []),
    ("text/event-stream", b"unknown: field\n" + SSE, "sse", SSE_EVENTS),
    ("application/json", SSE, "sse", SSE_EVENTS),
    ("application/json", b"event: x\n" + SSE, "sse", SSE_EVENTS),
    ("", b":\n\n" + SSE, "sse", SSE_EVENTS),
    ("text/plain", SSE, "sse", SSE_EVENTS),
    ("application/x-ndjson", SSE, "sse", SSE_EVENTS),
    ("text/event-stream", JSON, "json", [JSON]),
    ("text/event-stream", b"<html>gone</html>", "text", [b"<html>gone</html>"]),
    ("text/event-stream", b"Internal Server Error", "text", [b"Internal Server Error"]),
    ("text/event-stream", b"data", "text", [b"data"]),
    ("application/json", JSON, "json", [JSON]),
    ("application/json", JSON + b"\n \n", "json", [JSON + b"\n \n"]),
    ("application/json", b"  \n\n " + JSON, "json", [JSON]),
    ("application/json", PRETTY, "json", [PRETTY]),
    ("application/problem+json", b"\xef\xbb\xbf" + JSON, "json", [JSON]),
    ("application/json", b'"text"', "json", [b'"text"']),
    ("application/json", b"not valid json", "json", [b"not valid json"]),
    ("application/json", b"<html>", "text", [b"<html>"]),
    ("application/json", LINES, "ndjson", [b'{"a":1}', b'{"a":2}']),
    ("application/json", b'{"a":{}\n{"b":1}}', "json", [b'{"a":{}\n{"b":1}}']),
    ("application/json", b'{"a":1}\nx', "json", [b'{"a":1}\nx']),
    ("application/x-ndjson", LINES, "ndjson", [b'{"a":1}', b'{"a":2}']),
    ("application/stream+json", b'{"a":1}', "ndjson", [b'{"a":1}']),
    ("application/x-ndjson", b'{"a":', "ndjson", [b'{"a":']),
    ("application/x-ndjson", PRETTY, "json", [PRETTY]),
    ("application/x-ndjson", b"1\n2", "ndjson", [b"1", b"2"]),
    ("", LINES, "ndjson", [b'{"a":1}', b'{"a":2}']),
    ("application/json", ARRAY, "json_array", [b'{"a":1}', b'{"a":2}']),
    ("application/json", b"[]", "json_array", []),
    ("text/event-stream", ARRAY, "json_array", [b'{"a":1}', b'{"a":2}']),
    ("application/vnd.amazon.eventstream", FRAMES, "eventstream", [b"1", b"2"]),
    ("application/vnd.amazon.eventstream", JSON, "json", [JSON]),
    ("application/vnd.amazon.eventstream", b"garbage" + FRAMES, "eventstream", [b"1", b"2"]),
    ("application/octet-stream", FRAMES, "eventstream", [b"1", b"2"]),
    ("", b"\0\0\0" + b"x" * 20, "binary", []),
    ("", b"\0\0", "binary", []),
    ("application/octet-stream", bytes(range(1, 256)), "binary", []),
    ("", b"gone " + "ü".encode() * 60, "text", [b"gone " + "ü".encode() * 60]),
    ("text/html", b"<html>upstream down</html>", "text", [b"<html>upstream down</html>"]),
    ("text/plain", b" [ERROR] id: no", "text", [b" [ERROR] id: no"]),
    ("text/plain", JSON, "json", [JSON]),
    ("audio/mpeg", JSON, "binary", []),
    ("multipart/form-data; boundary=b", b"--b\r\n", "binary", []),
    ("application/json", b"", "empty", []),
    ("text/event-stream", b" \r\n\n", "empty", []),
]


@pytest.mark.parametrize(("content_type", "body", "framing", "events"), CASES)
def test_the_bytes_tell_the_framing(content_type: str, body: bytes, framing: str, events: list[bytes]) -> None:
    for cuts in ([], each_byte(body), [len(body) - 1], [1, 5]):
        reader = Body(content_type)
        found, problem = outcome(reader, body, cuts)
        assert ([data for data, _, _ in found], reader.framing) == (events, framing), cuts
        assert problem == ("damaged" if body.startswith(b"garbage") else "")


LABELS = st.sampled_from(sorted({content_type for content_type, _, _, _ in CASES}))
STARTS = st.sampled_from(
    [b"", b"{", b"[", b'{"a":1}\n', b"data: ", b"event", b"\xef\xbb\xbf", b"\n", b"\0\0\0", b"id", FRAMES, SSE]
)


@given(LABELS, STARTS, st.binary(max_size=200), CUTS)
def test_any_bytes_in_any_pieces_are_the_same(content_type: str, start: bytes, rest: bytes, cuts: list[int]) -> None:
    whole, cut = Body(content_type, event_bytes_max=100), Body(content_type, event_bytes_max=100)
    assert outcome(whole, start + rest, []) == outcome(cut, start + rest, cuts)
    assert whole.framing == cut.framing


@given(st.sampled_from(CASES), st.lists(st.sampled_from(sorted(ENCODERS)), min_size=1, max_size=2), CUTS)
def test_codings_make_no_difference(case: tuple[str, bytes, str, list[bytes]], codings: list[str], cuts: list[int]) -> None:
    content_type, body, framing, events = case
    coded = body
    for coding in codings:
        coded = ENCODERS[coding](coded)
    reader = Body(content_type, codings)
    found, problem = outcome(reader, coded, cuts)
    assert ([data for data, _, _ in found], reader.framing) == (events, framing)
    assert problem == ("damaged" if body.startswith(b"garbage") else "")


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_cut_coded_stream_gives_its_events_as_far_as_they_came(coding: str) -> None:
    coded = ENCODERS[coding](SSE * 50)
    events, problem = outcome(Body("text/event-stream", [coding]), coded[:-1], [7])
    assert problem == "cut"
    assert coding != "gzip" or len(events) == 100
    assert outcome(Body("text/event-stream", [coding]), coded, [7])[1] == ""


@pytest.mark.parametrize(
    ("codings", "problem"), [(["unheard-of"], "unknown_coding"), (["gzip"], "unknown_coding"), (["identity", ""], "")]
)
def test_a_body_that_is_not_coded_as_it_says_is_read_plain(codings: list[str], problem: str) -> None:
    for cuts in ([], each_byte(JSON)):
        assert outcome(Body("application/json", codings), JSON, cuts) == ([(JSON, "", "text")], problem)


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("filling", [b"data:\n\n", b"{}\n", b" "])
def test_a_bomb_is_stopped_and_flagged(coding: str, filling: bytes) -> None:
    bomb = ENCODERS[coding](b"data: first\n\n" + filling * (3_000_000 // len(filling)))
    body = Body("text/event-stream", [coding], decoded_bytes_max=200_000)
    first, *rest = outcome(body, bomb, [])[0]
    assert first[0] == b"first"
    assert len(rest) <= 200_000 // 7
    assert body.problem == "limit"
    assert body.feed(b"more", 3) == []


def test_a_bomb_of_events_stops_within_one_call() -> None:
    body = Body("application/x-ndjson", ["gzip"])
    events = body.feed(gzip.compress(b"{}\n" + b"1\n" * 4_000_000), 1)
    assert EVENTS_AT_ONCE_MAX < len(events) < EVENTS_AT_ONCE_MAX + 65_536
    assert (body.problem, body.framing, body.feed(b"more", 2), body.finish(3)) == ("limit", "ndjson", [], [])


def test_a_body_beyond_the_limit_is_cut_and_flagged() -> None:
    for content_type, body in (("application/json", b'{"a":"' + b"x" * 100), ("text/html", b"<" + b"x" * 200)):
        assert outcome(Body(content_type, body_bytes_max=50), body, [30, 60]) == ([(body[:50], "", "text")], "limit")


def test_endless_blanks_are_not_held() -> None:
    body = Body("application/json")
    for _ in range(1000):
        assert body.feed(b" " * 10_000, 1) == []
    assert len(body._head) < 20_000
    assert outcome(body, JSON, []) == ([(JSON, "", "text")], "")


def test_any_number_of_tiny_events_takes_linear_time_and_little_memory() -> None:
    def seconds(count: int) -> float:
        body, begun, found = Body("text/event-stream"), time.process_time(), 0
        for _ in range(count // 1000):
            found += len(body.feed(b"event:a\ndata:1\n\n" * 1000, 1))
        assert found == count
        return time.process_time() - begun

    seconds(1000)
    tracemalloc.start()
    small = seconds(20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert small < 5
    assert seconds(400_000) < 30 * seconds(40_000) + 1


@pytest.mark.parametrize(("content_type", "start"), [
    ("text/event-stream", b"data: "), ("text/event-stream", b"data: 1\n: "), ("application/x-ndjson", b"1\n"),
    ("application/json", b'["'), ("application/json", b'{"a":"'),
    ("application/vnd.amazon.eventstream", message(b"x" * 10**7)[:20]),
])  # fmt: skip
def test_an_event_that_never_ends_is_held_up_to_its_limit(content_type: str, start: bytes) -> None:
    body = Body(content_type, event_bytes_max=100_000, body_bytes_max=100_000)
    piece = b"x" * 10_000
    body.feed(start, 1)
    tracemalloc.start()
    for _ in range(300):
        body.feed(bytes(bytearray(piece)), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600_000


LONG = b"x" * 500_000


@pytest.mark.parametrize(("content_type", "event"), [
    ("text/event-stream", b"data: " + LONG + b"\n\n"), ("application/x-ndjson", b'{"a":"' + LONG + b'"}\n'),
    ("application/json", b'["' + LONG + b'"]'), ("application/vnd.amazon.eventstream", message(LONG)),
])  # fmt: skip
def test_one_long_event_in_small_pieces_takes_linear_time(content_type: str, event: bytes) -> None:
    begun = time.process_time()
    assert len(outcome(Body(content_type), event, list(range(0, len(event), 5)))[0]) == 1
    assert time.process_time() - begun < 10


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not beside the checkout")
def test_framing_and_events_of_every_recorded_exchange() -> None:
    for line in CORPUS.read_bytes().splitlines():
        exchange: dict[str, Any] = json.loads(line)
        response = exchange["response"]
        body = base64.b64decode(response["body_b64"])
        content_type = next((value for name, value in response["headers"] if name.lower() == "content-type"), "")
        for cuts in ([], list(range(0, len(body), 7))):
            reader = Body(content_type)
            events, problem = outcome(reader, body, cuts)
            assert (reader.framing, problem) == (exchange["framing"], ""), exchange["id"]
            if exchange["stream"]:
                assert len(events) == exchange["expected"]["event_count"], exchange["id"]
