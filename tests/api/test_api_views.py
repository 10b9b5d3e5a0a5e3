"""One exchange in other forms: each read of its bodies, HAR, and a curl command that is run against a real server."""

import base64
import gzip
import hashlib
import http.server
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import BEGAN_S, Instance, append, begin_segment, exchange, new_id, running
from needs import needs_tool

from llmdump import record
from llmdump.data_dir import DataDir
from llmdump.record import Record
from llmdump_api import curl, har
from llmdump_api.app import KEPT_BYTES_MAX
from llmdump_api.chunks import Chunks
from llmdump_api.curl import BODY_INLINE_BYTES_MAX, NotSentAgainError
from llmdump_indexer.follow import Follower
from tests.api.har_schema import HAR
from tests.api.streams import At, get, put, put_stream, stream
from tests.api.test_api_serve import Served
from tests.patience import WAIT_S

ID = new_id(1)
ROW = {"id": ID, "upstream": "http://backend", "provider": "openai"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = DataDir(tmp_path_factory.mktemp("views")).create()
    with running("api", data) as service:
        yield Served(service, data)


def read(records: Iterator[bytes]) -> list[Record]:
    return [record.decode(one) for one in records]


# --- chunks


def test_every_chunk_of_both_directions_is_told(api: Served) -> None:
    sizes = [1, 70_000, 0, 5, *range(3000)]
    id_ = put_stream(api, [At(index / 4, b"x" * size) for index, size in enumerate(sizes)], request=b"asked")
    got = get(api, f"/api/traces/{id_}/chunks")
    assert (got.status, got.fields["content-type"], got.whole) == (200, "application/x-ndjson", True)
    first, *lines = [json.loads(line) for line in got.body.splitlines()]
    assert first == {"side": "request", "offset": 0, "size": 5, "t_us": 0, "record": 2}
    assert [line["size"] for line in lines] == sizes
    assert [line["offset"] for line in lines] == [0, *itertools.accumulate(sizes)][:-1]
    assert [line["record"] for line in lines] == list(range(5, 5 + len(sizes)))
    assert max(abs(line["t_us"] - (50_000 + 250 * index)) for index, line in enumerate(lines)) <= 1
    assert {line["side"] for line in lines} == {"response"}


def test_what_was_not_kept_is_told_and_counts_in_offsets() -> None:
    chunks = Chunks()
    records = read(stream(Instance(), ID, [At(0, b"ab", {"x_cut": 9}), At(float("nan"), b"c")]))
    lines = [json.loads(line) for line in map(chunks.line, records) if line]
    assert lines[1] == {"side": "response", "offset": 0, "size": 9, "t_us": 50_000, "record": 5, "kept": 2}
    assert (lines[2]["offset"], lines[2]["t_us"]) == (9, None)


def test_pipes_and_own_answers_have_chunks_too() -> None:
    instance = Instance()
    records = [
        instance.record(ID, 0, "pipe", b"up", ci=1),
        instance.record(ID, 3, "pipe", b"down", ci=1),
        instance.record(ID, 1, "answer", b"HTTP/1.1 502 X\r\n\r\nno", sc=502),
    ]
    chunks = Chunks()
    lines = [json.loads(chunks.line(one)) for one in read(iter(records))]
    assert [(line["side"], line["offset"], line["size"]) for line in lines] == [
        ("request", 0, 2), ("response", 0, 4), ("response", 4, 2),
    ]  # fmt: skip


# --- HAR


def entry_of(log: Any) -> Any:
    """The entry of a log that is HAR 1.2."""
    jsonschema.validate(log, HAR, cls=jsonschema.Draft202012Validator)
    (entry,) = log["log"]["entries"]
    positive = [value for value in entry["timings"].values() if value >= 0]
    assert entry["time"] == pytest.approx(sum(positive), abs=0.01)
    return entry


def built(records: Iterator[bytes], row: dict[str, Any] = ROW) -> Any:
    return entry_of(orjson.loads(orjson.dumps(har.build(row, read(records), "0"))))


def test_a_plain_exchange_is_a_har_entry(api: Served) -> None:
    body = b'{"ok": true}'
    id_ = put(api, lambda instance, id_: exchange(
        instance, id_, b'{"a":1}', (body,), path="/v1/x?q=a%20b&q=&z", response_fields="Location: /there\r\nSet-Cookie: a\r\n",
    ))  # fmt: skip
    reply = api.ask(f"/api/traces/{id_}/har")
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{id_}.har"'
    entry = entry_of(reply.json)
    request, response = entry["request"], entry["response"]
    assert (request["method"], request["url"], request["httpVersion"]) == ("POST", "http://here/v1/x?q=a%20b&q=&z", "HTTP/1.1")
    assert request["queryString"] == [{"name": "q", "value": "a b"}, {"name": "q", "value": ""}, {"name": "z", "value": ""}]
    assert request["postData"] == {"mimeType": "application/json", "text": '{"a":1}'}
    assert (response["status"], response["statusText"], response["redirectURL"]) == (200, "Fine", "/there")
    assert {"name": "Set-Cookie", "value": "a"} in response["headers"]
    assert response["content"] == {
        "size": 12, "compression": 0, "mimeType": "application/json", "text": body.decode(),
    }  # fmt: skip
    assert (response["bodySize"], entry["serverIPAddress"], entry["connection"]) == (12, "127.0.0.1", "c1")
    assert (entry["_id"], entry["_upstream"], entry["_resourceType"]) == (id_, "http://backend", "fetch")
    assert entry["startedDateTime"].startswith("2026-01-01T00:00:00.00")
    assert entry["timings"] == {
        "blocked": -1, "dns": -1, "ssl": -1, "connect": 1.5, "send": 1, "wait": 0.5, "receive": 2,
    }  # fmt: skip


def test_a_coded_body_is_decoded_and_a_binary_one_is_base64() -> None:
    coded = gzip.compress(b"hello" * 100)
    content = built(exchange(Instance(), ID, b"", (coded[:9], coded[9:]), response_fields="Content-Encoding: gzip\r\n"))
    assert (content["response"]["content"]["text"], content["response"]["content"]["compression"]) == (
        "hello" * 100, 500 - len(coded),
    )  # fmt: skip
    assert "postData" not in content["request"]
    entry = built(exchange(Instance(), ID, b"\xff", (b"\xff\x00",), content_type="image/png"))
    assert (entry["response"]["content"]["text"], entry["response"]["content"]["encoding"]) == ("/wA=", "base64")
    assert (entry["request"]["postData"]["text"], entry["request"]["postData"]["_encoding"]) == ("/w==", "base64")


def test_events_of_a_stream_are_there_as_chrome_has_them() -> None:
    parts = [At(0, b": hi\nevent: start\nda"), At(100, b"ta: 1\n\ndata: 2\n\n"), At(200, b"data: [DONE]")]
    entry = built(stream(Instance(), ID, parts))
    began_s = BEGAN_S + 0.05
    assert entry["_resourceType"] == "eventsource"
    assert [(one["eventName"], one["data"]) for one in entry["_eventSourceMessages"]] == [
        ("start", "1"), ("message", "2"), ("message", "[DONE]"),
    ]  # fmt: skip
    assert [one["time"] for one in entry["_eventSourceMessages"]] == pytest.approx(
        [began_s + 0.1, began_s + 0.1, began_s + 0.2]
    )
    assert entry["response"]["content"]["text"] == "".join(part.data.decode() for part in parts)


def frame(data: bytes, opcode: int, mask: bytes = b"") -> bytes:
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data)) if mask else data
    return bytes((0x80 | opcode, (0x80 if mask else 0) | len(data))) + mask + masked


