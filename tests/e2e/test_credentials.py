"""A canary in every place where clients and backends put credentials: the other side gets it, and nothing of ours keeps it."""

import base64
import http.client
import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmdump import segment
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S

pytestmark = pytest.mark.xdist_group("e2e-credentials")
CANARY = "canary"
# Each place has a canary of its own, so that a failure says which one leaked.
HEADERS = {
    "Authorization": "Bearer sk-canary-authorization-0123456789",
    "X-API-Key": "canary-x-api-key",
    "api-key": "canary-azure-key",
    "x-goog-api-key": "AIzacanary-goog",
    "Proxy-Authorization": "Basic " + base64.b64encode(b"user:canary-proxy").decode(),
    "Cookie": "a=1; session=canary-cookie; b=2",
    "X-Amz-Security-Token": "canary-aws",
    "X-Auth-Token": "canary-auth-token",
    "cf-aig-authorization": "Bearer canary-cloudflare",
    "Helicone-Auth": "Bearer canary-helicone",
    "Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.sk-canary-subprotocol",
    "X-Own-Secret": "canary-configured-field",
}
QUERY = ("key", "api_key", "api-key", "access_token", "token", "sig", "own_param")
SET_COOKIE = "id=canary-set-cookie; Path=/; HttpOnly"
# In fields that are not credentials themselves, but URLs with one.
URLS = {"Referer": "https://somewhere/?key=canary-referer", "X-Callback": "https://x/?a=1&access_token=canary-callback"}
BASIC = base64.b64encode(b"canary-user:canary-password").decode()


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with a cookie and, where it is asked to, with the client's own key in the body."""

    protocol_version = "HTTP/1.1"
    heads: list[str] = []  # noqa: RUF012 - one backend a test

    def do_POST(self) -> None:
        self.heads.append(self.requestline + "\n" + str(self.headers))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Set-Cookie", SET_COOKIE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        middle = body.find(b"canary") + 3
        for part in (body[:middle], body[middle:]):  # a key that is split over two chunks
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def echoing() -> Iterator[str]:
    Backend.heads = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(WAIT_S)
    server.server_close()


def send(pipe: Pipeline, target: str, headers: dict[str, str], body: bytes = b"{}") -> bytes:
    """One request; the body of the answer. The client sends the head in one piece and the body in two."""
    connection = http.client.HTTPConnection(pipe.proxy.removeprefix("http://"), timeout=WAIT_S)
    connection.request("POST", target, body, headers)
    answer = connection.getresponse()
    assert answer.getheader("Set-Cookie") == SET_COOKIE, "the cookie did not reach the client"
    content = answer.read()
    connection.close()
    return content


def leaks(pipe: Pipeline, rows: list[dict[str, object]]) -> list[str]:
    """Every place in which a canary is found: files, logs, metrics, answers of the api."""
    told = {path: pipe.raw(path) for path in ("/metrics", "/api/traces", "/healthz", "/readyz")}
    for row in rows:
        told[f"trace {row['path']}"] = pipe.raw(f"/api/traces/{row['id']}")
        told[f"request {row['path']}"] = pipe.request_body(row)
        told[f"response {row['path']}"] = pipe.response_body(row)
    for card in pipe.living():
        with urllib.request.urlopen(f"{card.admin}/metrics", timeout=WAIT_S) as answer:
            told[f"metrics of {card.name}"] = answer.read()
    for file in pipe.place.rglob("*"):
        if file.is_file():
            told[str(file)] = file.read_bytes()
    for name in segment.find(pipe.data.segments):
        with segment.SegmentFile(pipe.data.segments, name.segment) as opened:
            told[name.segment] = opened.read(0, opened.size)
    found = []
    for where, content in told.items():
        lower = content.lower()
        for secret in (b"canary", BASIC.lower().encode(), HEADERS["Proxy-Authorization"].split()[1].lower().encode()):
            at = lower.find(secret)
            if at >= 0:
                found.append(f"{where}: …{content[max(0, at - 40) : at + 60]!r}…")
    return found


def settings(backend: str, **more: object) -> dict[str, object]:
    return {
        "upstream": backend,
        "capture_format": "both",
        "log_level": "debug",
        "capture_secret_headers": "X-Own-Secret",
        "capture_secret_query": "own_param",
        **more,
    }


def test_credentials_reach_the_backend_and_nothing_of_ours(echoing: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path / "pipeline", **settings(echoing)) as pipe:
        count = 0
        for name, value in HEADERS.items():
            send(pipe, "/v1/chat/completions", {name: value})
            count += 1
        for name in QUERY:
            send(pipe, f"/v1beta/models/x:generateContent?a=1&{name}=canary-query&b=2", {})
            count += 1
        send(pipe, "/v1/chat/completions", {"Authorization": f"Basic {BASIC}"})
        send(pipe, "/v1/chat/completions", {**HEADERS, **URLS})
        send(pipe, f"http://canary-user:canary-password@{pipe.proxy.removeprefix('http://')}/v1/x", {})
        count += 3
        for broken in (
            b"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer canary-bad-head\r\nContent-Length: x\r\n\r\n",
            b"POST /v1/x?key=canary-bad-query HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX-API-Key: abc\r\n canary-folded\r\n\r\n",
            b"POST http://u:canary-in-url@a/v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ):
            with socket.create_connection(pipe.proxy.removeprefix("http://").split(":"), timeout=WAIT_S) as sock:
                sock.sendall(broken)
                assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
            count += 1
        rows = pipe.ended(count)
        received = "\n".join(Backend.heads)
        for value in (*HEADERS.values(), *(f"{name}=canary-query" for name in QUERY), BASIC):
            assert value in received, "the backend did not get it"
        assert leaks(pipe, rows) == []
        hashes = [row["key_hash"] for row in rows]
        assert len(set(hashes[:4])) == 4, "keys cannot be told apart"
    assert CANARY not in pipe.log()


def test_keys_in_bodies_are_masked_where_that_is_asked_for(echoing: str, tmp_path: Path) -> None:
    """The exchange's own key, a literal and a pattern, in request and response, where the response splits them in two."""
    bodies = {
        "own": b'{"echo": "my key is canary-own-key-0123456789"}',
        "literal": b'{"echo": "the word canary-literal is listed"}',
        "pattern": b'{"echo": "sk-canary0123456789abcdef looks like a key"}',
    }
    more = {"capture_redact_bodies": "true", "capture_redact_literals": "canary-literal"}
    with Pipeline(tmp_path / "pipeline", **settings(echoing, **more)) as pipe:
        for body in bodies.values():
            assert send(pipe, "/v1/x", {"Authorization": "Bearer canary-own-key-0123456789"}, body) == body
        rows = pipe.ended(len(bodies))
        assert leaks(pipe, rows) == []
        for row, body in zip(rows, bodies.values(), strict=True):
            assert row["altered"] is True
            assert pipe.response_body(row).startswith(body[:10])
            assert (row["req_bytes"], row["resp_bytes"]) == (len(body), len(body))


def test_keep_keeps_and_says_so_loudly(echoing: str, tmp_path: Path) -> None:
    """The search above would find a key that was kept."""
    with Pipeline(tmp_path / "pipeline", **settings(echoing, capture_secrets="keep")) as pipe:
        send(pipe, "/v1/x", HEADERS)
        assert len(leaks(pipe, pipe.ended(1))) > 3
        assert "WARNING credentials_are_recorded" in pipe.log()
