"""Files of other tools, and our own exports, put into an archive: the same exchanges are read there."""

import base64
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random
from typing import Any

import cbor2
import orjson
import pytest
from click.testing import CliRunner
from made import running, until

from llmdump import pins, seekable, segment
from llmdump.commands import import_, verify
from llmdump.data_dir import DataDir
from llmdump.importing import segments
from llmdump.pins import Room
from llmdump.reading import from_records
from llmdump.record import Record
from llmdump_api import query
from llmdump_api.export import selection
from llmdump_api.export.forms import FORMS
from llmdump_api.export.selection import Archive, Selection
from llmdump_indexer.follow import Follower
from llmdump_writer import recovery
from tests import v2_reader
from tests.api.exported import ANSWER, ASKED_CLAUDE, CHAT, CLAUDE, LARGE, Made, compact, every_sort
from tests.writer.traffic import sse

BIN = Path(sys.executable).parent
OF_THE_PLACE = {"instance", "first_record", "last_record", "session_root_id", "parent_id"}
OF_TIMES = {"ts_start", "ts_end", "first_byte_ms", "duration_ms", "ttft_ms", "last_token_ms", "gap_p50_ms", "gap_p99_ms",
            "gap_worst_ms", "output_tokens_per_second", "own_first_us", "own_worst_us", "own_sum_us",
            "resp_chunks"}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Made:
    return every_sort()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, made: Made) -> DataDir:
    data = DataDir(tmp_path_factory.mktemp("source")).create()
    made.store(data)
    return data


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "archive").create()


