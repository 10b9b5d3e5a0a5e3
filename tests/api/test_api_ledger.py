"""/api/ledger: the same facts that the files have, from the index and the living processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from made import Instance, append, begin_segment, exchange, new_id, running

from llmdump.certificate import Missing
from llmdump.data_dir import DataDir
from llmdump.indexed import Ledger, Segment
from llmdump.ledger import About, Gap
from llmdump.presence import Card, Presence
from llmdump.retention import Note
from llmdump_api import ledger
from llmdump_indexer.follow import Follower
from tests.api.test_api_serve import Served

ONE = "00" * 8


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    data = DataDir(tmp_path / "data").create()
    with running("api", data) as service:
        yield Served(service, data)


def metrics(api: Served) -> dict[str, float]:
    lines = api.ask("/metrics?scope=own").body.decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("llmdump_ledger")}


def test_before_there_is_an_index_nothing_is_known(api: Served) -> None:
    found = api.ask("/api/ledger").json
    assert (found["complete"], found["made"], found["instances"], found["instances_total"]) == (True, 0, [], 0)


def test_what_the_index_holds_is_told_with_what_is_missing_and_why(api: Served) -> None:
    ended, died, living = Instance(began_s=1e9), Instance("11" * 8, 2e9), Instance("22" * 8, 3e9)
    path = begin_segment(api.data)
    append(path, ended.about("hello", x_about={"pid": 7}) + b"".join(exchange(ended, new_id(1))))
    ended.number += 3  # dropped, and told
    append(path, ended.about("gap", x_gap=[[8, 10]], x_why="overflow") + ended.about("bye", x_last=12))
    append(path, died.about("hello"))
    died.number += 1  # lost, by nobody's intention
    append(path, b"".join(exchange(died, new_id(2))) + living.about("hello"))
    Follower(api.data).catch_up()
    proxy = Presence.claim(api.data.run, "proxy")
    proxy.update(instance=living.name)
    found = api.ask("/api/ledger").json
    proxy.release()
    assert {name: value for name, value in found.items() if name != "instances"} == {
        "complete": False, "made": 21, "indexed": 17, "missing": {"overflow": 3, "unknown": 1}, "deleted_by_retention": {},
        "under_way": 0, "unknown_ends": 1, "instances_total": 3,
    }  # fmt: skip
    newest, second, oldest = found["instances"]
    assert (newest["state"], newest["missing"], newest["unknown_after"]) == ("living", 0, None)
    assert (second["state"], second["missing_ranges"], second["unknown_after"]) == ("died", [[2, 2, "unknown"]], 8)
    assert oldest == {
        "instance": ONE, "about": {"pid": 7}, "began": "2001-09-09T01:46:40.001Z", "ended": "2001-09-09T01:46:40.012Z",
        "state": "ended", "made": 12, "indexed": 9, "missing": 3, "missing_ranges": [[8, 10, "overflow"]],
        "deleted_by_retention": 0, "deleted_ranges": [], "under_way": 0, "unknown_after": None,
    }  # fmt: skip
    assert metrics(api) == {
        'llmdump_ledger_missing_records{reason="overflow"}': 3, 'llmdump_ledger_missing_records{reason="unknown"}': 1,
        "llmdump_ledger_unknown_ends": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("segments", "writers", "living", "missing", "under_way"),
    [
        (["w0-00000001.cbor"], 1, True, [Missing(3, 3, "unknown")], 0),
        (["w0-00000001.cbor", "w1-00000001.cbor"], 1, True, [], 1),
        (["w0-00000001.cbor"], 2, True, [], 1),
        (["w0-00000001.cbor"], 2, False, [Missing(3, 3, "unknown")], 0),
    ],
    ids=["one writer", "two have written", "two live", "two live, the proxy does not"],
)
def test_with_several_writers_a_living_instance_has_numbers_under_way(
    segments: list[str], writers: int, living: bool, missing: list[Missing], under_way: int
) -> None:
    known = {ONE: Ledger(About(ONE), [(1, 2), (4, 9)], [])}
    cards = [Card(role="writer", slot=slot, pid=1, started_at=0.0) for slot in range(writers)]
    cards += [Card(role="proxy", slot=0, pid=1, started_at=0.0, instance=ONE)] * living
    (found,) = ledger.statements(known, [Segment(name, 0, False) for name in segments], cards)
    assert (found.missing, found.under_way) == (missing, under_way)


def test_an_instance_with_records_in_spill_files_is_pending_until_it_has_none() -> None:
    known = {ONE: Ledger(About(ONE), [(1, 2), (4, 9)], [])}
    segments = [Segment("w0-00000001.cbor", 0, False)]
    (found,) = ledger.statements(known, segments, [], spilled={ONE})
    assert (found.state, found.complete, found.missing, found.under_way, found.unknown_after) == ("pending", False, [], 1, None)
    (found,) = ledger.statements(
        known, segments, [Card(role="proxy", slot=0, pid=1, started_at=0.0, instance=ONE)], spilled={ONE}
    )
    assert found.state == "living"
    (found,) = ledger.statements(known, segments, [])
    assert (found.state, found.missing, found.unknown_after) == ("died", [Missing(3, 3, "unknown")], 9)


def test_an_answer_is_bounded_and_its_sums_are_of_all() -> None:
    holed = [(number, number) for number in range(1, 2 * ledger.MISSING_MAX + 10, 2)]
    known = {f"{index:016x}": Ledger(About(f"{index:016x}"), holed, []) for index in range(3)}
    known |= {f"{index:016x}": Ledger(About(f"{index:016x}"), [(1, 1)], []) for index in range(3, ledger.INSTANCES_MAX + 5)}
    found: Any = orjson.loads(orjson.dumps(ledger.answer(ledger.statements(known, [], []), known)))
    assert len(found["instances"]) == ledger.INSTANCES_MAX
    assert found["instances_total"] == ledger.INSTANCES_MAX + 5
    assert len(found["instances"][0]["missing_ranges"]) == ledger.MISSING_MAX
    assert found["missing"] == {"unknown": 3 * (len(holed) - 1)}


def test_what_retention_deleted_before_it_was_indexed_is_told_as_that_and_what_it_indexed_explains_nothing(api: Served) -> None:
    instance = Instance()
    path = begin_segment(api.data, 2)
    append(path, instance.about("hello"))
    instance.number += 4
    append(path, instance.about("bye", x_last=6))
    note = {"segment": "w0-00000001.cbor", "at": 1e9, "reason": "max_files", "instances": {ONE: [2, 4, 3]}, "indexed": False}
    other = note | {"segment": "w0-00000003.cbor", "instances": {"33" * 8: [1, 5, 5]}}
    (api.data.segments / "deleted.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in (note, other)))
    Follower(api.data).catch_up()
    found = api.ask("/api/ledger").json
    assert (found["missing"], found["deleted_by_retention"], found["made"]) == ({"unknown": 1}, {"max_files": 8}, 11)
    known, unheard = found["instances"]
    assert (known["deleted_by_retention"], known["missing_ranges"]) == (3, [[5, 5, "unknown"]])
    assert known["deleted_ranges"] == [[2, 4, "max_files", "w0-00000001", "2001-09-09T01:46:40.000Z"]]
    assert (unheard["instance"], unheard["unknown_after"], unheard["indexed"]) == ("33" * 8, 5, 0)
    lines = api.ask("/metrics?scope=own").body.decode()
    assert 'llmdump_ledger_deleted_records{reason="max_files"} 8.0' in lines
    segments = [Segment("w0-00000001.cbor", 9, closed=True)]
    sparse = [Note("w0", 1, 9.0, "max_age", {ONE: (1, 9, 5)})]
    (one,) = ledger.statements({ONE: Ledger(About(ONE), [(1, 4), (6, 9)], [])}, segments, [], sparse)
    assert (one.missing, one.deleted) == ([Missing(5, 5, "unknown")], 0)


def test_a_gap_without_anything_after_it_counts_as_made() -> None:
    known = {ONE: Ledger(About(ONE), [(1, 2)], [Gap(ONE, 3, 5, "overflow")])}
    (found,) = ledger.statements(known, [], [])
    assert (found.made, found.missing, found.unknown_after) == (5, [Missing(3, 5, "overflow")], 5)
