"""A reader of CBOR V2 files, written from docs/formats.md and the profile's facts alone: nothing of llmdump is used here."""

import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

import cbor2

MAGIC = "LLMPROXY-CAPTURE-V2"
BOOLEANS = {"ss", "se", "rtry", "eos"}
TEXTS = {"sid", "asid", "bsid", "be", "mod", "key", "host", "ua", "rid", "acct", "transport", "event", "url", "http_method"}
NUMBERS = {"ci", "tc", "tb", "sc", "ra", "rat", "rts", "pts", "lat", "ttfb", "sdur", "http_status"}


def read(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the entries, inflated; AssertionError where a reader of the profile would stumble."""
    stream = io.BytesIO(content)
    header = cbor2.load(stream)
    assert type(header) is dict
    assert list(header) == ["magic", "version", "created_at", "session_id", "metadata"]
    assert header["magic"] == MAGIC
    assert header["version"] == 2
    assert type(header["created_at"]) is float
    assert type(header["session_id"]) is str
    assert type(header["metadata"]) is dict
    entries = []
    while stream.tell() < len(content):
        entries.append(_checked(cbor2.load(stream), len(entries)))
    return header, entries


def _checked(entry: Any, position: int) -> dict[str, Any]:
    assert type(entry) is dict
    assert "magic" not in entry
    assert [key for key in entry if key != "enc"] == ["ts", "dir", "seq", "data", "meta"]
    assert type(entry["ts"]) is float
    assert math.isfinite(entry["ts"])
    assert entry["dir"] in (0, 1, 2, 3)
    assert entry["seq"] == position
    assert type(entry["data"]) is bytes
    if "enc" in entry:
        assert entry["enc"] == "zlib"
        inflated = zlib.decompress(entry["data"])
        assert 128 < len(inflated) > len(entry["data"])
        entry = {**entry, "data": inflated}
    meta = entry["meta"]
    assert type(meta) is dict
    assert meta
    assert all(type(key) is str for key in meta)
    assert "crc" not in meta
    assert all(meta[key] is True for key in BOOLEANS & set(meta))
    assert all(type(meta[key]) is str for key in TEXTS & set(meta))
    assert all(type(meta[key]) in {int, float} for key in NUMBERS & set(meta))
    assert meta.get("ci", 1) >= 1
    return entry


def exchanges(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[int, list[dict[str, Any]]]]]:
    """The entries of each request id by direction, in file order."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for entry in entries:
        rid = entry["meta"].get("rid")
        if rid:
            found.setdefault(rid, {0: [], 1: [], 2: [], 3: []})[entry["dir"]].append(entry)
    yield from found.items()
