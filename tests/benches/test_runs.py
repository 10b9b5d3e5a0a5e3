"""One small run of the bench with real processes, and the loads' own promises."""

import asyncio
import json
import time

import pytest
import uvloop

from bench import bodies, load_streams, measure, ticker
from bench.arms.direct import Direct
from bench.arms.llmdump import Llmdump
from bench.cells import Streams

CELL = Streams("3 streams", (), connections=3, events=20, gap_s=0.01, spread_s=0.05)


@pytest.mark.parametrize("size_bytes", [1024, 10_240, 102_400])
def test_a_request_has_the_size_that_was_asked_for_and_a_number_of_its_own(size_bytes: int) -> None:
    first, second = (bodies.body(size_bytes, number) for number in (1, 2))
    assert len(first) == len(second) == size_bytes
    assert first != second
    assert json.loads(first)["messages"][0]["content"].startswith("request 000000000001 ")


def test_the_ticker_calls_each_once_and_not_before_its_time() -> None:
    async def ticks() -> list[tuple[int, int]]:
        begin_ns = time.monotonic_ns()
        due = [begin_ns + index * 500_000 for index in range(20)]
        late: list[tuple[int, int]] = []
        await ticker.at_times(due, lambda index: late.append((index, time.monotonic_ns() - due[index])))
        return late

    late = uvloop.run(ticks())
    assert [index for index, _ in late] == list(range(20))
    assert all(ns >= 0 for _, ns in late)


@pytest.mark.parametrize("size", [1, 7, 19, 20, 21, 1000])
def test_an_event_is_found_wherever_its_bytes_are_cut(size: int) -> None:
    async def read() -> load_streams.Load:
        load = load_streams.Load(1024, 3, 0.0)
        reader = load_streams.Reader(load)
        reader.connection_made(asyncio.Transport())
        reader._now_ns = 5_000
        text = b"".join(b"data: w%020d\n\n" % written_ns for written_ns in (1_000, 2_000, 4_000))
        for at in range(0, len(text), size):
            reader.on_body(text[at : at + size])
        load.over.cancel()
        return load

    load = asyncio.run(read())
    assert load.events == 3
    assert load.skews_ns == [-1_000, -2_000]


@pytest.mark.parametrize("arm", [Direct(), Llmdump("llmdump cbor", capture_format="cbor")], ids=lambda arm: arm.name)
def test_a_run_ends_with_all_events_and_a_whole_ledger(arm: Direct | Llmdump) -> None:
    run = measure.run(CELL, arm, 0)
    assert not run.void
    assert run.figures["first_p50_ms"] > 0
    if isinstance(arm, Llmdump):
        assert run.figures["made"] == run.figures["stored"] == run.figures["indexed"] > CELL.connections * CELL.events
        assert run.figures["pipeline_us"] > run.figures["forwarding_us"] > 0


def test_a_run_that_fails_is_void_and_says_why() -> None:
    class Gone(Direct):
        def running(self, backend_port: int, place: object) -> object:  # type: ignore[override]
            raise OSError("it is not installed")

    assert measure.run(CELL, Gone(), 0).void == "OSError: it is not installed"
