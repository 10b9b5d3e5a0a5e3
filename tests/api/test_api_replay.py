"""A recorded stream sent again by a real api: byte for byte, read for read, and in its own time."""

import gzip
import itertools
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from made import Instance, exchange, new_id, running, until

from llmdump import pins
from llmdump.data_dir import DataDir
from llmdump.pins import Room
from llmdump_api import replay
from llmdump_api.replay import GAP_S_MAX, REPLAYS_MAX, Schedule
from tests.api.streams import At, connect, get, put, put_stream, read, status_of, stream
from tests.api.test_api_serve import Served

TIMER_S = 0.002
"""Timers have whole ms."""
PACED = [At(0, b"data: 1\n\n"), At(100, b": ping\n\n"), At(300, b"id: 7\ndata: [DONE]\n\n")]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = DataDir(tmp_path_factory.mktemp("replay")).create()
    with running("api", data) as service:
        yield Served(service, data)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """An api of its own, for a test that changes how it is."""
    data = DataDir(tmp_path / "data").create()
    with running("api", data) as service:
        yield Served(service, data)


def route(id_: str, query: str = "") -> str:
    return f"/api/traces/{id_}/replay{query}"


# --- the bytes


def hostile_chunks() -> list[At]:
    """Chunks of all sizes that begin, end and break anywhere, some within a character, a line, a chunk's own framing."""
    drawn = random.Random(7)
    texts = [
        b"data: 1\n\n", b": keep-alive\n\n", b"id: 9\r\nretry: 5\r\ndata: {}\r\n\r\n", b"data: [DONE]\n\n", b"\n", b"\r", b"\0",
        b"0\r\n\r\n", b"5\r\nhello\r\n", "data: 你".encode()[:-1], "你".encode()[-1:], b"x" * 70_000, b"y" * 300_000,
    ]  # fmt: skip
    parts = [drawn.choice(texts) for _ in range(400)] + [drawn.randbytes(drawn.randrange(1, 3000)) for _ in range(400)]
    return [At(index / 10, part) for index, part in enumerate(parts)]


def test_every_byte_and_every_read_is_sent_again(api: Served) -> None:
    chunks = hostile_chunks()

    def mixed(instance: Instance, id_: str) -> Iterator[bytes]:
        other = stream(instance, new_id(10_000), [At(0, b"other")] * 2000)
        return (part for one in stream(instance, id_, chunks) for part in (one, next(other)))

    id_ = put(api, mixed)
    got = get(api, route(id_, "?nodelay=1"))
    assert (got.status, got.whole) == (200, True)
    assert got.chunks == [chunk.data for chunk in chunks]
    assert got.body == api.ask(f"/api/traces/{id_}/response").body


def test_a_read_that_held_only_framing_is_not_a_chunk_and_not_the_end(api: Served) -> None:
    id_ = put_stream(api, [At(0, b"a"), At(1, b""), At(2, b"b"), At(3, b"")])
    got = get(api, route(id_))
    assert (got.chunks, got.whole) == ([b"a", b"b"], True)


def test_status_type_and_coding_are_as_recorded_and_the_coding_stays(api: Served) -> None:
    coded = gzip.compress(b"data: 1\n\n" * 50)
    id_ = put_stream(
        api, [At(0, coded[:11]), At(1, coded[11:])], content_type="text/event-stream; charset=utf-8",
        fields="Content-Encoding: gzip\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n", status="529 Overloaded",
    )  # fmt: skip
    got = get(api, route(id_))
    assert (got.status, got.chunks) == (529, [coded[:11], coded[11:]])
    assert got.fields["content-type"] == "text/event-stream; charset=utf-8"
    assert (got.fields["content-encoding"], got.fields["transfer-encoding"]) == ("gzip", "chunked")
    assert "set-cookie" not in got.fields
    assert "content-length" not in got.fields


def test_what_is_replayed_cannot_run_in_a_browser_nor_forge_a_field(api: Served) -> None:
    content_type = "text/html\x7f\x00; charset=utf-8\r\nEvil: 1"
    id_ = put_stream(api, [At(0, b"<script>1</script>")], content_type=content_type)
    got = get(api, route(id_))
    assert "sandbox" in got.fields["content-security-policy"].split("; ")
    assert (got.fields["x-content-type-options"], got.fields["cache-control"]) == ("nosniff", "no-store")
    assert got.fields["content-type"] == "text/html; charset=utf-8"
    assert "evil" not in got.fields


# --- the time


