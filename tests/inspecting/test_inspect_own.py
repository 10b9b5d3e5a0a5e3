"""`llmdump inspect` on our own segments: every form of a file tells the same, damage costs itself, limits hold."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmdump import record, seekable
from llmdump.captures.entry import Entry
from llmdump.inspecting.content import FAILURES_BYTES_MAX
from llmdump.inspecting.pairing import OPEN_MAX, Exchange, walk
from llmdump.seekable import zstd
from llmdump.segment import header
from tests.indexer.made import Instance, exchange, new_id
from tests.inspecting.running import call, issues
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

EXPECTED = {("broken_stream", "error"), ("rate_limit", "warning")}


def sealed(plain: bytes) -> bytes:
    """As the writer seals a segment, in frames so small that records lie across them."""
    parts = [plain[at : at + 700] for at in range(0, len(plain), 700)]
    frames = [seekable.compress_frame(part) for part in parts]
    return b"".join(frames) + seekable.seek_table([(len(frame), len(part)) for frame, part in zip(frames, parts, strict=True)])


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "cbor": ("cbor", lambda plain: plain),
    "jsonl": ("jsonl", lambda plain: plain),
    "sealed cbor": ("cbor", sealed),
    "sealed jsonl": ("jsonl", sealed),
    "zstd by others": ("cbor", zstd.compress),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A closed segment in both formats, by format."""
    paths = begin(tmp_path_factory.mktemp("own"), "both", realistic().records, close=True)
    return {path.suffix[1:]: path for path in paths}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_segment_tells_the_same(written: dict[str, Path], tmp_path: Path, form: str) -> None:
    name, change = FORMS[form]
    path = tmp_path / "a-file-of-any-name"
    path.write_bytes(change(written[name].read_bytes()))
    told = call(path, "--analyze", "--detect-issues", "--status-summary", "--json").json
    assert {(one["kind"], one["severity"]) for one in told["issues"]} == EXPECTED
    assert [(one["model"], (one["backend_content"] or {"chars": 0})["chars"]) for one in told["requests"]] == [
        ("gpt-4o", 2), ("gpt-4o", 2), ("gpt-4o", 8), ("claude-3", 0), ("gpt-4o", 0), (None, 0),
    ]  # fmt: skip
    assert told["requests"][2]["client_chunk_sizes"] == [51, 55, 14], "what the backend sent went to the client as it came"
    assert told["status_summary"]["exchanges"] == 6
    assert told["summary"]["directions"]["RECORDER"] in (3, 4)


def test_a_directory_with_both_formats_is_read_once(written: dict[str, Path]) -> None:
    assert call(written["cbor"].parent, "--json").json["summary"]["total_entries"] == 43


def test_several_files_are_one_capture_and_entries_say_whose_they_are(written: dict[str, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "one.cbor", tmp_path / "two.cbor"
    half = len(realistic().records) // 2
    for path, records in ((first, realistic().records[:half]), (second, realistic().records[half:])):
        path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered(records)))
    told = call(first, second, "--analyze", "--detect-issues", "--json").json
    assert {(one["kind"], one["severity"]) for one in told["issues"]} == EXPECTED
    assert len(told["requests"]) == 6
    assert "one.cbor:0]" in call(first, second, "-e", 1).out


def _numbered(records: list[bytes]) -> Iterator[bytes]:
    for seq, one in enumerate(records):
        changed = bytearray(one)
        record.patch_seq(changed, 0, seq)
        yield bytes(changed)


@pytest.mark.parametrize("form", ["cbor", "jsonl"])
def test_damage_costs_the_damaged_record_only(written: dict[str, Path], tmp_path: Path, form: str) -> None:
    content = bytearray(written[form].read_bytes())
    whole = call(written[form], "--json").json["summary"]["total_entries"]
    at = content.index(b"Hi" if b"Hi" in content else b"model", len(content) // 3)
    content[at] ^= 0xFF
    path = tmp_path / "damaged"
    path.write_bytes(content)
    done = call(path)
    assert done.code == 0 and f"Total Entries: {whole - 1}" in done.out
    assert done.err.startswith("WARNING: damaged: ") and "are no entry" in done.err
    assert ("damage", "warning", None) in issues(path)


def test_a_damaged_frame_costs_the_records_in_it(written: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "damaged.cbor.zst"
    content = bytearray(sealed(written["cbor"].read_bytes()))
    at = content.index(b"\x28\xb5\x2f\xfd", len(content) // 2)
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    done = call(path)
    assert done.code == 0 and "zstd frames that are damaged" in done.err
    assert 30 < call(path, "--json").json["summary"]["total_entries"] < 43


@pytest.mark.parametrize("form", ["cbor", "jsonl"])
def test_a_torn_tail_is_told_and_no_entry(written: dict[str, Path], tmp_path: Path, form: str) -> None:
    path = tmp_path / "torn"
    content = written[form].read_bytes()
    whole = call(written[form], "--json").json["summary"]["total_entries"]
    path.write_bytes(content[:-7])
    done = call(path)
    assert f"Total Entries: {whole - 1}" in done.out and "truncated tail, " in done.err


ENDS = {
    "client_closed": ("client_disconnect", "warning"), "upstream_closed": ("broken_stream", "error"),
    "timeout": ("broken_stream", "error"), "bad_request": ("bad_request", "warning"), "shutdown": ("broken_stream", "error"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_how_an_exchange_ended_is_an_issue_of_its_kind(tmp_path: Path, end: str) -> None:
    path = tmp_path / "one.cbor"
    path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered(list(exchange(Instance(), new_id(1), end=end)))))
    assert issues(path) == [(*ENDS[end], 5)]


def test_without_an_answer_it_is_a_missing_response_and_without_an_end_a_note(tmp_path: Path) -> None:
    path = tmp_path / "one.cbor"
    records = list(exchange(Instance(), new_id(1), end="upstream_error"))
    path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered([*records[:3], records[-1]])))
    assert issues(path) == [("missing_response", "error", 3)]
    path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered(records[:4])))
    lines = call(path, "--detect-issues").after("DETECTED ISSUES")
    assert lines == ["No issues detected!", "Note: 1 exchange had not ended where the files end"]


