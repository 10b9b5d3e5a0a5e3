"""The 45 cases of a capture inspector, by their numbers: what is right, where the one they were found with was wrong."""

import base64
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest

from llmdump import segment
from tests.inspecting import edges, made
from tests.inspecting.running import call, issues
from tests.writer.test_retention import write_segments


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.sample(tmp_path_factory.mktemp("sample") / "sample.cbor")


def edge(tmp_path: Path, name: str) -> Path:
    return edges.file(tmp_path, name)


def numbers(*arguments: object) -> list[int]:
    """The entries that are shown, by their numbers."""
    lines = call(*arguments, "--max-data", 0).after("\nENTRIES")
    return [int(line[1:].partition("]")[0]) for line in lines if line.startswith("[")]


def test_01_summary(sample: Path) -> None:
    done = call(sample)
    assert done.code == 0 and not done.err
    for line in ("Session ID: sample", "Created At: 1767225600.0", "Total Entries: 41", "  CLIENT_TO_PROXY: 7",
                 "  PROXY_TO_CLIENT: 9", "  PROXY_TO_BACKEND: 7", "  BACKEND_TO_PROXY: 18", "Total Bytes: 4,674",
                 "Duration: 72.20s"):  # fmt: skip
        assert line in done.out.splitlines()
    assert done.out.startswith("=" * 70 + "\n")


def test_02_chunks_count_for_the_backend_of_their_request(sample: Path) -> None:
    done = call(sample, "--list-backends")
    listed = dict(line.strip().split(": ") for line in done.out.splitlines()[1:])
    assert listed == {"openai": "27", "client": "7", "anthropic": "3", "openai-codex": "3", "gemini": "1"}
    assert next(iter(listed)) == "openai"


def test_03_statuses_are_counted_by_exchange(sample: Path) -> None:
    lines = call(sample, "--status-summary").after("HTTP STATUS SUMMARY")
    assert lines == [
        "  200: 3 (75.0%)", "  429: 1 (25.0%)", "By backend:", "  anthropic: 429 0/1 (0.0%)", "  openai: 429 1/4 (25.0%)",
    ]  # fmt: skip


SAMPLE_ISSUES = {
    ("slow_response", "warning", 18), ("rate_limit", "warning", 22), ("rate_limit", "warning", 25),
    ("backend_error", "error", 26), ("missing_response", "warning", 29), ("missing_response", "error", 30),
    ("client_visible_error", "warning", 28),
    ("broken_stream", "error", 36), ("stream_stall", "warning", 10),
    *(("plaintext_credential", "warning", number) for number in (1, 17, 21, 23, 31, 33)),
}  # fmt: skip


def test_04_issues(sample: Path) -> None:
    found = issues(sample)
    assert len(found) == len(SAMPLE_ISSUES) and set(found) == SAMPLE_ISSUES
    lines = call(sample, "--detect-issues").after("DETECTED ISSUES")
    assert "SLOW_RESPONSE (1 occurrences):" in lines
    assert "  [ ! ] Entry [18]: Long gap of 12.5s before this entry" in lines
    assert "  [!!!] Entry [30]: Incomplete or missing backend response" in lines
    assert lines[-1] == "Note: 1 retry"
    assert made.KEY not in call(sample, "--detect-issues").out


def test_05_timeline(sample: Path) -> None:
    lines = {int(line[1:].partition("]")[0]): line for line in call(sample, "--timeline").after("TIMELINE")}
    assert len(lines) == 41
    for number, gap in ((16, "!!! +12.0s SLOW !!!"), (18, "!!! +12.5s SLOW !!!"), (30, "!!! +35.0s SLOW !!!"),
                        (10, " (+6.0s)"), (20, " (+1000ms)")):  # fmt: skip
        assert gap in lines[number]
    assert sum("SLOW" in line for line in lines.values()) == 3
    assert lines[0] == "[0]  C->P  00:00:00.000    84B  be=client  a=alpha-le  b=b-0001"
    assert "  1.1KB  " in lines[40]


