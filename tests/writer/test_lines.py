"""JSONL for people: every jq line of the format's own documentation works on it, and every line gives its record back."""

import gzip
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from needs import needs_tool

from llmdump import jsonl, lines, record
from llmdump.lines import Converter
from llmdump.seekable import zstd
from llmdump.segment import Located
from tests.writer.traffic import ANSWER, CHAT, REFUSED, Tape, compact, pretty, realistic


def convert(records: Iterable[bytes], converter: Converter | None = None) -> bytes:
    """A JSONL file of these records."""
    converter = converter or Converter()
    parts = [converter.begin_file(1.0, {"x_segment": 1})]
    for one in records:
        parts += converter.lines(record.decode(one))
    return b"".join(parts)


def parsed(content: bytes) -> list[dict[str, Any]]:
    """The lines as objects."""
    return [orjson.loads(line) for line in content.splitlines()]


def of(content: bytes, direction: str) -> list[dict[str, Any]]:
    """The lines of one direction."""
    return [line for line in parsed(content) if line["direction"] == direction]


MESSAGES = compact(CHAT["messages"]).decode()
USAGE = "9 completion:2 total:11"
JQ = [
    ("""jq -r 'select(.direction=="outbound_request") | .backend' FILE | sort | uniq -c""",
     ["1 anthropic", "5 openai"]),
    ("""jq -r 'select(.direction=="outbound_request") | .payload.messages[]? | select(.role=="user") | .content' FILE""",
     ["Héllo?", "Héllo?", "Héllo?", "Count", "Héllo?"]),
    ("""jq 'select(.direction=="inbound_response" and (.payload.error or .payload.choices == null))' FILE """
     """| jq -c .payload""",
     ['{"error":{"type":"rate_limit_error","message":"slow down"}}', '{"value":["not","an object"]}']),
    ("""jq -r 'select(.direction=="inbound_response" and .payload.usage) | """
     """"\\(.model) \\(.payload.usage.total_tokens // (.payload.usage.prompt_tokens + """
     """.payload.usage.completion_tokens))"' FILE""",
     ["gpt-4o 11", "gpt-4o 11"]),
    ("""jq -r 'select(.direction=="stream_chunk") | .session_id' FILE | sort | uniq -c""",
     ["3 connection-3", "2 connection-4"]),
    ("""jq 'select(.direction=="stream_end" and .metadata.error)' FILE | jq -r .session_id""",
     ["connection-4"]),
    ("""jq -r 'select(.direction=="outbound_request") | .payload.messages' FILE | jq -c .""",
     [*[MESSAGES] * 4, '[{"role":"user","content":"Count"}]', "null"]),
    ("""jq -r 'select(.direction=="inbound_response" and .payload.usage) | "\\(.timestamp_iso) \\(.model) """
     """prompt:\\(.payload.usage.prompt_tokens) completion:\\(.payload.usage.completion_tokens) """
     """total:\\(.payload.usage.total_tokens)"' FILE""",
     ["2025-01-10T15:58:41.093750+00:00 gpt-4o prompt:" + USAGE, "2025-01-10T15:58:41.218750+00:00 gpt-4o prompt:" + USAGE]),
    ("""jq -r 'select(.direction=="inbound_response" and .payload.error)' FILE | jq -r .session_id""",
     ["connection-5"]),
    ("""jq -r 'select(.direction=="inbound_response" and .payload.error) | .payload.error.type' FILE | sort | uniq -c""",
     ["1 rate_limit_error"]),
    ("""jq -r 'select(.direction=="inbound_response") | "\\(.session_id) \\(.timestamp_unix)"' FILE""",
     ["connection-1 1736524721.09375", "connection-2 1736524721.21875", "connection-5 1736524721.546875",
      "connection-6 1736524721.625"]),
    ("""jq -r 'select(.direction=="stream_chunk") | "\\(.session_id) \\(.timestamp_unix)"' FILE | cut -d' ' -f1""",
     ["connection-3", "connection-3", "connection-3", "connection-4", "connection-4"]),
]  # fmt: skip
"""Every jq line of the format's documentation (and a second jq where it prints over several lines), and its output."""


