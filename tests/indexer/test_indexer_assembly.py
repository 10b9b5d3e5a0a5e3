"""Assembly: what each record of an exchange does to its row."""

import gzip
import json
from typing import Any

import pytest
from made import BEGAN_S, Instance, exchange, new_id

from llmdump.assembly import NO_KEY, PATH_CHARS_MAX, Exchange, begin
from llmdump.record import Record, decode
from llmdump.seekable import zstd

ID = new_id(1)


def assembled(records: list[bytes] | list[Record]) -> Exchange:
    decoded = [record if isinstance(record, Record) else decode(record) for record in records]
    row = begin(decoded[0])
    for record in decoded:
        row.apply(record)
    return row


def test_a_whole_exchange_fills_its_row() -> None:
    row = assembled(list(exchange(Instance(), ID, response=(b"12345", b"678"), path="/v1/chat/completions?x=1")))
    assert row == Exchange(
        id=ID, instance="00" * 8, started_us=round(BEGAN_S * 1e6) + 1000, first_record=1, last_record=7,
        ts_end=round(BEGAN_S * 1e3) + 7, client="127.0.0.1:5000", method="POST", path="/v1/chat/completions?x=1",
        route_path="/v1/chat/completions", upstream="http://backend", backend="openai", status=200, end_reason="complete",
        error_code=None, model="gpt-4o", stream=False, key_hash="ab" * 8, req_bytes=33, resp_bytes=8, resp_chunks=2,
        first_byte_us=4000, duration_us=6000, own_first_us=10, own_worst_us=20, own_sum_us=30,
    )  # fmt: skip


def test_an_open_exchange_has_what_came_so_far() -> None:
    records = list(exchange(Instance(), ID, response=(b"12345", b"678")))
    assert [assembled(records[:count]).resp_bytes for count in range(4, 8)] == [0, 5, 8, 8]
    row = assembled(records[:6])
    assert (row.end_reason, row.ts_end, row.duration_us, row.status) == (None, None, None, 200)
    assert (row.req_bytes, row.resp_bytes, row.resp_chunks) == (33, 8, 2)


def test_the_end_knows_what_lost_records_would_have_told() -> None:
    instance = Instance()
    records = list(exchange(instance, ID, response=(b"1", b"2", b"3")))
    row = assembled([records[0], records[-1]])
    assert (row.req_bytes, row.resp_bytes, row.resp_chunks) == (33, 3, 3)


@pytest.mark.parametrize(
    ("reason", "disconnected"),
    [("complete", False), ("client_closed", True), ("upstream_closed", True), ("upstream_error", True),
     ("bad_request", False), ("timeout", True), ("shutdown", True)],
)  # fmt: skip
def test_an_exchange_that_was_cut_off_is_disconnected(reason: str, disconnected: bool) -> None:
    row = assembled(list(exchange(Instance(), ID, end=reason)))
    assert (row.end_reason, row.disconnected) == (reason, disconnected)


def test_a_backend_that_fails_before_it_answers_disconnects_nobody() -> None:
    row = assembled(list(exchange(Instance(), ID, response=(), end="upstream_error")))
    assert (row.end_reason, row.disconnected) == ("upstream_error", False)


@pytest.mark.parametrize(
    ("content_type", "request_stream", "stream"),
    [("text/event-stream; charset=utf-8", None, True), ("application/x-ndjson", None, True),
     ("application/json", None, False), ("application/json", True, True), ("text/event-stream", False, True)],
)  # fmt: skip
def test_stream_is_what_was_asked_for_or_came(content_type: str, request_stream: bool | None, stream: bool) -> None:
    body = json.dumps({"model": "m"} | ({} if request_stream is None else {"stream": request_stream})).encode()
    assert assembled(list(exchange(Instance(), ID, body, content_type=content_type))).stream is stream


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_the_model_is_found_in_a_compressed_request(coding: str, compress: Any) -> None:
    instance, body = Instance(), compress(json.dumps({"input": "x" * 5000, "model": "gpt-5"}).encode())
    head = f"POST /v1/responses HTTP/1.1\r\nContent-Encoding: {coding}\r\n\r\n".encode()
    records = [instance.record(ID, 0, "head", head, x_peer="p", x_key="0" * 16)]
    records += [instance.record(ID, 0, "chunk", body[at : at + 7], ci=1) for at in range(0, len(body), 7)]
    assert assembled(records).model == "gpt-5"


