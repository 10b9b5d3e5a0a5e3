"""The 133 cases of how tokens are told, through the framing: as they are, in pieces, with other line ends, coded."""

from typing import Any

import pytest

from llmdump.reading.exchange import Event, Reading, Request
from llmdump.reading.framing import Body
from tests.reading.exchanges import VECTORS, coded, decoded, lines, read

CASES = lines(VECTORS)
STREAMS = [
    case
    for case in CASES
    if "event-stream" in case["content_type"].lower() and case.get("body") and not case["content_encoding"]
]
BODIES = [
    case for case in CASES if case["content_type"] == "application/json" and not case["content_encoding"] and case.get("body")
]
CODINGS = ["gzip", "x-gzip", "deflate", "raw deflate", "br", "zstd", "gzip, br", "identity"]


def body_of(case: dict[str, Any]) -> bytes:
    body = decoded(case["body_b64"]) if case.get("body_b64") else case["body"].encode()
    if case["content_encoding"] and not case.get("sent_plain"):
        body = coded(body, case["content_encoding"], case.get("deflate", "zlib"))
    return body[: len(body) - case.get("cut_bytes", 0)]


def reading_of(case: dict[str, Any], pieces: list[bytes], coding: str | None = None) -> Reading:
    coding = case["content_encoding"] if coding is None else coding
    fields = [("Content-Type", case["content_type"])] + ([("Content-Encoding", coding)] if coding else [])
    target = case["path"] + ("?" + case["query"] if case.get("query") else "")
    return read(Request("POST", target, provider=case["provider"]), case["status"], fields, pieces)


def expect(case: dict[str, Any], reading: Reading) -> None:
    found = {key: reading.normalised.get(key, "missing") for key in case["expected"]}
    assert found == case["expected"], case["name"]


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["name"] for case in cases]


def test_no_case_is_lost() -> None:
    assert len(CASES) == 133
    assert len(STREAMS) > 30 and len(BODIES) > 60


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_a_case_is_told_as_expected(case: dict[str, Any]) -> None:
    expect(case, reading_of(case, [body_of(case)]))


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_a_body_that_comes_byte_by_byte_says_the_same(case: dict[str, Any]) -> None:
    body = body_of(case)
    expect(case, reading_of(case, [body[at : at + 1] for at in range(len(body))]))


@pytest.mark.parametrize("case", STREAMS, ids=ids(STREAMS))
def test_a_stream_cut_in_two_anywhere_gives_the_same_events(case: dict[str, Any]) -> None:
    body = body_of(case)
    whole = events(case, [body])
    for cut in range(1, len(body)):
        assert events(case, [body[:cut], body[cut:]]) == whole, cut


def events(case: dict[str, Any], pieces: list[bytes]) -> list[Event]:
    body = Body(case["content_type"])
    found = [event for piece in pieces for event in body.feed(piece, 1)]
    return found + body.finish(1)


@pytest.mark.parametrize("case", STREAMS, ids=ids(STREAMS))
@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["crlf", "cr"])
def test_a_stream_with_other_line_ends_says_the_same(case: dict[str, Any], end: bytes) -> None:
    body = body_of(case).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", end)
    expect(case, reading_of(case, [body]))


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_body_says_the_same(coding: str) -> None:
    form = "raw" if coding.startswith("raw") else "zlib"
    name = coding.removeprefix("raw ")
    for case in BODIES:
        expect(case, reading_of(case, [coded(body_of(case), name, form)], name))
