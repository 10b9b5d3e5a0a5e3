"""Exchanges that do not go well: each leaves one trace that says why, with the bodies exactly as far as they crossed."""

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import needs_tool

from llmdump.demo.sim import BLOCK
from tests.e2e.pipeline import Pipeline, free_port
from tests.patience import WAIT_S, eventually

pytestmark = pytest.mark.xdist_group("e2e-ends")


@pytest.fixture(scope="module")
def pipe(backend: str, place: Path) -> Iterator[Pipeline]:
    routes = f"={backend};/refused/*=http://127.0.0.1:{free_port()};/nowhere/*=http://nowhere.invalid"
    with Pipeline(place, routes=routes, upstream_header_timeout_s=0.5) as running:
        yield running


def connect(pipe: Pipeline) -> socket.socket:
    host, _, port = pipe.proxy.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def read_to_end(sock: socket.socket) -> bytes:
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def ask(pipe: Pipeline, request: str) -> bytes:
    """Send bytes, give all that comes back until the connection ends."""
    with connect(pipe) as sock:
        sock.sendall(request.encode())
        return read_to_end(sock)


def get(target: str) -> str:
    return f"GET {target} HTTP/1.1\r\nHost: ends\r\nConnection: close\r\n\r\n"


def pattern(size: int) -> bytes:
    """The first bytes of what the simulated backend sends."""
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


def reason(row: dict[str, Any]) -> tuple[str, bool]:
    return row["end_reason"], row["disconnected"]


def test_client_killed_in_mid_stream(pipe: Pipeline, tmp_path: Path) -> None:
    before, got = len(pipe.rows()), tmp_path / "got"
    target = f"{pipe.proxy}/sim/chunks?n=3000&size=1000&gap_ms=10"
    with got.open("wb") as out:
        curl = subprocess.Popen([needs_tool("curl"), "-sSN", target], stdout=out)
        eventually(lambda: got.stat().st_size >= 5000, WAIT_S, "curl has five chunks")
        os.kill(curl.pid, signal.SIGKILL)
        curl.wait(WAIT_S)
    row = pipe.new_row(before)
    assert reason(row) == ("client_closed", True)
    stored = pipe.response_body(row)
    assert stored == BLOCK[:1000] * (len(stored) // 1000)
    assert stored.startswith(got.read_bytes())
    assert row["resp_bytes"] == len(stored) < 3_000_000


@pytest.mark.parametrize("reset", [False, True])
def test_client_gone_in_mid_upload(pipe: Pipeline, reset: bool) -> None:
    before, sent = len(pipe.rows()), pattern(40_000)
    with connect(pipe) as sock:
        sock.sendall(b"POST /sim/echo HTTP/1.1\r\nHost: ends\r\nContent-Length: 100000\r\n\r\n" + sent)
        eventually(
            lambda: len(pipe.rows()) > before and pipe.rows()[-1]["req_bytes"] == len(sent), WAIT_S, "the part is stored"
        )
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    row = pipe.new_row(before)
    assert reason(row) == ("client_closed", True)
    assert pipe.request_body(row) == sent
    assert row["status"] is None


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_backend_that_breaks_off_breaks_off_for_the_client_too(pipe: Pipeline, framing: str, how: str) -> None:
    before = len(pipe.rows())
    answer = ask(pipe, get(f"/sim/cut?after=200000&framing={framing}&how={how}"))
    row = pipe.new_row(before)
    expected = {"close": ("upstream_closed", "upstream_cut"), "reset": ("upstream_error", "upstream_reset")}
    assert (row["end_reason"], row["error_code"]) == expected[how]
    stored = pipe.response_body(row)
    assert stored == pattern(len(stored))
    assert row["resp_bytes"] == len(stored)
    body = answer.partition(b"\r\n\r\n")[2]
    if how == "close":  # a reset throws away what is under way
        assert len(stored) == 200_000
    if framing == "chunked":
        assert b"0\r\n\r\n" not in body[-5:], "a cut must not look like an end"
    elif how == "close":
        assert body == stored


def problem(answer: bytes) -> tuple[int, str]:
    """Status and error code of an answer that the proxy made."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("request_text", "status", "code", "end_reason"),
    [
        (get("/refused/v1/models"), 502, "upstream_refused", "upstream_error"),
        (get("/nowhere/v1/models"), 502, "upstream_name_failure", "upstream_error"),
        (get("/sim/slow?ms=20000"), 504, "upstream_timeout", "timeout"),
        ("GET /v1/models HTTP/1.1\r\nHost: ends\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "", "bad_request"),
        ("GET /v1/models\r\n\r\n", 400, "", "bad_request"),
    ],
    ids=["refused", "name", "slow", "two lengths", "no version"],
)
def test_answer_that_the_proxy_makes_is_stored_with_its_reason(
    pipe: Pipeline, request_text: str, status: int, code: str, end_reason: str
) -> None:
    before = len(pipe.rows())
    answer = ask(pipe, request_text)
    row = pipe.new_row(before)
    got_status, got_code = problem(answer)
    assert (got_status, row["status"], row["end_reason"]) == (status, status, end_reason)
    assert row["error_code"] == got_code
    assert not code or got_code == code
    assert pipe.trace(row)["answered_by_proxy"]
    assert pipe.response_body(row) == answer.partition(b"\r\n\r\n")[2]


def test_backend_error_is_passed_on_and_complete(pipe: Pipeline) -> None:
    before = len(pipe.rows())
    answer = ask(pipe, get("/sim/status/503"))
    row = pipe.new_row(before)
    assert (row["status"], row["end_reason"], row["error_code"]) == (503, "complete", None)
    assert pipe.response_body(row) == answer.partition(b"\r\n\r\n")[2] == b'{"status":503}'
