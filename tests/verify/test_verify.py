"""`llmdump verify` on what real pipelines recorded: every loss that is made is reported, and nothing else is."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from llmdump import jsonl, presence, seekable, segment
from llmdump.data_dir import DataDir
from llmdump.segment import Located, SegmentFile
from tests.e2e.load import Load, check_numbers
from tests.e2e.pipeline import BIN, Pipeline, backend_process, environment
from tests.patience import WAIT_S, eventually
from tests.writer.writer_rig import Writer

SMALL_SEGMENTS = 60_000


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from backend_process(tmp_path_factory.mktemp("backend") / "log")


def verify(data: DataDir, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = environment(data.root.parent, data_dir=data.root)
    command = [str(BIN / "llmdump"), "verify", *arguments]
    return subprocess.run(
        command, cwd=data.root.parent, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def told(data: DataDir, *arguments: str) -> Any:
    """The certificate as JSON; the exit code says the same as it does."""
    done = verify(data, "--json", *arguments)
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"] == (done.returncode == 0), found["problems"]
    return found


def says(data: DataDir, code: int) -> str:
    """The text for people; its last line is the verdict, and all fits on a screen."""
    done = verify(data)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].startswith("INCOMPLETE: " if code else "COMPLETE: "), done.stdout
    assert done.stdout.count("\n") < 60
    return done.stdout


def runs(pipe: Pipeline, role: str) -> None:
    """Wait until a process of this role runs."""
    eventually(
        lambda: [card for card in presence.living(pipe.data.run, role) if card.state == "running"], WAIT_S, f"{role} runs"
    )


def missing(found: Any) -> list[tuple[int, int, str]]:
    """All that is missing; there is one instance."""
    (one,) = found["instances"]
    return [(gone["first"], gone["last"], gone["reason"]) for gone in one["missing"]]


def records(data: DataDir, name: str) -> list[Located]:
    """The records of a segment without its footer."""
    with SegmentFile(data.segments, name) as file:
        content = file.read(0, file.size)
    if name.endswith(".jsonl"):
        found = list(jsonl.scan(content, closed=True))
    else:
        skip = segment.skip_header(content)
        found = list(segment.scan(content[skip:], skip, closed=True))
    return [item for item in found if isinstance(item, Located) and item.record.kind != "footer"]


@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.only_long), "sealed", "jsonl"])
def recorded(request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """A data directory with several segments of one instance that has said goodbye. Not to be changed."""
    place = tmp_path_factory.mktemp(str(request.param))
    settings = {
        "capture_seal": "true" if request.param == "sealed" else "false",
        "capture_format": "jsonl" if request.param == "jsonl" else "cbor",
        "capture_max_bytes": SMALL_SEGMENTS * (2 if request.param == "jsonl" else 1),
    }
    with Pipeline(place, upstream=backend, **settings) as pipe:
        with Load(pipe.proxy) as load:
            load.wait_for_more(30)
        check_numbers(pipe)
        pipe.stop("proxy")
        if request.param == "sealed":
            pipe.restart("writer")  # closes the last segment
            runs(pipe, "writer")
            eventually(lambda: all(name.sealed for name in segment.find(pipe.data.segments)), WAIT_S, "all are sealed")
    found = DataDir(place / "data")
    assert len(segment.find(found.segments)) >= 4
    return found


@pytest.fixture
def data(recorded: DataDir, tmp_path: Path) -> DataDir:
    """The same to be changed."""
    shutil.copytree(recorded.root, tmp_path / "data")
    return DataDir(tmp_path / "data")


def rewrite(data: DataDir, name: segment.Name, change: Callable[[bytes], bytes]) -> None:
    """Change the plain content of a segment; a sealed one is sealed again."""
    with SegmentFile(data.segments, name.segment) as file:
        content = change(file.read(0, file.size))
    if name.sealed:
        frame = seekable.compress_frame(content)
        content = frame + seekable.seek_table([(len(frame), len(content))])
    (data.segments / name.file).write_bytes(content)


def middle(data: DataDir) -> segment.Name:
    names = segment.find(data.segments)
    return names[len(names) // 2]


def test_a_whole_capture_is_complete(recorded: DataDir) -> None:
    found = told(recorded)
    assert found["complete"], found["problems"]
    assert f"COMPLETE: {found['made']:,} records of 1 proxy instances, none missing" in says(recorded, 0)
    assert (found["missing"], found["under_way"], found["behind"], found["duplicates"], found["torn_bytes"]) == (0,) * 5
    assert found["damaged"] == found["deleted"] == []
    (one,) = found["instances"]
    assert one["state"] == "ended"
    assert (
        one["made"]
        == one["in_files"]
        == one["indexed"]
        == sum(len(records(recorded, n.segment)) for n in segment.find(recorded.segments))
    )


def test_a_record_cut_out_of_the_middle_is_missing_without_a_reason(data: DataDir) -> None:
    name = middle(data)
    gone = records(data, name.segment)[7]
    rewrite(data, name, lambda content: content[: gone.offset] + content[gone.offset + gone.size :])
    found = told(data)
    assert missing(found) == [(gone.record.number, gone.record.number, "unknown")]
    assert found["damaged"] == []
    assert f": {gone.record.number}: unknown\n" in says(data, 1)


def test_a_flipped_bit_costs_its_record_and_is_told_with_its_place(data: DataDir) -> None:
    name = middle(data)
    hit = records(data, name.segment)[5]
    at = hit.offset + hit.size // 2
    rewrite(data, name, lambda content: content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    found = told(data)
    assert missing(found) == [(hit.record.number, hit.record.number, "damaged")]
    assert found["damaged"] == [{"file": name.file, "offset": hit.offset, "size": hit.size}]
    assert found["instances"][0]["missing"][0]["where"] == f"{name.file} at {hit.offset}"


def test_a_flipped_bit_of_a_sealed_file_is_told(data: DataDir) -> None:
    name = middle(data)
    path = data.segments / name.file
    if not name.sealed:
        pytest.skip("for sealed files only")
    numbers = {item.record.number for item in records(data, name.segment)}
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    found = told(data)
    gone = {number for first, last, reason in missing(found) for number in range(first, last + 1) if reason == "damaged"}
    assert gone
    assert gone <= numbers
    assert found["missing"] == len(gone)
    assert {one["file"] for one in found["damaged"]} == {name.file}


@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_a_deleted_segment_is_told_by_its_name_and_its_exact_numbers(data: DataDir, which: str) -> None:
    names = segment.find(data.segments)
    name = {"first": names[0], "middle": middle(data), "last": names[-1]}[which]
    numbers = [item.record.number for item in records(data, name.segment)]
    (data.segments / name.file).unlink()
    found = told(data)
    assert missing(found) == [(numbers[0], numbers[-1], "deleted")]
    assert found["instances"][0]["missing"][0]["where"] == f"{name.writer}-{name.number:08d}"


def test_what_retention_deletes_is_told_by_cap_and_segment_and_is_complete_unless_strict(data: DataDir) -> None:
    names = segment.find(data.segments)
    held = {name.segment: [item.record.number for item in records(data, name.segment)] for name in names}
    with Writer(data.root, capture_format="jsonl" if names[0].format == "jsonl" else "cbor", capture_max_files=2) as writer:
        writer.card()
    gone = [name for name in names if name not in segment.find(data.segments)]
    assert len(gone) == len(names) - 2
    found = told(data)
    (one,) = found["instances"]
    assert found["complete"], found["problems"]
    assert [(part["first"], part["last"], part["reason"], part["where"]) for part in one["deleted_by_retention"]] == [
        (held[name.segment][0], held[name.segment][-1], "max_files", f"{name.writer}-{name.number:08d}") for name in gone
    ]
    assert found["deleted_by_retention"] == found["made"] - found["in_files"] == sum(len(held[n.segment]) for n in gone)
    assert (found["deleted"], found["missing"], one["missing"]) == ([], 0, [])
    assert says(data, 0).splitlines()[-1].endswith(f", {found['deleted_by_retention']:,} records deleted by retention")
    assert "records deleted by retention" in verify(data, "--strict").stdout.splitlines()[-1]
    assert not told(data, "--strict")["complete"]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    assert told(data, "--since", now)["deleted_by_retention"] == 0
    last, kept = held[gone[-1].segment], segment.find(data.segments)[0]
    (data.segments / kept.file).unlink()  # by hand
    found = told(data)
    assert missing(found) == [(last[-1] + 1, held[kept.segment][-1], "deleted")]
    assert found["deleted"] == [kept.segment.partition(".")[0]]
    notes = (data.segments / "deleted.jsonl").read_bytes()
    (data.segments / "deleted.jsonl").write_bytes(notes[:-30])  # torn: the last deletion was not written down
    found = told(data)
    assert missing(found)[0][0] == last[0]
    assert found["unreadable_notes"] == 1
    assert "1 lines of segments/deleted.jsonl cannot be read" in says(data, 1)


def test_what_files_hold_and_the_index_does_not_is_told(data: DataDir) -> None:
    for path in data.root.glob("index.sqlite*"):
        path.unlink()
    found = told(data)
    assert found["behind"] == found["in_files"] == found["made"]
    assert found["missing"] == 0
    assert "llmdump-indexer" in found["problems"][0]


def test_a_number_that_the_index_has_passed_over_is_told(data: DataDir) -> None:
    db = apsw.Connection(str(data.index))
    db.execute("UPDATE ledger SET last = last - 3").get  # noqa: B018
    db.close()
    found = told(data)
    (one,) = found["instances"]
    assert one["not_indexed"] == [[one["made"] - 2, one["made"]]]
    assert (one["missing"], found["behind"]) == ([], 0)


def test_a_window_counts_what_was_made_within_and_only_losses_there(data: DataDir) -> None:
    names = segment.find(data.segments)
    every = [item.record for name in names for item in records(data, name.segment)]
    hit = records(data, names[0].segment)[3]
    rewrite(data, names[0], lambda content: content[: hit.offset] + content[hit.offset + hit.size :])
    begin, end = every[len(every) // 2].ts, every[-5].ts
    since, until = (datetime.fromtimestamp(ts, UTC).isoformat(timespec="microseconds") for ts in (begin, end))
    found = told(data, "--since", since, "--until", until)
    assert found["complete"], found["problems"]
    within = [record.number for record in every if begin <= record.ts < end]
    assert abs(found["made"] - len(within)) <= 3  # times are given to the microsecond
    assert missing(told(data, "--until", since)) == [(hit.record.number, hit.record.number, "unknown")]


def test_killed_proxy_is_unknown_after_its_last_record_and_a_living_one_is_not(backend: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path, upstream=backend) as pipe:
        with Load(pipe.proxy) as load:
            load.wait_for_more(10)
            for _ in range(3):
                found = told(pipe.data)
                assert found["complete"], found["problems"]
                assert [one["state"] for one in found["instances"]] == ["living"]
            pipe.kill("proxy")
        eventually(lambda: not told(pipe.data)["behind"], WAIT_S, "indexed")
        found = told(pipe.data)
        (one,) = found["instances"]
        assert (one["state"], one["unknown_after"], one["missing"]) == ("died", one["made"], [])
        assert one["in_files"] == one["indexed"] == one["made"] > 100
        pipe.start("proxy")
        found = told(pipe.data)
        assert sorted(one["state"] for one in found["instances"]) == ["died", "living"]
        later = told(pipe.data, "--since", eventually(lambda: _began(pipe.data), WAIT_S, "the second one is known"))
        assert (later["complete"], later["died_before"]) == (True, 1)


def _began(data: DataDir) -> str:
    return next((str(one["began"]) for one in told(data)["instances"] if one["state"] == "living" and one["began"]), "")


def test_dropped_for_want_of_room_is_exactly_what_the_gap_records_say(backend: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path, upstream=backend, capture_memory_bytes=1024 * 1024, on_overflow="drop") as pipe:
        pipe.stop("writer")
        for _ in range(8):
            body = b"x" * 400_000
            with urllib.request.urlopen(urllib.request.Request(f"{pipe.proxy}/sim/echo", body), timeout=WAIT_S) as answer:
                assert answer.status == 200
        metrics = (
            urllib.request.urlopen(presence.living(pipe.data.run, "proxy")[0].admin + "/metrics", timeout=WAIT_S)
            .read()
            .decode()
        )
        assert 'llmdump_records_dropped_total{reason="overflow"} 0.0' not in metrics
        pipe.start("writer")
        eventually(lambda: pipe.metric("llmdump_queue_depth_records") == 0, WAIT_S, "all is acknowledged")
        pipe.stop("proxy")
        eventually(lambda: not told(pipe.data)["behind"], WAIT_S, "indexed")
        dropped = int(float(metrics.split('llmdump_records_dropped_total{reason="overflow"} ')[1].split("\n")[0]))
    found = told(pipe.data)
    assert {reason for _, _, reason in missing(found)} == {"overflow"}
    assert found["missing"] == dropped
    assert found["in_files"] + dropped == found["made"]


def test_two_writers_and_both_formats_under_load_give_no_false_alarm(backend: str, tmp_path: Path) -> None:
    settings = {"capture_format": "both", "capture_max_bytes": 4 * SMALL_SEGMENTS}
    with Pipeline(tmp_path, upstream=backend, **settings) as pipe:
        pipe.also("writer")
        eventually(lambda: pipe.metric("llmdump_proxy_writers_connected") == 2, WAIT_S, "two writers")
        with Load(pipe.proxy) as load:
            for _ in range(6):
                load.wait_for_more(4)
                found = told(pipe.data)
                assert found["complete"], found
    found = told(pipe.data)
    assert found["complete"], found
    assert (found["under_way"], found["duplicates"]) == (0, 0)
    assert {name.writer for name in segment.find(pipe.data.segments)} == {"w0", "w1"}


def test_a_torn_tail_is_no_loss_and_damage_within_a_growing_file_is(backend: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path, upstream=backend) as pipe:
        with Load(pipe.proxy) as load:
            load.wait_for_more(4)
        check_numbers(pipe)
        pipe.stop("proxy")
        eventually(lambda: told(pipe.data)["complete"], WAIT_S, "indexed")
        pipe.kill("writer")
        (name,) = segment.find(pipe.data.segments)
        path = pipe.data.segments / name.file
        with path.open("ab") as file:
            file.write(path.read_bytes()[-40:][:25])
        found = told(pipe.data)
        assert (found["complete"], found["torn_bytes"]) == (True, 25)
        hit = records(pipe.data, name.segment)[9]
        content = bytearray(path.read_bytes())
        content[hit.offset + 40] ^= 0x40  # a length
        path.write_bytes(content)
        assert missing(told(pipe.data)) == [(hit.record.number, hit.record.number, "damaged")]
        pipe.start("writer")
        runs(pipe, "writer")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--since", "yesterday"], "RFC 3339"),
        (["--since", "2026-01-31T12:00:00"], "no zone"),
        (["--since", "2026-01-31T12:00:00Z", "--until", "2026-01-31T11:00:00Z"], "before"),
        (["--sinc"], "--since"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_allowed(tmp_path: Path, arguments: list[str], hint: str) -> None:
    done = verify(DataDir(tmp_path / "data"), *arguments)
    assert done.returncode == 2
    assert hint in done.stderr


def test_where_nothing_is_recorded_nothing_is_certified(tmp_path: Path) -> None:
    done = verify(DataDir(tmp_path / "data").create())
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is recorded" in done.stderr
    assert verify(DataDir(tmp_path / "nowhere")).returncode == 2


def test_an_index_that_cannot_be_read_is_2(data: DataDir) -> None:
    data.index.write_bytes(b"not a database, not a database, not a database, not a database, " * 64)
    done = verify(data)
    assert done.returncode == 2
    assert "rebuild" in done.stderr


def test_what_a_dead_proxy_has_spilled_is_pending_until_another_has_sent_it(backend: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path, upstream=backend) as pipe:
        with Load(pipe.proxy) as load:
            load.wait_for_more(5)
            pipe.kill("writer")
            load.wait_for_more(5)
        pipe.stop("proxy")
        assert pipe.data.spilled()
        found = told(pipe.data)
        (one,) = found["instances"]
        assert (one["state"], one["missing"], one["unknown_after"], found["complete"]) == ("pending", [], None, False)
        assert "pending" in says(pipe.data, 1)
        pipe.start("writer", "proxy")
        eventually(lambda: not pipe.data.spilled(), WAIT_S, "the next proxy has sent it")
        check_numbers(pipe)
        states = {instance["state"]: instance["missing"] for instance in told(pipe.data)["instances"]}
        assert states == {"ended": [], "living": []}
        load.check_all_is_stored_once(pipe)