@pytest.mark.parametrize(("command", "expected"), JQ, ids=[str(n) for n in range(len(JQ))])
def test_every_documented_jq_line_works(tmp_path: Path, command: str, expected: list[str]) -> None:
    needs_tool("jq")
    file = tmp_path / "w0-00000001.jsonl"
    file.write_bytes(convert(realistic().records))
    shell = ["bash", "-o", "pipefail", "-c", command.replace("FILE", str(file))]
    told = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert sorted(line.strip() for line in told.stdout.splitlines()) == sorted(expected)


def test_every_record_comes_back_and_no_derived_line_does() -> None:
    tape = realistic()
    found = list(jsonl.scan(convert(tape.records), closed=True))
    assert all(isinstance(one, Located) for one in found)
    assert [one.record for one in found if isinstance(one, Located)] == [record.decode(one) for one in tape.records]


def test_the_directions_of_a_plain_and_of_a_streamed_exchange() -> None:
    directions = [line["direction"] for line in parsed(convert(realistic().records))]
    plain = ["inbound_request", "outbound_request", "request_forwarded", "response_head", "inbound_response", "exchange_end"]
    assert directions[:8] == ["system_init", "proxy_start", *plain]
    in_parts = [
        "inbound_request", "request_chunk", "outbound_request", "request_chunk", "request_forwarded", "response_head",
        "response_chunk", "inbound_response", "response_chunk", "exchange_end",
    ]  # fmt: skip
    assert directions[8:18] == in_parts
    streamed = ["inbound_request", "outbound_request", "request_forwarded", "stream_start", *["stream_chunk"] * 3, "stream_end"]
    assert directions[18:26] == streamed
    assert directions[-1] == "proxy_end"


def test_lines_say_who_when_and_which_model() -> None:
    content = convert(realistic().records)
    [first, *_] = of(content, "outbound_request")
    assert first["source"] == "127.0.0.1(OpenAI/Python 1.2)" and first["destination"] == "openai"
    assert first["model"] == "gpt-4o" and first["key_name"] == "0123456789abcdef" and first["session_id"] == "connection-1"
    assert first["payload"] == CHAT and first["content_type"] == "json" and first["content_length"] == len(compact(CHAT))
    metadata = first["metadata"]
    assert metadata["client_host"] == "127.0.0.1" and metadata["user_agent"] == "OpenAI/Python 1.2"
    assert metadata["request_id"] == metadata["rid"] == "01900000-0000-7000-8000-000000000001"
    sequences = [line["sequence"] for line in parsed(content)]
    assert sequences == list(range(1, len(sequences) + 1))
    [cut] = [line for line in of(content, "stream_end") if line["metadata"].get("error")]
    assert cut["metadata"]["error"] == "upstream_closed: reset" and cut["model"] == "claude-3"


def test_all_lines_have_the_same_14_keys() -> None:
    shapes = {tuple(line) for line in parsed(convert(realistic().records))}
    assert len(shapes) == 1 and len(next(iter(shapes))) == 14
    for line in parsed(convert(realistic().records)):
        assert {"client_host", "user_agent", "request_id"} <= set(line["metadata"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (compact(ANSWER), ANSWER),
        (pretty(ANSWER), ANSWER),
        (pretty(ANSWER).replace(b"\n", b"\r\n"), ANSWER),
        (b"\n" + compact(ANSWER) + b"\n", ANSWER),
        (b"[1, 2]", {"value": [1, 2]}),
        (b'"text"', {"value": "text"}),
        (b"null", {"value": None}),
        (b"<html>\r\n", {"text": "<html>\r\n"}),
        (b"\xff\x00", {"encoding": "base64", "data": "/wA="}),
        (b'{"a":' * 150 + b"1" + b"}" * 150, {"text": ('{"a":' * 150) + "1" + "}" * 150}),
        (b'{"id": 123456789012345678901}', {"id": 123456789012345678901}),
    ],
)
def test_a_whole_body_is_always_an_object(body: bytes, expected: dict[str, Any]) -> None:
    import json

    tape = Tape()
    tape.exchange(1, "/v1/x", [body], [body[:1], body[1:]])
    content = convert(tape.records)
    lines_found = [json.loads(line) for line in content.splitlines()]
    for direction in ("outbound_request", "inbound_response"):
        [found] = [line for line in lines_found if line["direction"] == direction]
        assert found["payload"] == expected
    assert len(list(jsonl.scan(content, closed=True))) == len(tape.records)


RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body", "decoded"),
    [
        ("gzip", gzip.compress(compact(ANSWER)), True),
        ("x-gzip", gzip.compress(compact(ANSWER)), True),
        ("deflate", zlib.compress(compact(ANSWER)), True),
        ("zstd", zstd.compress(compact(ANSWER)), True),
        ("identity", compact(ANSWER), True),
        ("br", b"\x8b\x02\x80hello\x03", False),
        ("gzip", b"\xff not gzip", False),
        ("gzip", gzip.compress(compact(ANSWER))[:-5], False),
        ("zstd", zstd.compress(compact(ANSWER))[:-5], False),
        ("gzip", gzip.compress(bytes(lines.BODY_BYTES_MAX + 1)), False),
    ],
)
def test_content_encodings_are_undone_in_derived_lines_only(encoding: str, body: bytes, decoded: bool) -> None:
    tape = Tape()
    tape.exchange(1, "/v1/x", [b"{}"], [body], fields=f"Content-Encoding: {encoding}\r\n")
    content = convert(tape.records)
    [found] = of(content, "inbound_response")
    if decoded:
        assert found["payload"] == ANSWER and found["content_length"] == len(body)
    else:
        assert found["payload"]["encoding"] == "base64"
    assert [one.record.data for one in jsonl.scan(content) if isinstance(one, Located) and one.record.direction == 3][
        -1
    ] == body


