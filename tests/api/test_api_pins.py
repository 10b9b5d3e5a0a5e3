"""What is pinned outlives its segments: a real api, a real indexer, the command line, and files that are deleted."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from made import Instance, append, begin_segment, exchange, new_id, running, until

from llmdump import pins, positions, record
from llmdump.data_dir import DataDir
from llmdump.indexed import ledgers
from llmdump.lines import Converter
from llmdump.positions import Piece
from llmdump.record import Record
from llmdump_indexer.follow import Follower
from tests import v2_reader
from tests.api.test_api_serve import Served
from tests.patience import WAIT_S

ONE, TWO, THREE = new_id(1), new_id(2), new_id(3)
BODY = bytes(range(256)) * 20_000


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Two exchanges in a segment, one that is open in the next."""
    data, instance = DataDir(tmp_path / "data").create(), Instance()
    path = begin_segment(data)
    append(path, b"".join(exchange(instance, ONE, response=(BODY[:70_000], BODY[70_000:]), content_type="image/png")))
    append(path, b"".join(exchange(instance, TWO)))
    append(begin_segment(data, 2), b"".join(list(exchange(instance, THREE))[:4]))
    Follower(data).catch_up()
    return data


@pytest.fixture
def api(data: DataDir) -> Iterator[Served]:
    with running("api", data, **{"pinned-max-bytes": "6000000"}) as service:
        yield Served(service, data)


def delete_first(data: DataDir, *, noted: bool = False) -> None:
    """The first segment goes, by a cap or by hand."""
    if noted:
        note = {"segment": "w0-00000001.cbor", "at": 1e9, "reason": "max_age", "instances": {"00" * 8: [1, 13, 13]}}
        (data.segments / "deleted.jsonl").write_bytes(orjson.dumps(note) + b"\n")
    (data.segments / "w0-00000001.cbor").unlink()


def row(data: DataDir, exchange: str) -> dict[str, Any] | None:
    """The whole row but for its number."""
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    if not db.pragma("user_version"):
        return None
    cursor = db.execute("SELECT * FROM trace WHERE id = ?", (exchange,))
    names = [name for name, *_ in cursor.get_description()] if (found := next(cursor, None)) else []
    db.close()
    return {name: value for name, value in zip(names, found, strict=True) if name != "number"} if found else None


def records_of(data: DataDir, exchange: str) -> list[Record]:
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    pieces = db.execute(
        "SELECT name, runs FROM position JOIN segment ON segment.number = segment "
        "JOIN trace ON trace.number = trace WHERE id = ?",
        (exchange,),
    ).fetchall()
    db.close()
    return [item.record for item in positions.read(data.segments, [Piece(*piece) for piece in pieces])]