@pytest.mark.parametrize(("query", "least_s"), [("", 0.3), ("?speed=1", 0.3), ("?speed=10", 0.03), ("?speed=.5", 0.6)])
def test_gaps_are_the_recorded_ones_divided_by_speed(api: Served, query: str, least_s: float) -> None:
    id_ = put_stream(api, PACED)
    begin = time.monotonic()  # before the first chunk was sent, so that no load can make it look shorter
    got = get(api, route(id_, query))
    assert got.chunks == [chunk.data for chunk in PACED]
    assert got.times_s[1] - begin >= least_s / 3 - TIMER_S
    assert got.times_s[2] - begin >= least_s - TIMER_S


@pytest.mark.parametrize("nodelay", ["1", "true"])
def test_without_delay_an_hour_takes_no_time(api: Served, nodelay: str) -> None:
    id_ = put_stream(api, [At(0, b"a"), At(3_600_000, b"b")], end_ms=7_200_000)
    assert get(api, route(id_, f"?nodelay={nodelay}&speed=.000001")).chunks == [b"a", b"b"]


def test_the_first_chunk_comes_at_once_whatever_the_backend_took(api: Served) -> None:
    id_ = put_stream(api, [At(3_600_000, b"a"), At(3_600_010, b"b")])
    assert get(api, route(id_)).chunks == [b"a", b"b"]


def test_the_schedule_never_goes_back_and_never_waits_for_a_clock_that_was_set() -> None:
    due = Schedule(2.0)
    times = [100.0, 101.0, 99.0, 100.0, 1e9, 1e9 + 1, float("nan"), 5.0, float("inf"), 7.0]
    dues = [due.due_s(ts) for ts in times]
    half = GAP_S_MAX / 2
    assert dues == [0.0, 0.5, 0.5, 1.0, 1 + half, 1.5 + half, 1.5 + half, 1.5 + half, 1.5 + 2 * half, 1.5 + 2 * half]


# --- how it ends


def at_once(*parts: bytes) -> list[At]:
    return [At(0, part) for part in parts]


