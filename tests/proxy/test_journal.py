"""The wall between forwarding and capture: a fault of capture costs records, named as a gap, and no client anything."""

from tests.proxy.harness import backend, replying, running, scenario

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class FailingShelf:
    """Takes records until the one with this number, and then has a bug."""

    why = "overflow"

    def __init__(self, fails_at: int) -> None:
        self.fails_at = fails_at
        self.records: list[bytes] = []

    def lane(self, exchange: str) -> None:
        return None

    def ship(self, lane: None, number: int, record: bytes, reserve: bool = False) -> bool:
        if number == self.fails_at:
            raise RuntimeError("a fault of capture")
        self.records.append(record)
        return True


def test_a_fault_of_capture_at_any_record_reaches_no_client_and_is_named_as_a_gap() -> None:
    for fails_at in range(1, 7):
        check_forwarded_and_told(fails_at)


def check_forwarded_and_told(fails_at: int) -> None:
    @scenario
    async def run() -> None:
        async with backend(replying(RESPONSE)) as where, running(where) as rig:
            shelf = FailingShelf(fails_at)
            rig.engine.recorder.shelf = shelf
            answer = await rig.ask(REQUEST)
            assert answer.endswith(b"\r\n\r\nhello")
            rig.shelf.records = shelf.records  # for the rig's own checks at its end
            gaps = [gap for record in rig.of_kind("gap") for gap in record.meta["x_gap"]]
            made = rig.engine.recorder.made
            missing = sorted(set(range(1, made + 1)) - {record.number for record in rig.records})
            if fails_at < 6:  # the sixth is the end record itself: its gap is told with the next exchange's
                assert [number for first, last in gaps for number in range(first, last + 1)] == missing
                assert {record.meta["x_why"] for record in rig.of_kind("gap")} <= {"error", "overflow"}
            assert rig.engine.recorder.lost["error"] == 1
            rig.shelf.room = fails_at < 6

    run()


def test_an_exchange_that_cannot_even_begin_to_be_recorded_is_forwarded() -> None:
    @scenario
    async def run() -> None:
        async with backend(replying(RESPONSE)) as where, running(where) as rig:

            class NoLane(FailingShelf):
                def lane(self, exchange: str) -> None:
                    raise RuntimeError("a fault of capture")

            rig.engine.recorder.shelf = NoLane(0)
            assert (await rig.ask(REQUEST)).endswith(b"\r\n\r\nhello")

    run()
