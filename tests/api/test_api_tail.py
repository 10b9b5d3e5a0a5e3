"""`llmdump tail`: its lines, and what it says where it cannot follow."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from made import new_id

from llmdump.data_dir import DataDir
from llmdump_api.live_viewer import Told
from llmdump_api.tail import WAIT_FOR_ROW_S, Printer, body_part
from tests.patience import WAIT_S

OPEN = {
    "id": "x1", "ts_start": "2026-01-31T12:00:00.250Z", "method": "POST", "path": "/v1/chat", "model": "m",
    "client_kind": "curl",
}  # fmt: skip
END = OPEN | {
    "ts_end": "2026-01-31T12:00:02.250Z", "status": 200, "end_reason": "complete", "duration_ms": 2000.0,
    "first_byte_ms": 500.0,
}  # fmt: skip
ROW = END | {"ttft_ms": 520.0, "input_tokens": 1234, "cache_read_tokens": 1000, "output_tokens": 56, "cost_usd": 0.0123}


def told(kind: str, data: object) -> Told:
    return Told(kind, orjson.dumps(data))


def printer(*, colour: bool = False, **how: bool) -> Printer:
    return Printer(**({"wants_bytes": False, "wants_json": False, "terminal": False} | how), colour=colour)


def test_an_exchange_is_a_line_when_it_opens_and_one_with_its_figures_when_it_is_over() -> None:
    lines = printer().of([told("open", OPEN), told("end", END), told("row", ROW)], 0.0).decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        " …   POST /v1/chat  m  curl  x1",
        " 200 POST /v1/chat  m  curl  2.00 s, first 0.52 s  1,234 (1,000 cached) → 56 tokens  $0.0123  x1",
    ]


def test_without_an_indexer_the_line_comes_a_little_later() -> None:
    own = printer()
    assert own.of([told("end", END)], 10.0) == b""
    assert own.of([], 10.0 + WAIT_FOR_ROW_S) == b""
    assert own.of([], 10.1 + WAIT_FOR_ROW_S).endswith(b"200 POST /v1/chat  m  curl  2.00 s, first 0.50 s  x1\n")
    own.of([told("end", END)], 20.0)
    assert own.rest().endswith(b"  x1\n")


def test_what_went_wrong_is_red_and_says_why() -> None:
    bad = ROW | {"status": 529, "error_type": "overloaded", "error_message": "try later", "end_reason": "client_closed"}
    text = printer(colour=True).of([told("end", bad), told("row", bad)], 0.0).decode()
    assert "\x1b[31m529\x1b[0m" in text
    assert "\x1b[31mclient_closed overloaded try later\x1b[0m" in text
    assert "\x1b" not in printer().of([told("end", bad), told("row", bad)], 0.0).decode()


def test_nothing_captured_commands_a_terminal() -> None:
    evil = "\x1b]0;owned\x07\u202e\x9b2J"
    row = ROW | {"path": "/" + evil, "model": evil, "client_kind": evil, "error_type": evil}
    for colour in (False, True):
        text = (
            printer(colour=colour).of([told("open", OPEN | {"path": evil}), told("end", row), told("row", row)], 0.0).decode()
        )
        assert not {"\x07", "\u202e", "\x9b"} & set(text)
        assert text.count("\x1b") == (text.count("\x1b[") if colour else 0)
    chunk = {"text": "a\x1b[2Jb\r\n\tc\n"}
    assert body_part(chunk, terminal=True) == "a\N{REPLACEMENT CHARACTER}[2Jb\n\N{REPLACEMENT CHARACTER}c\n".encode()
    assert body_part(chunk, terminal=False) == b"a\x1b[2Jb\r\n\tc\n"
    assert body_part({"b64": "/wA="}, terminal=False) == b"\xff\0"


def test_json_lines_are_the_events() -> None:
    lines = printer(wants_json=True).of([told("open", OPEN), told("lost", {"events": 3})], 0.0).splitlines()
    assert [orjson.loads(line) for line in lines] == [{"event": "open", **OPEN}, {"event": "lost", "events": 3}]


def test_where_it_cannot_follow_it_says_what_to_do(tmp_path: Path) -> None:
    def tail(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "llmdump_api.tail", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    data = DataDir(tmp_path / "data").create()
    nowhere, filtered, unknown = (
        tail(str(tmp_path / "no")),
        tail(str(data.root), "--filter=a=1"),
        tail(str(data.root), new_id(1)),
    )
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "honcho start" in nowhere.stderr
    assert filtered.returncode == 2
    assert filtered.stderr.endswith("a=1\n^ expected a field, 'a' is none\n")
    assert unknown.returncode == 1
    assert "`llmdump-writer`" in unknown.stderr
    assert f"no exchange has the id {new_id(1)}: `llmdump tail` shows ids" in unknown.stderr


@pytest.mark.parametrize("wants_json", [False, True])
def test_nothing_is_printed_of_nothing(wants_json: bool) -> None:
    assert printer(wants_json=wants_json).of([], 0.0) == b""
