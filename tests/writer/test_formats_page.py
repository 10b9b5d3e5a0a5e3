"""Every command and program on the formats page runs, on files as a writer makes them, and tells what is in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needs_tool

from llmdump import footer, lines, seekable
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
PROGRAMS = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    """A directory with segment 1 plain and segment 2 sealed, in both formats."""
    for path in begin(tmp_path, "both", realistic().records, close=True):
        plain = path.read_bytes()
        frame = seekable.compress_frame(plain)
        sealed = path.with_name(path.name.replace("00000001", "00000002") + ".zst")
        sealed.write_bytes(frame + seekable.seek_table([(len(frame), len(plain))]))
    return tmp_path


def run(command: list[str], directory: Path) -> str:
    """What it prints; it must succeed and complain of nothing."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


EXPECTED = {
    "| .backend'": "5 openai",
    '.role=="user"': "Héllo?",
    '"stream_chunk") | .payload': "data: [DONE]",
    ".payload.usage.total_tokens": "gpt-4o 11",
    ".metadata.error]": '["connection-4","upstream_closed: reset"]',
    "jq -r .direction": "1 system_init",
    "-o whole.cbor": "",
    "zstd -q -t": "",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_the_page_works(segments: Path, command: str) -> None:
    for tool in ("jq", "zstd"):
        needs_tool(tool)
    [expected] = [text for part, text in EXPECTED.items() if part in command]
    assert expected in run(["bash", "-o", "pipefail", "-c", command], segments)
    if "whole.cbor" in command:
        assert (segments / "whole.cbor").read_bytes() == (segments / "w0-00000001.cbor").read_bytes()


def test_the_commands_meant_are_all_there() -> None:
    assert len(COMMANDS) == len(EXPECTED) and len(PROGRAMS) == 2


@pytest.mark.parametrize(("program", "expected"), [(PROGRAMS[0], '0 {"model":"gpt-4o"'), (PROGRAMS[1], "")])
def test_every_program_on_the_page_works(segments: Path, program: str, expected: str) -> None:
    printed = run([sys.executable, "-W", "error", "-c", program], segments)
    assert expected in printed


def test_the_checksum_program_would_notice_damage(segments: Path) -> None:
    path = segments / "w0-00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b"gpt-4o", b"gpt-4x", 1))
    done = subprocess.run([sys.executable, "-c", PROGRAMS[1]], cwd=segments, capture_output=True, check=False)
    assert b"AssertionError" in done.stderr


def test_every_direction_and_limit_on_the_page_is_the_codes() -> None:
    page = PAGE.read_text()
    told = set(re.findall(r"`([a-z_]+)`", page[page.index("| record |") : page.index("The payload of")]))
    names = {name for pair in lines._BODY_NAMES.values() for name in pair} | set(lines._FIXED.values())
    others = {"inbound_request", "stream_start", "stream_chunk", "stream_end", "response_head", "exchange_end"}
    others |= {"pipe_from_client", "pipe_from_backend", "system_init"}
    assert names | others == told - {"direction"}
    assert f"above {lines.BODY_BYTES_MAX // 2**20} MiB" in page
    assert f"frames of {seekable.FRAME_BYTES // 2**20} MiB" in page
    assert f"the kind `{footer.KIND}`" in page
