"""Exports by the api and by the command, both as processes, of exchanges of every sort."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from made import BEGAN_S, begin_segment, running

from llmdump import jsonl
from llmdump.commands import export, import_
from llmdump.data_dir import DataDir
from llmdump.segment import Located
from llmdump_api.export import main, selection
from llmdump_api.export.forms import FORMS
from llmdump_api.export.selection import Archive, Selection
from llmdump_api.index import IndexUnreadableError
from tests import v2_reader
from tests.api.exported import ANSWER, CHAT, LARGE, Made, compact, every_sort
from tests.api.har_schema import HAR
from tests.api.streams import get
from tests.api.test_api_serve import Served
from tests.patience import WAIT_S

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def made() -> Made:
    return every_sort()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[Served]:
    data = DataDir(tmp_path_factory.mktemp("exports")).create()
    made.store(data)
    with running("api", data) as service:
        yield Served(service, data)


def llmdump(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[bytes]:
    """`llmdump …`, without settings of this process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    done = subprocess.run([BIN / "llmdump", *map(str, arguments)], env=clean, capture_output=True, timeout=WAIT_S, check=False)
    assert (done.returncode == 0) == ok, done.stderr.decode()
    return done


def exported(data: DataDir, form: str, **asked: str) -> bytes:
    """What the maker makes, in this process."""
    checked = selection.parse({"format": form, **asked}, FORMS, form, 0)
    archive = Archive(data)
    try:
        return b"".join(FORMS[form].stream(Selection([archive], checked)))
    finally:
        archive.close()


