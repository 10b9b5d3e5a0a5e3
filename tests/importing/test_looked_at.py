"""`llmdump ls`, `show`, `stats`, `sessions` on bare files that other programs wrote."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmdump.seekable import zstd
from tests.api.exported import ANSWER
from tests.api.test_looking import look
from tests.importing.test_import import api_log, compact, har, har_entry, reference
from tests.inspecting import edges, made
from tests.inspecting.test_inspect_terminal import on_terminal

BIN = Path(sys.executable).parent


def browser(path: Path) -> Path:
    answered = {"mimeType": "application/json", "text": compact(ANSWER).decode()}
    return har(path, [har_entry("https://api.openai.com/v1/chat/completions", answered)] * 2)


def compressed(path: Path) -> Path:
    path.write_bytes(zstd.compress(reference(path.with_suffix(".plain")).read_bytes()))
    return path


OTHERS: dict[str, tuple[Callable[[Path], Path], list[int | None]]] = {
    "reference.cbor": (reference, [101, 200, None, 200, 429, 200]),
    "reference.cbor.zst": (compressed, [101, 200, None, 200, 429, 200]),
    "reference.jsonl": (edges.lines, [200, 200]),
    "api-log.jsonl.gz": (api_log, [502, 200, 200, 200]),
    "browser.har": (browser, [200, 200]),
    "sample.cbor": (made.sample, [101, 200, None, None, 200, 429, 200, 200]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_list_of_a_file_of_others_has_its_exchanges(tmp_path: Path, name: str) -> None:
    write, statuses = OTHERS[name]
    path = write(tmp_path / name)
    before = path.read_bytes()
    done = look("ls", path, json=True)
    assert [json.loads(line)["status"] for line in done.out.splitlines()] == statuses
    assert done.code == 0 and path.read_bytes() == before
    assert ("line 5: 'yesterday' is no time" in done.err) == (name == "api-log.jsonl.gz"), "what could not be taken is told"
    assert not done.err or "and 1 more, which `llmdump import` lists" in done.err


def test_an_exchange_has_the_same_id_each_time(tmp_path: Path) -> None:
    path = reference(tmp_path / "x.cbor")
    [listed] = [json.loads(line) for line in look("ls", path, json=True, params={"status": "429"}).out.splitlines()]
    assert look("show", path, id=listed["id"]).out.startswith(listed["id"])


def test_conversations_bytes_sums_and_sessions_of_others(tmp_path: Path) -> None:
    path = reference(tmp_path / "x.cbor")
    assert look("show", path, id="-6").out.splitlines()[-1] == "  Hi there"
    assert look("show", path, id="-4", raw=True).bytes == compact(ANSWER)
    groups = {line.split()[0]: line.split()[1] for line in look("stats", path, by="model").out.splitlines()[2:4]}
    assert groups["gpt-4o"] == "4"
    assert sum(json.loads(line)["n_turns"] for line in look("sessions", path, json=True).out.splitlines()) == 6


def test_files_of_several_programs_and_our_own_are_one_archive(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [BIN / "llmdump", "import", "--data-dir", data, browser(tmp_path / "b.har")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    segment = data / "segments" / "w1000-00000001.cbor"
    paths = [segment, reference(tmp_path / "r.cbor"), edges.lines(tmp_path / "lines")]
    done = subprocess.run([BIN / "llmdump", "ls", "--json", *paths], capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.splitlines()) == 2 + 6 + 2


def test_a_person_sees_how_far_the_import_is_and_a_pipe_does_not(tmp_path: Path) -> None:
    path = reference(tmp_path / "r.cbor")
    seen = on_terminal("ls", path)
    assert "Importing r.cbor" in seen and "Indexing" in seen and "429" in seen
    done = subprocess.run([BIN / "llmdump", "ls", path], capture_output=True, text=True, timeout=60, check=True)
    assert "429" in done.stdout and done.stderr == ""


def test_what_is_no_capture_and_what_is_empty_is_refused(tmp_path: Path) -> None:
    for content, why in ((b"hello", "x: no capture: neither"), (made.header(), "no exchange is in"), (b"", "no capture")):
        path = tmp_path / "x"
        path.write_bytes(content)
        done = look("ls", path)
        assert done.code == 1 and done.err.startswith("llmdump: ") and why in done.err, (content, done.err)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    look("ls", reference(tmp_path / "r.cbor"))
    (tmp_path / "torn.gz").write_bytes(api_log(tmp_path / "a.gz").read_bytes()[:300])
    look("ls", tmp_path / "torn.gz")
    assert not list((tmp_path / "temporary").iterdir())


def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.cbor"
    with path.open("wb") as file:
        file.write(made.header())
        for number in range(3000):
            meta = {"sid": "s", "rid": f"r{number}"}
            file.write(made.item(3 * number, number, made.CP, made.ask(), **meta))
            file.write(made.item(3 * number + 1, number + 0.1, made.PB, made.sent(made.ask(), ""), **meta))
            answer = {"choices": [{"message": {"content": f"{number} " * 8000}}]}
            file.write(made.item(3 * number + 2, number + 0.2, made.BP, made.answer(200, answer), **meta))
    small, large = peak_bytes(reference(tmp_path / "small.cbor")), peak_bytes(path)
    assert large - small < 60 * 1024 * 1024, "of 120 MB; entries that wait for their turn are 32 MiB"


def peak_bytes(path: Path) -> int:
    """The memory of `llmdump ls`, and of what it starts, on this file."""
    pid = os.posix_spawn(BIN / "llmdump", ["llmdump", "ls", "-n", "1", str(path)], os.environ)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024