def test_messages_of_a_websocket_are_there_as_chrome_and_mitmproxy_have_them() -> None:
    instance = Instance()
    head = b"GET /v1/realtime HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\n\r\n"
    records = [
        instance.record(ID, 0, "head", head, x_peer="p", x_key="0" * 16),
        instance.record(ID, 3, "head", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", sc=101, ttfb=1.0),
        instance.record(ID, 0, "pipe", frame("hé".encode(), 1, b"abcd")[:5], ci=1),
        instance.record(ID, 0, "pipe", frame("hé".encode(), 1, b"abcd")[5:], ci=2),
        instance.record(ID, 3, "pipe", frame(b"\xff", 2) + frame(b"", 9) + frame(b"ok", 1), ci=1),
        instance.record(ID, 1, "end", x_end="complete"),
    ]
    entry = built(iter(records))
    assert (entry["_resourceType"], entry["request"]["url"]) == ("websocket", "ws://here/v1/realtime")
    assert [(one["type"], one["opcode"], one["data"]) for one in entry["_webSocketMessages"]] == [
        ("send", 1, "hé"), ("receive", 2, base64.b64encode(b"\xff").decode()), ("receive", 1, "ok"),
    ]  # fmt: skip
    assert entry["_webSocketMessages"][0]["time"] == pytest.approx(BEGAN_S + 0.004)


@pytest.mark.parametrize("records", range(1, 8))
def test_a_part_of_an_exchange_is_har_too(records: int) -> None:
    entry = built(itertools.islice(exchange(Instance(), ID), records))
    assert entry["response"].get("_error") == (None if records > 5 else "open")


def test_hostile_heads_and_times_are_har_too() -> None:
    instance = Instance()
    instance.began_s = float("inf")
    head = b"\xff\x00 ? \r\n:\r\nHost:\xe9\r\n" + b"a" * 10 + b"\r\n\r\n"
    records = [instance.record(ID, 0, "head", head), instance.record(ID, 3, "head", b"\xb2\r\n", sc=1)]
    assert built(iter(records))["response"]["status"] == 0


def test_what_is_more_than_the_limits_is_left_out_and_said() -> None:
    entry = built(stream(Instance(), ID, [At(0, b"data: 1\n\n" * 1000)] * 21))
    assert (len(entry["_eventSourceMessages"]), entry["_truncated"]) == (har.MESSAGES_MAX, True)
    big = b"a" * (9 * 1024 * 1024)
    content = built(exchange(Instance(), ID, response=(big,), content_type="text/plain"))["response"]["content"]
    assert (content["_truncated"], content["size"], len(content["text"])) == (True, 8 * 1024 * 1024, 8 * 1024 * 1024)


# --- curl


class Seen(NamedTuple):
    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes


class Echo:
    """A server that keeps what it was asked."""

    def __init__(self) -> None:
        seen: list[Seen] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                # Not `path`: of several slashes at its beginning the server leaves one.
                seen.append(Seen(self.command, self.requestline.split(" ")[1], self.headers.items(), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._any
                raise AttributeError(name)

            def log_message(self, *_: Any) -> None:
                pass

        self.seen = seen
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    needs_tool("curl")
    server = Echo()
    yield server
    server.close()


def asked(url: str, head: bytes, body: bytes = b"", **meta: Any) -> list[Record]:
    """The records of a request whose head was sent to the backend at `url`."""
    instance = Instance()
    made = [instance.record(ID, 0, "head", head, x_peer="p", x_key="0" * 16)]
    if body:
        made.append(instance.record(ID, 0, "chunk", body, ci=1, **{"x_z": True, **meta}))
    made.append(instance.record(ID, 2, "forward", head, x_up=url, x_addr="a:1", x_dial=0.0, x_new=True))
    return read(iter(made))


def run(command: str, place: Path | None = None, **variables: str) -> None:
    environ = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run(["sh", "-c", command], env=environ, cwd=place, capture_output=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, (command, done.stderr)
    assert not done.stdout or "--head" in command, "more than curl was run"


def sent_again(echo: Echo, head: bytes, body: bytes = b"", **variables: str) -> Seen:
    run(curl.command(asked(echo.url, head, body), ROW, "http://api"), **variables)
    return echo.seen.pop()


def test_curl_sends_the_same_request_again(echo: Echo) -> None:
    body = '{"model":"m","x":"it\'s $HOME `id` \\"q\\" \\\\ 你\n\t@"}'.encode()
    fields = [
        ("User-Agent", "it's \"me\" $(id) `id` \\n !"), ("X-Empty", ""), ("X-Twice", "1"), ("x-twice", "2"),
        ("Content-Type", "application/json"), ("X-Octets", "\xe9\x80é"), ("Accept-Encoding", "gzip"),
    ]  # fmt: skip
    head = "POST /v1/a/../b?x=[1]{2}'&y=%20 HTTP/1.1\r\nHost: other.example\r\nConnection: keep-alive\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields) + f"Content-Length: {len(body)}\r\n\r\n"
    seen = sent_again(echo, head.encode("latin-1"), body)
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/a/../b?x=[1]{2}'&y=%20", body)
    want = [("Host", "other.example"), *fields, ("Content-Length", str(len(body)))]
    assert sorted(seen.fields) == sorted(want)


def test_masked_credentials_are_variables(echo: Echo) -> None:
    head = (
        b"POST /v1/x?key=masked:00000000000000aa&z=1 HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nAccept: */*\r\n"
        b"Authorization: Bearer masked:00000000000000bb\r\nX-Api-Key: masked:00000000000000cc\r\n"
        b"Cookie: masked:00000000000000dd\r\n\r\n"
    )
    command = curl.command(asked(echo.url, head), ROW, "http://api")
    assert command.startswith("# set OPENAI_API_KEY, OPENAI_API_KEY_2, ANTHROPIC_API_KEY, COOKIE first\ncurl ")
    assert "'Authorization: Bearer '\"${OPENAI_API_KEY_2}\"" in command
    assert "masked:" not in command
    run(command, OPENAI_API_KEY="k1", OPENAI_API_KEY_2="k 2'\"$x", ANTHROPIC_API_KEY="k3", COOKIE="a=b; c=d")
    seen = echo.seen.pop()
    assert seen.target == "/v1/x?key=k1&z=1"
    assert dict(seen.fields) == {
        "Host": "h", "User-Agent": "u", "Accept": "*/*", "Authorization": "Bearer k 2'\"$x", "X-Api-Key": "k3",
        "Cookie": "a=b; c=d",
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"\xff\x00\r\n", b"\x1b[201~", "\u202e".encode(), b"a" * (BODY_INLINE_BYTES_MAX + 1)])
def test_a_body_that_is_no_text_or_long_comes_from_a_file(api: Served, echo: Echo, tmp_path: Path, body: bytes) -> None:
    head = f"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def recorded(instance: Instance, id_: str) -> Iterator[bytes]:
        yield instance.record(id_, 0, "head", head, x_peer="p", x_key="0" * 16)
        yield instance.record(id_, 0, "chunk", body, ci=1, x_z=True)
        yield instance.record(id_, 2, "forward", head, x_up=echo.url, x_addr="a:1", x_dial=0.0, x_new=True)

    id_ = put(api, recorded)
    reply = api.ask(f"/api/traces/{id_}/curl")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    comment, _, command = reply.body.decode().partition("\n")
    hint = comment.partition("get the body first: ")[2].replace("data/admin_token", str(api.data.admin_token))
    run(hint, tmp_path)
    run(command, tmp_path)
    assert echo.seen.pop().body == body


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b""),
        (b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n", b""),
        (b"DELETE /x HTTP/1.1\r\nHost: h\r\nAccept: a\r\n\r\n", b""),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", b""),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", b"@no/file\n"),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"a=b"),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b""),
    ],
)
def test_no_field_is_added_and_none_is_lost(echo: Echo, head: bytes, body: bytes) -> None:
    seen = sent_again(echo, head, body)
    start, *lines = head.decode().split("\r\n")[:-2]
    assert [seen.method, seen.target, "HTTP/1.1"] == start.split(" ")
    assert sorted(seen.fields) == sorted(tuple(line.split(": ", 1)) for line in lines)
    assert seen.body == body


VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1, max_size=12).filter(
    lambda value: value.strip(" \t\xa0\x85") == value and value.isprintable()
)
TARGETS = st.text(st.sampled_from("abz019-._~!$&'()*+,;=:@%[]{}|^`\\\"<>/?"), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=TARGETS, value=VALUES, body=st.text(max_size=30))
def test_whatever_was_sent_is_sent_again(echo: Echo, target: str, value: str, body: str) -> None:
    data = body.encode()
    if curl._UNSEEN.search(body):
        return
    head = f"POST /{target} HTTP/1.1\r\nHost: h\r\nX-Value: {value}\r\nContent-Length: {len(data)}\r\n\r\n".encode("latin-1")
    seen = sent_again(echo, head, data)
    assert (seen.target, dict(seen.fields)["X-Value"], seen.body) == (f"/{target}", value, data)


def test_what_cannot_be_sent_again_says_why(api: Served) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"
    instance = Instance()
    switched = [*asked("http://x", head, b"123456789"), *read(iter([instance.record(ID, 3, "head", b"", sc=101)]))]
    bad = read(iter([instance.record(ID, 0, "head", b"\xff", x_bad="syntax")]))
    for records, why in (
        (asked("http://x", head, b"12345", x_z=False), "ended before"), (asked("http://x", head), "ended before"),
        (asked("http://x", head, b"12345", x_cut=9), "not all"), (switched, "another protocol"), (bad, "malformed"),
        ([], "head was not recorded"), (asked("http://x", head.replace(b"POST", b"HEAD"), b"123456789"), "HEAD"),
    ):  # fmt: skip
        with pytest.raises(NotSentAgainError, match=why):
            curl.command(records, ROW, "http://api")
    id_ = put(api, lambda instance, id_: itertools.islice(exchange(instance, id_, b""), 1))
    assert api.ask(f"/api/traces/{id_}/curl").status == 200  # no body was announced
    id_ = put(api, lambda instance, id_: [instance.record(id_, 0, "head", head, x_peer="p", x_key="0" * 16)])
    reply = api.ask(f"/api/traces/{id_}/curl")
    assert (reply.status, reply.json["error"]) == (409, "not_sent_again")


def test_what_is_not_there_is_not_there_in_any_form(api: Served) -> None:
    for form in ("chunks", "har", "curl"):
        assert api.ask(f"/api/traces/{new_id(20_000)}/{form}").status == 404
        assert api.ask(f"/api/traces/{new_id(20_000)}/{form}", token="wrong").status == 401


def test_an_exchange_that_is_too_large_to_be_held_is_told_as_any_other(tmp_path: Path) -> None:
    """It is read twice, once for what crossed and once for what it says."""
    data = DataDir(tmp_path / "data").create()
    texts = [f"{index}." + "x" * 1_000_000 for index in range(1 + KEPT_BYTES_MAX // 1_000_000)]
    events = [b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode() for text in texts]
    append(begin_segment(data, 1), b"".join(stream(Instance(), new_id(1), [At(1, event) for event in events])))
    Follower(data).catch_up()
    with running("api", data) as service:
        told = Served(service, data).ask(f"/api/traces/{new_id(1)}").json
    assert told["trace"]["missing_segments"] == []
    assert told["reading"]["text_sha256"] == hashlib.sha256("".join(texts).encode()).hexdigest()