CUTS: dict[str, tuple[list[At], dict[str, Any], list[bytes]]] = {
    "by the client": (at_once(b"a", b"b"), {"closed": False, "end": "client_closed"}, [b"a", b"b"]),
    "by the backend": (at_once(b"a"), {"closed": False, "end": "upstream_closed"}, [b"a"]),
    "before any byte": ([], {"closed": False, "end": "upstream_closed"}, []),
    "still open": (at_once(b"a", b"b"), {"closed": False, "end": None}, [b"a", b"b"]),
    "a record is missing": ([At(0, b"a"), At(0, b"c", {"ci": 3}), At(0, b"d", {"ci": 4})], {}, [b"a"]),
    "a read was cut on purpose": ([At(0, b"a"), At(0, b"bc", {"x_cut": 9})], {}, [b"a"]),
    "the last records were dropped": (at_once(b"a"), {"closed": False, "lost": 1}, [b"a"]),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_stream_that_was_cut_ends_as_cut(api: Served, how: str) -> None:
    chunks, facts, want = CUTS[how]
    got = get(api, route(put_stream(api, chunks, **facts)))
    assert (got.status, got.chunks, got.whole) == (200, want, False)


def test_a_cut_comes_when_it_came(api: Served) -> None:
    id_ = put_stream(api, at_once(b"a"), closed=False, end="upstream_closed", end_ms=200)
    begin = time.monotonic()
    got = get(api, route(id_))
    assert not got.whole
    assert got.end_s - begin >= 0.2 - TIMER_S


def test_all_bytes_come_before_a_cut_also_to_a_slow_client(api: Served) -> None:
    part = os.urandom(500_000)
    id_ = put_stream(api, at_once(*[part] * 8), closed=False, end="upstream_closed")
    with closing(connect(api, route(id_), receive_bytes=8192)) as sock:
        got = read(sock)
    assert (len(got.body), got.body == part * 8, got.whole) == (4_000_000, True, False)


def test_a_body_that_ends_with_the_connection_is_whole(api: Served) -> None:
    id_ = put_stream(api, at_once(b"a"), closed=False, end="complete")
    got = get(api, route(id_))
    assert (got.chunks, got.whole) == ([b"a"], True)


def test_an_answer_that_the_proxy_made_is_replayed_too(api: Served) -> None:
    said = b'HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\r\n{"error":"refused"}'

    def answered(instance: Instance, id_: str) -> list[bytes]:
        return [*itertools.islice(stream(instance, id_, []), 2), instance.record(id_, 1, "answer", said, sc=502)]

    got = get(api, route(put(api, answered)))
    assert (got.status, got.chunks, got.whole) == (502, [b'{"error":"refused"}'], True)


def test_a_pinned_stream_is_replayed_after_its_segment_has_gone_and_no_other(own: Served) -> None:
    kept, lost = put_stream(own, PACED), put_stream(own, PACED)
    pins.pin(own.data, kept, Room(0, 0))
    for path in own.data.segments.glob("*.cbor"):
        path.unlink()
    assert get(own, route(kept, "?nodelay=1")).chunks == [chunk.data for chunk in PACED]
    reply = own.ask(route(lost))
    assert (reply.status, reply.json["error"]) == (410, "gone")


# --- refusals


@pytest.mark.parametrize("query", ["speed=0", "speed=101", "speed=nan", "speed=-1", "speed=inf", "speed=", "speed=1e1",
                                   "speed=100.1", "nodelay=2", "nodelay=", "speeed=1"])  # fmt: skip
def test_a_parameter_that_cannot_be_used_is_named(api: Served, query: str) -> None:
    id_ = put_stream(api, PACED)
    reply = api.ask(route(id_, f"?{query}"))
    assert (reply.status, reply.json["error"], reply.json["param"]) == (400, "invalid_param", query.partition("=")[0])
    assert reply.json["message"]


def test_what_is_no_stream_or_not_there_is_told(api: Served) -> None:
    plain = put(api, exchange)
    switched = put_stream(api, [], status="101 Switching Protocols")
    unanswered = put(api, lambda instance, id_: itertools.islice(stream(instance, id_, []), 3))
    for id_, status, code in ((plain, 400, "not_streaming"), (switched, 400, "not_streaming"),
                              (unanswered, 400, "not_streaming"), (new_id(20_000), 404, "not_found")):  # fmt: skip
        reply = api.ask(route(id_))
        assert (reply.status, reply.json["error"]) == (status, code), id_
    assert api.ask("/api/traces/x/replay").json["param"] == "id"
    assert status_of(api, route(plain), "HEAD") == 405
    assert api.ask(route(plain), token="wrong").status == 401


# --- clients that leave, and clients that wait


def test_replays_are_limited_and_a_client_that_leaves_makes_room(own: Served) -> None:
    id_ = put_stream(own, [At(0, b"a"), At(3_600_000, b"b")])
    with ExitStack() as stack:
        waiting = [stack.enter_context(closing(connect(own, route(id_)))) for _ in range(REPLAYS_MAX)]
        for sock in waiting:
            assert b"a" in _until_body(sock)
        reply = own.ask(route(id_))
        assert (reply.status, reply.json["error"]) == (503, "too_many_replays")
    assert until(lambda: status_of(own, route(id_)) == 200)


def _until_body(sock: socket.socket) -> bytes:
    got = b""
    while not got.partition(b"\r\n\r\n")[2]:
        more = sock.recv(4096)
        assert more
        got += more
    return got.partition(b"\r\n\r\n")[2]


def test_a_signal_ends_a_replay_that_waits(own: Served) -> None:
    id_ = put_stream(own, [At(0, b"a"), At(3_600_000, b"b")])
    with closing(connect(own, route(id_))) as sock:
        assert b"a" in _until_body(sock)
        assert own.service.stop(8.0) == 0


def test_a_client_that_does_not_read_holds_the_replay_back_and_not_in_memory(api: Served) -> None:
    part, count = os.urandom(100_000), 600
    id_ = put_stream(api, at_once(*[part] * count))
    get(api, route(id_))
    before = _resident_bytes(api)
    socks = [connect(api, route(id_)) for _ in range(4)]
    peak, deadline = 0, time.monotonic() + 1.0
    while time.monotonic() < deadline:
        peak = max(peak, _resident_bytes(api))
        time.sleep(0.02)
    for sock in socks:
        with closing(sock):
            got = read(sock)
            assert got.whole
            assert got.chunks == [part] * count
    assert peak - before < 25_000_000, f"{peak - before:,} bytes for 4 replays of 60 MB"


def _resident_bytes(api: Served) -> int:
    pages = Path(f"/proc/{api.service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_the_limit_on_replays_is_what_the_page_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    section = page.partition("/replay\n")[2].partition("\n## ")[0]
    assert f"{REPLAYS_MAX} at the same time" in section
    assert f"up to {replay.SPEED_MAX:g}" in section
