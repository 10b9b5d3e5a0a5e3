"""Real clients, straight to the simulated backend and through the whole pipeline: the same bytes, and one trace each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.calls import SIMULATED, Call, Where
from tests.e2e.crossing import Crossing
from tests.e2e.pipeline import Pipeline
from tests.e2e.tap import tapping

pytestmark = pytest.mark.xdist_group("e2e-clients")


@pytest.fixture(scope="module")
def crossing(backend: str, place: Path) -> Iterator[Crossing]:
    """A pipeline between two taps, before the simulated backend."""
    with (
        tapping(backend) as back,
        Pipeline(place, upstream=back.url, upstream_keepalive_s=0) as pipe,
        tapping(pipe.proxy) as front,
    ):
        yield Crossing(pipe, front, back)


@pytest.mark.parametrize("call", SIMULATED, ids=repr)
def test_client_gets_the_same_bytes_and_one_trace_tells_it_all(crossing: Crossing, call: Call, tmp_path: Path) -> None:
    headers = {"x-sim-tag": "c0ffee", "x-sim-gap-ms": "5"}
    direct = crossing.direct(call, Where(crossing.back.url, "sim-large", headers, tmp_path))
    proxied = crossing.proxied(call, Where(crossing.front.url, "sim-large", headers, tmp_path))
    assert proxied.value == direct.value
    if call.status != 101:  # a WebSocket client draws its key and its masks anew each time
        assert proxied.at_backend.request.lines == direct.at_backend.request.lines
        assert proxied.at_backend.request.body == direct.at_backend.request.body
        assert proxied.at_client.response.lines == direct.at_backend.response.lines
        assert proxied.at_client.response.body == direct.at_backend.response.body
    crossing.check_nothing_was_changed(proxied)
    crossing.check_row(proxied.row, call, "sim-large")
    crossing.check_end(proxied, call)
    crossing.check_stored_bodies(proxied)
    crossing.check_chunks(proxied)
    if proxied.row["stream"]:
        crossing.check_one_chunk_each_read(proxied)