def bring(data: DataDir, *paths: Path, ok: bool = True) -> list[dict[str, Any]]:
    """Import, and index; what is told of each file."""
    done = CliRunner().invoke(import_.command, ["--json", "--data-dir", str(data.root), *map(str, paths)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == (0 if ok else 1), (done.output, done.exception)
    Follower(data, lost_after_s=0.0).catch_up()
    told: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    return told


def written(source: DataDir, form: str, path: Path) -> Path:
    archive = Archive(source)
    asked = selection.parse({"format": form}, FORMS, form, 0)
    path.write_bytes(b"".join(FORMS[form].stream(Selection([archive], asked))))
    archive.close()
    return path


def rows(data: DataDir, *but: set[str]) -> dict[str, dict[str, Any]]:
    """Rows by id, oldest first, without some columns."""
    archive = Archive(data)
    asked = selection.parse({}, FORMS, "jsonl", 0)
    found = [query.row_object(row) for _, row in Selection([archive], asked).rows()]
    archive.close()
    gone = set().union(*but)
    return {row["id"]: {name: value for name, value in row.items() if name not in gone} for row in reversed(found)}


def records(data: DataDir, id_: str) -> list[Record]:
    archive = Archive(data)
    row = archive.row(id_)
    assert row is not None
    exchange = archive.open(row, skip_missing=False)
    assert exchange is not None
    found = list(exchange.records())
    archive.close()
    return found


def body(data: DataDir, id_: str, direction: int) -> bytes:
    return b"".join(one.data for one in records(data, id_) if one.kind == "chunk" and one.direction == direction)


def verified(data: DataDir) -> dict[str, Any]:
    done = CliRunner().invoke(verify.command, ["--json", "--data-dir", str(data.root)])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# --- round trips


@pytest.mark.parametrize("form", ["wire-jsonl", "segment", "sealed", "pinned"])
def test_our_own_records_come_back_as_they_were(source: DataDir, made: Made, data: DataDir, tmp_path: Path, form: str) -> None:
    paths = {"wire-jsonl": lambda: [written(source, "wire-jsonl", tmp_path / "x.jsonl")], "segment": lambda: [plain(source)],
             "sealed": lambda: [sealed(source, tmp_path)], "pinned": lambda: pinned(source, made)}[form]()  # fmt: skip
    told = bring(data, *paths)
    assert sum(one["exchanges"] for one in told) == len(made.ids)
    assert list(rows(data)) == made.ids
    for id_ in made.ids:
        before, after = records(source, id_), records(data, id_)
        assert [facts(one) for one in after] == [facts(one) for one in before]
    verified(data)


def facts(record: Record) -> tuple[Any, ...]:
    return record.ts, record.direction, record.kind, record.data, record.meta


def plain(source: DataDir) -> Path:
    return source.segments / "w0-00000001.cbor"


def sealed(source: DataDir, tmp_path: Path) -> Path:
    content = plain(source).read_bytes()
    frame = seekable.compress_frame(content)
    path = tmp_path / "w0-00000001.cbor.zst"
    path.write_bytes(frame + seekable.seek_table([(len(frame), len(content))]))
    return path


def pinned(source: DataDir, made: Made) -> list[Path]:
    return [pins.pin(source, id_, Room(0, 0)).file for id_ in made.ids]


def test_four_legs_give_the_same_rows_and_readings(source: DataDir, made: Made, data: DataDir, tmp_path: Path) -> None:
    bring(data, written(source, "cbor", tmp_path / "x.cbor"))
    socket = made.ids[10]
    before, after = rows(source, OF_THE_PLACE), rows(data, OF_THE_PLACE)
    assert list(after) == made.ids
    for id_ in made.ids:
        for one in (before[id_], after[id_]) if id_ == socket else ():
            for name in ("resp_chunks", "req_bytes", "resp_bytes", *OF_TIMES & set(one)):
                one.pop(name, None)
        assert after[id_] == before[id_]
        assert readings(data, id_) == readings(source, id_)
        for way in (0, 3):
            assert body(data, id_, way) == body(source, id_, way)
            assert times(data, id_, way) == pytest.approx(times(source, id_, way), abs=2e-6)
            assert ends(data, id_, way) == ends(source, id_, way)
    verified(data)


def readings(data: DataDir, id_: str) -> Any:
    found = records(data, id_)
    told = from_records.read(found, round(found[0].ts * 1e6), ended=found[-1].meta.get("x_end") == "complete").reading
    return told.reading, told.usage_raw, told.text, told.reasoning_text


def ends(data: DataDir, id_: str, way: int) -> list[bool]:
    return [one.ends_body for one in records(data, id_) if one.kind == "chunk" and one.direction == way]


def times(data: DataDir, id_: str, way: int) -> list[float]:
    return [one.ts for one in records(data, id_) if one.kind == "chunk" and one.direction == way]


@pytest.mark.parametrize("form", ["jsonl", "har"])
def test_decoded_forms_give_the_same_readings(source: DataDir, made: Made, data: DataDir, tmp_path: Path, form: str) -> None:
    told = bring(data, written(source, form, tmp_path / "x"), ok=form == "har")
    left = rows(data, OF_THE_PLACE, OF_TIMES)
    gone = {made.ids[10]} if form == "jsonl" else set()
    assert set(left) == set(made.ids) - gone, told
    assert [problem["where"] for problem in told[0]["listed"]] == (["line 2"] if gone else [])
    for id_, row in left.items():
        before = rows(source, OF_THE_PLACE, OF_TIMES)[id_]
        compressed = {"resp_bytes"} if id_ == made.ids[2] else set()
        unlike = compressed | {"truncated_resp"} | ({"req_bytes", "resp_bytes"} if id_ == made.ids[10] else set())
        if id_ == made.ids[11]:  # a HAR says that bytes are missing, but not where
            unlike |= {"resp_bytes"} | ({"event_count", "complete", "cut_by"} if form == "har" else set())
        unlike |= {"backend", "error_code", "client", "key_hash"} if form == "har" else {"backend"}
        if id_ == made.ids[4]:  # the proxy's own answer
            unlike |= {"upstream", "resp_bytes", "stream", "disconnected", "provider"}
        differs = {name for name in row if row[name] != before[name]}
        assert differs <= unlike, (id_, {name: (before[name], row[name]) for name in differs})
    verified(data)


# --- once


def test_the_same_file_twice_gives_nothing_new(source: DataDir, made: Made, data: DataDir, tmp_path: Path) -> None:
    file = written(source, "har", tmp_path / "x.har")
    copy = tmp_path / "copy.har"
    copy.write_bytes(file.read_bytes())
    bring(data, file)
    before = sorted(path.name for path in data.segments.iterdir())
    [told] = bring(data, copy)
    assert told["already_imported"] == "w1000-00000001.cbor"
    assert sorted(path.name for path in data.segments.iterdir()) == before
    assert len(rows(data)) == len(made.ids)


def test_an_exchange_with_an_id_is_taken_once_whatever_file_it_comes_in(
    source: DataDir, made: Made, data: DataDir, tmp_path: Path
) -> None:
    har, cbor = written(source, "har", tmp_path / "x.har"), written(source, "cbor", tmp_path / "x.cbor")
    [first, second] = bring(data, har, cbor)
    assert (first["exchanges"], second["exchanges"], second["already_there"]) == (len(made.ids), 0, len(made.ids))
    assert [path.name for path in data.segments.iterdir()] == ["w1000-00000001.cbor"]
    data.index.unlink()  # now nobody but the segments knows
    [third] = bring(data, written(source, "wire-jsonl", tmp_path / "x.jsonl"))
    assert (third["exchanges"], len(rows(data))) == (0, len(made.ids))
    verified(data)


def in_two_files(tmp_path: Path) -> tuple[str, list[Path]]:
    """An exchange, and the segments that have its first records and its last ones."""
    made = Made()
    id_ = made.call("/v1/x", [b'{"model":"m"}'], [b'{"a":', b"1}"])
    for number, part in enumerate((made.records[:5], made.records[5:]), 1):
        front = segment.header("w0", number, 1.0)
        (tmp_path / f"w0-{number:08d}.cbor").write_bytes(front + b"".join(part))
    return id_, sorted(tmp_path.glob("w0-*"))


def test_an_exchange_that_stands_in_two_files_is_put_together(data: DataDir, tmp_path: Path) -> None:
    id_, paths = in_two_files(tmp_path)
    told = bring(data, *paths)
    assert [one["exchanges"] for one in told] == [1, 0]
    assert (body(data, id_, 3), rows(data)[id_]["end_reason"]) == (b'{"a":1}', "complete")
    verified(data)


# --- into an archive that is in use


def test_a_running_writer_and_indexer_take_an_import_up(source: DataDir, made: Made, data: DataDir, tmp_path: Path) -> None:
    file = written(source, "cbor", tmp_path / "x.cbor")
    admin = {"writer-admin-listen": "127.0.0.1:0"}
    with running("writer", data, **admin) as writer, running("indexer", data):
        done = subprocess.run(
            [BIN / "llmdump", "import", "--data-dir", data.root, file], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{file}: {len(made.ids)} exchanges (v2)\n"
        until(lambda: data.index.exists() and len(rows(data)) == len(made.ids))
        assert writer.stop() == 0
    assert recovery.recover(data.segments, "w0").closed == {}  # what the next writer finds
    assert (data.segments / "w1000-00000001.cbor").stat().st_mode & 0o777 == 0o600
    assert verified(data)["complete"]
    assert not list(data.segments.glob("*.tmp"))


def test_an_import_that_cannot_be_written_leaves_nothing(source: DataDir, data: DataDir, tmp_path: Path) -> None:
    file = written(source, "cbor", tmp_path / "x.cbor")
    environment = {"LLMDUMP_CAPTURE_MIN_FREE_BYTES": str(1 << 60)}
    done = CliRunner().invoke(import_.command, ["--data-dir", str(data.root), str(file)], env=environment)
    assert (done.exit_code, "capture_min_free_bytes" in done.stderr) == (1, True)
    assert not list(data.segments.iterdir())


# --- taken back


def undone(data: DataDir, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "llmdump", "import", "--undo", "--data-dir", data.root, *paths]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_import_is_taken_back_with_its_rows_and_may_be_made_again(data: DataDir, tmp_path: Path) -> None:
    first, second = reference(tmp_path / "ref.cbor"), api_log(tmp_path / "log.gz")
    bring(data, first)
    before = rows(data)
    bring(data, second, ok=False)
    renamed = second.rename(tmp_path / "renamed")
    done = undone(data, renamed)
    assert (done.returncode, done.stderr) == (0, "") and "w1000-00000002.cbor is removed" in done.stdout
    assert rows(data) == before
    assert [path.name for path in data.segments.glob("*.cbor")] == ["w1000-00000001.cbor"]
    verified(data)
    bring(data, renamed, ok=False)
    assert len(rows(data)) == len(before) + 4
    assert (data.segments / "w1000-00000003.cbor").exists(), "no number is used again"


def test_taking_back_needs_what_was_imported_the_file_or_its_segment(data: DataDir, tmp_path: Path) -> None:
    file = reference(tmp_path / "ref.cbor")
    bring(data, file)
    file.write_bytes(file.read_bytes() + b" ")
    done = undone(data, file)
    assert (done.returncode, done.stdout) == (1, "") and "nothing in" in done.stderr and len(rows(data)) == 6
    done = undone(data, data.segments / "w1000-00000001.cbor")
    assert done.returncode == 0 and not rows(data)


def test_what_retention_deleted_stays_in_the_list_when_an_import_is_taken_back(
    source: DataDir, made: Made, data: DataDir, tmp_path: Path
) -> None:
    segment = data.segments / plain(source).name
    segment.write_bytes(plain(source).read_bytes())
    Follower(data, lost_after_s=0.0).catch_up()
    segment.unlink()
    bring(data, file := reference(tmp_path / "ref.cbor"))
    assert len(rows(data)) == len(made.ids) + 6
    assert undone(data, file).returncode == 0
    assert list(rows(data)) == made.ids


def test_of_an_exchange_in_two_files_what_is_not_taken_back_is_read_again(data: DataDir, tmp_path: Path) -> None:
    _, [first, second] = in_two_files(tmp_path)
    bring(data, first, second)
    assert [row["end_reason"] for row in rows(data).values()] == ["complete"]
    assert undone(data, second).returncode == 0
    Follower(data, lost_after_s=0.0).catch_up()
    assert [row["end_reason"] for row in rows(data).values()] != ["complete"]


# --- files of others


def v2(path: Path, entries: list[dict[str, Any]], session: str = "s") -> Path:
    """A file as the reference implementation writes it."""
    front = {"magic": "LLMPROXY-CAPTURE-V2", "version": 2, "created_at": 1767225600.0, "session_id": session}
    content = cbor2.dumps({**front, "metadata": {"config_file": None}})
    path.write_bytes(content + b"".join(cbor2.dumps({**entry, "seq": seq}) for seq, entry in enumerate(entries)))
    return path


def entry(ts: float, direction: int, data: bytes = b"", **meta: Any) -> dict[str, Any]:
    packed = zlib.compress(data) if len(data) > 128 else data
    body = {"data": packed, "enc": "zlib"} if len(packed) < len(data) else {"data": data}
    return {"ts": 1767225600.0 + ts, "dir": direction, **body, **({"meta": meta} if meta else {})}


def http(body: bytes, fields: str = "") -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\nauthorization: Bearer sk-team-A\r\n"
    return (head + fields + "\r\n").encode() + body


def reference(path: Path) -> Path:
    chat = compact(CHAT)
    words = sse(*({"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Hi", " there")))
    stream = [*words, b"data: [DONE]\n\n"]
    plain = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\r\n" + compact(ANSWER)
    failed = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n\r\n" + compact({"error": {"type": "rate"}})
    socket = {"rid": "ws", "sid": "c", "transport": "websocket", "event": "frame", "ws_message_type": "text"}
    return v2(path, [
        entry(0.0, 0, chat, sid="a", be="client", rid="r1", host="127.0.0.1", ua="OpenAI/Python 1.55.0"),
        entry(0.1, 2, http(chat), sid="b", be="openai", rid="r1", mod="gpt-4o"),
        entry(0.3, 3, sid="b", be="openai", rid="r1", ss=True, sc=200),
        entry(0.3, 3, sid="a", be="openai", rid="r1", ss=True, sc=200),  # the same stream, captured twice
        *(entry(0.4 + index / 10, 3, data, sid=sid, rid="r1", ci=index + 1)
          for index, data in enumerate(stream) for sid in ("b", "a")),
        entry(0.9, 0, chat, sid="a", be="client", rid="r2"),
        entry(1.0, 2, http(chat), sid="b", be="openai", rid="r2"),
        entry(1.5, 3, failed, sid="b", be="openai", rid="r2", sc=429),
        entry(2.0, 2, http(chat), sid="b", be="openai", rid="r2", rat=1, rtry=True),  # and once more
        entry(2.5, 3, plain, sid="b", be="openai", rid="r2", sc=200),
        entry(3.0, 0, chat, sid="lonely", be="client"),  # never answered, and without a request id
        entry(4.0, 2, http(chat), sid="b", be="openai", rid="r4"),
        entry(4.1, 3, sid="b", be="openai", rid="r4", ss=True, sc=200),
        entry(4.2, 3, words[0], sid="b", rid="r4", ci=1),
        entry(4.3, 3, sid="b", rid="r4", eos=True, eos_term="error", eos_err_cls="transport_error"),
        entry(5.0, 0, b'{"type":"response.create"}', **socket),
        entry(5.1, 3, compact({"type": "response.done", "response": {"usage": {"input_tokens": 3}}}), **socket),
    ])  # fmt: skip


def test_a_capture_of_the_reference_implementation_is_read(data: DataDir, tmp_path: Path) -> None:
    [told] = bring(data, reference(tmp_path / "ref.cbor"))
    assert (told["form"], told["exchanges"], told["problems"]) == ("v2", 6, 0)
    stream, limited, again, lonely, broken, socket = rows(data).values()
    assert (stream["stream"], stream["status"], stream["end_reason"], stream["complete"]) == (True, 200, "complete", True)
    assert body(data, stream["id"], 3).count(b"Hi") == 1
    assert body(data, stream["id"], 0) == compact(CHAT)
    assert (stream["ttft_ms"], stream["key_hash"], stream["client_kind"]) == (
        pytest.approx(400),
        "6a224f892c473e31",
        "openai-sdk-python",
    )
    assert (limited["status"], again["status"], again["total_tokens"]) == (429, 200, 11)
    assert (lonely["status"], lonely["end_reason"], lonely["error_code"]) == (None, "upstream_error", "no_response")
    assert (broken["end_reason"], broken["error_code"]) == ("upstream_closed", "transport_error")
    assert (socket["framing"], socket["input_tokens"], socket["status"]) == ("websocket", 3, 101)
    assert b"sk-team-A" not in (data.segments / "w1000-00000001.cbor").read_bytes()
    verified(data)


def test_what_is_no_entry_is_told_and_the_rest_goes_on(data: DataDir, tmp_path: Path) -> None:
    file = reference(tmp_path / "ref.cbor")
    content = file.read_bytes()
    at = content.index(b"\xa5\x62ts", 1500)
    file.write_bytes(content[:at] + b"garbage \xff\xff" + content[at:-20])
    [told] = bring(data, file, ok=False)
    first, last = (problem["where"] for problem in told["listed"])
    assert first == f"offset {at}"
    assert int(last.split()[1]) > at
    assert told["exchanges"] == 6


@pytest.mark.parametrize("content", [b"", b"hello", b"\xa1\x01\x02", b'{"a":1}\n', b"\x1f\x8b\x08", b"PK\x03\x04", b"[1]"])
def test_a_file_of_another_sort_is_told_and_gives_nothing(data: DataDir, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(content)
    [told] = bring(data, file, ok=False)
    assert (told["exchanges"], told["problems"]) == (0, 1)
    assert not list(data.segments.iterdir())


def api_log(path: Path) -> Path:
    common = {"client": "8.8.8.8", "upstream": "http://localhost:7860", "disconnected": False, "truncated_req": False,
              "truncated_resp": False}  # fmt: skip
    key = {"Authorization": "Bearer sk-test-123", "Content-Type": "application/json", "User-Agent": "claude-cli/1.0"}
    events = [{"event": event["type"], "data": event, "t_delta_ms": 100 + 10 * at} for at, event in enumerate(CLAUDE)]
    lines = [
        {"id": "01JGFJJZ00000000000000000A", "ts_start": "2026-01-01T00:00:00.123456789Z", "ts_end": "2026-01-01T00:00:01Z",
         "method": "POST", "path": "/v1/chat/completions", "status": 200, "req": {"headers": key, "body": CHAT},
         "resp": {"headers": {"Content-Type": "application/json"}, "body": ANSWER}, **common},
        {"id": "01JGFJJZ00000000000000000B", "ts_start": "2026-01-01T00:00:02Z", "ts_end": "2026-01-01T00:00:03Z",
         "method": "POST", "path": "/v1/messages?beta=true", "status": 200, "req": {"headers": key, "body": ASKED_CLAUDE},
         "resp": {"headers": {"Content-Type": "text/event-stream"}, "events": events, "stream_done": True}, **common},
        {"id": "01JGFJJZ00000000000000000C", "ts_start": "2026-01-01T00:00:04Z", "ts_end": "2026-01-01T00:00:05Z",
         "method": "POST", "path": "/v1/chat/completions", "status": 200, "req": {"headers": {}, "body_b64": "eyJhIjoxLH0="},
         "resp": {"headers": {"Content-Type": "text/event-stream"}, "stream_done": True,
                  "events": [{"event": "", "data": {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}}]}, **common},
        {"id": "01JGFJJZ00000000000000000D", "ts_start": "2026-01-01T00:00:06Z", "ts_end": "2026-01-01T00:00:06Z",
         "method": "POST", "path": "/v1/x", "status": 502, "req": {"headers": {}, "body": None},
         "resp": {"headers": {}, "body": None}, **common},
        {"id": "x", "ts_start": "yesterday", "method": "POST", "path": "/", "status": 1, "req": {}, "resp": {}},
    ]  # fmt: skip
    path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, lines)) + b'\n{"id":"torn","req'))
    return path