def test_gemini_says_its_model_in_the_path() -> None:
    row = assembled(list(exchange(Instance(), ID, b"{}", path="/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse")))
    assert row.model == "gemini-2.5-pro"


def test_absolute_form_targets_have_a_path() -> None:
    row = assembled(list(exchange(Instance(), ID, path="http://host:80/v1/models?x")))
    assert (row.path, row.route_path) == ("http://host:80/v1/models?x", "/v1/models")


def test_what_a_rule_left_out_is_told_and_its_size_counts() -> None:
    instance = Instance()
    row = assembled([
        instance.record(ID, 0, "head", b"", x_peer="p", x_key="0" * 16, x_rule="sizes/all", x_off=True, x_cut=99),
        instance.record(ID, 0, "chunk", b"", ci=1, x_off=True, x_cut=1000),
        instance.record(ID, 3, "chunk", b"abc", ci=1, x_cut=5000),
    ])  # fmt: skip
    assert (row.captured, row.method, row.path, row.req_bytes, row.resp_bytes) == ("sizes/all", None, None, 1000, 5000)
    assert (row.truncated_req, row.truncated_resp) == (False, True)


def test_a_proxys_own_answer_gives_the_status() -> None:
    instance = Instance()
    records = list(exchange(instance, ID))[:2]
    records.append(instance.record(ID, 1, "answer", b"HTTP/1.1 502 Bad Gateway\r\n\r\n{}", sc=502))
    records.append(instance.record(ID, 1, "end", se=True, tc=0, tb=0, x_req=0, x_end="upstream_error", x_err="refused",
                                   x_own=[0, 0, 0], x_lost=3))  # fmt: skip
    row = assembled(records)
    assert (row.status, row.error_code, row.failure, row.records_lost) == (502, "refused", "refused", 3)


def test_altered_bodies_are_told() -> None:
    instance = Instance()
    assert assembled([instance.record(ID, 0, "chunk", b"***", ci=1, x_alt=True)]).altered


def test_bytes_after_an_upgrade_count() -> None:
    instance = Instance()
    row = assembled([instance.record(ID, 0, "pipe", b"12", ci=1), instance.record(ID, 3, "pipe", b"345", ci=1)])
    assert (row.req_bytes, row.resp_bytes) == (2, 3)


def hostile(kind: str, direction: int, data: bytes = b"", **meta: Any) -> Record:
    return Record(float("nan"), direction, 1, "00" * 8, ID, kind, data, meta)


@pytest.mark.parametrize(
    "record",
    [
        hostile("head", 0, b"\x00\xff" * 50, x_peer=1, be=[], x_key=None, x_rule={}),
        hostile("head", 0, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nContent-Encoding: br, br\r\n\r\n"),
        hostile("head", 3, b"", sc="200"),
        hostile("head", 3, b"no head at all", sc=2**70),
        hostile("forward", 2, x_up="\ud800"),
        hostile("chunk", 0, b"x", x_cut=-1),
        hostile("chunk", 3, b"x", x_cut="big"),
        hostile("end", 1, x_end=None, tb="x", tc=-5, x_own=[1], x_lost=1.5),
        hostile("end", 1, x_own=[1, "2", -3]),
        hostile("nobody knows this kind", 7),
    ],
)
def test_a_malformed_record_makes_no_row_that_the_index_cannot_hold(record: Record) -> None:
    row = assembled([record])
    for name in Exchange.__dataclass_fields__:
        value = getattr(row, name)
        assert not isinstance(value, int) or 0 <= value < 2**63
        assert not isinstance(value, str) or len(value.encode()) <= 4 * PATH_CHARS_MAX
    assert row.started_us == 0
    assert row.key_hash == NO_KEY


def test_a_search_brought_back_goes_on_where_it_was() -> None:
    instance, body = Instance(), b'{"messages":["hello"],"model":"late"}'
    records = list(exchange(instance, ID, body[:20]))
    head, first = decode(records[0]), decode(records[1])
    second = decode(instance.record(ID, 0, "chunk", body[20:], ci=2, x_z=True))
    undisturbed = assembled([head, first, second])
    row = assembled([head, first])
    row.request = None  # as after a restart
    for record in (head, first):
        row.remember(record)
    row.apply(second)
    assert undisturbed.model == "late"
    assert row == undisturbed
