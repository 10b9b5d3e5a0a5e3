"""JSONL lines give back the records they were made from, exactly, and tell damage from what is not there yet."""

import math
from collections.abc import Mapping
from typing import Any

import cbor2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump import jsonl, record, segment
from llmdump.jsonl import Line
from llmdump.record import Identity, Record
from llmdump.segment import Damage, Located

INSTANCE = "0123456789abcdef"
EXCHANGE = "01900000-0000-7000-8000-000000000001"


def encoded(data: bytes, meta: Mapping[str, Any], ts: float = 1.5, number: int = 7, direction: int = 3) -> bytes:
    """A record in its CBOR form."""
    extra, count = record.entries(meta)
    identity = Identity(INSTANCE, EXCHANGE, {"sid": "s"})
    return record.encode(ts, direction, number, data, identity, record.kind_entry("chunk"), extra, count)


def line_of(one: Record) -> bytes:
    """The line of a record, with what is for people made up."""
    line = Line(one.ts, 1, "stream_chunk", "a", "b", None, "be", "m", "k")
    people = {"client_host": None, "user_agent": None, "request_id": None}
    return jsonl.encode(line, jsonl.payload_of(one.data), people | jsonl.facts(one))


def both(data: bytes, meta: Mapping[str, Any]) -> tuple[Record, Record]:
    """A record as read from CBOR, and as read from the line made of it."""
    [found] = list(segment.scan(encoded(data, meta)))
    assert isinstance(found, Located)
    line = line_of(found.record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    [again] = list(jsonl.scan(line))
    assert isinstance(again, Located) and again.size == len(line)
    return found.record, again.record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ANYTHING = st.recursive(JSON | st.binary(), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
BODIES = st.binary() | st.text().map(str.encode) | JSON.map(lambda value: repr(value).encode(errors="replace"))
OBJECTS = st.dictionaries(st.text(), st.integers(-5, 5) | st.text(), max_size=5).map(orjson.dumps)


@settings(max_examples=300, deadline=None)
@given(data=BODIES | OBJECTS, meta=st.dictionaries(st.text(max_size=9), ANYTHING, max_size=8))
def test_a_record_read_from_its_line_equals_the_one_read_from_cbor(data: bytes, meta: dict[str, Any]) -> None:
    meta = {key: value for key, value in meta.items() if key not in {"x_l", "x_n", "x_i", "rid", "x_k", "x_c", "sid"}}
    cbor, line = both(data, meta)
    assert line == cbor
    assert {key: type(value) for key, value in line.meta.items()} == {key: type(value) for key, value in cbor.meta.items()}


@pytest.mark.parametrize(
    "key", ["error", "note", "client_host", "user_agent", "request_id", "x_dir", "x_more", "x_n ", "", "ключ"]
)
def test_no_name_of_a_meta_entry_is_taken_for_ours(key: str) -> None:
    cbor, line = both(b"x", {key: "hostile", "x_end": [1, 2.0, None, True, {"a": "b"}]})
    assert line == cbor and line.meta[key] == "hostile"


def test_bytes_and_huge_numbers_in_meta_come_back() -> None:
    meta = {"b": b"\xff\x00", "i": 2**80, "n": -(2**63) - 1, "d": {"k": b"x"}, "inf": math.inf, "m": {1: "int key"}}
    cbor, line = both(b"", meta)
    assert line == cbor and line.meta["m"] == {1: "int key"}


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "text"),
        (b'{"a":1}', "json"),
        (b'{ "a" : 1.0, "a": 1e300, "b": "\\u0000\\u00e9\xc3\xa9" }', "json"),
        (b'{"a":123456789012345678901234567890.10}', "json"),
        (b'{"a":\n1}', "text"),
        (b'{"a":\r1}', "text"),
        (b'{"a":1} ', "text"),
        (b' {"a":1}', "text"),
        (b"[1,2]", "text"),
        (b'{"a":1}{"b":2}', "text"),
        (b'{"a":NaN}', "text"),
        (b'{"a":1e400}', "text"),
        (b'{"a":"\\ud800"}', "text"),
        (b'{"a":"\xff"}', "bytes"),
        (b'{"x_n":1,"x_c":"00000000"}}', "text"),
        (b'{"a":"\x00"}', "text"),
        ("\ufeff{}".encode(), "text"),
        ("data: \u2028 é 😀\r\n\r\n".encode(), "text"),
        (b"\x80", "bytes"),
        (b"\xed\xa0\x80", "bytes"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "text"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "text"),
    ],
)
def test_every_sort_of_body_comes_back_byte_for_byte(data: bytes, content_type: str) -> None:
    assert jsonl.payload_of(data).content_type == content_type
    cbor, line = both(data, {})
    assert line == cbor and line.data == data


def test_a_line_has_the_14_keys_and_shows_the_payload() -> None:
    [found] = list(segment.scan(encoded(b'{"model": "m"}', {"ci": 1}, ts=1736524721.039145)))
    assert isinstance(found, Located)
    line = orjson.loads(line_of(found.record))
    assert list(line) == [
        "timestamp_iso", "timestamp_unix", "sequence", "direction", "source", "destination", "session_id", "backend",
        "model", "key_name", "content_type", "content_length", "payload", "metadata",
    ]  # fmt: skip
    assert line["timestamp_iso"] == "2025-01-10T15:58:41.039145+00:00" and line["timestamp_unix"] == 1736524721.039145
    assert line["payload"] == {"model": "m"} and line["content_length"] == 14
    assert line["metadata"]["ci"] == 1 and line["metadata"]["sid"] == "s"