def test_06_analysis(sample: Path) -> None:
    told = call(sample, "--analyze", "--json").json["requests"]
    assert len(told) == 7
    times = [(one["ttft_s"], one["duration_s"]) for one in told]
    assert times[0] == (pytest.approx(0.35, abs=1e-6), 6.25)
    assert times[1:3] == [(12.505, 12.505), (0.4, 0.2)]
    assert times[5] == (0.2, 0.21)
    assert (told[0]["backend_content"]["chars"], told[0]["client_content"]["chars"]) == (5, 5)
    assert told[0]["client_chunk_sizes"] == [134, 118, 117, 119]
    lines = call(sample, "--analyze").after("REQUEST/RESPONSE ANALYSIS")
    assert lines[:6] == [
        "--- REQUEST #1 ---", "Model: gpt-4o", "Timing: TTFT=0.350s, Duration=6.250s", "Backend models: {'gpt-4o'}",
        "Backend content: 5 chars", "Client received: 5 chars, stop [134, 118, 117, 119]",
    ]  # fmt: skip
    assert "  [!] Backend Error: slow down" in lines


def test_07_analysis_of_one_backend_has_its_chunks(sample: Path) -> None:
    told = call(sample, "--analyze", "-b", "openai", "--json").json["requests"]
    assert [one["backend_content"]["chars"] for one in told] == [5, 0, 3]


def test_08_streams(sample: Path) -> None:
    told = call(sample, "--analyze-streaming", "--json").json["streams"]
    by_entry = {one["entry"]: one for one in told}
    assert list(by_entry) == [1, 17, 21, 23, 31, 33, 38], "one block for each sending, the retry too"
    first = by_entry[1]
    assert (first["chunks"], first["bytes"], round(first["average_s"], 3)) == (4, 488, 2.083)
    assert first["slow_chunks"] == [{"entry": 10, "gap_s": 6.0}]
    assert (by_entry[23]["chunks"], by_entry[23]["bytes"]) == (2, 156)
    assert "No backend response chunks" in call(sample, "--analyze-streaming").out
    assert "Slow chunks (> 5 s): [10] 6.0s" in call(sample, "--analyze-streaming").out


def test_09_one_conversation_is_one_session_whatever_its_legs_are_called(sample: Path) -> None:
    told = call(sample, "--group-by-session", "--json").json["sessions"]
    assert [(one["session"], one["entries"]) for one in told] == [
        ("alpha-leg-a-0001", 25), ("sess-beta-0002", 4), ("sess-gamma-0004", 3), ("sess-delta-0006", 5), ("sess-ws-0007", 4),
    ]  # fmt: skip
    assert (told[0]["first"], told[0]["last"]) == (0, 28)
    assert len(call(sample, "--group-by-session").after("SESSIONS")) == 5


def test_10_pairs_of_legs(sample: Path) -> None:
    assert call(sample, "--b2bua").after("B2BUA PAIRS") == [
        "  (alpha-leg-a-0001, b-0002): 2 entries", "  (alpha-leg-a-0001, b-0001): 1 entries",
    ]  # fmt: skip


def tracked(*arguments: object) -> list[int]:
    return [one["seq"] for one in call(*arguments, "--json").json["request"]]


def test_11_a_request_is_followed_without_foreign_entries(sample: Path) -> None:
    assert tracked(sample, "--track-request", 1) == list(range(16))
    lines = call(sample, "--track-request", 1).after("REQUEST 1")
    assert lines[6] == "[B->P] [6] Content: He (t=0.360s)"


def test_12_a_request_of_one_backend_has_its_errors(sample: Path) -> None:
    assert tracked(sample, "--track-request", 2, "-b", "openai") == list(range(20, 29))
    lines = call(sample, "--track-request", 2, "-b", "openai").after("REQUEST 2")
    assert "[B->P] [25] ERROR: again (t=0.510s)" in lines and "[B->P] [26] ERROR: down (t=0.530s)" in lines


def test_13_a_request_that_is_not_there(sample: Path) -> None:
    done = call(sample, "--track-request", 99)
    assert done.code == 0 and "not found" in done.out