def test_traces_of_api_log_are_read(data: DataDir, tmp_path: Path) -> None:
    [told] = bring(data, api_log(tmp_path / "6981744f.jsonl.gz"), ok=False)
    assert (told["form"], told["exchanges"]) == ("traces", 4), told
    assert [problem["where"] for problem in told["listed"]] == ["line 5", "line 6"]
    assert "cut short" in told["listed"][1]["what"]
    chat, claude, streamed, refused = rows(data).values()
    assert chat["id"] == "0194 1f29-7c00-0000-0000-00000000000a".replace(" ", "")
    assert (chat["key_hash"], chat["total_tokens"], chat["client"]) == ("6981744f7254f742", 11, "8.8.8.8")
    assert (chat["ts_start"], chat["duration_ms"]) == ("2026-01-01T00:00:00.123Z", pytest.approx(876.544, abs=0.01))
    assert (claude["input_tokens"], claude["output_tokens"], claude["finish_reason"]) == (14, 7, "tool_use")
    assert (claude["ttft_ms"], claude["complete"], claude["tool_calls"][0]["name"]) == (pytest.approx(120), True, "ls")
    assert body(data, streamed["id"], 3).endswith(b"data: [DONE]\n\n")
    assert body(data, streamed["id"], 0) == b'{"a":1,}'
    assert (refused["status"], refused["resp_bytes"]) == (502, 0)
    assert b"sk-test-123" not in (data.segments / "w1000-00000001.cbor").read_bytes()
    verified(data)