def llmdump(data: DataDir, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {f"LLMDUMP_{key.upper()}": value for key, value in settings.items()}
    command = [str(Path(sys.executable).parent / "llmdump"), *arguments, f"--data-dir={data.root}"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.parametrize("noted", [True, False], ids=["by a cap", "by hand"])
def test_bodies_and_trace_of_a_pinned_exchange_are_the_same_without_its_segments(api: Served, noted: bool) -> None:
    before = api.ask(f"/api/traces/{ONE}").json
    made = api.ask(f"/api/traces/{ONE}/pin", method="PUT")
    assert (made.status, made.json["records"]) == (201, 7)
    assert api.ask(f"/api/traces/{ONE}/pin", method="PUT").status == 200
    delete_first(api.data, noted=noted)
    for noticed in (False, True):
        after = api.ask(f"/api/traces/{ONE}").json
        assert after["trace"] == before["trace"]
        assert api.ask(f"/api/traces/{ONE}/response").body == BODY
        reply = api.ask(f"/api/traces/{TWO}/response")
        assert (reply.status, reply.json["error"]) == (410, "deleted_by_retention" if noted else "gone")
        assert reply.json["segments"] == ["w0-00000001.cbor"]
        if not noticed:
            Follower(api.data).catch_up()
    assert after["row"] == before["row"] | {"pinned": True}
    assert api.ask(f"/api/traces/{ONE}/pin", method="PUT").status == 200
    assert api.ask(f"/api/traces/{TWO}/pin", method="PUT").status == 410


def test_rows_say_what_is_pinned_and_can_be_asked_for_by_it(api: Served) -> None:
    def listed(pinned: str) -> list[str]:
        return [found["id"] for found in api.ask(f"/api/traces?pinned={pinned}").json["traces"]]

    with running("indexer", api.data):
        assert api.ask(f"/api/traces/{ONE}/pin", method="PUT").status == 201
        until(lambda: listed("true") == [ONE])
        assert listed("false") == [THREE, TWO]
        size = (api.data.pinned / f"{ONE}.cbor").stat().st_size
        lines = api.ask("/metrics").body.decode().splitlines()
        told = {line.partition("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("llmdump_pinned")}
        assert told == {"llmdump_pinned_exchanges": 1, "llmdump_pinned_bytes": size}
        status = json.loads(llmdump(api.data, "status", "--json").stdout)
        assert status["pinned"] == {"exchanges": 1, "bytes": size}
        assert f"1 exchanges, {size:,} bytes" in llmdump(api.data, "status").stdout
        delete_first(api.data)
        reply = api.ask(f"/api/traces/{ONE}/pin", method="DELETE")
        assert (reply.status, reply.json["was_pinned"]) == (200, True)
        until(lambda: listed("true") == [])
    assert api.ask(f"/api/traces/{ONE}/response").status == 410
    assert api.ask(f"/api/traces/{ONE}/pin", method="DELETE").json["was_pinned"] is False


def test_what_cannot_be_pinned_says_why_and_leaves_nothing(api: Served) -> None:
    left = api.data.pinned / f"{TWO}.tmp"
    left.write_bytes(b"a process was killed here")
    assert pins.find(api.data) == {}
    for id_, status, code in ((THREE, 409, "still_open"), (new_id(9), 404, "not_found"), ("x", 400, "bad_param")):
        reply = api.ask(f"/api/traces/{id_}/pin", method="PUT")
        assert (reply.status, reply.json["error"]) == (status, code)
    assert not left.exists()
    (api.data.pinned / f"{new_id(8)}.cbor").write_bytes(bytes(900_000))
    reply = api.ask(f"/api/traces/{ONE}/pin", method="PUT")
    assert (reply.status, reply.json["error"]) == (507, "no_room")
    assert "pinned_max_bytes" in reply.json["message"]
    assert api.ask(f"/api/traces/{TWO}/pin", method="PUT", token="wrong").status == 401
    assert api.ask(f"/api/traces/{TWO}/pin", method="DELETE", token="wrong").status == 401
    assert sorted(path.name for path in api.data.pinned.iterdir()) == [".lock", f"{new_id(8)}.cbor"]
    assert api.ask(f"/api/traces/{TWO}/pin", method="PUT").status == 201


def test_the_command_needs_no_process_and_its_copy_is_a_v2_capture_with_equal_records(data: DataDir) -> None:
    done = llmdump(data, "pin", ONE, "--json")
    assert done.returncode == 0, done.stderr
    told, path = json.loads(done.stdout), data.pinned / f"{ONE}.cbor"
    assert (told["file"], told["bytes"], path.stat().st_mode & 0o777) == (str(path), path.stat().st_size, 0o600)
    assert len(v2_reader.read(path.read_bytes())[1]) == told["records"] == 7
    assert list(pins.read(data, ONE)) == records_of(data, ONE)
    assert "7 records" in llmdump(data, "pin", ONE).stdout
    refused = llmdump(data, "pin", THREE)
    assert (refused.returncode, "has not ended" in refused.stderr) == (1, True)
    assert llmdump(data, "pin", "nothing").returncode == 2
    assert "capture_min_free_bytes" in llmdump(data, "pin", TWO, capture_min_free_bytes="99999999999999").stderr
    assert "no longer pinned" in llmdump(data, "pin", ONE, "--remove").stdout
    assert "not pinned" in llmdump(data, "pin", ONE, "--remove").stdout
    assert not path.exists()


def test_what_was_recorded_as_lines_is_pinned_as_equal_records(tmp_path: Path) -> None:
    data, lines = DataDir(tmp_path / "data").create(), Converter()
    recorded = [record.decode(one) for one in exchange(Instance(), ONE, response=(b"\xff\x00", b"", b'{"a": 1}'))]
    (data.segments / "w0-00000001.jsonl").write_bytes(b"".join(line for one in recorded for line in lines.lines(one)))
    Follower(data).catch_up()
    pins.pin(data, ONE, pins.Room(0, 0))
    assert list(pins.read(data, ONE)) == recorded


def test_an_index_made_anew_has_the_same_row_of_what_is_pinned_and_gone(data: DataDir) -> None:
    assert llmdump(data, "pin", ONE).returncode == 0
    Follower(data).catch_up()
    before = row(data, ONE)
    assert before is not None and before["pinned"] == 1
    for path in data.root.glob("index.sqlite*"):
        path.unlink()
    Follower(data).catch_up()
    assert row(data, ONE) == before  # from its segment
    for path in (*data.root.glob("index.sqlite*"), data.segments / "w0-00000001.cbor"):
        path.unlink()
    with running("indexer", data):
        until(lambda: data.index.exists() and row(data, ONE) == before)
    assert row(data, TWO) is None
    db = apsw.Connection(str(data.index), flags=apsw.SQLITE_OPEN_READONLY)
    assert ledgers(db)["00" * 8].numbers == [(1, 7), (14, 17)]
    db.close()
    done = llmdump(data, "rebuild", "--json")
    assert (json.loads(done.stdout)["rows_carried"], row(data, ONE)) == (1, before)
    with running("api", data) as service:
        api = Served(service, data)
        assert api.ask(f"/api/traces/{ONE}/response").body == BODY
        api.ask(f"/api/traces/{ONE}/pin", method="DELETE")
        reply = api.ask(f"/api/traces/{ONE}/response")
        assert (reply.status, reply.json["error"]) == (410, "gone")
    assert llmdump(data, "rebuild").returncode == 0
    assert row(data, ONE) == before | {"pinned": 0}


def test_an_indexer_that_begins_at_once_after_an_unpin_sees_it(data: DataDir) -> None:
    pins.pin(data, ONE, pins.Room(0, 0))
    Follower(data).catch_up()
    assert pins.unpin(data, ONE)
    Follower(data).catch_up()  # sooner than the directory's time proves anything
    found = row(data, ONE)
    assert found is not None and found["pinned"] == 0


def test_a_copy_makes_a_row_in_another_data_directory(data: DataDir, tmp_path: Path) -> None:
    assert llmdump(data, "pin", ONE).returncode == 0
    Follower(data).catch_up()
    other = DataDir(tmp_path / "other").create()
    shutil.copy(data.pinned / f"{ONE}.cbor", other.pinned)
    (other.pinned / f"{TWO}.cbor").write_bytes(b"no copy at all")
    Follower(other).catch_up()
    assert row(other, ONE) == row(data, ONE)
    assert row(other, TWO) is None


def test_damage_in_a_copy_is_told_by_verify(data: DataDir) -> None:
    assert llmdump(data, "pin", ONE).returncode == 0
    path = data.pinned / f"{ONE}.cbor"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = json.loads(llmdump(data, "verify", "--json").stdout)
    assert (found["pinned"], [one["file"] for one in found["damaged"]]) == (1, [f"pinned/{ONE}.cbor"])
    assert found["missing"] == 0


PART = os.urandom(1_000_000)


def in_the_middle_of_a_body(api: Served, segments: int, what: Callable[[], None]) -> bytes:
    """The body of an exchange of 40 MB in so many segments, when `what` is done as soon as it begins to come."""
    instance, id_ = Instance("33" * 8), new_id(50)
    records = list(exchange(instance, id_, response=(PART,) * 40, content_type="image/png"))
    for number in range(segments):
        share = len(records) // segments
        end = len(records) if number == segments - 1 else (number + 1) * share
        append(begin_segment(api.data, 3 + number), b"".join(records[number * share : end]))
    Follower(api.data).catch_up()
    request = urllib.request.Request(f"{api.url}/api/traces/{id_}/response", headers={"Authorization": f"Bearer {api.token}"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        begin = answer.read(1000)
        what()
        return bytes(begin + answer.read())


def test_a_body_is_read_to_its_end_although_its_segment_is_deleted_meanwhile(api: Served) -> None:
    gone = api.data.segments / "w0-00000003.cbor"
    assert in_the_middle_of_a_body(api, 1, gone.unlink) == PART * 40
    assert api.ask(f"/api/traces/{new_id(50)}/response").status == 410


def test_a_body_that_goes_on_in_a_deleted_segment_is_cut_off_and_not_taken_for_whole(api: Served) -> None:
    gone = api.data.segments / "w0-00000004.cbor"
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        in_the_middle_of_a_body(api, 2, gone.unlink)
    assert api.ask(f"/api/traces/{new_id(50)}/response").status == 410
