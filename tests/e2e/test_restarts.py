"""Each process stopped, killed and started again alone under load: no client notices, and nothing is lost or doubled."""

import contextlib
import itertools
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmdump import health
from tests.e2e import files
from tests.e2e.load import Load, Reading, by_request, check_numbers, check_stored_once
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S, eventually

pytestmark = pytest.mark.xdist_group("e2e-restarts")
BEHIND = ("writer", "indexer", "api")
"""The processes that no client talks to."""


@pytest.fixture
def pipe(backend: str, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(tmp_path / "pipeline", upstream=backend) as running:
        yield running
    files.check_every_number_is_there_once(running.data.segments)


@pytest.mark.parametrize("kill", [pytest.param(False, marks=pytest.mark.only_long), True], ids=["stopped", "killed"])
def test_no_client_notices_that_writer_indexer_and_api_are_restarted(pipe: Pipeline, kill: bool) -> None:
    with Load(pipe.proxy) as load:
        for role in BEHIND:
            load.wait_for_more(10)
            pipe.restart(role, kill=kill)
        load.wait_for_more(10)
    load.check_all_is_stored_once(pipe)
    assert check_numbers(pipe)["llmdump_proxy_exchanges_total"] == len(load.done)


def test_nothing_is_lost_while_there_is_no_writer_for_three_seconds(pipe: Pipeline) -> None:
    with Load(pipe.proxy) as load:
        load.wait_for_more(10)
        pipe.stop("writer")
        load.go_on_for(3.0)
        load.wait_for_more(20)
        pipe.start("writer")
        load.wait_for_more(10)
    load.check_all_is_stored_once(pipe)
    check_numbers(pipe)


def test_proxy_that_is_stopped_finishes_what_is_under_way_and_all_of_it_is_stored(pipe: Pipeline) -> None:
    """A stream of a quarter of a second is whole; one of many seconds is cut, and stored as far as it came, with the reason."""
    with Load(pipe.proxy) as load:
        load.wait_for_more(10)
    long = Reading(f"{pipe.proxy}/sim/chunks?n=2000&size=100&gap_ms=10")
    assert long.begun.wait(WAIT_S)
    short = Reading(f"{pipe.proxy}/sim/chunks?n=25&size=80&gap_ms=10")
    assert short.begun.wait(WAIT_S)
    pipe.stop("proxy")
    for reading in (short, long):
        reading.join(WAIT_S)
    pipe.start("proxy")
    assert load.errors == []
    check_stored_once(pipe, load.done, others=2)
    whole, cut = sorted((row for row in pipe.rows() if row["route_path"] == "/sim/chunks"), key=lambda row: row["duration_ms"])
    assert (short.whole, whole["end_reason"], whole["resp_bytes"], len(short.got)) == (True, "complete", 2000, 2000)
    assert (long.whole, cut["end_reason"], cut["disconnected"]) == (False, "shutdown", True)
    assert pipe.response_body(cut) == bytes(long.got)


def test_proxy_that_is_killed_under_load_loses_only_what_was_not_yet_durable(pipe: Pipeline) -> None:
    """What clients had before the last acknowledgement, and what they had from the next proxy, is stored once."""
    with Load(pipe.proxy, goes_on=True) as load:
        load.wait_for_more(30)
        durable = len(load.done)
        made = pipe.metric("llmdump_records_made_total")
        eventually(lambda: pipe.metric("llmdump_records_acknowledged_total") >= made, WAIT_S, "all of it is acknowledged")
        pipe.kill("proxy")
        pipe.start("proxy")
        restarted_at = time.monotonic()
        load.wait_for_more(10)
    assert load.errors, "nobody noticed: it was not under load"
    safe = [*load.done[:durable], *(one for one in load.done if one.at > restarted_at)]
    stored: dict[bytes, list[dict[str, Any]]] = {}

    def all_there() -> bool:
        stored.update(by_request(pipe, [row for row in pipe.rows() if row["end_reason"] == "complete"]))
        return all(one.request in stored for one in safe)

    eventually(all_there, WAIT_S, "all that was safe is stored")
    assert len(safe) >= 30
    for one in load.done:
        found = stored.get(one.request, [])
        assert len(found) <= 1
        assert not found or pipe.response_body(found[0]) == one.response


ORDERS = [("api", "indexer", "writer", "proxy"), ("proxy", "api", "indexer", "writer"), ("indexer", "proxy", "writer", "api")]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_processes_start_in_any_order(backend: str, tmp_path: Path, order: tuple[str, ...]) -> None:
    """Each is started when the one before it runs, and clients are served as soon as there is a proxy."""
    pipe = Pipeline(tmp_path / "pipeline", upstream=backend)
    assert sorted(order) == sorted(health.ROLES)
    served = 0
    try:
        for role in order:
            pipe.start(role)
            eventually(
                lambda role=role: role in {c.role for c in pipe.living() if c.state == "running"}, WAIT_S, f"{role} runs"
            )
            if "proxy" in pipe.processes:
                with urllib.request.urlopen(f"{pipe.proxy}/sim/bytes/{1000 + served}", timeout=WAIT_S) as answer:
                    assert len(answer.read()) == 1000 + served
                served += 1
        rows = pipe.ended(served)
        assert [row["resp_bytes"] for row in rows] == [1000 + at for at in range(served)]
    except BaseException:
        pipe.discard()
        raise
    pipe.close()


@pytest.mark.parametrize("kill", [pytest.param(False, marks=pytest.mark.only_long), True], ids=["stopped", "killed"])
def test_one_of_two_proxies_restarts_while_the_other_serves_their_port(pipe: Pipeline, kill: bool) -> None:
    pipe.also("proxy")
    both(pipe)
    (pipe.kill if kill else pipe.stop)("proxy")
    with Load(pipe.proxy) as load:
        load.wait_for_more(5)
        pipe.start("proxy")
        both(pipe)
        with contextlib.ExitStack() as stack:
            more = [stack.enter_context(Load(pipe.proxy, workers=1)) for _ in range(8)]
            for one in more:
                one.wait_for_more(2)
    done = list(itertools.chain(load.done, *(one.done for one in more)))
    assert [error for one in (load, *more) for error in one.errors] == []
    check_stored_once(pipe, done)
    assert len({row["instance"] for row in pipe.rows()}) == 2, "one proxy forwarded everything"


def both(pipe: Pipeline) -> None:
    def look() -> bool:
        gone = [process.args for process in pipe.processes.values() if process.poll() is not None]
        assert not gone, pipe.log()
        return sum(card.state == "running" for card in pipe.living() if card.role == "proxy") == 2

    eventually(look, WAIT_S, "two proxies run")


def test_port_of_somebody_else_is_refused_even_if_it_could_be_shared(backend: str, tmp_path: Path) -> None:
    """Two instances with data directories of their own would each record half of the traffic."""
    with Pipeline(tmp_path / "first", upstream=backend) as first:
        second = Pipeline(tmp_path / "second", upstream=backend, proxy_listen=first.proxy.removeprefix("http://"))
        second.start("proxy")
        try:
            assert second.processes["proxy"].wait(WAIT_S) == 1
        finally:
            second.discard()
        assert "Address already in use" in second.log()
        assert "Traceback" not in second.log()