def har(
    path: Path, entries: list[dict[str, Any]], *, front: str = '"version":"1.2","pages":[{"title":"[\\"entries\\"]"}],'
) -> Path:
    path.write_text('{"log": {' + front + '"entries": ' + json.dumps(entries, indent=1) + ', "browser": {"name": "x"}}}')
    return path


def har_entry(url: str, content: dict[str, Any], **more: Any) -> dict[str, Any]:
    post = {"mimeType": "application/json", "text": compact(CHAT).decode()}
    headers = [{"name": ":authority", "value": "x"}, {"name": "Accept-Encoding", "value": "br"}]
    answer = [{"name": "content-type", "value": content["mimeType"]}, {"name": "content-encoding", "value": "br"}]
    entry = {
        "startedDateTime": "2026-01-01T01:00:00.000+01:00", "time": 300,
        "request": {"method": "POST", "url": url, "httpVersion": "http/2.0", "headers": headers, "postData": post},
        "response": {"status": 200, "statusText": "", "httpVersion": "http/2.0", "headers": answer, "content": content},
        "cache": {}, "timings": {"blocked": -1, "send": 10, "wait": 190, "receive": 100},
    }  # fmt: skip
    return entry | more


def test_logs_of_browsers_and_mitmproxy_are_read(data: DataDir, tmp_path: Path) -> None:
    url = "https://api.openai.com/v1/chat/completions?x=1"
    encoded = {"mimeType": "application/json", "encoding": "base64", "text": base64.b64encode(compact(ANSWER)).decode()}
    binary = base64.b64encode(b"\xff" * 70_000).decode()
    sockets = [{"type": "send", "time": 1767225600.5, "opcode": 1, "data": '{"type":"response.create"}'},
               {"type": "receive", "time": 1767225601.0, "opcode": 2, "data": binary}]  # fmt: skip
    socket = har_entry("wss://api.openai.com/v1/realtime", {"mimeType": "x-unknown"}, _webSocketMessages=sockets)
    socket["response"] |= {"status": 101, "headers": [{"name": "Sec-WebSocket-Extensions", "value": "permessage-deflate"}]}
    events = [{"time": 1767225600.25, "eventName": "message", "data": '{"choices":[{"index":0,"delta":{"content":"Hi"}}]}'},
              {"time": 1767225600.5, "eventName": "message", "data": "[DONE]"}]  # fmt: skip
    failed = har_entry(url, {"mimeType": "x-unknown"})
    failed["response"] |= {"status": 0, "_error": "net::ERR_ABORTED"}
    file = har(tmp_path / "x.har", [
        har_entry(url, {"mimeType": "application/json", "text": compact(ANSWER).decode()}),
        har_entry(url, encoded),
        socket,
        har_entry(url, {"mimeType": "text/event-stream"}, _eventSourceMessages=events),
        failed,
        {"startedDateTime": "2026-01-01T00:00:00Z"},
        har_entry("about:blank", encoded),
    ])  # fmt: skip
    [told] = bring(data, file, ok=False)
    assert [problem["where"] for problem in told["listed"]] == ["entry 6", "entry 7"]
    found = {row["id"]: row for row in rows(data).values()}
    assert len(found) == told["exchanges"] == 5
    by_status = {status: [row for row in found.values() if row["status"] == status] for status in (200, 101, None)}
    assert [row["total_tokens"] for row in by_status[200]].count(11) == 2
    assert {row["path"] for row in by_status[200]} == {"/v1/chat/completions?x=1"}
    assert {row["ts_start"] for row in found.values()} == {"2026-01-01T00:00:00.000Z"}
    streamed = next(row for row in by_status[200] if row["stream"])
    assert (streamed["complete"], streamed["ttft_ms"]) == (True, 250)
    assert by_status[None][0]["error_code"] == "net::ERR_ABORTED"
    pipes = [one.data for one in records(data, by_status[101][0]["id"]) if one.kind == "pipe"]
    assert (pipes[0][6:], pipes[1][10:]) == (b'{"type":"response.create"}', b"\xff" * 70_000)
    verified(data)


