"""The same traffic captured as cbor, as jsonl and as both gives the same rows and bodies; and jq reads the live file."""

import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from needs import needs_tool

from llmdump.settings import allowed
from tests.e2e.calls import Where, websocket_echo
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S

pytestmark = pytest.mark.xdist_group("e2e-formats")
FORMATS = ("cbor", "jsonl", "both")
USER = "What does a recorder record?"
CHAT = {"model": "sim-large", "messages": [{"role": "user", "content": USER}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", STREAM),
    ("POST", "/v1/responses", {"model": "sim-large", "input": USER, "stream": True}),
    ("POST", "/v1/messages?beta=true", {**CHAT, "max_tokens": 10, "stream": True}),
    ("POST", "/v1beta/models/sim-small:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "ü\n€"}]}]}),
    ("POST", "/api/chat", CHAT),
    ("POST", "/v1/chat/completions", {"model": "sim-large"}),
    ("GET", "/v1/models", None),
    ("GET", "/sim/bytes/300000", None),
    ("HEAD", "/sim/bytes/1000", None),
    ("GET", "/sim/status/204", None),
    ("PUT", "/sim/echo", bytes(range(256)) * 1000),
    ("GET", "/sim/cut?after=5000&framing=chunked", None),
]
# What belongs to the run and not to the traffic; reads of a stream without pauses may come together.
OF_THE_RUN = {
    "id", "ts_start", "ts_end", "client", "instance", "session_root_id", "first_record", "last_record", "resp_chunks",
    "first_byte_ms", "duration_ms", "own_first_us", "own_worst_us", "own_sum_us", "ttft_ms", "last_token_ms", "gap_p50_ms",
    "gap_p99_ms", "gap_worst_ms", "output_tokens_per_second", "parent_id",
}  # fmt: skip


class Captured(NamedTuple):
    """What a pipeline tells of the traffic, in the order in which it was sent."""

    rows: list[dict[str, Any]]
    bodies: list[tuple[bytes, bytes]]


def send(pipe: Pipeline, place: Path) -> int:
    """One request after the other, each on a connection of its own; how many."""
    host = pipe.proxy.removeprefix("http://")
    headers = {"x-sim-tag": "f0", "x-sim-gap-ms": "0", "Content-Type": "application/json", "Authorization": "Bearer sk-formats"}
    for method, target, body in REQUESTS:
        connection = http.client.HTTPConnection(host, timeout=WAIT_S)
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, target, sent, headers)
        try:
            connection.getresponse().read()
        except http.client.IncompleteRead:
            assert "cut" in target
        connection.close()
    with socket.create_connection(host.split(":"), timeout=WAIT_S) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: formats\r\nContent-Length: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    websocket_echo(Where(pipe.proxy, "", {}, place))
    return len(REQUESTS) + 2


def captured(pipe: Pipeline, count: int) -> Captured:
    rows = pipe.ended(count)
    bodies = [(pipe.request_body(row), pipe.response_body(row)) for row in rows]
    return Captured([{name: value for name, value in row.items() if name not in OF_THE_RUN} for row in rows], bodies)


def test_every_format_gives_the_same_rows_and_bodies(backend: str, tmp_path: Path) -> None:
    assert set(allowed("capture_format").split(", ")) == set(FORMATS)
    found = {}
    for name in FORMATS:
        with Pipeline(tmp_path / name, upstream=backend, capture_format=name) as pipe:
            found[name] = captured(pipe, send(pipe, tmp_path))
            assert {file.suffix for file in pipe.data.segments.iterdir()} == (
                {".cbor", ".jsonl"} if name == "both" else {f".{name}"}
            )
    reference = found["cbor"]
    assert [row["route_path"] for row in reference.rows[:2]] == ["/v1/chat/completions"] * 2
    for name in FORMATS[1:]:
        # A WebSocket client draws its masks anew, so of its request only the size is the same.
        assert found[name].bodies[:-1] == reference.bodies[:-1]
        assert found[name].bodies[-1][1] == reference.bodies[-1][1]
        assert found[name].rows == reference.rows


def test_jq_reads_the_live_file(backend: str, tmp_path: Path) -> None:
    jq = needs_tool("jq")
    with Pipeline(tmp_path / "pipeline", upstream=backend, capture_format="jsonl") as pipe:
        pipe.ended(send(pipe, tmp_path))
        (file,) = pipe.data.segments.glob("*.jsonl")

        def read(program: str) -> list[str]:
            done = subprocess.run([jq, "-r", program, file], capture_output=True, text=True, timeout=WAIT_S, check=True)
            return done.stdout.splitlines()

        sent = [(target, body) for _, target, body in REQUESTS if isinstance(body, dict)]
        backends = read('select(.direction=="outbound_request") | .backend')
        assert sorted(backends)[:3] == ["anthropic", "gemini", "ollama"]
        said = read('select(.direction=="outbound_request") | .payload.messages[]? | select(.role=="user") | .content')
        assert said == [USER] * sum("messages" in body for _, body in sent)
        failed = read('select(.direction=="inbound_response" and .payload.error) | .payload.error.type')
        assert failed == ["invalid_request_error"]
        used = read(
            'select(.direction=="inbound_response" and .payload.usage) | '
            '"\\(.model) \\(.payload.usage.total_tokens // (.payload.usage.prompt_tokens + .payload.usage.completion_tokens))"'
        )
        assert len(used) >= 1
        assert all(line.split()[0] == "sim-large" and int(line.split()[1]) > 0 for line in used)
        streams = set(read('select(.direction=="stream_chunk") | .session_id'))
        begun = read('select(.direction=="stream_start") | .session_id')
        assert len(begun) == sum(row["stream"] for row in pipe.rows() if row["status"] == 200)
        assert len(streams) == len(begun)
        for line in file.read_text().splitlines():
            assert len(json.loads(line)) == 14