@pytest.mark.parametrize("ts", [0.0, -1.0, 1e300, 4e9, 1.1, 253402300800.0])
def test_a_time_that_no_calendar_has_is_kept_as_a_number(ts: float) -> None:
    [found] = list(segment.scan(encoded(b"", {}, ts=ts)))
    assert isinstance(found, Located)
    [again] = list(jsonl.scan(line_of(found.record)))
    assert isinstance(again, Located) and again.record == found.record


def test_an_infinite_time_is_written_and_read_without_a_fault() -> None:
    [found] = list(segment.scan(encoded(b"", {}, ts=math.inf)))
    assert isinstance(found, Located)
    [again] = list(jsonl.scan(line_of(found.record)))
    assert isinstance(again, Located) and math.isnan(again.record.ts)


LINES = [line_of(Record(1.0, 0, n, INSTANCE, EXCHANGE, "chunk", b"body %d" % n, {"ci": n})) for n in (1, 2, 3)]
CONTENT = b"".join(LINES)


def numbers(content: bytes, *, closed: bool = False) -> list[int | str]:
    """The record numbers found, `damage` where there is some."""
    found = jsonl.scan(content, closed=closed)
    return [one.record.number if isinstance(one, Located) else "damage" for one in found]


def test_a_torn_line_is_not_yet_a_record() -> None:
    before = len(LINES[0]) + len(LINES[1])
    for size in range(before, len(CONTENT)):
        assert numbers(CONTENT[:size]) == [1, 2]
        last = [3] if size == len(CONTENT) - 1 else [] if size == before else ["damage"]
        assert numbers(CONTENT[:size], closed=True) == [1, 2, *last], "a whole line has its checksum, with its end or without"


def test_a_damaged_line_costs_itself_only() -> None:
    first, second = len(LINES[0]), len(LINES[0]) + len(LINES[1])
    for at in range(first, second - 1):
        for flip in (0x01, 0x80):
            damaged = bytearray(CONTENT)
            damaged[at] ^= flip
            if damaged[at] == 0x0A:
                continue  # the line falls into two, both damaged
            found = list(jsonl.scan(bytes(damaged), 1000))
            assert [type(one) for one in found] == [Located, Damage, Located]
            assert (found[1].offset, found[1].size) == (1000 + first, second - first)


def test_offsets_lead_back_to_the_line() -> None:
    for found in jsonl.scan(CONTENT, 500):
        assert isinstance(found, Located)
        again = list(jsonl.scan(CONTENT[found.offset - 500 :][: found.size]))
        assert isinstance(again[0], Located) and again[0].record == found.record


def test_lines_that_are_no_records_are_passed_over() -> None:
    line = Line(1.0, 1, "outbound_request", "a", "b", None, "be", "m", "k")
    tricky = jsonl.payload_of(b'{"metadata":{"x_n":5},"x_n":5}')
    derived = jsonl.encode(line, tricky, {"client_host": None})
    foreign = (
        b'{"timestamp_unix":1.0,"content_type":"json","payload":{},"metadata":{"client_host":null},"direction":"stream_end"}\n'
    )
    assert numbers(LINES[0] + derived + foreign + LINES[1]) == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00" * 50,
        b"not json",
        b"[]",
        b"{}",
        LINES[0][:-22] + b"}}",  # a record whose checksum was taken away
        LINES[0].replace(b'"text"', b'"else"').rstrip(),
    ],
)
def test_what_is_not_a_line_of_ours_is_damage(line: bytes) -> None:
    assert numbers(LINES[0] + line + b"\n" + LINES[1]) == [1, "damage", 2]


def with_checksum(body: bytes) -> bytes:
    """A line that somebody made with a right checksum."""
    import google_crc32c

    return body + b',"x_c":"%08x"}}\n' % google_crc32c.value(body)


@pytest.mark.parametrize(
    ("payload", "facts"),
    [
        (b'{"encoding":"base64","data":"?"}', b'"x_n":1,"x_i":"","x_k":"","x_dir":0,"rid":""'),
        (b'{"encoding":"base64"}', b'"x_n":1,"x_i":"","x_k":"","x_dir":0,"rid":""'),
        (b"5", b'"x_n":1,"x_i":"","x_k":"","x_dir":0,"rid":""'),
        (b'{"encoding":"base64","data":""}', b'"x_n":1'),
        (b'{"encoding":"base64","data":""}', b'"x_n":1,"x_i":"","x_k":"","x_dir":0,"rid":"","x_more":5'),
        (b'{"encoding":"base64","data":""}', b'"x_n":1,"x_i":"","x_k":"","x_dir":0,"rid":"","x_more":"/w=="'),
    ],
)
def test_a_hostile_line_is_damage_and_never_an_exception(payload: bytes, facts: bytes) -> None:
    body = b'{"timestamp_unix":1.0,"content_type":"bytes","payload":' + payload + b',"metadata":{' + facts
    assert numbers(with_checksum(body)) == ["damage"]


def test_the_cbor_in_x_more_is_readable_by_any_library() -> None:
    facts = jsonl.facts(Record(1.0, 0, 1, INSTANCE, EXCHANGE, "chunk", b"", {"error": b"\x01"}))
    import base64

    assert cbor2.loads(base64.b64decode(facts["x_more"])) == {"error": b"\x01"}
