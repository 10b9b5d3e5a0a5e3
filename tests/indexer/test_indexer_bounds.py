"""The indexer's limits: memory for open exchanges, labels for models, patience with a tail that looks cut."""

from functools import partial
from pathlib import Path

import apsw
import pytest
from made import Instance, append, begin_segment, exchange, new_id

from llmdump import assembly, positions
from llmdump.data_dir import DataDir
from llmdump.reading import prices
from llmdump.record import decode
from llmdump.segment import Damage, Located, header, skip_header
from llmdump.tail import CUT_FOR_S_MAX, Step, Tail
from llmdump_indexer import absorb
from llmdump_indexer.absorb import Absorb
from llmdump_indexer.follow import Follower
from llmdump_indexer.index import Index
from llmdump_indexer.traffic import MODELS_MAX, OTHER, Traffic
from llmdump_indexer.understand import understand


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def steps(tail: Tail) -> list[Step]:
    tail.look()
    found = []
    while (step := tail.step()) is not None:
        found.append(step)
    return found


def test_open_exchanges_beyond_the_limit_are_let_go_and_taken_up_again(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absorb, "OPEN_MAX", 10)
    path, instance = begin_segment(data), Instance()
    made = [list(exchange(instance, new_id(index))) for index in range(30)]
    with Index(data.index) as index, Tail(data.segments, []) as tail:
        taken = Absorb(index, partial(positions.read, data.segments), partial(understand, prices.load("")))
        for part in range(6):
            for records in made:
                append(path, records[part])
            taken.segments(tail.look())
            for step in steps(tail):
                taken.step(step)
            index.save(taken.take()[0])
            taken.forget()
            assert len(taken._held) <= 10
            assert taken.open_exchanges == (30 if part < 5 else 0)
    rows = apsw.Connection(str(data.index)).execute("SELECT req_bytes, resp_bytes, end_reason, model FROM trace").fetchall()
    assert rows == [(33, 11, "complete", "gpt-4o")] * 30


def test_a_long_stream_rewrites_only_the_last_piece_of_its_positions(data: DataDir) -> None:
    path, instance = begin_segment(data), Instance()
    long = list(exchange(instance, new_id(1), response=(b"x",) * 1000))
    other = exchange(instance, new_id(2), response=(b"y",) * 1000)
    append(path, b"".join(record + next(other) for record in long))
    Follower(data).catch_up()
    db = apsw.Connection(str(data.index))
    pieces = db.execute("SELECT piece, runs FROM position WHERE trace = 1 ORDER BY piece").fetchall()
    assert [len(positions.unpack(runs)) for _, runs in pieces] == [256, 256, 256, 237]
    found = positions.read(data.segments, [positions.Piece(path.name, runs) for _, runs in pieces])
    assert [item.record for item in found] == [decode(record) for record in long]


def test_distinct_models_have_labels_up_to_a_limit() -> None:
    traffic = Traffic()
    for index in range(MODELS_MAX + 50):
        row = assembly.Exchange(new_id(1), "00" * 8, 0, 1, model=f"m{index}", duration_us=1, end_reason="complete")
        traffic.ended(row)
    models = [sample.labels[1] for sample in traffic.samples()]
    assert len(models) == MODELS_MAX + 1
    assert OTHER in models


def test_a_length_that_lies_beyond_the_end_holds_the_tail_up_for_a_while_only(data: DataDir) -> None:
    """The last batch of a segment that grows: a damaged length looks like a record that is not whole yet."""
    path, clock = begin_segment(data), Clock()
    records = list(exchange(Instance(), new_id(1)))
    begin = path.stat().st_size
    broken = bytearray(records[0])
    broken[37] = 0x07  # the length of its data: 117 MB
    append(path, bytes(broken) + b"".join(records[1:]))
    with Tail(data.segments, [], clock) as tail:
        assert [step.items for step in steps(tail)] == [[]]  # the header
        clock.now_s += CUT_FOR_S_MAX / 2
        assert steps(tail) == []
        clock.now_s += CUT_FOR_S_MAX
        (step,) = steps(tail)
    assert step.items[0] == Damage(begin, len(broken))
    assert [type(item) for item in step.items[1:]] == [Located] * 5


def test_a_record_larger_than_a_window_is_read(data: DataDir) -> None:
    path = begin_segment(data)
    append(path, b"".join(exchange(Instance(), new_id(1), response=(b"x" * 5_000_000, b"y"))))
    Follower(data).catch_up()
    db = apsw.Connection(str(data.index))
    assert db.execute("SELECT resp_bytes, end_reason FROM trace").fetchall() == [(5_000_001, "complete")]
    assert db.execute("SELECT count(*) FROM damage").get == 0


def test_the_lag_is_what_is_not_read_yet(data: DataDir) -> None:
    path = begin_segment(data)
    append(begin_segment(data, 2), b"x" * 10)
    size = path.stat().st_size
    with Tail(data.segments, []) as tail:
        tail.look()
        assert tail.lag_bytes() == 2 * size + 10
        steps(tail)
        assert tail.lag_bytes() == 10


def test_each_writer_has_its_turn(data: DataDir) -> None:
    for writer in ("w0", "w1", "w2"):
        path = begin_segment(data, writer=writer)
        append(path, b"".join(exchange(Instance(writer * 8), new_id(1), response=(b"x" * 700_000,) * 4)))
    with Tail(data.segments, []) as tail:
        order = [step.segment.name[:2] for step in steps(tail)]
    assert order[:6] == ["w0", "w1", "w2"] * 2


def test_a_header_ends_where_it_ends_whatever_part_of_a_record_follows() -> None:
    head, record = header("w0", 1, 1.5), next(exchange(Instance(), new_id(1)))
    assert {skip_header(head + record[:cut]) for cut in range(len(record))} == {len(head)}
    assert {skip_header(head[:cut]) for cut in range(len(head))} == {0}