def lines(content: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The traces of a jsonl export, and what it says of itself."""
    *traces, last = [json.loads(line) for line in content.splitlines()]
    return traces, last["llmdump_export"]


def test_a_line_of_jsonl_is_the_trace_of_the_api(api: Served, made: Made) -> None:
    reply = get(api, "/api/export?format=jsonl")
    assert (reply.status, reply.fields["content-type"], reply.whole) == (200, "application/x-ndjson", True)
    assert re.fullmatch(r'attachment; filename="llmdump-export-\d{8}T\d{6}Z\.jsonl"', reply.fields["content-disposition"])
    traces, told = lines(reply.body)
    assert [trace["id"] for trace in traces] == made.ids[::-1]
    assert told == {"exchanges": len(made.ids), "gone": 0, "next_cursor": None}
    for trace in traces:
        assert trace == api.ask(f"/api/traces/{trace['id']}").json["trace"]


def test_the_command_writes_what_the_route_sends(api: Served, tmp_path: Path) -> None:
    file = tmp_path / "all.har"
    told = json.loads(llmdump("export", "--format", "har", "-o", file, "--json", api.data.root).stdout)
    assert file.read_bytes() == get(api, "/api/export?format=har").body
    assert file.stat().st_mode & 0o777 == 0o600
    assert (told["format"], told["bytes"], told["gone"]) == ("har", file.stat().st_size, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["all.har"]


def test_pages_by_cursor_neither_repeat_nor_skip(api: Served, made: Made) -> None:
    found, cursor = [], ""
    while True:
        traces, told = lines(get(api, f"/api/export?format=jsonl&limit=5{cursor}").body)
        found += [trace["id"] for trace in traces]
        if told["next_cursor"] is None:
            break
        assert len(traces) == 5
        cursor = f"&cursor={told['next_cursor']}"
    assert found == made.ids[::-1]
    for form in (form for form in FORMS if "finetune" not in form and form != "otlp"):
        assert told_by(form, exported(api.data, form, limit="5")) is not None, form
        assert told_by(form, exported(api.data, form)) is None, form


def told_by(form: str, content: bytes) -> Any:
    """The cursor that an export tells."""
    if form == "jsonl":
        return lines(content)[1]["next_cursor"]
    if form == "wire-jsonl":
        return json.loads(content.splitlines()[-1])["metadata"]["x_next_cursor"]
    if form == "cbor":
        return v2_reader.read(content)[1][-1]["meta"].get("x_next_cursor")
    if form == "har":
        return json.loads(content)["log"]["_export"]["next_cursor"]
    if form == "parquet":
        return json.loads(pq.ParquetFile(io.BytesIO(content)).metadata.metadata[b"llmdump_export"])["next_cursor"]
    found = re.search(r"cursor `(\w+)`", zipfile.ZipFile(io.BytesIO(content)).read("README.md").decode())
    return found and found[1]


@pytest.mark.parametrize("asked", ["status=429", "filter=status%3D429", "q=hello", "path=/v1/f*&status=2xx"])
def test_filters_are_those_of_the_list(api: Served, asked: str) -> None:
    listed = [row["id"] for row in api.ask(f"/api/traces?{asked}").json["traces"]]
    traces, _ = lines(get(api, f"/api/export?format=jsonl&{asked}").body)
    assert [trace["id"] for trace in traces] == listed
    assert len(listed) == (5 if asked.startswith("q=") else 1)


def test_the_wire_lines_are_the_records(api: Served, made: Made) -> None:
    content = exported(api.data, "wire-jsonl")
    found = [item.record for item in jsonl.scan(content, closed=True) if isinstance(item, Located)]
    assert len(found) == len(list(jsonl.scan(content, closed=True)))
    stored = [record for id_ in made.ids for record in records_of(api.data, id_)]
    assert found[:-1] == stored
    assert (found[-1].kind, found[-1].meta["x_records"]) == ("footer", len(stored))
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))


def records_of(data: DataDir, id_: str) -> list[Any]:
    archive = Archive(data)
    row = archive.row(id_)
    assert row is not None
    exchange = archive.open(row, skip_missing=False)
    assert exchange is not None
    found = list(exchange.records())
    archive.close()
    return found


def test_har_of_many_is_a_har(api: Served, made: Made) -> None:
    log = json.loads(exported(api.data, "har"))
    jsonschema.validate(log, HAR)
    assert [entry["_id"] for entry in log["log"]["entries"]] == made.ids[::-1]
    one = api.ask(f"/api/traces/{made.ids[1]}/har").json["log"]["entries"][0]
    assert next(entry for entry in log["log"]["entries"] if entry["_id"] == made.ids[1]) == one


# --- CBOR with four legs, read by a reader that knows nothing of us


def legs(api: Served) -> dict[str, dict[int, list[dict[str, Any]]]]:
    return dict(v2_reader.exchanges(v2_reader.read(exported(api.data, "cbor"))[1]))


def test_the_file_lasts_as_long_as_what_is_in_it(api: Served, made: Made) -> None:
    _, entries = v2_reader.read(exported(api.data, "cbor"))
    times = [record.ts for id_ in (made.ids[0], made.ids[-1]) for record in records_of(api.data, id_)]
    assert (entries[0]["ts"], entries[-1]["ts"]) == (min(times), max(times))


def test_a_plain_exchange_has_its_body_on_four_legs(api: Served, made: Made) -> None:
    found = legs(api)
    assert list(found) == made.ids
    chunks = [record for record in records_of(api.data, made.ids[0]) if record.kind == "chunk"]
    asked, answered = [b"".join(record.data for record in chunks if record.direction == way) for way in (0, 3)]
    one = found[made.ids[0]]
    assert [entry["data"] for entry in one[0]] == [asked]
    assert one[0][0]["meta"]["be"] == "client"
    [sent] = one[2]
    head, _, body = sent["data"].partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"POST /v1/chat/completions HTTP/1.1", asked)
    [back] = one[3]
    head, _, body = back["data"].partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body, back["meta"]["sc"]) == (b"HTTP/1.1 200 OK", answered, 200)
    assert [entry["data"] for entry in one[1]] == [answered, b""]
    assert one[1][1]["meta"]["cu"]["completion_outcome"] == "complete"


def test_a_stream_has_marks_and_its_reads_with_their_times(api: Served, made: Made) -> None:
    one = legs(api)[made.ids[1]]
    reads = [record for record in records_of(api.data, made.ids[1]) if record.kind == "chunk" and record.direction == 3]
    for way in (3, 1):
        first, *chunks, last = one[way][: len(reads) + 2]
        assert (first["meta"]["ss"], last["meta"]["se"], last["meta"]["tc"]) == (True, True, len(reads))
        assert [entry["data"] for entry in chunks] == [record.data for record in reads]
        assert [entry["ts"] for entry in chunks] == [record.ts for record in reads]
        assert [entry["meta"]["ci"] for entry in chunks] == list(range(1, len(reads) + 1))
    assert one[3][1]["meta"]["ttfb"] == pytest.approx(1000 * (reads[0].ts - one[2][0]["ts"]), abs=0.01)


def test_what_broke_off_has_no_end_mark_and_says_why(api: Served, made: Made) -> None:
    one = legs(api)[made.ids[3]]
    assert not [entry for entry in (*one[3], *one[1]) if "se" in entry["meta"]]
    meta = one[1][-1]["meta"]
    assert (meta["eos"], meta["eos_err_cls"], meta["cu"]["incomplete_reason"]) == (True, "transport_error", "backend_error")


def test_messages_of_a_websocket_go_through_two_legs(api: Served, made: Made) -> None:
    one = legs(api)[made.ids[10]]
    frames = {way: [entry["data"] for entry in one[way] if entry["meta"].get("event") == "frame"] for way in one}
    assert frames[0] == frames[2] == [b'{"type":"response.create"}']
    assert frames[3] == frames[1]
    assert frames[3][1] == b"\xff\x00"


# --- Parquet


def test_parquet_has_the_rows_of_the_list_and_the_texts(api: Served, made: Made) -> None:
    table = pq.read_table(io.BytesIO(get(api, "/api/export?format=parquet").body))
    listed = api.ask("/api/traces").json["traces"]
    for row, found in zip(listed, table.to_pylist(), strict=True):
        for name in ("ts_start", "ts_end"):
            found[name] = found[name] and found[name].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found["tool_calls"] = found["tool_calls"] and json.loads(found["tool_calls"])
        assert {name: found[name] for name in row} == row
    claude = table.to_pylist()[-2]
    assert (claude["text"], json.loads(claude["calls"])[0]["arguments"]) == ("Let me look.", '{"path": "/x"}')
    assert json.loads(claude["usage_raw"])["input_tokens"] == 10


def test_parquet_is_made_of_row_groups_as_it_goes(tmp_path: Path) -> None:
    data = DataDir(tmp_path).create()
    made = Made()
    answer = {**ANSWER, "choices": [{"index": 0, "message": {"content": "x" * 3_000_000}, "finish_reason": "stop"}]}
    for _ in range(8):
        made.call("/v1/chat/completions", [compact(CHAT)], [compact(answer)])
    made.store(data)
    file = pq.ParquetFile(io.BytesIO(exported(data, "parquet")))
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [6, 2]


def test_without_pyarrow_the_command_to_install_it_is_told(api: Served) -> None:
    given = {"roots": [str(api.data.root)], "output": "-", "json": False, "params": {"format": "parquet"}}
    given |= {"to": None, "follow": False, "cursor_file": None}
    code = "import sys; sys.modules['pyarrow'] = None; from llmdump_api.export.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(given)], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'llmdump[parquet]'" in done.stderr) == (1, True)


# --- zip


def test_the_zip_has_buckets_by_day_and_key_and_says_which_are_not_whole(api: Served, made: Made) -> None:
    archive = zipfile.ZipFile(io.BytesIO(get(api, "/api/export").body))
    assert archive.testzip() is None
    names = archive.namelist()
    day = "2026-01-01"
    assert {"README.md", "agent/CLAUDE.md", "agent/jq-cheatsheet.md", f"data/{day}/01234567.jsonl"} <= set(names)
    buckets = [name for name in names if name.startswith("data/")]
    ids = [json.loads(line)["id"] for name in buckets for line in archive.read(name).splitlines()]
    assert sorted(ids) == sorted(made.ids)
    part = zipfile.ZipFile(io.BytesIO(get(api, "/api/export?status=429").body))
    assert part.namelist()[0] == f"data/{day}/01234567.partial.jsonl"
    assert len(part.read(part.namelist()[0]).splitlines()) == 1


# --- failing


def broken(tmp_path: Path) -> tuple[DataDir, Path]:
    """An archive of two segments, the older of which is not there any more."""
    data = DataDir(tmp_path / "data").create()
    old, new = Made("0a" * 8), Made("0b" * 8, first=2)
    old.call("/v1/old", [b"{}"], [b"{}"])
    new.call("/v1/new", [b"{}"], [LARGE])
    said = {"se": True, "tc": 1, "tb": 3_000_000_000, "x_req": 2, "x_end": "complete", "x_err": "", "x_lost": 0}
    new.instance.number -= 1
    new.records[-1] = new.instance.record(new.ids[0], 1, "end", b"", **said)  # it says that 3 GB went through
    old.store(data)
    new.store(data, 2)
    gone = data.segments / "w0-00000001.cbor"
    gone.unlink()
    return data, gone


def test_an_export_that_fails_on_its_way_is_cut_off(tmp_path: Path) -> None:
    data, gone = broken(tmp_path)
    with running("api", data) as service:
        api = Served(service, data)
        reply = get(api, "/api/export?format=jsonl")
        assert (reply.status, reply.whole) == (200, False)
        assert len(reply.body) > len(LARGE) and b"llmdump_export" not in reply.body
        assert api.ask("/api/export?format=jsonl&path=/v1/old").json["error"] == "gone"
        too_much = api.ask("/api/export?skip_missing=1")  # is refused before its first byte
        assert (too_much.status, too_much.json["error"], too_much.json["limit"]) == (413, "export_too_large", "bytes")
        assert get(api, "/api/export?skip_missing=1&bytes_all=1").whole
        whole = get(api, "/api/export?format=jsonl&skip_missing=1")
        assert (whole.whole, lines(whole.body)[1]) == (True, {"exchanges": 1, "gone": 1, "next_cursor": None})
    done = llmdump("export", "-o", tmp_path / "out.jsonl", data.root, ok=False)
    assert gone.name in done.stderr.decode()
    assert done.returncode == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_what_retention_deleted_is_left_out_and_counted(tmp_path: Path) -> None:
    data, gone = broken(tmp_path)
    note = {
        "segment": gone.name,
        "at": BEGAN_S,
        "reason": "max_age",
        "bytes": 1,
        "records": 7,
        "instances": {},
        "indexed": True,
    }
    (data.segments / "deleted.jsonl").write_text(json.dumps(note) + "\n")
    assert lines(exported(data, "jsonl"))[1] == {"exchanges": 1, "gone": 1, "next_cursor": None}


@pytest.mark.parametrize(
    ("asked", "param"),
    [("format=xml", "format"), ("limit=0", "limit"), ("limit=1e3", "limit"), ("all=yes", "all"), ("what=1", "what"),
     ("turns=first", "turns"),
     ("format=har&format=har", "format"), ("filter=status%3E", "filter"), ("cursor=%21%21", "cursor"),
     ("since=yesterday", "since")],
)  # fmt: skip
def test_a_parameter_that_cannot_be_used_is_named(api: Served, asked: str, param: str) -> None:
    reply = api.ask(f"/api/export?{asked}")
    assert (reply.status, reply.json["error"], reply.json["param"]) == (400, "bad_param", param)


def test_the_command_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    done = llmdump("export", "--filter", "status>", tmp_path, ok=False)
    assert done.returncode == 2
    assert b"status>\n" in done.stderr and b"^" in done.stderr
    with pytest.raises(IndexUnreadableError, match=f"llmdump rebuild --data-dir {tmp_path}"):
        exported(DataDir(tmp_path), "jsonl")


def test_a_large_body_never_is_in_memory_as_a_whole(tmp_path: Path) -> None:
    data = DataDir(tmp_path).create()
    made = Made()
    megabyte = os.urandom(1024 * 1024)
    made.call("/v1/files", [megabyte] * 20, [megabyte] * 20, content_type="application/octet-stream")
    made.store(data)
    archive = Archive(data)
    checked = selection.parse({"format": "cbor"}, FORMS, "cbor", 0)
    tracemalloc.start()
    size = sum(len(piece) for piece in FORMS["cbor"].stream(Selection([archive], checked)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    archive.close()
    assert size > 4 * 20 * len(megabyte)
    assert peak < 16e6


def test_an_archive_without_exchanges_gives_an_export_without_any(tmp_path: Path) -> None:
    data = DataDir(tmp_path).create()
    begin_segment(data)
    Made().store(data, 2)
    assert lines(exported(data, "jsonl"))[1]["exchanges"] == 0
    assert orjson.loads(exported(data, "har"))["log"]["entries"] == []
    assert len(v2_reader.read(exported(data, "cbor"))[1]) == 1
    assert zipfile.ZipFile(io.BytesIO(exported(data, "zip"))).namelist()[-1] == "README.md"


# --- the page

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def test_every_command_line_of_the_page_runs(api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) >= 13
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMDUMP_DATA_DIR", str(api.data.root))
    for line in commands:
        words = shlex.split(line)
        if words[:2] == ["llmdump", "export"] and "|" not in words:
            main.run(wanted(words[2:]))
        elif words[:2] == ["llmdump", "import"]:
            assert CliRunner().invoke(import_.command, words[2:]).exit_code == 0, line
        else:
            script = f"set -o pipefail; PATH={BIN}:$PATH; {line}"
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=False)
            assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
    tuned = {"train.jsonl", "claude.jsonl"}
    made = {"all.jsonl", "bad.har", "day.cbor", "part.jsonl", "all.zip", "another", "cost.parquet", *tuned}
    assert {path.name for path in tmp_path.iterdir()} == made


def wanted(words: list[str]) -> dict[str, Any]:
    """What the command makes of its options."""
    return export.wanted(**export.command.make_context("export", list(words)).params)


def test_the_page_and_the_command_name_every_form() -> None:
    rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| [^|]+ \| (?:newest|oldest) first", PAGE, re.MULTILINE)
    assert set(re.findall(r"[a-z-]+", " ".join(rows))) == set(FORMS) == set(export.FORMS)