def test_a_body_beyond_the_limit_is_not_put_together_and_says_so() -> None:
    tape = Tape()
    half = b"x" * (lines.BODY_BYTES_MAX // 2 + 1)
    tape.exchange(1, "/v1/x", [half, half], [b"{}"])
    content = convert(tape.records)
    assert of(content, "outbound_request") == []
    assert str(lines.BODY_BYTES_MAX) in of(content, "request_chunk")[-1]["metadata"]["note"]
    assert len(list(jsonl.scan(content, closed=True))) == len(tape.records)


def test_memory_for_bodies_is_bounded_over_all_exchanges() -> None:
    import tracemalloc

    converter, part = Converter(), b"x" * (12 * 1024 * 1024)
    upload = Tape()
    upload.exchange(1, "/v1/x", [part, b"y"], None)
    head, first, last = (record.decode(one) for one in upload.records[1:4])
    notes = []
    tracemalloc.start()
    for number in range(20):
        for one in (head, first):
            one.exchange = f"01900000-0000-7000-8000-{number:012d}"
            one.data = part[:-1] + b"z" if one is first else one.data  # a body of its own
            converter.lines(one)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for number in range(20):
        last.exchange = f"01900000-0000-7000-8000-{number:012d}"
        notes.append(b"too many bodies" in converter.lines(last)[-1])
    assert held_bytes < lines.BODIES_BYTES_MAX + 2 * len(part)
    assert notes == [False] * 10 + [True] * 10


def test_exchanges_that_never_end_are_forgotten_oldest_first() -> None:
    converter, tape, noted = Converter(), Tape(), []
    tape.exchange(1, "/v1/x", [b"[1", b"]"], None)
    head, first, last = (record.decode(one) for one in tape.records[1:4])
    for number in range(lines.OPEN_EXCHANGES_MAX + 50):
        for one in (head, first):
            one.exchange = f"01900000-0000-7000-8000-{number:012d}"
            converter.lines(one)
    for number in (0, 48, 52, lines.OPEN_EXCHANGES_MAX + 49):
        last.exchange = f"01900000-0000-7000-8000-{number:012d}"
        noted.append(b"is not known here" in converter.lines(last)[-1])
    assert noted == [True, True, False, False]


def test_an_exchange_whose_beginning_is_unknown_is_still_exact() -> None:
    for begin in range(1, len(realistic().records)):
        records = realistic().records[begin:]
        content = convert(records)
        found = [one.record for one in jsonl.scan(content, closed=True) if isinstance(one, Located)]
        assert found == [record.decode(one) for one in records]


def test_a_record_that_comes_again_after_a_failed_write_is_not_put_together_twice() -> None:
    converter = Converter()
    tape = Tape()
    whole = pretty(CHAT)
    exchange = tape.exchange(1, "/v1/x", [whole[:20], whole[20:]], [b"{}"])
    for one in tape.records[:3]:
        converter.lines(record.decode(one))
    converter.forget([exchange])
    again = convert(tape.records, converter)
    assert [line["payload"] for line in of(again, "outbound_request")] == [CHAT]


def test_a_body_cut_off_is_shown_as_far_as_it_came() -> None:
    tape = Tape()
    tape.exchange(1, "/v1/x", [b"{}"], [b'{"half":'], end="upstream_closed")
    [found] = of(convert(tape.records), "inbound_response")
    assert found["payload"] == {"text": '{"half":'} and found["metadata"]["error"] == "upstream_closed: reset"


def test_requests_and_responses_without_a_body_have_a_line_with_null() -> None:
    tape = Tape()
    tape.exchange(1, "/v1/x", [], [], status=204, method="DELETE")
    content = convert(tape.records)
    assert [line["payload"] for line in of(content, "outbound_request") + of(content, "inbound_response")] == [None, None]


@pytest.mark.parametrize(
    ("path", "asked", "response", "model"),
    [
        ("/v1/chat/completions", compact(CHAT), compact(ANSWER), "gpt-4o"),
        ("/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse", b'{"contents":[]}', b"{}", "gemini-2.0-flash"),
        ("/v1/x", b'{"a":1}', compact(ANSWER), "gpt-4o-2024"),
        ("/v1/x", b'{"model":5}', b"{}", "unknown"),
        ("/v1/x", b'{"messages":[],"model":"m\xc3\xa9"', b"{}", "mé"),
    ],
)
def test_the_model_is_that_of_the_request_else_of_the_response(path: str, asked: bytes, response: bytes, model: str) -> None:
    tape = Tape()
    tape.exchange(1, path, [asked], [response])
    assert of(convert(tape.records), "exchange_end")[0]["model"] == model


def test_bodies_that_capture_rules_cut_are_no_whole_bodies() -> None:
    tape = Tape()
    exchange = "01900000-0000-7000-8000-000000000009"
    tape.put(0, "head", b"POST /x HTTP/1.1\r\nContent-Length: 500\r\n\r\n", {"x_peer": "[::1]:5"}, exchange, {})
    tape.put(0, "chunk", b"{}", {"ci": 1, "x_cut": 500, "x_z": True}, exchange, {})
    content = convert(tape.records)
    [found] = of(content, "outbound_request")
    assert "capture rules" in found["metadata"]["note"] and "x_n" not in found["metadata"]
    assert found["metadata"]["client_host"] == "::1"


def test_an_error_answer_of_a_backend_is_found_as_one() -> None:
    [refused] = [line for line in of(convert(realistic().records), "inbound_response") if (line["payload"] or {}).get("error")]
    assert refused["payload"] == REFUSED
