"""The live tail as a real api tells it, of segment files that grow as a writer makes them."""

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_client import Watcher
from made import Instance, append, begin_segment, new_id, running, until

from llmdump import filter as filters
from llmdump.assembly import begin
from llmdump.data_dir import DataDir
from llmdump.positions import unpack
from llmdump.record import decode
from llmdump.segment import Located
from llmdump_api.live import VIEWERS_MAX
from llmdump_api.live_asked import Asked
from llmdump_api.live_exchange import LiveExchange
from llmdump_api.live_viewer import RESUME_BYTES, VIEWER_BUFFER_BYTES, CatchUp, Event, Told, Viewer
from llmdump_indexer.follow import Follower
from tests.api.streams import At, stream
from tests.api.test_api_serve import Served

NOW_MS = 1_767_225_600_000
ALL = frozenset({0, 1, 3})


class Place:
    """A data directory with one writer's segments, and an api."""

    def __init__(self, api: Served) -> None:
        self.api = api
        self.instance = Instance("ab" * 8)
        self._ids = itertools.count(1)
        self.segments = 1
        self.path = begin_segment(api.data, 1)

    def new(self) -> str:
        return new_id(next(self._ids))

    def rotate(self) -> None:
        self.segments += 1
        self.path = begin_segment(self.api.data, self.segments)

    def write(self, *records: bytes) -> None:
        append(self.path, b"".join(records))

    def index(self) -> None:
        Follower(self.api.data).catch_up()

    def watch(self, **how: Any) -> Watcher:
        return Watcher(self.api.url, self.api.token, **how)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    data = DataDir(tmp_path_factory.mktemp("live")).create()
    with running("api", data) as service:
        yield Place(Served(service, data))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One that nobody has watched yet."""
    data = DataDir(tmp_path_factory.mktemp("fresh")).create()
    with running("api", data) as service:
        yield Place(Served(service, data))


def pings(count: int) -> list[At]:
    return [At(index, b"data: %d\n\n" % index) for index in range(count)]


# --- what is told, and when


def test_an_exchange_opens_streams_ends_and_gets_its_row(place: Place) -> None:
    id_ = place.new()
    records = list(stream(place.instance, id_, pings(3)))
    with place.watch() as viewer:
        place.write(*records[:3])
        viewer.until("open").until("chunk")
        told = viewer.said[0].data
        assert (told["id"], told["path"], told["model"], told["client"]) == (
            id_, "/v1/chat/completions", "m", "127.0.0.1:5000")  # fmt: skip
        assert "status" not in told
        place.write(*records[3:5])
        viewer.until("chunk", 2, id_)
        place.write(*records[5:])
        viewer.until("end", exchange=id_)
        assert viewer.said[-1].data["end_reason"] == "complete"
        assert "total_tokens" not in viewer.said[-1].data
        place.index()
        viewer.until("row")
        assert viewer.kinds() == ["open", "chunk", "chunk", "chunk", "chunk", "end", "row"]
        assert viewer.said[-1].data == place.api.ask(f"/api/traces/{id_}").json["row"]
        assert viewer.body(id_) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert viewer.body(id_, "request") == b'{"model":"m","stream":true}'
        assert [one.id.partition("-")[2] for one in viewer.said] == [str(number) for number in range(1, 8)]


@pytest.mark.parametrize("indexed", [False, True])
def test_who_joins_in_the_middle_gets_all_from_the_first_byte(place: Place, indexed: bool) -> None:
    id_, parts = place.new(), [At(index, random.Random(index).randbytes(400)) for index in range(300)]
    records = list(stream(place.instance, id_, parts))
    place.write(*records[:100])
    if indexed:
        place.index()
    with place.watch(id=id_) as viewer:
        viewer.until("chunk", 50)
        place.write(*records[100:200])
        place.rotate()
        with place.watch(id=id_) as later:
            place.write(*records[200:])
            place.index()
            for one in (viewer, later):
                until(lambda one=one: one.ended)
                assert one.body(id_) == b"".join(part.data for part in parts)
                assert one.kinds(id_)[-2:] == ["end", "row"]


def test_the_first_viewer_gets_what_is_open_since_long_from_its_first_byte(fresh: Place) -> None:
    over, open_ = fresh.new(), fresh.new()
    records = list(stream(fresh.instance, open_, pings(20)))
    fresh.write(*records[:8], *stream(Instance("cd" * 8), over, pings(2)))
    fresh.rotate()
    fresh.write(*records[8:12])
    fresh.index()
    with fresh.watch(filter="client=null") as viewer:
        viewer.until("chunk", 9)
        fresh.write(*records[12:])
        viewer.until("end")
        assert {one.data["id"] for one in viewer.said} == {open_}
        assert viewer.body(open_) == b"".join(part.data for part in pings(20))


def test_an_exchange_whose_proxy_died_ends_as_lost_with_its_row(fresh: Place) -> None:
    id_ = fresh.new()
    with fresh.watch() as viewer:
        fresh.write(*list(stream(fresh.instance, id_, pings(3)))[:5])
        viewer.until("chunk", 2, id_)
        Follower(fresh.api.data, lost_after_s=0.0).catch_up()
        viewer.until("row", exchange=id_)
        assert viewer.kinds(id_)[-2:] == ["end", "row"]
        assert viewer.said[-1].data["end_reason"] == "lost"


def test_an_exchange_that_is_over_is_told_to_its_end(place: Place) -> None:
    id_ = place.new()
    place.write(*stream(place.instance, id_, pings(5)))
    place.index()
    with place.watch(id=id_) as viewer:
        until(lambda: viewer.ended)
        assert viewer.kinds() == ["open", *["chunk"] * 6, "end", "row"]
        assert viewer.body(id_) == b"".join(part.data for part in pings(5))


def test_a_filter_is_asked_again_whenever_more_is_known(place: Place) -> None:
    fine, bad = place.new(), place.new()
    with (
        place.watch(filter="status>=400", chunks="response") as failures,
        place.watch(filter="cost=null and model~m") as rows,
        place.watch(filter="not status=200 or tokens=1") as never,
        place.watch() as every,
    ):
        first = list(stream(place.instance, fine, pings(2)))
        second = list(stream(place.instance, bad, pings(2), status="500 No"))
        place.write(*first[:4], *second[:3])
        every.until("open", 2)
        assert not failures.said, "its status is not known yet"
        place.write(*second[3:4])
        failures.until("open")
        place.write(*first[4:], *second[4:])
        every.until("end", 2)
        assert not rows.said, "what only its row has is not known yet"
        place.index()
        for viewer, count in ((rows, 2), (failures, 1), (never, 1), (every, 2)):
            viewer.until("row", count)
        assert {one.data["id"] for one in [*failures.said, *never.said]} == {bad}
        assert failures.kinds() == ["open", "chunk", "chunk", "end", "row"]
        assert rows.kinds(fine) == ["open", "chunk", "chunk", "chunk", "end", "row"]


def test_chunks_may_be_left_out(place: Place) -> None:
    id_ = place.new()
    with place.watch(chunks="none") as none, place.watch(chunks="response") as response:
        place.write(*stream(place.instance, id_, pings(2)))
        none.until("end", exchange=id_)
        response.until("end", exchange=id_)
        assert none.kinds(id_) == ["open", "end"]
        assert {one.data["side"] for one in response.said if one.kind == "chunk"} == {"response"}


def test_an_answer_of_the_proxy_is_told_without_its_head(place: Place) -> None:
    id_ = place.new()
    records = [*itertools.islice(stream(place.instance, id_, []), 2)]
    said = b'HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\r\n{"error":"refused"}'
    with place.watch(chunks="response") as viewer:
        place.write(*records, place.instance.record(id_, 1, "answer", said, sc=502))
        viewer.until("chunk", exchange=id_)
        assert viewer.body(id_) == b'{"error":"refused"}'


def test_a_torn_tail_is_not_told_before_it_is_whole_and_damage_is_passed_over(place: Place) -> None:
    id_ = place.new()
    records = list(stream(place.instance, id_, pings(4)))
    with place.watch() as viewer:
        place.write(*records[:5], records[5][:60])
        viewer.until("chunk", 2, id_)
        place.write(records[5][60:], b"\0" * 40, *records[6:])
        viewer.until("end", exchange=id_)
        assert viewer.body(id_) == b"".join(part.data for part in pings(4))


def test_what_was_sent_twice_is_told_once(place: Place) -> None:
    id_ = place.new()
    records = list(stream(place.instance, id_, pings(3)))
    with place.watch() as viewer:
        place.write(*records[:5])
        viewer.until("chunk", 2, id_)
        place.rotate()
        place.write(*records[4:])
        viewer.until("end", exchange=id_)
        assert viewer.body(id_) == b"".join(part.data for part in pings(3))


# --- connections that break, viewers that do not read


def test_last_event_id_goes_on_without_a_hole_and_without_a_repeat(place: Place) -> None:
    id_ = place.new()
    records = list(stream(place.instance, id_, pings(30)))
    with place.watch() as viewer:
        place.write(*records[:10])
        viewer.until("chunk", 5, id_)
    broken = viewer.said[3]
    place.write(*records[10:20])
    with place.watch(last=broken.id) as again:
        place.write(*records[20:])
        again.until("end", exchange=id_)
        numbers = [int(one.id.rpartition("-")[2]) for one in again.said]
        assert numbers == list(range(4 + 1, 4 + 1 + len(numbers)))
        again.said[:0] = viewer.said[:4]
        assert again.body(id_) == b"".join(part.data for part in pings(30))
    with place.watch(last="0" * 16 + "-7") as stranger:
        assert stranger.until("lost").said[0].data == {"events": None, "reason": "not_kept", "exchanges": []}


def _resident_bytes(api: Served) -> int:
    pages = Path(f"/proc/{api.service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_a_viewer_that_does_not_read_costs_bounded_memory_and_is_told_what_it_missed_and_others_miss_nothing(
    place: Place,
) -> None:
    id_, count, at_once = place.new(), 1500, 50
    parts = [At(index / 100, b"x" * 40_000) for index in range(count)]
    records = list(stream(place.instance, id_, parts))
    place.write(*records[:4])
    before = peak = _resident_bytes(place.api)
    with (
        place.watch(id=id_, chunks="response") as reading,
        place.watch(id=id_, chunks="response", reads=False) as stuck,
    ):
        for first in range(0, count, at_once):
            place.write(*records[4 + first : 4 + first + at_once])
            reading.until("chunk", first + at_once)
            peak = max(peak, _resident_bytes(place.api))
        place.write(*records[4 + count :])
        place.index()
        until(lambda: reading.ended)
        assert len(reading.body(id_)) == 40_000 * count
        assert not reading.has("lost")
        assert peak - before < 10 * VIEWER_BUFFER_BYTES, f"{peak - before:,} bytes more for a stream of {40_000 * count:,}"
        stuck.read()
        until(lambda: stuck.ended)
        missed = [one.data for one in stuck.said if one.kind == "lost"]
        assert {(one["reason"], *one["exchanges"]) for one in missed} == {("slow", id_)}
        assert sum(one["events"] for one in missed) + len(stuck.said) - len(missed) == len(reading.said)


def test_viewers_are_limited_and_one_that_leaves_makes_room(place: Place) -> None:
    with ExitStack() as stack:

        def more() -> Watcher | None:
            viewer = place.watch(reads=False)
            return stack.enter_context(viewer) if viewer.status == 200 else None

        viewers = [until(more) for _ in range(VIEWERS_MAX)]
        refused = place.watch()
        assert (refused.status, refused.error["error"]) == (503, "too_many_viewers")
        viewers[0].close()
        until(more)


def test_a_signal_ends_all_streams_cleanly_and_in_time(fresh: Place) -> None:
    id_, service = fresh.new(), fresh.api.service
    with fresh.watch() as reading, fresh.watch(reads=False, receive_bytes=8192):
        fresh.write(*stream(fresh.instance, id_, [At(index, b"x" * 100_000) for index in range(100)]))
        reading.until("end", exchange=id_)
        assert service.stop(4.0) == 0
        until(lambda: reading.ended)
    assert "Traceback" not in service.errors()


# --- who may not


@pytest.mark.parametrize(("query", "param"), [
    ({"filter": "cost>$0.05 or total>1m"}, "filter"), ({"chunks": "some"}, "chunks"), ({"id": "x"}, "id"),
    ({"id": new_id(1), "filter": "stream"}, "id"), ({"since": "now"}, "since"),
])  # fmt: skip
def test_a_parameter_that_cannot_be_used_is_named(place: Place, query: dict[str, str], param: str) -> None:
    refused = place.watch(**query)
    assert (refused.status, refused.error["error"], refused.error["param"]) == (400, "bad_param", param)
    if param == "filter":
        assert refused.error["offset"] == 14


def test_what_is_not_there_and_who_has_no_token_is_turned_away(place: Place) -> None:
    nobody = {"id": new_id(999_999)}
    until(lambda: place.watch(**nobody).error["error"] != "too_many_viewers")  # those of the test before may still be leaving
    assert place.watch(**nobody).error["error"] == "not_found"
    assert Watcher(place.api.url, "wrong").status == 401


# --- the parts alone


def made(id_: str, *, status: int = 200) -> tuple[LiveExchange, list[Event]]:
    """An exchange and the events of its records."""
    known: LiveExchange | None = None
    events = []
    for at, raw in enumerate(stream(Instance(), id_, pings(2), status=f"{status} Fine")):
        record = decode(raw)
        known = known or LiveExchange(begin(record))
        offset = known.take("w0-00000001.cbor", Located(at * 1000, len(raw), record), 1)
        is_chunk = record.kind == "chunk"
        events.append(Event(known, "chunk" if is_chunk else "end" if record.kind == "end" else "known", record, offset))
    assert known is not None
    return known, [event if event.kind == "chunk" else Event(event.exchange, event.kind) for event in events]


def all_told(viewer: Viewer) -> list[str]:
    """The kinds of all that waits; it is taken."""
    kinds = []
    while (upcoming := viewer.next) is not None:
        if isinstance(upcoming, CatchUp):
            kinds.append("catch-up")
            viewer.caught_up()
        else:
            kinds += [one.kind for one in viewer.take()]
    return kinds


def test_a_full_buffer_counts_and_an_exchange_that_had_no_room_is_announced_when_there_is() -> None:
    viewer = Viewer(Asked(directions=ALL), 1500)
    (_, first), (_, more) = made(new_id(1)), made(new_id(2))
    viewer.offer(first)
    viewer.offer(more[:2])
    got = all_told(viewer)
    assert got[0] == "open"
    assert got[-1] == "lost"
    wanted = 1 + sum(event.kind in {"chunk", "end"} for event in first)
    assert viewer.lost_events == wanted - (len(got) - 1)
    viewer.offer(more[2:3])
    assert all_told(viewer) == ["open"], "of the second, once there is room"
    viewer.offer(first)
    missed = viewer.lost_events
    third, its = made(new_id(3))
    viewer.offer(its[:2])
    assert viewer.lost_events == missed, "there may be room before it is over"
    viewer.offer([Event(third, "over")])
    assert viewer.lost_events == missed + 1


def test_what_the_index_told_to_its_end_is_not_told_again_when_the_tail_reads_it() -> None:
    (past, _), (_, later) = made(new_id(1)), made(new_id(1))
    viewer = Viewer(Asked(exchange=new_id(1), directions=ALL))
    viewer.begin([past])
    viewer.offer([Event(past, "row")])
    assert all_told(viewer) == ["open", "catch-up", "end", "row"]
    viewer.offer(later)
    assert all_told(viewer) == []


def test_a_connection_that_broke_long_ago_is_told_how_much_is_no_longer_kept() -> None:
    viewer = Viewer(Asked())
    big = Told("end", b"{" + b" " * 100_000 + b"}")
    for _ in range(30):
        viewer.sse([big])
    again = viewer.again(5)
    kept = again.count(b"event: end")
    assert RESUME_BYTES - 100_100 < kept * 100_000 <= RESUME_BYTES
    assert b'id: %b-%d\nevent: lost\ndata: {"events":%d,"reason":"resumed"' % (
        viewer.name.encode(), 30 - kept, 30 - kept - 5) in again  # fmt: skip
    assert viewer.again(29).count(b"\n\n") == 1
    assert viewer.again(30) == b""


def test_pieces_name_every_record_once_over_two_segments() -> None:
    records = [decode(raw) for raw in stream(Instance(), new_id(1), pings(4))]
    known = LiveExchange(begin(records[0]), [])
    for at, record in enumerate(records):
        known.take(f"w0-{1 + at // 5:08d}.cbor", Located(at % 5 * 100, 100, record), 1)
    assert len(records) == 9
    assert known.pieces() == known.pieces()
    assert [(piece.segment, unpack(piece.runs)) for piece in known.pieces()] == [
        ("w0-00000001.cbor", [(0, 500)]), ("w0-00000002.cbor", [(0, 400)]),
    ]  # fmt: skip


def test_what_may_still_become_known_passes_no_test_and_no_negation_of_one() -> None:
    known, _ = made(new_id(1))
    for words, holds in {
        "status=200": True, "not status=200": False, "tokens>1": False, "not tokens>1": False, "tokens=null": False,
        "tokens>1 or status=200": True, "not (tokens>1 and status=500)": True, "tokens>1 and status=200": False,
        "client=curl": False, "client!=curl": True, "model=m": True, "end=complete": True, "pinned": False,
    }.items():  # fmt: skip
        assert filters.parse(words, NOW_MS).holds(known.facts()) is holds, words
