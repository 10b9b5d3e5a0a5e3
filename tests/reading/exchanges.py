"""What the tests of readings share: an exchange read from its bytes, through the framing, and cases as lines of JSON."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import brotli

from llmdump.reading.exchange import Event, Reading, Request
from llmdump.reading.framing import Body
from llmdump.reading.reader import Reader
from llmdump.seekable import zstd

VECTORS = Path(__file__).with_name("token_vectors.jsonl")
CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "exchanges.jsonl"

Fields = list[tuple[str, str]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(request: Request, status: int, fields: Fields, pieces: Iterable[bytes], complete: bool = True) -> Reading:
    """The reading of an answer whose body came in these pieces, one each millisecond."""
    named = {name.lower(): value for name, value in fields}
    body = Body(named.get("content-type", ""), [part for part in named.get("content-encoding", "").split(",") if part.strip()])
    reader = Reader(request, status, fields)
    at_us = 0
    for piece in pieces:
        at_us += 1000
        for event in body.feed(piece, at_us):
            reader.event(event)
    for event in body.finish(at_us):
        reader.event(event)
    return reader.finish(complete, body.framing, body.problem)


def ask(path: str, body: Any = None, host: str = "", method: str = "POST", provider: str = "") -> Request:
    """A request of JSON."""
    return Request(method, path, host, provider, [], b"" if body is None else json.dumps(body).encode())


def plain(
    path: str, answer: Any, status: int = 200, asked: Any = None, host: str = "", fields: Fields | None = None
) -> Reading:
    """The reading of a JSON answer."""
    named = [("Content-Type", "application/json"), *(fields or [])]
    return read(ask(path, asked, host), status, named, [json.dumps(answer).encode()])


def sse(path: str, *events: Any, asked: Any = None, host: str = "", complete: bool = True) -> Reading:
    """The reading of a stream of SSE: objects, named by their type if they have one, or texts."""
    pieces = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        kind = event.get("type") if isinstance(event, dict) else None
        name = f"event: {kind}\n" if isinstance(kind, str) else ""
        pieces.append(f"{name}data: {data}\n\n".encode())
    return read(ask(path, asked, host), 200, [("Content-Type", "text/event-stream")], pieces, complete)


def ndjson(path: str, *documents: Any) -> Reading:
    """The reading of a stream of lines."""
    pieces = [json.dumps(document).encode() + b"\n" for document in documents]
    return read(ask(path), 200, [("Content-Type", "application/x-ndjson")], pieces)


def messages(path: str, *events: tuple[str, Any]) -> Reading:
    """The reading of an event stream, given by its messages' types and payloads; `!Type` is an exception."""
    reader = Reader(ask(path), 200, [])
    for number, (name, payload) in enumerate(events):
        kind = "exception" if name.startswith("!") else "text"
        reader.event(Event(json.dumps(payload).encode(), name.lstrip("!"), number * 1000, kind))  # type: ignore[arg-type]
    return reader.finish(True, "eventstream", "")


def coded(body: bytes, codings: str, form: str = "zlib") -> bytes:
    """The body in these codings, applied from the left."""
    for coding in (part.strip() for part in codings.split(",")):
        if coding in ("gzip", "x-gzip"):
            body = gzip.compress(body)
        elif coding == "deflate":
            compressor = zlib.compressobj(wbits=15 if form == "zlib" else -15)
            body = compressor.compress(body) + compressor.flush()
        elif coding == "br":
            body = brotli.compress(body)
        elif coding == "zstd":
            body = zstd.compress(body)
    return body


def decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")