@pytest.mark.parametrize(
    ("range_", "expected"), [("10-15", range(10, 16)), ("10:12", range(10, 13)), ("10..12", range(10, 13))]
)
def test_14_ranges(sample: Path, range_: str, expected: range) -> None:
    assert numbers(sample, "--range", range_) == list(expected)


def test_14_a_number_is_no_range_and_a_reversed_one_is_empty(sample: Path) -> None:
    done = call(sample, "--range", "10")
    assert done.code == 1 and "'10' is no range" in done.err
    assert numbers(sample, "-r", "15-10") == []


def test_15_around(sample: Path) -> None:
    assert numbers(sample, "--around", 22, "--context", 3) == list(range(19, 26))
    assert numbers(sample, "--around", 0) == list(range(6))
    assert numbers(sample, "--around", 22, "-c", 2, "-d", "backend_to_proxy") == [14, 18, 22, 24, 25]


def test_16_one_entry(sample: Path) -> None:
    assert numbers(sample, "--entry", 0) == [0]
    assert "more entries" not in call(sample, "--entry", 0).out
    done = call(sample, "--entry", 999)
    assert done.code == 0 and "WARNING: there is no entry 999" in done.err
    assert "WARNING" in call(sample, "--entry", 0, "-d", "backend_to_proxy").err, "a filter leaves it out"


def test_17_the_last(sample: Path) -> None:
    assert numbers(sample, "--last", 20) == list(range(21, 41))
    assert len(numbers(sample, "--last", 0)) == 41


def test_18_a_direction(sample: Path) -> None:
    assert len(numbers(sample, "-d", "backend_to_proxy", "-e", 100)) == 18
    assert "... and 16 more entries" in call(sample, "-d", "backend_to_proxy", "-e", 2).out


def test_19_part_of_a_session_id(sample: Path) -> None:
    assert len(numbers(sample, "--session-substring", "ALPHA")) == 25
    assert numbers(sample, "--session-substring", "B-0002") == [20, 21, 22, 23, 28]


def test_20_a_session_exactly(sample: Path) -> None:
    directions = call(sample, "--session-id", "sess-alpha-0001", "--json").json["summary"]["directions"]
    assert sum(directions.values()) == 17 and set(directions) == {"PROXY_TO_CLIENT", "BACKEND_TO_PROXY"}
    assert call(sample, "--session-id", "alpha-leg-a-0001", "--json").json["summary"]["entries"] == 8
    done = call(sample, "--session-id", "sess-alpha")
    assert done.code == 1 and "--session-id is exact" in done.err


FORMS = [
    ("1767225618", "1767225631"), ("2026-01-01T00:00:18", "2026-01-01T00:00:31"), ("2026-01-01 00:00:18", "00:00:31"),
    ("2026-01-01T00:00:18Z", "2026-01-01T01:00:31+01:00"), ("+18s", "+31s"), ("1.767225618e9", "0:00:31.0"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end"), FORMS)
def test_21_times_in_all_forms(sample: Path, start: str, end: str) -> None:
    assert numbers(sample, "--start-time", start, "--end-time", end, "-e", 99) == [16, 17, 18, 19]


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "1e999", "soon", "2026-13-01", "", "now+1s", "25:00"])
def test_21_what_is_no_time(sample: Path, wrong: str) -> None:
    done = call(sample, f"--start-time={wrong}")
    assert done.code == 1 and "is no time" in done.err


def test_21_before_now_and_a_time_without_entries(tmp_path: Path) -> None:
    now_s = time.time() - made.T0
    path = tmp_path / "now.cbor"
    path.write_bytes(made.header() + made.item(0, now_s - 7000, 3, b"old") + made.item(1, now_s - 60, 3, b"new"))
    assert numbers(path, "--start-time", "-1h", "-e", 9) == [1] == numbers(path, "--start-time", "now-1h", "-e", 9)
    done = call(path, "--start-time", "2036-01-01")
    assert done.code == 1 and "no entry is of this time" in done.err


