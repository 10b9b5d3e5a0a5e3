"""The live tail over all four processes: what a client got, a viewer is told, whatever happens to the writer meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_client import Watcher

from tests.e2e.pipeline import Pipeline, eventually
from tests.e2e.streams import Streams

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


def test_every_byte_is_told_from_the_first_one_also_over_rotation_sealing_and_a_writer_that_is_killed(
    pipe: Pipeline, streams: Streams
) -> None:
    with watch(pipe) as first:
        streams.open(pipe.proxy)
        first.until("chunk", COUNT * 20)
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
                eventually(lambda: one.ended, 10, "the stream of one exchange ends with it")
                assert next(iter(said(one).items())) in streams.got.items()
    assert len(list(pipe.data.segments.glob("*.zst"))) > 1
    assert min(map(len, streams.got.values())) > EVENTS * 40


def test_all_processes_leave_in_time_while_somebody_watches(pipe: Pipeline) -> None:
    viewer = watch(pipe)
    began = time.monotonic()
    pipe.close()
    assert time.monotonic() - began < 4.5
    eventually(lambda: viewer.ended, 2, "the api ended the stream")
    viewer.close()
