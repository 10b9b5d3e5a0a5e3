"""Numbers without a hole that is not explained: what is made, what is dropped, and how that is told."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, NO_EXCHANGE, PROXY_TO_BACKEND, PROXY_TO_CLIENT, Record, decode
from llmdump_proxy.recorder import Capture, Recorder
from llmdump_proxy.redact import Redaction
from tests.proxy.harness import MemoryShelf, backend, read_request, replying, running, scenario, until

INSTANCE = "0123456789abcdef"
PEER = b"\x66x_peer\x63p:1"
FACTS = b"\x64x_up\x63u:1\x66x_addr\x63a:1"
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Room:
    """A shelf with room for so many records; the reserve has its own."""

    why = "overflow"

    def __init__(self, room: int, reserve: int = 1000) -> None:
        self.room = room
        self.reserve = reserve
        self.shipped: list[bytes] = []

    def lane(self, exchange: str) -> str:
        return exchange

    def ship(self, lane: str, number: int, record: bytes, reserve: bool = False) -> bool:
        if self.room > 0:
            self.room -= 1
        elif reserve and self.reserve > 0:
            self.reserve -= 1
        else:
            return False
        self.shipped.append(record)
        return True

    @property
    def records(self) -> list[Record]:
        return [decode(record) for record in self.shipped]


def whole_exchange(capture: Capture, chunks: int = 2) -> None:
    capture.request(1.0, HEAD, PEER, "0" * 16, ())
    capture.forward(1.5, HEAD, FACTS, 2.5, new=True)
    capture.interim(1.6, b"HTTP/1.1 103 Early\r\n\r\n", 103)
    capture.response(2.0, b"HTTP/1.1 200 OK\r\n\r\n", 200, 500.0)
    for index in range(chunks):
        capture.chunk(2.0 + index, BACKEND_TO_PROXY, b"chunk %d" % index, None, last=index == chunks - 1)
    capture.end(9.0, "complete", "", 0, 7 * chunks, (1_000, 2_000, 3_000))


def account(recorder: Recorder, shelf: Room) -> None:
    """Every number is that of a record or named by a gap record, and none is both."""
    held = [record.number for record in shelf.records]
    named = [n for r in shelf.records if r.kind == "gap" for a, b in r.meta["x_gap"] for n in range(a, b + 1)]
    assert sorted(held + named) == list(range(1, recorder.made + 1))
    assert len(named) == recorder.dropped


def test_an_instance_begins_with_hello_and_ends_with_bye() -> None:
    shelf = Room(100)
    recorder = Recorder(INSTANCE, shelf)
    recorder.hello(1.0, {"version": "1", "pid": 7, "host": "h", "listen": "l"})
    whole_exchange(recorder.begin("s-1", "openai"))
    recorder.bye(10.0)
    first, *_, last = shelf.records
    assert (first.number, first.kind, first.meta["x_about"]["pid"]) == (1, "hello", 7)
    assert (last.number, last.kind, last.meta["x_last"]) == (recorder.made, "bye", recorder.made)
    assert first.exchange == last.exchange == NO_EXCHANGE
    account(recorder, shelf)


def test_an_exchange_is_recorded_in_order_with_what_was_told() -> None:
    shelf = Room(100)
    capture = Recorder(INSTANCE, shelf).begin("s-1", "openai")
    whole_exchange(capture)
    found = [(r.kind, r.direction, r.ts) for r in shelf.records]
    assert found == [
        ("head", CLIENT_TO_PROXY, 1.0), ("forward", PROXY_TO_BACKEND, 1.5), ("interim", BACKEND_TO_PROXY, 1.6),
        ("head", BACKEND_TO_PROXY, 2.0), ("chunk", BACKEND_TO_PROXY, 2.0), ("chunk", BACKEND_TO_PROXY, 3.0),
        ("end", PROXY_TO_CLIENT, 9.0),
    ]  # fmt: skip
    head, forward, interim, response, chunk, last, end = (r.meta for r in shelf.records)
    common = {"sid": "s-1", "be": "openai"}
    assert head == {"x_peer": "p:1", "x_key": "0" * 16, **common}
    assert forward == {"x_up": "u:1", "x_addr": "a:1", "x_dial": 2.5, "x_new": True, **common}
    assert interim == {"sc": 103, **common}
    assert response == {"sc": 200, "ttfb": 500.0, **common}
    assert chunk == {"ci": 1, **common} and last == {"ci": 2, "x_z": True, **common}
    assert end == {
        "se": True, "tc": 2, "tb": 14, "x_req": 0, "x_end": "complete", "x_err": "", "x_own": [1, 2, 3], "x_lost": 0, **common,
    }  # fmt: skip
    assert {(r.instance, r.exchange) for r in shelf.records} == {(INSTANCE, capture.exchange)}


@pytest.mark.parametrize("room", range(7))
def test_without_room_the_rest_of_an_exchange_is_dropped_and_named(room: int) -> None:
    """Nothing of it comes after the first loss, but its end, which says how many are missing."""
    shelf = Room(room)
    recorder = Recorder(INSTANCE, shelf)
    whole_exchange(recorder.begin("s-1", "openai"))
    *whole, end, gap = shelf.records if room < 6 else [*shelf.records, None]
    assert [r.number for r in whole] == list(range(1, room + 1))
    assert end is not None and end.kind == "end" and end.meta["x_lost"] == recorder.dropped == 6 - room
    if gap:
        assert (gap.kind, gap.meta["x_gap"], gap.meta["x_why"]) == ("gap", [[room + 1, 6]], "overflow")
    account(recorder, shelf)


def test_room_in_the_middle_does_not_bring_back_an_exchange_with_a_hole() -> None:
    shelf = Room(2)
    recorder = Recorder(INSTANCE, shelf)
    capture = recorder.begin("s-1", "openai")
    capture.request(1.0, HEAD, PEER, "0" * 16, ())
    capture.chunk(1.0, CLIENT_TO_PROXY, b"a", None, last=False)
    capture.chunk(1.0, CLIENT_TO_PROXY, b"lost", None, last=False)
    shelf.room = 100
    capture.chunk(1.0, CLIENT_TO_PROXY, b"late", None, last=True)
    capture.pipe(1.0, CLIENT_TO_PROXY, b"late")
    other = recorder.begin("s-2", "openai")
    other.request(1.0, HEAD, PEER, "0" * 16, ())
    capture.end(2.0, "complete", "", 9, 0, (0, 0, 0))
    assert [r.kind for r in shelf.records] == ["head", "chunk", "head", "end", "gap"]
    assert shelf.records[-1].meta["x_gap"] == [[3, 5]]
    account(recorder, shelf)


def test_a_gap_that_finds_no_room_is_told_later_and_names_itself() -> None:
    shelf = Room(1, reserve=0)
    recorder = Recorder(INSTANCE, shelf)
    whole_exchange(recorder.begin("s-1", "openai"))
    assert recorder.dropped == 7, "five records, the end, and the gap"
    recorder.tell_gaps(3.0)
    shelf.room = 10
    recorder.bye(4.0)
    assert [r.kind for r in shelf.records] == ["head", "gap", "bye"]
    account(recorder, shelf)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=25))
def test_however_room_comes_and_goes_every_number_is_accounted_for(steps: list[tuple[int, int, int]]) -> None:
    """Four exchanges side by side, with room and reserve changing under them."""
    shelf = Room(0, reserve=0)
    recorder = Recorder(INSTANCE, shelf)
    captures: dict[int, Capture] = {}
    for which, room, reserve in steps:
        shelf.room, shelf.reserve = room, reserve
        if which not in captures:
            captures[which] = recorder.begin(f"s-{which}", "openai")
            captures[which].request(1.0, HEAD, PEER, "0" * 16, ())
        captures[which].chunk(2.0, BACKEND_TO_PROXY, b"data", None, last=False)
        if room % 3 == 0:
            captures.pop(which).end(3.0, "complete", "", 0, 4, (0, 0, 0))
    for capture in captures.values():
        capture.end(3.0, "complete", "", 0, 4, (0, 0, 0))
    shelf.room = 100
    recorder.bye(4.0)
    account(recorder, shelf)
    by_exchange: dict[str, list[Record]] = {}
    for record in shelf.records:
        by_exchange.setdefault(record.exchange, []).append(record)
    for exchange, records in by_exchange.items():
        if exchange != NO_EXCHANGE:
            body = [r.number for r in records if r.kind != "end"]
            assert all(earlier < later for earlier, later in pairwise(body))
            assert all(r.kind == "end" for r in records if r.kind not in {"head", "chunk"})
            assert records[0].kind == "head" or len(records) == 1, "what has no head has lost everything"


def test_with_block_nothing_is_dropped_and_reading_stops() -> None:
    shelf = Room(2, reserve=100)
    recorder = Recorder(INSTANCE, shelf)
    stopped: list[int] = []
    recorder.on_full = lambda: stopped.append(recorder.made)
    whole_exchange(recorder.begin("s-1", "openai"), chunks=5)
    assert recorder.dropped == 0 and stopped
    assert [r.number for r in shelf.records] == list(range(1, recorder.made + 1))


@pytest.mark.parametrize("size", [0, 10, 65_536, 300_000])
def test_payloads_of_all_sizes_come_back_as_they_were(size: int) -> None:
    shelf = Room(10)
    capture = Recorder(INSTANCE, shelf).begin("s", "b")
    data = bytes(at % 251 for at in range(size))
    capture.chunk(1.0, CLIENT_TO_PROXY, data, [b"\r\n", size, b"\r\n0\r\n\r\n"], last=True)
    (found,) = shelf.records
    assert found.data == data and found.meta["x_f"] == [b"\r\n", size, b"\r\n0\r\n\r\n"] and found.ends_body


def test_times_of_our_own_beyond_an_hour_are_held_at_the_most() -> None:
    shelf = Room(10)
    capture = Recorder(INSTANCE, shelf).begin("s", "b")
    capture.end(1.0, "timeout", "client_stalled", 2**40, 2**50, (0, 10**13, 10**15))
    assert shelf.records[0].meta["x_own"] == [0, 2**32 - 1, 2**32 - 1]
    assert shelf.records[0].meta["tb"] == 2**50


def test_what_redaction_holds_comes_before_the_end() -> None:
    shelf = Room(10)
    capture = Recorder(INSTANCE, shelf, redaction=Redaction([b"secret"], [])).begin("s", "b")
    capture.request(1.0, HEAD, PEER, "0" * 16, (b"own-credential",))
    capture.chunk(2.0, CLIENT_TO_PROXY, b"own-credential, se", None, last=False)
    capture.chunk(3.0, BACKEND_TO_PROXY, b"secret", None, last=False)
    capture.chunk(4.0, CLIENT_TO_PROXY, b"cret", None, last=False)
    capture.end(5.0, "client_closed", "request_cut", 20, 6, (0, 0, 0))
    found = [(r.kind, r.ts, r.data) for r in shelf.records[1:]]
    assert found == [
        ("chunk", 2.0, b"**************, **"),
        ("chunk", 4.0, b"****"),
        ("chunk", 3.0, b"******"),
        ("end", 5.0, b""),
    ]


# ---------------------------------------------------------------- with real sockets


@scenario
async def test_clients_notice_nothing_when_there_is_no_room() -> None:
    shelf = MemoryShelf()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with backend(replying(response)) as address, running(address, shelf=shelf) as rig:
        shelf.room = False
        for _ in range(20):
            reader, writer = await rig.connect()
            writer.write(HEAD)
            assert await reader.readexactly(len(response)) == response
            writer.close()
        ends = await rig.ends(20)
        assert {end.meta["x_lost"] for end in ends} == {4}
        gaps = [n for r in rig.of_kind("gap") for a, b in r.meta["x_gap"] for n in range(a, b + 1)]
        assert len(gaps) == rig.engine.recorder.dropped == 80
        assert sorted(gaps + [r.number for r in rig.records]) == list(range(1, rig.engine.recorder.made + 1))


@scenario
async def test_numbers_have_no_hole_when_many_exchanges_run_side_by_side() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(5):
                writer.write(b"5\r\nhello\r\n")
                await asyncio.sleep(0.001)
            writer.write(b"0\r\n\r\n")

    async def ask(rig: Any) -> None:
        reader, writer = await rig.connect()
        for _ in range(5):
            writer.write(HEAD)
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()

    async with backend(answer) as address, running(address) as rig:
        await asyncio.gather(*(ask(rig) for _ in range(20)))
        await rig.ends(100)
        await until(lambda: rig.engine.stats.open_exchanges == 0)
        assert [r.number for r in rig.records] == list(range(1, rig.engine.recorder.made + 1))
        for exchange in {r.exchange for r in rig.records}:
            kinds = [r.kind for r in rig.records if r.exchange == exchange]
            assert kinds[:3] == ["head", "forward", "head"] and kinds[-1] == "end" and set(kinds[3:-1]) == {"chunk"}
