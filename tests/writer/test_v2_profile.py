"""Our CBOR segments are files of the V2 capture profile: a strict reader, written from the profile's facts, takes them."""

import io
import math
from pathlib import Path
from typing import Any

import cbor2

from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

MAGIC = "LLMPROXY-CAPTURE-V2"
HEADER_KEYS = ["magic", "version", "created_at", "session_id", "metadata"]
BOOLEANS = {"ss", "se", "rtry", "eos"}
TEXTS = {"sid", "asid", "bsid", "be", "mod", "key", "host", "ua", "rid", "acct", "transport", "event", "url"}
NUMBERS = {"ci", "tc", "tb", "sc", "ra", "rat", "rts", "pts", "lat", "ttfb", "sdur"}


def read_v2(content: bytes) -> list[dict[str, Any]]:
    """The entries of a V2 capture, each checked; AssertionError where a reader of the profile would stumble."""
    stream = io.BytesIO(content)
    header = cbor2.load(stream)
    assert type(header) is dict and list(header) == HEADER_KEYS
    assert header["magic"] == MAGIC and header["version"] == 2
    assert type(header["created_at"]) is float and type(header["session_id"]) is str and type(header["metadata"]) is dict
    entries = []
    while stream.tell() < len(content):
        entry = cbor2.load(stream)
        check_entry(entry, len(entries))
        entries.append(entry)
    return entries


def check_entry(entry: Any, position: int) -> None:
    """One entry, at its place."""
    assert type(entry) is dict and "magic" not in entry
    assert list(entry) == ["ts", "dir", "seq", "data", "meta"]
    assert type(entry["ts"]) is float and math.isfinite(entry["ts"])
    assert type(entry["dir"]) is int and 0 <= entry["dir"] <= 3
    assert type(entry["seq"]) is int and entry["seq"] == position
    assert type(entry["data"]) is bytes
    meta = entry["meta"]
    assert type(meta) is dict and meta and all(type(key) is str for key in meta)
    assert "crc" not in meta and "enc" not in entry
    assert all(type(meta[key]) is bool and meta[key] for key in BOOLEANS & set(meta))
    assert all(type(meta[key]) is str for key in TEXTS & set(meta))
    assert all(type(meta[key]) in {int, float} for key in NUMBERS & set(meta))
    assert meta.get("ci", 1) >= 1


def test_a_closed_segment_is_a_v2_capture(tmp_path: Path) -> None:
    tape = realistic()
    [path] = begin(tmp_path, "cbor", tape.records, close=True, each=7)
    entries = read_v2(path.read_bytes())
    assert len(entries) == len(tape.records) + 1
    assert entries[-1]["meta"]["x_k"] == "footer"
    assert entries[-1]["meta"]["x_records"] == len(tape.records)
    assert entries[-1]["meta"]["x_instances"] == {tape.instance: [1, len(tape.records), len(tape.records)]}


def test_an_active_segment_is_one_too(tmp_path: Path) -> None:
    tape = realistic()
    [path] = begin(tmp_path, "cbor", tape.records)
    assert [entry["meta"]["x_n"] for entry in read_v2(path.read_bytes())] == list(range(1, len(tape.records) + 1))


def test_the_reader_used_here_notices_what_is_not_the_profile(tmp_path: Path) -> None:
    [path] = begin(tmp_path, "cbor", realistic().records)
    content = path.read_bytes()
    for broken in (content + content, content[1:], content.replace(b"\x63seq\x1b", b"\x63sEq\x1b", 1)):
        try:
            read_v2(broken)
        except (AssertionError, cbor2.CBORDecodeError):
            continue
        raise AssertionError("not noticed")
