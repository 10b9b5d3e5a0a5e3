"""All cases and all recordings through the four processes: client, proxy, files, index, api.

What the functions read from bytes, `/api/traces/{id}` must tell of what crossed a proxy: with other framing, under other
content codings, at a host that says nothing of who serves it, and in a row whose columns agree with it.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e.pipeline import Pipeline
from tests.reading import replay
from tests.reading.exchanges import CORPUS, VECTORS, coded, decoded, lines
from tests.reading.test_vectors import body_of

pytestmark = [pytest.mark.xdist_group("reading-pipeline"), pytest.mark.timeout(180)]

CASES: Final = lines(VECTORS)
EXCHANGES: Final = lines(CORPUS) if CORPUS.exists() else []
CODINGS: Final = ("", "gzip", "br", "zstd", "deflate")
SESSIONS: Final = ("parent_seq", "parent_by")
RECORDED: Final = pytest.mark.skipif(not EXCHANGES, reason="the recordings are not beside this checkout")

# Columns of a row under the keys of what else the answer has.
OF_READING: Final = {
    "provider": "provider", "api": "api", "framing": "framing", "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens", "cached_tokens": "cache_read_tokens",
    "cache_creation_tokens": "cache_write_tokens", "event_count": "event_count", "n_choices": "n_choices",
}  # fmt: skip
OF_NORMALISED: Final = {
    "model": "model", "total_tokens": "total", "input_tokens": "input", "input_uncached_tokens": "input_uncached",
    "cache_read_tokens": "cached", "cache_write_tokens": "cache_write", "output_tokens": "output",
    "reasoning_tokens": "reasoning", "prompt_per_second": "prompt_per_second", "tokens_per_second": "tokens_per_second",
    "output_tokens_per_second": "output_tokens_per_second", "response_id": "id", "complete": "complete",
    "refusal": "refusal", "error_type": "error_type", "error_code": "error_code", "cost_usd": "cost_usd",
}  # fmt: skip
IN_MS: Final = ("ttft", "last_token", "gap_p50", "gap_p99", "gap_worst")


def of_case(case: dict[str, Any]) -> replay.Played:
    """A case, with the codings that it names."""
    fields = [("Content-Type", case["content_type"]), ("Content-Encoding", case["content_encoding"])]
    target = case["path"] + ("?" + case["query"] if case.get("query") else "")
    return replay.Played(
        case["name"], case["name"], "POST", target, [("Content-Type", "application/json")], b"{}", case["status"],
        [(name, value) for name, value in fields if value], body_of(case),
    )  # fmt: skip


def of_recording(number: int, exchange: dict[str, Any]) -> replay.Played:
    """A recorded exchange, under one of the codings."""
    asked, answered = exchange["request"], exchange["response"]
    coding = CODINGS[number % len(CODINGS)]
    fields = [(name, value) for name, value in answered["headers"]] + ([("Content-Encoding", coding)] if coding else [])
    return replay.Played(
        exchange["id"], exchange["cassette"], exchange["method"], exchange["endpoint"],
        [(name, value) for name, value in asked["headers"]], decoded(asked["body_b64"]), answered["status"], fields,
        coded(decoded(answered["body_b64"]), coding),
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the api tells of every case and recording, by its name."""
    exchanges = [*map(of_case, CASES), *(of_recording(number, each) for number, each in enumerate(EXCHANGES))]
    with (
        replay.Backend(exchanges).serving() as backend,
        Pipeline(tmp_path_factory.mktemp("pipeline"), upstream=backend.url) as pipe,
    ):
        replay.play(pipe.proxy, exchanges)
        yield replay.answers(pipe, exchanges)


def differences(name: str, found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [
        f"{name} {key}: {found.get(key, 'missing')!r}, not {value!r}"
        for key, value in expected.items()
        if found.get(key, "missing") != value
    ]


def test_every_case_is_told_as_expected(told: dict[str, Any]) -> None:
    wrong = [line for case in CASES for line in differences(case["name"], told[case["name"]]["normalised"], case["expected"])]
    assert not wrong, "\n".join(wrong)


@RECORDED
@pytest.mark.parametrize("api", sorted({exchange["api"] for exchange in EXCHANGES}))
def test_every_recording_of_an_api_is_told_as_expected(told: dict[str, Any], api: str) -> None:
    wrong = []
    for exchange in (each for each in EXCHANGES if each["api"] == api):
        expected = {key: value for key, value in exchange["expected"].items() if key not in SESSIONS}
        expected |= {key: exchange[key] for key in ("api", "framing", "stream")}
        wrong += differences(exchange["id"], told[exchange["id"]]["reading"], expected)
    assert not wrong, "\n".join(wrong)


@RECORDED
def test_every_recording_goes_on_from_the_one_it_should(told: dict[str, Any]) -> None:
    ids = {(each["cassette"], each["seq"]): told[each["id"]]["row"]["id"] for each in EXCHANGES}
    names = {identity: place for place, identity in ids.items()}
    wrong = []
    for each in EXCHANGES:
        parent = each["expected"]["parent_seq"]
        expected = None if parent is None else ids[(each["cassette"], parent)]
        found = told[each["id"]]["row"]["parent_id"]
        if found != expected:
            wrong.append(f"{each['id']}: {names.get(found)}, not {parent} by {each['expected']['parent_by']}")
    assert not wrong, "\n".join(wrong)


def test_rows_agree_with_readings(told: dict[str, Any]) -> None:
    wrong = []
    for name, answer in told.items():
        row, normalised = answer["row"], answer["normalised"]
        expected = {column: answer["reading"][key] for column, key in OF_READING.items()}
        expected |= {column: normalised[key] for column, key in OF_NORMALISED.items()}
        expected |= {f"{key}_ms": each if (each := normalised[f"{key}_us"]) is None else each / 1000 for key in IN_MS}
        finish = normalised["finish_reason"]
        expected["finish_reason"] = finish if finish is None else str(finish)
        # A stream that was asked for is one in the row, also if it was refused.
        asked = answer["trace"]["req"].get("body")
        expected["stream"] = answer["reading"]["stream"] or (isinstance(asked, dict) and asked.get("stream") is True)
        calls = [{"name": call["name"], "id": call["id"]} for call in normalised["calls"] if call["name"]]
        expected["tool_calls"] = calls or None
        wrong += differences(name, row, expected)
    assert not wrong, "\n".join(wrong)