def test_22_export(sample: Path) -> None:
    told = call(sample, "--json").json
    assert list(told["header"]) == ["session_id", "created_at", "metadata"]
    assert len(told["entries"]) == 41
    entry = told["entries"][4]
    assert (entry["seq"], entry["direction"], entry["data_length"]) == (4, "BACKEND_TO_PROXY", 134)
    assert entry["metadata"] == {
        "session_id": "sess-alpha-0001", "request_id": "req-1", "chunk_index": 1, "ttfb_ms": 349.9999,
    }  # fmt: skip
    assert entry["parsed"]["choices"][0]["delta"] == {"role": "assistant"}
    assert base64.b64decode(entry["data"]).startswith(b"data: {") and entry["events"] == [entry["parsed"]]


def test_22_export_to_a_file_never_over_a_capture(sample: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    for _ in range(2):
        assert call(sample, "--json", target).out == ""
    assert len(json.loads(target.read_text())["entries"]) == 41
    assert target.stat().st_mode & 0o777 == 0o600
    copy = tmp_path / "copy.cbor"
    copy.write_bytes(sample.read_bytes())
    done = call("--json", copy, sample)
    assert done.code == 1 and "no earlier export" in done.err
    assert copy.read_bytes() == sample.read_bytes()


def test_23_search_in_data_and_metadata(sample: Path) -> None:
    assert numbers(sample, "--search", "ERROR") == [22, 25, 26, 28, 36]


@pytest.mark.parametrize("cut", [1, 40, 90])
def test_24_a_cut_tail_costs_the_cut_entry_and_is_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "trunc1.cbor"
    content = made.header() + b"".join(edges.plain(0))
    path.write_bytes(content[:-cut])
    done = call(path)
    rest = len(content) - cut - (len(content) - len(edges.plain(0)[2]))
    assert done.code == 0 and "Total Entries: 2" in done.out
    assert done.err == f"WARNING: trunc1.cbor: truncated tail, {rest} bytes\n"


def test_24_a_cut_tail_longer_than_a_window(tmp_path: Path) -> None:
    path = tmp_path / "trunc_big.cbor"
    big = made.item(3, 1.0, 3, random.Random(1).randbytes(3_000_000))
    path.write_bytes(made.header() + b"".join(edges.plain(0)) + big[:-1])
    done = call(path)
    assert done.code == 0 and "Total Entries: 3" in done.out and f"truncated tail, {len(big) - 1:,} bytes" in done.err


@pytest.mark.parametrize("kind", ["garbage", "no cbor"])
def test_25_garbage_in_the_middle_costs_nothing_behind_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "garbage_mid.cbor"
    path.write_bytes(edges.damaged(kind))
    done = call(path)
    assert done.code == 0 and "Total Entries: 6" in done.out and "skipped" in done.err


HEADERS = {
    "zero": (b"", "empty"),
    "headertrunc": (made.header()[:40], "cut short"),
    "badmagic": (made.header(magic="OTHER"), "'OTHER'"),
    "badver": (made.header(version=1), "version '1'"),
    "verstr": (made.header(version="2"), "version '2'"),
    "headerlist": (cbor2.dumps([1, 2]), "list"),
    "text": (b"hello\n", "not a capture file"),
    "json": (b'{"a": 1}\n', "no entry of a capture"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_26_what_is_no_capture_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = HEADERS[name]
    path = tmp_path / f"{name}.cbor"
    path.write_bytes(content + (b"".join(edges.plain(0)) if name in {"badmagic", "badver", "verstr", "headerlist"} else b""))
    done = call(path)
    assert done.code == 1 and reason in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["nondict", "badzlib", "noentry"])
def test_27_an_item_that_is_no_entry_is_skipped_and_counted(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.cbor"
    path.write_bytes(edges.damaged(name))
    done = call(path)
    assert done.code == 0 and "Total Entries: 6" in done.out
    assert done.err.count("skipped") == 1
    assert [kind for kind, _, _ in issues(path)] == ["damage"]


def test_28_an_unknown_encoding_is_shown_and_flagged(tmp_path: Path) -> None:
    path = edge(tmp_path, "unknownenc")
    out = call(path, "-e", 1).out
    assert "packed" in out and "FLAGGED: unknown encoding 'lz4'" in out
    assert issues(path) == [("damage", "warning", 0)]


def test_29_gaps_of_10_and_30_seconds(tmp_path: Path) -> None:
    assert issues(edge(tmp_path, "gap10")) == [
        ("slow_response", "warning", 2), ("slow_response", "warning", 3), ("slow_response", "error", 4),
    ]  # fmt: skip


def test_30_another_session_does_not_hide_a_stall(tmp_path: Path) -> None:
    assert issues(edge(tmp_path, "gapinterleave")) == [("slow_response", "warning", 2)]


def test_30_what_a_client_takes_to_think_is_no_gap(tmp_path: Path) -> None:
    assert issues(edge(tmp_path, "thinking")) == []


def test_31_no_session_is_one_session(tmp_path: Path) -> None:
    path = edge(tmp_path, "gapnosid")
    assert issues(path) == [("slow_response", "warning", 1)]
    assert "11.0s" in call(path, "--detect-issues").out


@pytest.mark.parametrize("name", ["asking", "asking again"])
def test_31_a_client_that_waits_for_its_answer_does_not_think(tmp_path: Path, name: str) -> None:
    assert ("slow_response", "warning", 1) in issues(edge(tmp_path, name))


def test_32_a_retry_is_no_missing_response(tmp_path: Path) -> None:
    path = edge(tmp_path, "retry2")
    assert issues(path) == []
    assert call(path, "--detect-issues").after("DETECTED ISSUES") == ["No issues detected!", "Note: 1 retry"]


def test_33_entries_are_put_in_order(tmp_path: Path) -> None:
    path = edge(tmp_path, "outoforder")
    assert issues(path) == []
    assert numbers(path, "-e", 9) == [0, 1, 2]


def test_34_an_error_that_is_passed_on_is_told_once_and_generate_is_no_rate(tmp_path: Path) -> None:
    assert issues(edge(tmp_path, "quota")) == [("rate_limit", "warning", 2), ("backend_error", "error", 4)]


def test_35_a_plain_500_is_an_error(tmp_path: Path) -> None:
    path = edge(tmp_path, "http500")
    assert issues(path) == [("backend_error", "error", 2)]
    assert "HTTP 500 (boom)" in call(path, "--detect-issues").out


def test_35_a_status_may_stand_in_the_bytes_alone(tmp_path: Path) -> None:
    assert issues(edge(tmp_path, "status line")) == [("backend_error", "error", 2)]


def test_35_an_error_that_no_backend_sent(tmp_path: Path) -> None:
    path = edge(tmp_path, "client only")
    assert ("client_visible_error", "warning", 2) in issues(path)
    assert "The client got an error: no backend left" in call(path, "--detect-issues").out


@pytest.mark.parametrize("name", ["contentnull", "choicesnull", "ssearray", "errstr", "errnulltype", "reqarray"])
def test_36_odd_documents_give_a_report(tmp_path: Path, name: str) -> None:
    path = edge(tmp_path, name)
    done = call(path, "--analyze", "--analyze-streaming", "--detect-issues", "--timeline", "--track-request", 1, "--json")
    assert done.code == 0 and len(done.json["requests"]) == 1
    text = call(path, "--analyze", "--detect-issues").out
    expected = {
        "errstr": "boom",
        "errnulltype": "typeless",
        "contentnull": "1 tool_calls (bash)",
        "reqarray": "could not parse",
    }
    assert expected.get(name, "REQUEST #1") in text
    assert [kind for kind, _, _ in issues(path)] == (["backend_error"] if name.startswith("err") else [])


@pytest.mark.parametrize("name", ["split_sse", "nospace_sse", "anthropic", "translated"])
def test_37_events_are_understood_however_they_come(tmp_path: Path, name: str) -> None:
    path = edge(tmp_path, name)
    [told] = call(path, "--analyze", "--json").json["requests"]
    assert told["backend_content"]["chars"] == 5 and told["issues"] == []
    assert issues(path) == []


def test_38_all_remarks_on_a_request(tmp_path: Path) -> None:
    [told] = call(edge(tmp_path, "usage0"), "--analyze", "--json").json["requests"]
    assert [remark.split(":")[0].split(" with")[0] for remark in told["issues"]] == [
        "Usage-only chunk", "Immediate stop", "Fallback mechanism", "Internal model name leak",
    ]  # fmt: skip


def test_39_an_unknown_direction(tmp_path: Path) -> None:
    path = edge(tmp_path, "dir9")
    done = call(path, "-e", 1)
    assert "  Unknown(9): 1" in done.out and "[0] ?9 | 1 bytes" in done.out


def test_40_unknown_keys_are_shown(tmp_path: Path) -> None:
    done = call(edge(tmp_path, "ext"), "-e", 1, "--verbose")
    assert done.code == 0 and "    x_stream_id: abc-1" in done.out


def test_41_segments_behind_each_other_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "concat.cbor"
    path.write_bytes((made.header("one") + b"".join(edges.plain(0))) + (made.header("two") + b"".join(edges.plain(0, 5.0))))
    done = call(path)
    assert done.code == 0 and not done.err
    assert "Total Entries: 6" in done.out and "Segments: 2" in done.out


@pytest.mark.parametrize(
    ("size", "letters", "packed"), [(127, True, False), (128, True, False), (129, True, True), (129, False, False)]
)
def test_42_payloads_come_out_as_they_went_in(tmp_path: Path, size: int, letters: bool, packed: bool) -> None:
    data = b"A" * size if letters else random.Random(3).randbytes(size)
    entry = made.item(0, 0.0, 3, data)
    assert ("enc" in cbor2.loads(entry)) is packed
    path = tmp_path / "one.cbor"
    path.write_bytes(made.header() + entry)
    assert base64.b64decode(call(path, "--json").json["entries"][0]["data"]) == data


def test_43_a_directory_under_caps_is_read_as_one_capture(tmp_path: Path) -> None:
    write_segments(tmp_path, 3, capture_max_files=3, capture_total_max_bytes=3 * 4096)
    found = [tmp_path / "segments" / name.file for name in segment.find(tmp_path / "segments")]
    assert len(found) <= 3 and sum(path.stat().st_size for path in found) <= 3 * 4096
    assert all(path.stat().st_size <= 4096 for path in found)
    done = call(tmp_path, "--json")
    records = [one["metadata"] for one in done.json["entries"] if one["metadata"].get("x_k") != "footer"]
    assert [one["x_n"] for one in records] == list(range(records[0]["x_n"], 31))


def test_44_buffered_lines(tmp_path: Path) -> None:
    path = edges.lines(tmp_path)
    told = call(path, "--analyze", "--json", "-e", 99).json
    assert [one["seq"] for one in told["entries"]] == list(range(1, 20))
    assert len({json.loads(line)["direction"] for line in path.read_text().splitlines()}) == 12
    assert told["summary"]["directions"] == {
        "RECORDER": 1, "CLIENT_TO_PROXY": 2, "PROXY_TO_CLIENT": 6, "PROXY_TO_BACKEND": 2, "BACKEND_TO_PROXY": 8,
    }  # fmt: skip
    assert [(one["backend_content"] or {"chars": None})["chars"] for one in told["requests"]] == [5, 0]
    assert told["requests"][0]["client_content"]["chars"] == 5
    path.write_text(path.read_text().replace("finish_reason", "no_reason"))
    assert issues(path) == [], "its end was marked"
    path.write_text(path.read_text().replace('"stream_end"', '"stream_completion"'))
    assert [kind for kind, _, _ in issues(path)] == ["broken_stream"]


def test_45_a_live_capture_without_double_counting(tmp_path: Path) -> None:
    path = edges.live(tmp_path)
    told = call(path, "--analyze", "--json", "--detect-issues", "-e", 99).json
    assert len(told["entries"]) == 44
    chars = [(one["backend_content"] or {"chars": 0})["chars"] for one in told["requests"]]
    assert chars == [11, 5, 3, 0]
    kinds = [(one["kind"], one["entry"]) for one in told["issues"]]
    assert [kind for kind, _ in kinds] == ["broken_stream", "slow_response", "rate_limit"]


def test_the_environment_of_these_tests_is_utc() -> None:
    assert os.environ["TZ"] == "UTC" and time.localtime(0).tm_hour == 0
