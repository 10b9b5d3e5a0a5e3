"""`llmdump ls`, `show`, `stats`, `sessions`: what they say of an archive that the indexer indexed, and how safely."""

import contextlib
import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from made import Instance, exchange, new_id

from llmdump.data_dir import DataDir
from llmdump.segment import header
from llmdump_api.index import connect
from llmdump_api.looking import asked, main, screen, showing
from llmdump_indexer.follow import Follower
from llmdump_indexer.index import Index
from tests.api.test_api_query import row, store
from tests.inspecting.made import sample
from tests.patience import WAIT_S
from tests.writer.test_recovery import begin
from tests.writer.traffic import compact, realistic, sse

BIN = Path(sys.executable).parent
PAGE = (Path(__file__).parents[2] / "docs" / "looking.md").read_text()
COMMANDS = re.findall(r"^    (llmdump (?:ls|show|stats|sessions).*)$", PAGE, re.MULTILINE)

TOOLS = [{"type": "function", "function": {"name": "bash", "description": "Runs a command"}}]
CALL = {"id": "t1", "type": "function", "function": {"name": "bash", "arguments": '{"command":"ls"}'}}
ASKED = {
    "model": "gpt-4o", "stream": True, "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "List\x1b[2J files"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "a.txt"},
    ],
}  # fmt: skip
ANSWERED = sse(
    {"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {"content": "One file\u202e: a.txt"}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **CALL}]}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    "[DONE]",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data`, indexed, a copy of its segment, and a capture of others.

    The last exchange has tools, and controls in its texts."""
    place = tmp_path_factory.mktemp("looking")
    tape = realistic()
    tape.records.pop()  # the goodbye
    tape.exchange(7, "/v1/chat/completions", [compact(ASKED)], ANSWERED, content_type="text/event-stream")
    (place / "data").mkdir()
    begin(place / "data" / "segments", "cbor", tape.records, close=True)
    (place / "w0-00000001.cbor").write_bytes((place / "data" / "segments" / "w0-00000001.cbor").read_bytes())
    Follower(DataDir(place / "data").create()).catch_up()
    sample(place / "session.cbor")
    return place


class Done(NamedTuple):
    """What came of a call."""

    code: int
    out: str
    err: str
    bytes: bytes


def look(verb: str, at: Path, **given: Any) -> Done:
    """The command's own main, as it is become."""
    flags = dict.fromkeys(("request", "response", "raw", "hex", "tools", "timing", "full", "json"), False)
    plain = {
        "id": None,
        "by": None,
        "limit": 0 if verb != "stats" else 10,
        "params": {},
        "since": None,
        "until": None,
        "filter": None,
    }
    return asked_of(verb, {"places": [str(at)], **flags, **plain, **given})


def asked_of(verb: str, question: dict[str, Any]) -> Done:
    """What the command becomes, asked this."""
    before = signal.getsignal(signal.SIGPIPE)
    try:
        runner = CliRunner(env={"COLUMNS": str(question.get("columns", 200))})
        result = runner.invoke(main.main, [verb, json.dumps(question)], catch_exceptions=False)
    finally:
        signal.signal(signal.SIGPIPE, before)
    return Done(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)


@pytest.fixture
def data(place: Path) -> Path:
    return place / "data"


def test_the_list_has_all_newest_first_within_the_terminal(data: Path) -> None:
    for columns in (60, 100, 200):
        lines = look("ls", data, columns=columns).out.splitlines()
        assert [line.split()[2] for line in lines[1:]] == [f"{number:012d}" for number in range(7, 0, -1)]
        assert all(screen.columns_of(line) <= columns for line in lines)
    assert "upstream_closed" in look("ls", data).out and "upstream_closed" not in look("ls", data, columns=100).out


def test_the_list_takes_limits_filters_words_and_times(data: Path) -> None:
    def listed(**given: Any) -> list[int]:
        return [int(json.loads(line)["id"][-12:]) for line in look("ls", data, json=True, **given).out.splitlines()]

    assert listed(limit=2) == [7, 6]
    assert listed(params={"filter": "status>=400 or end=upstream_closed"}) == [5, 4]
    assert listed(params={"status": "4xx"}) == [5]
    assert listed(params={"q": "brief"}) == [5, 3, 2, 1] and listed(params={"q": "count"}) == [4]
    assert listed(since="2025-01-10T15:58:41.4Z", until="2025-01-10T15:58:41.5Z") == [5]
    assert "Count" in look("ls", data, params={"q": "count"}).out, "where it was found"


def test_a_long_list_is_read_a_page_at_a_time(tmp_path: Path) -> None:
    peaks = []
    for pages in (2, 6):
        path = tmp_path / f"{pages}.sqlite"
        with Index(path) as index:
            store(index, [row(number) for number in range(pages * asked.PAGE_ROWS)])
        with contextlib.closing(connect(path)) as db:
            tracemalloc.start()
            count = sum(1 for _ in asked.listed(db, {}, 0))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert count == pages * asked.PAGE_ROWS
    assert peaks[1] < 1.3 * peaks[0]


def test_a_wrong_filter_is_pointed_at(data: Path) -> None:
    done = look("ls", data, params={"filter": "status>=400 and total>1"})
    assert done.code == 2 and done.err.endswith("                ^ expected a field, 'total' is none\n")


def test_a_conversation(data: Path) -> None:
    lines = look("show", data, id="-1").out.splitlines()
    assert lines[0].startswith("01900000-0000-7000-8000-000000000007  ")
    said = lines[lines.index("── user") :]
    assert said == [
        "── user", "  List\\x1b[2J files", "── assistant", '  → bash({"command":"ls"})', "── tool", "  a.txt",
        "── answer (tool_calls)", "thought:", "  Hm.", "  One file\\u202e: a.txt", '  → bash({"command":"ls"})',
    ]  # fmt: skip
    assert look("show", data, id="-1", response=True).out.splitlines()[-5:] == said[-5:]
    assert "── answer" not in look("show", data, id="-1", request=True).out


def test_what_is_not_understood_is_shown_as_it_is(data: Path) -> None:
    assert look("show", data, id="-2").out.splitlines()[-2:] == ["── answer", '  ["not", "an object"]']
    assert "error: rate_limit_error: slow down" in look("show", data, id="-3").out


def test_tools(data: Path) -> None:
    lines = look("show", data, id="-1", tools=True).out.splitlines()
    at = lines.index("── 1 tools offered")
    assert lines[at + 1 :] == ["  bash  Runs a command", "── 1 tool calls in the answer", '  → bash({"command":"ls"})']


def test_raw_and_hex_are_the_bytes_that_crossed(data: Path) -> None:
    assert look("show", data, id="-1", raw=True).bytes == b"".join(ANSWERED)
    assert look("show", data, id="-1", raw=True, request=True).bytes == compact(ASKED)
    dump = look("show", data, id="-1", hex=True, response=True).out
    assert bytes.fromhex("".join(line[6:53] for line in dump.splitlines())) == b"".join(ANSWERED)


def test_json_is_what_the_api_has(data: Path) -> None:
    told = json.loads(look("show", data, id="-1", json=True).out)
    assert told["row"]["status"] == 200 and told["normalised"]["finish_reason"] == "tool_calls"
    assert len(told["trace"]["resp"]["chunks"]) == len(ANSWERED)


def test_an_exchange_is_found_by_its_beginning_its_end_and_its_place(data: Path) -> None:
    for name in ("01900000-0000-7000-8000-000000000007", "000000007", "…07", "-1"):
        assert look("show", data, id=name).out.startswith("01900000-0000-7000-8000-000000000007")
    done = look("show", data, id="0190")
    assert done.code == 1 and done.err.startswith("llmdump: '0190' may be 01900000-0000-7000-8000-000000000001, ")
    for name in ("-9", "-0", "", "x", "%", "-1-1"):
        assert look("show", data, id=name).code == 1


def moments(*t_ms: float) -> list[showing.Moment]:
    return [showing.Moment(one, "chunk", 10) for one in t_ms]


def test_a_waterfall_has_every_chunk_or_as_many_lines_as_fit() -> None:
    lines = list(showing.waterfall(moments(0.0, 50.0, 100.0), 80, lambda text, _: text))
    places = [line.index("▇") for line in lines]
    assert places[0] < places[1] < places[2] and places[1] - places[0] == pytest.approx(places[2] - places[1], abs=1)
    many = list(showing.waterfall(moments(*range(1000)), 80, lambda text, _: text))
    assert len(many) <= showing.ROWS_MAX + 1
    assert sum(int(found) for found in re.findall(r"(\d+) chunks", "\n".join(many))) == 1000
    assert len(list(showing.waterfall([], 80, lambda text, _: text))) == 0


def test_stats_by_model_with_a_chart(data: Path) -> None:
    lines = look("stats", data, by="model").out.splitlines()
    groups = {line.split()[0]: line.split()[1:4] for line in lines[2:5]}
    assert groups == {"gpt-4o": ["3", "1", "0"], "gpt-4o-2024": ["2", "0", "18"], "claude-3": ["1", "1", "0"]}
    assert sum("█" in line for line in lines[7:]) == 3
    assert [line.split()[:2] for line in look("stats", data, by="model", filter="status>=400").out.splitlines()[2:3]] == [
        ["gpt-4o", "1"]
    ]
    told = json.loads(look("stats", data, json=True, since="2025-01-10T15:30:00Z", until="2025-01-10T16:30:00Z").out)
    assert told["step_s"] == 60 and told["series"][0]["total"]["requests"] == 7
    assert set(told["series"][0]["total"]["duration_ms"]) == {"p50", "p95", "p99"}
    assert look("stats", data, since="2020-01-01", until="2025-01-01").code == 2


def test_sessions_and_one_as_a_tree(data: Path) -> None:
    found = [json.loads(line) for line in look("sessions", data, json=True).out.splitlines()]
    assert sum(one["n_turns"] for one in found) == 7
    assert len(look("sessions", data, filter="model=claude-3").out.splitlines()) == 2
    assert len(look("sessions", data, limit=1).out.splitlines()) == 2
    lines = look("sessions", data, id="000000000003").out.splitlines()
    assert lines[3].startswith("2025-01-10 ") and "  000000000001  200" in lines[3]
    assert any(line.strip().startswith("< Hi there") for line in lines)


def test_files_are_an_archive_for_as_long_as_it_takes(place: Path) -> None:
    assert look("show", place / "w0-00000001.cbor", id="-1", raw=True).bytes == b"".join(ANSWERED)


def test_records_that_were_deleted_are_told(tmp_path: Path) -> None:
    root = DataDir(tmp_path).create()
    path = root.segments / "w0-00000001.cbor"
    path.write_bytes(header("w0", 1, 1.0) + b"".join(exchange(Instance(), new_id(1))))
    Follower(root).catch_up()
    path.unlink()
    done = look("show", tmp_path, id="-1")
    assert done.code == 1 and "were deleted" in done.err
    assert done.out.startswith(new_id(1)), "what the index has of it"


LETTERS = {
    "\x1b[2J\x07": "\\x1b[2J\\x07", "\x9b31m": "\\x9b31m", "a\u202eb": "a\\u202eb", "é日 ok": "é日 ok", "\ud800": "\\ud800",
    "a\r\nb": "a\\x0d\nb", "\u2028": "\\u2028", "\U000e0001": "\\U000e0001",
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), LETTERS.items(), ids=ascii)
def test_no_captured_letter_commands_a_terminal(text: str, shown: str) -> None:
    assert screen.safe(text, lines=True) == shown


CELLS = [("abc", 5, "abc  "), ("abcdef", 4, "abc…"), ("日本語", 4, "日… "), ("日本", 4, "日本")]


@pytest.mark.parametrize(("text", "width", "shown"), CELLS)
def test_cells_are_as_wide_as_they_should(text: str, width: int, shown: str) -> None:
    fitted = screen.fitted(text, width)
    assert screen.columns_of(fitted) == width
    assert fitted == shown


@pytest.mark.parametrize("line", COMMANDS)
def test_each_line_of_the_page_and_of_the_help_runs(place: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(place)
    _, verb, *arguments = shlex.split(line)
    module = importlib.import_module(f"llmdump.commands.{verb}")
    with module.command.make_context(verb, arguments) as context:
        done = asked_of(verb, module.question(**context.params))
    assert done.code == 0 and not done.err and done.out


def test_the_commands_become_what_answers(place: Path) -> None:
    assert len(COMMANDS) >= 18
    for line in ("ls -n 1", "show -1 --raw"):
        words = [BIN / "llmdump", *line.split()]
        done = subprocess.run(words, cwd=place, env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=WAIT_S, check=True)
        assert b"000000000007" in done.stdout or done.stdout == b"".join(ANSWERED)
