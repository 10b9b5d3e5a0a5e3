"""The live tail over all four processes: what a client got, a viewer is told, whatever happens to the writer meanwhile.

And `llmdump tail`, as a user calls it.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from live_client import Watcher

from tests.e2e.pipeline import BIN, Pipeline
from tests.e2e.streams import Streams
from tests.patience import WAIT_S, eventually

COUNT, EVENTS = 4, 200
GAP_S = 0.01


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    with Streams(COUNT, GAP_S) as streams:
        yield streams


@pytest.fixture(scope="module")
def pipe(place: Path, streams: Streams) -> Iterator[Pipeline]:
    """Segments so small that the streams go over several of them, which are sealed meanwhile."""
    with Pipeline(place, upstream=streams.backend, capture_max_bytes=100_000) as pipe:
        yield pipe


def watch(pipe: Pipeline, **how: str) -> Watcher:
    return Watcher(pipe.api, pipe.data.admin_token.read_text().strip(), **how)


def said(viewer: Watcher) -> dict[bytes, bytes]:
    """Response bodies by what was asked, as `Streams` has them."""
    ids = dict.fromkeys(one.data["id"] for one in list(viewer.said) if one.kind == "chunk")
    return {viewer.body(one, "request"): viewer.body(one) for one in ids}


def start(pipe: Pipeline, *arguments: str, out: Path | int, **environ: str) -> "subprocess.Popen[bytes]":
    """`llmdump tail …` as a process."""
    stdout = out.open("wb") if isinstance(out, Path) else out
    try:
        return subprocess.Popen(
            [BIN / "llmdump", "tail", *arguments], cwd=pipe.place, env=pipe.environ | environ, stdout=stdout,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        if not isinstance(stdout, int):
            stdout.close()


def test_every_byte_is_told_from_the_first_one_also_over_rotation_sealing_and_a_writer_that_is_killed(
    pipe: Pipeline, streams: Streams
) -> None:
    out = pipe.place / "tail.jsonl"
    tail = start(pipe, "--json", "--filter", "path=/held/*", out=out)
    with ExitStack() as ends, watch(pipe) as first:
        ends.callback(tail.kill)
        streams.open(pipe.proxy)
        first.until("chunk", COUNT * 20)
        eventually(lambda: out.read_bytes().count(b'"event":"open"') == COUNT, WAIT_S, "tail is there")
        with watch(pipe) as second, watch(pipe, filter="status=200 and path=/held/*") as filtered:
            pipe.restart("writer", kill=True)
            first.until("chunk", COUNT * EVENTS)
            with watch(pipe, id=first.said[0].data["id"]) as one:
                streams.finish()
                for viewer in (first, second, filtered):
                    viewer.until("row", COUNT)
                    assert viewer.kinds().count("open") == COUNT
                    assert said(viewer) == streams.got
                    assert not viewer.has("lost")
                eventually(lambda: one.ended, WAIT_S, "the stream of one exchange ends with it")
                assert next(iter(said(one).items())) in streams.got.items()
        eventually(lambda: out.read_bytes().count(b'"event":"row"') == COUNT, WAIT_S, "tail told all")
        tail.send_signal(signal.SIGINT)
        assert (tail.wait(WAIT_S), tail.communicate()[1]) == (0, b"")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["event"] for line in lines) == sorted(["open", "end", "row"] * COUNT)
    assert {line["id"] for line in lines} == {said.data["id"] for said in first.said}
    assert len(list(pipe.data.segments.glob("*.zst"))) > 1
    assert min(map(len, streams.got.values())) > EVENTS * 40


def test_tail_of_one_exchange_is_its_body_or_a_line_and_a_closed_pipe_is_no_error(pipe: Pipeline, streams: Streams) -> None:
    if not streams.got:  # alone
        streams.open(pipe.proxy)
        streams.finish()
    row = eventually(pipe.rows, WAIT_S, "a row")[0]
    whole, line = start(pipe, row["id"], "--bytes", out=subprocess.PIPE), start(pipe, row["id"], out=subprocess.PIPE)
    readable, writable = os.pipe()
    os.close(readable)
    broken = start(pipe, row["id"], "--json", "--bytes", out=writable)
    os.close(writable)
    ours, terminal = os.openpty()
    coloured = start(pipe, row["id"], out=terminal)
    assert whole.communicate(timeout=WAIT_S) == (pipe.response_body(row), b"")
    told = line.communicate(timeout=WAIT_S)[0].decode()
    assert told.endswith(f"  {row['id']}\n")
    assert "  200 POST /held/stream" in told
    assert (broken.communicate(timeout=WAIT_S)[1], broken.returncode) == (b"", 0)
    assert coloured.wait(WAIT_S) == 0
    assert b"\x1b[32m200\x1b[0m" in os.read(ours, 4096)
    assert (whole.returncode, line.returncode) == (0, 0)
    for fd in (ours, terminal):
        os.close(fd)
    coloured.communicate()


def test_all_processes_leave_in_time_while_somebody_watches(pipe: Pipeline) -> None:
    viewer = watch(pipe)
    pipe.close()
    eventually(lambda: viewer.ended, WAIT_S, "the api ended the stream")
    viewer.close()