def test_a_log_that_is_cut_gives_what_is_whole(data: DataDir, tmp_path: Path) -> None:
    file = har(tmp_path / "x.har", [har_entry("http://h/1", {"mimeType": "text/plain", "text": "a"})] * 2)
    file.write_bytes(file.read_bytes()[:-200])
    [told] = bring(data, file, ok=False)
    assert (told["exchanges"], told["listed"][0]["where"]) == (1, "entry 2")


def test_imported_segments_are_v2_captures_too(source: DataDir, data: DataDir, tmp_path: Path) -> None:
    bring(data, written(source, "cbor", tmp_path / "x.cbor"))
    header, entries = v2_reader.read((data.segments / "w1000-00000001.cbor").read_bytes())
    assert header["metadata"]["x_import"]["file"] == "x.cbor"
    assert [one["meta"]["x_n"] for one in entries[:-1]] == list(range(1, len(entries)))
    assert [entries[at]["meta"]["x_k"] for at in (0, -2, -1)] == ["hello", "bye", "footer"]
    assert header["metadata"]["x_writer"] == segments.WRITER


JUNK = (b"", b"\xff", b"0", b"null", b"{", b"\x5a\xff\xff\xff\xff")


@pytest.mark.parametrize("form", ["wire-jsonl", "segment", "cbor", "jsonl", "har", "reference", "api-log"])
def test_damaged_files_of_any_sort_are_told_and_never_stop_an_import(
    source: DataDir, data: DataDir, tmp_path: Path, form: str
) -> None:
    own = {"segment": lambda _: plain(source), "reference": reference, "api-log": api_log}
    content = own.get(form, lambda path: written(source, form, path))(tmp_path / "x").read_bytes()
    content = gzip.decompress(content) if form == "api-log" else content
    content = content.replace(LARGE[100:600_000], b"")
    random = Random(form)
    for number in range(6):
        damaged = bytearray(content)
        for _ in range(random.choice((1, 3, 40))):
            at = random.randrange(len(damaged))
            damaged[at : at + random.choice((0, 1, 9))] = random.choice(
                (b"", b"\xff", b"0", b"null", b"{", b"\x5a\xff\xff\xff\xff")
            )
        (tmp_path / f"{number}").write_bytes(damaged)
    done = CliRunner().invoke(import_.command, ["--data-dir", str(data.root), *(str(tmp_path / f"{one}") for one in range(6))])
    assert done.exit_code in {0, 1}, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    Follower(data, lost_after_s=0.0).catch_up()
