"""A call through a pipeline between two taps, and everything that must then be true of it."""

import fnmatch
import itertools
import statistics
from datetime import datetime
from typing import Any, NamedTuple

from tests.e2e.calls import Call, Where
from tests.e2e.pipeline import Pipeline
from tests.e2e.tap import Message, Tap

TIMES_AGREE_MS = 20.0
"""How far the time of a chunk in a trace and at a tap may differ at the median; two more processes stand between."""


class Seen(NamedTuple):
    """One exchange as a tap saw it."""

    request: Message
    response: Message


class Direct(NamedTuple):
    """A call without the proxy."""

    value: Any
    at_backend: Seen


class Proxied(NamedTuple):
    """The same call through the proxy."""

    value: Any
    at_client: Seen
    at_backend: Seen
    row: dict[str, Any]
    trace: Any


class Crossing:
    """A pipeline, a tap before it and one behind it. The proxy keeps no backend connection, so each call has its own."""

    def __init__(self, pipe: Pipeline, front: Tap, back: Tap) -> None:
        self.pipe = pipe
        self.front = front
        self.back = back

    def direct(self, call: Call, where: Where) -> Direct:
        """The call made to the backend."""
        return Direct(*_seen(call, where, self.back))

    def proxied(self, call: Call, where: Where) -> Proxied:
        """The call made to the proxy; it is in the list within the time promised, as one row."""
        before = len(self.pipe.rows())
        front = _seen(call, where, self.front)
        row = self.pipe.new_row(before)
        return Proxied(*front, Seen(*self.back.last.exchange()), row, self.pipe.trace(row))

    def check_nothing_was_changed(self, call: Proxied) -> None:
        """The proxy passed the message on as it was: start line, fields in order, body, and the sizes of its chunks."""
        for before, after in (
            (call.at_client.request, call.at_backend.request),
            (call.at_backend.response, call.at_client.response),
        ):
            assert after.lines[1:] == before.lines[1:]
            assert _without_version(after.lines[0]) == _without_version(before.lines[0])
            assert after.body == before.body
            assert after.chunks == before.chunks or not after.chunks  # a client of HTTP/1.0 cannot be sent chunks
            assert after.after == before.after

    def check_end(self, proxied: Proxied, call: Call) -> None:
        """The exchange is complete, where the client did not leave before the end of a body whose bytes it had."""
        row, whole = proxied.row, proxied.at_backend.response.whole
        if call.may_leave_early and row["end_reason"] == "client_closed":
            return
        assert (row["end_reason"], row["error_code"], row["disconnected"], whole) == ("complete", None, False, True)

    def check_row(self, row: dict[str, Any], call: Call, model: str) -> None:
        """The row says what the call was."""
        assert (row["method"], row["status"]) == (call.method, call.status)
        assert fnmatch.fnmatchcase(row["route_path"], call.path), row["route_path"]
        assert row["path"].partition("?")[0] == row["route_path"]
        assert (row["backend"], row["stream"]) == (call.provider, call.stream)
        assert row["model"] == (model if call.names_model else None)
        assert (row["truncated_req"], row["truncated_resp"], row["altered"]) == (False, False, False)
        assert row["records_lost"] == 0
        assert row["upstream"] == self.back.url
        assert row["duration_ms"] >= row["first_byte_ms"] if row["resp_bytes"] else True

    def check_stored_bodies(self, call: Proxied) -> None:
        """What is stored is what crossed, byte for byte, and the head too."""
        request, response = call.at_client.request, call.at_backend.response
        assert self.pipe.request_body(call.row) == request.body + request.after
        assert self.pipe.response_body(call.row) == response.body + response.after
        assert call.row["req_bytes"] == len(request.body + request.after)
        assert call.row["resp_bytes"] == len(response.body + response.after)
        assert call.trace["resp"]["head"].encode("latin-1") == response.head
        assert _without_secrets(call.trace["req"]["head"]) == _without_secrets(request.head.decode("latin-1"))

    def check_chunks(self, call: Proxied) -> None:
        """The trace lists the reads of the response, with their sizes, and the times at which the tap behind had them."""
        trace, response = call.trace["resp"], call.at_backend.response
        chunks = [chunk for chunk in trace["chunks"] if chunk["size"]]
        assert trace["chunks_total"] == len(trace["chunks"]) == call.row["resp_chunks"]
        assert sum(chunk["size"] for chunk in chunks) == call.row["resp_bytes"]
        assert all(later["t_ms"] >= earlier["t_ms"] for earlier, later in itertools.pairwise(chunks))
        if not call.row["stream"]:
            return
        begin = datetime.fromisoformat(call.row["ts_start"]).timestamp()
        behind = [response.arrived(chunk["offset"] + chunk["size"]) - begin for chunk in chunks]
        late_ms = [chunk["t_ms"] - at * 1000 for chunk, at in zip(chunks, behind, strict=True)]
        assert abs(statistics.median(late_ms)) < TIMES_AGREE_MS, late_ms

    def check_one_chunk_each_read(self, call: Proxied) -> None:
        """With a pause between the parts of a stream, each is a read of its own; a busy machine may join a few."""
        reads, chunks = len(call.at_backend.response.arrivals), call.row["resp_chunks"]
        assert reads * 0.8 <= chunks <= reads + 1  # the end of the body may come alone


def _seen(call: Call, where: Where, tap: Tap) -> tuple[Any, Seen]:
    value = call.make(where)
    return value, Seen(*tap.last.exchange())


def _without_version(start_line: bytes) -> list[bytes]:
    return [part for part in start_line.split(b" ") if not part.startswith(b"HTTP/")]


def _without_secrets(head: str) -> list[str]:
    names = ("authorization", "x-api-key", "x-goog-api-key")
    return [line for line in head.split("\r\n") if line.partition(":")[0].lower() not in names]