def test_requests_are_told_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    first, second = (list(exchange(Instance(), new_id(index), request=b'{"model":"m%d"}' % index)) for index in (1, 2))
    path = tmp_path / "two.cbor"
    path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered([*first[:3], *second, *first[3:]])))
    assert [one["model"] for one in call(path, "--analyze", "--json").json["requests"]] == ["m1", "m2"]
    assert [one["entry"] for one in call(path, "--analyze-streaming", "--json").json["streams"]] == [2, 5]


def test_exit_codes(written: dict[str, Path], tmp_path: Path) -> None:
    path = written["cbor"]
    assert call(path, "--fail-on", "slow_response").code == 0
    done = call(path, "--fail-on", "rate_limit", "--fail-on", "damage")
    assert done.code == 1 and done.err == "llmdump: found rate_limit (1)\n"
    assert call(path, "--fail-on", "any").code == 1
    assert call(path, "--fail-on", "sorrow").code == 2
    assert call(tmp_path / "none.cbor").code == 1
    assert call(tmp_path).code == 1, "a directory without captures"


def test_an_unknown_backend_is_told_with_those_there_are(written: dict[str, Path]) -> None:
    done = call(written["cbor"], "-b", "Openai")
    assert done.code == 0
    assert done.err == "WARNING: no entry is of backend 'Openai'; there are: openai, anthropic\n"


def test_the_filters_hold_for_every_view(written: dict[str, Path]) -> None:
    views = ("--detect-issues", "--status-summary", "--group-by-session", "--analyze", "--analyze-streaming", "--timeline")
    told = call(written["cbor"], *views, "-b", "anthropic", "--json").json
    assert [one["kind"] for one in told["issues"]] == ["broken_stream"], "not the other backend's"
    assert told["status_summary"]["exchanges"] == 1
    assert len(told["sessions"]) == len(told["requests"]) == len(told["streams"]) == 1
    assert {one["backend"] for one in told["timeline"]} == {"anthropic"}
    assert told["summary"]["entries"] == len(told["timeline"]) < told["summary"]["total_entries"]


def test_nothing_in_a_capture_commands_the_terminal(tmp_path: Path) -> None:
    evil = b"\x1b]0;title\x07\x1b[2Jred\r\x9b31m\xe2\x80\xae"
    one = list(exchange(Instance(), new_id(1), request=b'{"model":"m\\u001b[2J"}', response=(evil,), path="/v1/\x1b[2J"))
    path = tmp_path / "evil.cbor"
    path.write_bytes(header("w0", 1, 1.0) + b"".join(_numbered(one)))
    out = call(path, "-e", 9, "-v", "--hex", "--timeline", "--analyze", "--track-request", 1, "--detect-issues").out
    out += call(path, "-e", 9, "-s", "red").out
    assert "\\x1b]0;title\\x07" in out
    assert all(letter == "\n" or letter.isprintable() for letter in out) and "\u202e" not in out


def entries(count: int) -> Iterator[Entry]:
    """Requests of another program, none of which says that it is over."""
    for index in range(count):
        meta: dict[str, Any] = {"rid": f"r{index}", "sid": f"s{index}", "be": "b", "sc": 200, "ci": 1}
        for direction in (0, 2, 3):
            yield Entry(index, float(index), direction, b"data: {}\n\n" * 20, meta)


def test_memory_does_not_grow_with_exchanges_that_never_end() -> None:
    peaks = []
    for count in (2 * OPEN_MAX, 6 * OPEN_MAX):
        tracemalloc.start()
        over = sum(isinstance(item, Exchange) for item in walk(entries(count), FAILURES_BYTES_MAX))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert over == count
    assert peaks[1] < 1.2 * peaks[0]
