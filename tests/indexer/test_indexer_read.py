"""What the bodies say is in the row, in the sessions, in the sums and in the full text, however it was read."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from made import Instance, append, begin_segment, exchange, new_id

from llmdump.data_dir import DataDir
from llmdump_indexer.absorb import KEPT_OF_ONE_BYTES_MAX, SORTED_BYTES_MAX
from llmdump_indexer.follow import Follower

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60}}


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


def asked(*said: str, **more: Any) -> bytes:
    """A chat request: what user and assistant said in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(said)]
    return json.dumps({"model": "gpt-4o", "messages": messages, **more}).encode()


def streamed(*words: str) -> tuple[bytes, ...]:
    """The chunks of a chat stream with usage at its end."""
    events: list[Any] = [{"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    events.append({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [], "usage": USAGE})
    return (*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events), b"data: [DONE]\n\n")


def stream(
    instance: Instance, number: int, *said: str, answer: tuple[str, ...] = ("Hello", " there"), **given: Any
) -> Iterator[bytes]:
    return exchange(
        instance, new_id(number), asked(*said, stream=True), streamed(*answer), content_type="text/event-stream", **given
    )


def indexed(data: DataDir, *exchanges: Iterator[bytes]) -> Path:
    path = begin_segment(data)
    for records in exchanges:
        append(path, b"".join(records))
    Follower(data, lost_after_s=0.0).catch_up()
    return path


def rows(data: DataDir, statement: str = "SELECT * FROM trace ORDER BY id") -> list[dict[str, Any]]:
    db = apsw.Connection(str(data.index))
    try:
        cursor = db.execute(statement)
        return [dict(zip([column[0] for column in cursor.get_description()], row, strict=True)) for row in cursor]
    finally:
        db.close()


def test_a_stream_is_read_into_its_row(data: DataDir) -> None:
    indexed(data, stream(Instance(), 1, "What is Rust?"))
    (row,) = rows(data)
    want = {
        "provider": "openai", "backend": "openai", "api": "openai.chat", "framing": "sse", "model": "gpt-4o-2024-08-06",
        "model_asked": "gpt-4o", "prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": 60, "input_tokens": 100,
        "input_uncached_tokens": 40, "cache_read_tokens": 60, "output_tokens": 20, "total_tokens": 120,
        "finish_reason": "stop", "response_id": "chatcmpl-1", "complete": 1, "cut_by": None, "event_count": 5,
        "error_type": None, "problem": None, "prefix_len": 1, "parent_id": None, "depth": 0, "stream": 1,
        "ttft_us": 4000, "last_token_us": 5000, "gap_worst_us": 1000,
    }  # fmt: skip
    assert {name: row[name] for name in want} == want
    assert row["cost_nano_usd"] == pytest.approx((40 * 2.5 + 60 * 1.25 + 20 * 10) * 1000)
    assert rows(data, "SELECT prompt, answer FROM turn_text") == [{"prompt": "What is Rust?", "answer": "Hello there"}]
    assert rows(data, "SELECT rowid FROM search WHERE search MATCH 'rust AND hello'") == [{"rowid": 1}]
    (total,) = rows(data, "SELECT requests, input_tokens, priced FROM usage WHERE seconds = 0 AND dimension = ''")
    assert total == {"requests": 1, "input_tokens": 100, "priced": 1}


def test_an_exchange_is_read_when_it_has_ended_and_again_when_it_goes_on(data: DataDir) -> None:
    records = list(stream(Instance(), 1, "hi"))
    path = begin_segment(data)
    append(path, b"".join(records[:6]))
    Follower(data, lost_after_s=1e9).catch_up()
    seen = "SELECT end_reason, api, output_tokens, complete, cut_by FROM trace"
    assert list(rows(data, seen)[0].values()) == [None, None, None, None, None]
    assert rows(data, "SELECT * FROM usage") == rows(data, "SELECT * FROM turn_text") == []
    Follower(data, lost_after_s=0.0).catch_up()
    assert list(rows(data, seen)[0].values()) == ["lost", "openai.chat", None, 0, "proxy"]
    assert rows(data, "SELECT answer FROM turn_text") == [{"answer": "Hello there"}]
    append(path, b"".join(records[6:]))
    Follower(data).catch_up()
    assert list(rows(data, seen)[0].values()) == ["complete", "openai.chat", 20, 1, None]
    ends = "SELECT value, requests FROM usage WHERE seconds = 0 AND dimension = 'end_reason'"
    assert rows(data, ends) == [{"value": "complete", "requests": 1}]


def test_a_stream_that_was_cut_says_by_whom(data: DataDir) -> None:
    instance = Instance()
    records = list(stream(instance, 1, "hi", end="client_closed"))
    indexed(data, iter([*records[:6], records[-1]]))
    (row,) = rows(data)
    assert (row["complete"], row["cut_by"], row["output_tokens"]) == (0, "client", None)


def test_a_conversation_is_a_session(data: DataDir) -> None:
    instance = Instance()
    indexed(
        data,
        stream(instance, 1, "hi"),
        stream(instance, 2, "hi", "Hello there", "more"),
        stream(instance, 3, "hi", "Hello there", "more", "Hello there", "and more"),
        stream(instance, 4, "hi", "Hello there", "something else"),
        stream(instance, 5, "hi", "Hello there", "more", key="cd" * 8),
    )
    links = [(row["parent_id"], row["session_root_id"], row["depth"]) for row in rows(data)]
    assert links == [
        (None, new_id(1), 0), (new_id(1), new_id(1), 1), (new_id(2), new_id(1), 2), (new_id(1), new_id(1), 1),
        (None, new_id(5), 0),
    ]  # fmt: skip
    assert [text["prompt"] for text in rows(data, "SELECT prompt FROM turn_text ORDER BY trace")] == [
        "hi", "more", "and more", "something else", "more",
    ]  # fmt: skip
    (session, _) = rows(data, "SELECT n_turns, input_tokens FROM session ORDER BY n_turns DESC")
    assert session == {"n_turns": 4, "input_tokens": 400}


FACTS = """SELECT api, model, output_tokens, ttft_us, last_token_us, gap_worst_us, event_count, complete, prefix_hash,
    turn_text.answer FROM trace JOIN turn_text ON turn_text.trace = number ORDER BY id"""


@pytest.mark.parametrize("size", [100, KEPT_OF_ONE_BYTES_MAX, SORTED_BYTES_MAX + 1_000_000])
def test_what_is_read_does_not_depend_on_how_often_and_from_where(data: DataDir, tmp_path: Path, size: int) -> None:
    """At once, with the records kept; or in pieces, from rows taken up again, with the records read again."""
    filler = b": " + b"x" * 60_000 + b"\n\n"
    chunks = streamed("one ", "two ", "three")
    chunks = (*chunks[:1], *[filler] * (size // 60_000), *chunks[1:])
    records = list(exchange(Instance(), new_id(1), asked("hi"), chunks, content_type="text/event-stream"))
    indexed(data, iter(records))
    want = rows(data, FACTS)
    assert (want[0]["answer"], want[0]["complete"]) == ("one two three", 1)
    other = DataDir(tmp_path / "other").create()
    cuts = [0, len(records) // 3, len(records) // 2, len(records)]
    for part, (begin, end) in enumerate(itertools.pairwise(cuts), 1):
        append(begin_segment(other, part), b"".join(records[begin:end]))
        Follower(other).catch_up()
    assert rows(other, FACTS) == want


def test_a_body_that_was_not_kept_whole_is_cut_by_the_capture(data: DataDir) -> None:
    instance, id_ = Instance(), new_id(1)
    records = list(stream(instance, 1, "hi"))
    cut = Instance()
    cut.number = 5
    records[5] = cut.record(id_, 3, "chunk", b'data: {"choi', {"sid": "c1", "be": "openai"}, ci=2, x_cut=500)
    indexed(data, iter(records))
    (row,) = rows(data)
    assert (row["end_reason"], row["complete"], row["cut_by"], row["output_tokens"]) == ("complete", 0, "capture", None)


def test_what_two_writers_stored_is_read_in_the_order_of_its_numbers(data: DataDir) -> None:
    records = list(stream(Instance(), 1, "hi", answer=("a", "b", "c", "d")))
    append(begin_segment(data, 1, "w0"), b"".join([*records[:5], *records[7:]]))
    Follower(data, lost_after_s=1e9).catch_up()
    append(begin_segment(data, 1, "w1"), b"".join(records[5:7]))
    Follower(data, lost_after_s=1e9).catch_up()
    (row,) = rows(data, FACTS)
    assert (row["answer"], row["output_tokens"]) == ("abcd", 20)


def test_a_compressed_request_and_answer_are_read(data: DataDir) -> None:
    instance, id_ = Instance(), new_id(1)
    body = json.dumps({"id": "r", "model": "m", "choices": [{"message": {"content": "hey"}}], "usage": USAGE}).encode()
    records = list(
        exchange(
            instance, id_, gzip.compress(asked("hi")), (gzip.compress(body),), response_fields="Content-Encoding: gzip\r\n"
        )
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Encoding: gzip\r\nUser-Agent: curl/8.7.1\r\n\r\n"
    records[0] = Instance().record(id_, 0, "head", head, x_peer="p", x_key="ab" * 8, be="openai")
    indexed(data, iter(records))
    (row,) = rows(data)
    assert (row["output_tokens"], row["client_kind"], row["client_version"], row["prefix_len"]) == (20, "curl", "8.7.1", 1)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[" * 100_000, b'{"model":', b'{"usage":{"prompt_tokens":1e400}}', b'{"usage":[]}']
)
def test_what_cannot_be_read_has_a_row(data: DataDir, body: bytes) -> None:
    indexed(data, exchange(Instance(), new_id(1), body, (body,) if body else ()))
    (row,) = rows(data)
    assert (row["end_reason"], row["api"], row["input_tokens"]) == ("complete", "openai.chat", None)


def test_a_provider_is_told_by_where_it_was_sent_to_not_by_what_the_path_is_like(data: DataDir) -> None:
    sent_to = ("https://api.x.ai", "http://127.0.0.1:11434", "http://10.0.0.1:8000")
    instance = Instance()
    indexed(data, *(stream(instance, number, "Hi", upstream=url) for number, url in enumerate(sent_to, 1)))
    assert [row["provider"] for row in rows(data)] == ["xai", "ollama", "openai"]


def test_an_answer_of_the_proxy_itself_is_not_the_providers(data: DataDir) -> None:
    instance = Instance()
    records = list(exchange(instance, new_id(1)))[:3]
    said = b'HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\r\n{"error":"refused"}'
    records.append(instance.record(new_id(1), 1, "answer", said, sc=502))
    end = {"se": True, "tc": 0, "tb": 0, "x_req": 33, "x_end": "upstream_error", "x_err": "refused", "x_lost": 0}
    records.append(instance.record(new_id(1), 1, "end", b"", x_own=[0, 0, 0], **end))
    indexed(data, iter(records))
    (row,) = rows(data)
    assert (row["status"], row["error_code"], row["complete"], row["cut_by"]) == (502, "refused", 0, "backend")
