"""`llmdump serve`: what was recorded through a real proxy is given again, to raw sockets and to the official SDKs.

Recorded once for all tests here: the raw backend's answers under a path prefix, and exchanges of the corpus.
"""

import hashlib
import itertools
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from llmdump.data_dir import DataDir
from tests.e2e.pipeline import Pipeline
from tests.patience import WAIT_S
from tests.reading import replay
from tests.reading.exchanges import CORPUS, lines
from tests.reading.test_pipeline import of_recording
from tests.serve import raw_backend, sdks, socket_backend
from tests.serve.raw_backend import ANSWERS, GAP_MS, post, with_close
from tests.serve.rig import BIN, LEFT_WITHIN_S, Serving
from tests.serve.socket_backend import asking as say
from tests.serve.socket_backend import talk

pytestmark = [pytest.mark.xdist_group("serve"), pytest.mark.timeout(180)]

EXCHANGES: Final = lines(CORPUS) if CORPUS.exists() else []
RECORDED: Final = pytest.mark.skipif(not EXCHANGES, reason="the recordings are not beside this checkout")
OF_EACH_KIND: Final = 2
"""Of each API and framing so many recordings are tried; with --long all."""
CHAT: Final = {"model": "m", "messages": [{"role": "user", "content": "What is 2 + 2?"}], "temperature": 0.5}
GZIP: Final = "Accept-Encoding: gzip, br\r\n"


def chosen(long: bool) -> list[dict[str, Any]]:
    """The recordings that are tried here: those that an SDK can ask for."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for each in EXCHANGES:
        kind = (each["api"], each["framing"])
        if not sdks.not_theirs(each) and (long or seen[kind] < OF_EACH_KIND):
            seen[kind] += 1
            found.append(each)
    return found


SESSIONS: Final = (
    ("/sock/v1/responses", [say("one"), say("two", temperature=0.1)]),
    ("/sock/v1/responses", [say("other")]),
    ("/sock/v1/responses", [say("bye")]),
    ("/sock/v1/realtime?model=x", [say("hello")]),
)
TALKS: Final[list[list[Any]]] = []
"""What the client of each session got."""


@pytest.fixture(scope="module")
def exchanges(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return chosen(request.config.getoption("--long"))


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, exchanges: list[dict[str, Any]]) -> list[replay.Played]:
    """What is recorded of the corpus: with --long all of it."""
    recorded = EXCHANGES if request.config.getoption("--long") else exchanges
    return [of_recording(number, each) for number, each in enumerate(recorded)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, played: list[replay.Played]) -> DataDir:
    """A data directory with everything recorded and no process; it has an index."""
    place = tmp_path_factory.mktemp("recorded")
    with raw_backend.serving() as raw, replay.Backend(played).serving() as backend, socket_backend.serving() as sockets:
        routes = f"/raw/*={raw};/sock/*={sockets};/={backend.url}"
        pipe = Pipeline(place, routes=routes, upstream_keepalive_s=0)
        pipe.start("proxy", "writer", wait=False)
        for role in ("writer", "proxy"):
            pipe.wait_until_runs(role)
        for path, answers in ANSWERS.items():
            for _ in answers:
                post(pipe.proxy, "/raw" + path, *asking(path))
        for path, said in SESSIONS:
            TALKS.append(talk(pipe.proxy + path, said, server_first="realtime" in path))
        replay.play(pipe.proxy, played, connections=1)
        pipe.close()
    rebuild = [sys.executable, "-P", "-m", "llmdump_indexer.rebuild", str(pipe.data.root)]
    subprocess.run(rebuild, check=True, capture_output=True)
    return pipe.data


def asking(path: str) -> tuple[bytes, str]:
    """Body and fields with which a path of the raw backend was asked."""
    if path == "/plain":
        return json.dumps(CHAT).encode(), "Content-Type: application/json\r\n"
    return b"{}", GZIP if path == "/gzip" else ""


@pytest.fixture(scope="module")
def served(archive: DataDir) -> Iterator[Serving]:
    """The segments as bare files, as fast as it goes."""
    with Serving(archive.segments, "--nodelay") as serving:
        yield serving


@pytest.fixture(scope="module")
def paced(archive: DataDir) -> Iterator[Serving]:
    """The data directory in place, at the recorded pace, each recording once."""
    before = {path: path.stat().st_mtime_ns for path in archive.segments.iterdir()}
    with Serving(archive.root, "--after-last", "404", "--match", "path") as serving:
        yield serving
    assert {path: path.stat().st_mtime_ns for path in archive.segments.iterdir()} == before


def sent(path: str, number: int = 0) -> bytes:
    """What the backend sent."""
    return b"".join(send.data for send in ANSWERS[path][number])


WHOLE: Final = ("/plain", "/sse", "/ndjson", "/until-close", "/gzip", "/hints", "/nothing")


@pytest.mark.parametrize("path", WHOLE)
def test_every_byte_of_an_answer_is_what_the_backend_sent(served: Serving, path: str) -> None:
    got = post(served.url, "/raw" + path, *asking(path))
    assert got.data == with_close(sent(path))
    assert not got.reset


@pytest.mark.parametrize("path", ["/cut-length", "/cut-chunked"])
def test_a_cut_answer_is_cut_at_the_same_byte(served: Serving, path: str) -> None:
    """The client would keep the connection: that it ends is the cut."""
    assert post(served.url, "/raw" + path, connection="keep-alive").data == sent(path)


def test_a_path_is_found_with_and_without_the_prefix_that_a_route_took_off(served: Serving) -> None:
    assert post(served.url, "/nothing").data == post(served.url, "/raw/nothing").data == with_close(sent("/nothing"))
    assert post(served.url, "/openai/nothing").data == with_close(sent("/nothing"))


def test_reads_come_as_they_were_sent_at_the_recorded_pace(paced: Serving) -> None:
    got = post(paced.url, "/sse")
    ends = list(itertools.accumulate(len(data) for data in got.reads[1:]))
    sends = [send.data for send in ANSWERS["/sse"][0]][1:]
    behind_head = len(got.data) - sum(map(len, sends))
    assert got.data[behind_head:] == b"".join(sends)
    # A client that is slow to wake gets several at once, but never a part of one.
    borders = set(itertools.accumulate(map(len, sends)))
    assert {end + len(got.reads[0]) - behind_head for end in ends} <= borders
    assert len(got.reads) >= 3
    took_ms = 1000 * (got.times_s[-1] - got.times_s[0])
    assert 0.7 * GAP_MS * len(sends) < took_ms < 3 * GAP_MS * len(sends)


def test_several_recordings_are_given_in_turn_then_none(paced: Serving) -> None:
    for number in range(3):
        assert post(paced.url, "/busy").data == with_close(sent("/busy", number))
    refused = post(paced.url, "/busy").data
    assert refused.startswith(b"HTTP/1.1 404 ")
    assert b'"code": "used_up"' in refused


def test_several_recordings_are_given_in_turn_then_the_last_again(served: Serving) -> None:
    for number in (0, 1, 2, 2, 2):
        assert post(served.url, "/busy").data == with_close(sent("/busy", number))


def test_a_client_that_does_not_take_the_coding_gets_the_body_decoded(served: Serving) -> None:
    got = post(served.url, "/gzip", b"{}", "Accept-Encoding: br, gzip;q=0\r\n").data
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Encoding" not in head
    size, _, rest = body.partition(b"\r\n")
    assert rest == raw_backend.GZIPPED + b"\r\n0\r\n\r\n"
    assert int(size, 16) == len(raw_backend.GZIPPED)


def test_a_client_of_http_1_0_gets_no_chunks(served: Serving) -> None:
    head, _, body = post(served.url, "/ndjson", b"{}", "", "1.0").data.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b'{"one": 1}\n{"two": 22}'


def chat(**changes: Any) -> bytes:
    return json.dumps({**CHAT, **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(dict(reversed(CHAT.items())), indent=4).encode(),
        chat(temperature=0.9, seed=7),
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]),
    ],
    ids=["spelt differently", "other settings", "the text in a list"],
)
def test_the_same_conversation_is_found(served: Serving, body: bytes) -> None:
    assert post(served.url, "/raw/plain", body).data == with_close(sent("/plain"))


@pytest.mark.parametrize(
    ("body", "differs"),
    [
        (chat(model="other"), ("model", '"other"', '"m"')),
        (chat(messages=[{"role": "user", "content": "What is 2 + 3?"}]),
         ("messages.0.content", '"What is 2 + 3?"', '"What is 2 + 2?"')),
        (chat(stream=True), ("stream", "true", "absent")),
    ],
    ids=["another model", "another question", "as a stream"],
)  # fmt: skip
def test_another_request_is_told_the_nearest_and_how_it_differs(
    served: Serving, body: bytes, differs: tuple[str, str, str]
) -> None:
    head, _, answer = post(served.url, "/raw/plain", body).data.partition(b"\r\n\r\n")
    told = json.loads(answer)
    assert head.startswith(b"HTTP/1.1 404 ")
    assert told["llmdump"]["code"] == "not_recorded"
    assert told["llmdump"]["nearest"]
    assert told["llmdump"]["differs"] == [dict(zip(("at", "asked", "recorded"), differs, strict=True))]
    assert differs[2] in told["error"]["message"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", {"error": {"message", "type", "param", "code"}}),
        ("/v1/messages", {"type": str, "error": {"type", "message"}}),
        ("/v1beta/models/gemini-x:generateContent", {"error": {"code", "message", "status"}}),
        ("/api/chat", {"error": str}),
        ("/v2/chat", {"message": str}),
    ],
)
def test_the_error_has_the_shape_of_its_provider(served: Serving, path: str, shape: dict[str, Any]) -> None:
    told = json.loads(post(served.url, path, b'{"model":"nobody"}').data.partition(b"\r\n\r\n")[2])
    assert told.pop("llmdump")["code"] == "not_recorded"
    assert {key: set(value) if isinstance(value, dict) else type(value) for key, value in told.items()} == shape


def test_any_model_and_any_request_of_the_path_where_that_is_wanted(paced: Serving) -> None:
    assert post(paced.url, "/plain", chat(model="other")).data == with_close(sent("/plain"))
    assert post(paced.url, "/nothing", b'{"anything": 1}').data == with_close(sent("/nothing"))


def test_a_name_that_is_not_ours_is_turned_away(served: Serving) -> None:
    assert _as_host(served.url, "localhost:1").startswith(b"HTTP/1.1 404 ")
    assert _as_host(served.url, "evil.example").startswith(b"HTTP/1.1 421 ")


def _as_host(url: str, host: str) -> bytes:
    return _raw(url, f"GET /nothing HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def _raw(url: str, *parts: bytes) -> bytes:
    """All that comes for these bytes; what follows the first part is sent when something has come."""
    with socket.create_connection(url.removeprefix("http://").split(":"), timeout=LEFT_WITHIN_S) as sock:
        sock.sendall(parts[0])
        got = b""
        for part in parts[1:]:
            got += sock.recv(65536)
            sock.sendall(part)
        while data := sock.recv(65536):
            got += data
        return got


POST: Final = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"


def test_requests_sent_ahead_are_answered_in_order(served: Serving) -> None:
    got = _raw(served.url, POST + b"\r\n{}" + POST + b"Connection: close\r\n\r\n{}")
    assert got == sent("/nothing") + with_close(sent("/nothing"))


def test_a_client_that_waits_to_be_told_is_told_to_go_on(served: Serving) -> None:
    got = _raw(served.url, POST + b"Expect: 100-continue\r\nConnection: close\r\n\r\n", b"{}")
    assert got == b"HTTP/1.1 100 Continue\r\n\r\n" + with_close(sent("/nothing"))


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"no request\r\n\r\n", b"400"), (POST + b"X-Long: " + b"x" * 300_000 + b"\r\n\r\n", b"431")],
    ids=["malformed", "a head too large"],
)
def test_what_is_no_request_is_refused(served: Serving, request_: bytes, status: bytes) -> None:
    assert _raw(served.url, request_).split(b" ")[1] == status


def test_others_are_let_in_only_where_that_is_said(archive: DataDir) -> None:
    command = [BIN / "llmdump", "serve", archive.root, "--listen", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 2
    assert "--anyone" in done.stderr


def test_what_is_no_archive_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    done = subprocess.run(
        [BIN / "llmdump", "serve", tmp_path / "x.txt"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("JSONL of llmdump, api-log or the reference implementation, nor HAR\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("number", range(len(SESSIONS)))
def test_a_websocket_says_what_the_backend_had_said_after_the_same_message(
    served: Serving, number: int, compression: str | None
) -> None:
    path, said = SESSIONS[number]
    assert talk(served.url + path, said, server_first="realtime" in path, compression=compression) == TALKS[number]


def test_an_answer_waits_for_its_message(served: Serving) -> None:
    path, (first, second) = SESSIONS[0]
    with connect(served.url.replace("http:", "ws:") + path, open_timeout=20, close_timeout=5) as client:
        client.send(first)
        got = [json.loads(client.recv(timeout=WAIT_S)) for _ in range(3)]
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.3)
        client.send(second)
        got += [json.loads(client.recv(timeout=WAIT_S)) for _ in range(3)]
    assert [*got, None] == TALKS[0]


def test_the_first_message_of_a_websocket_chooses_the_session(served: Serving) -> None:
    assert talk(served.url + "/v1/responses", [say("other", temperature=0.7)]) == TALKS[1]  # the same conversation
    refused = talk(served.url + "/v1/responses", [say("never said")])
    assert refused[0]["type"] == "error"
    assert [(one["at"], one["asked"]) for one in refused[0]["llmdump"]["differs"]] == [("input", '"never said"')]
    assert refused[1] == 1008


def test_where_no_websocket_was_recorded_none_is_opened(served: Serving) -> None:
    with pytest.raises(InvalidStatus, match="404"):
        talk(served.url + "/elsewhere", [say("one")])


@RECORDED
@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
def test_official_sdks_complete_the_recorded_conversations(served: Serving, exchanges: list[dict[str, Any]]) -> None:
    wrong = [f"{each['id']}: {problem}" for each in exchanges if (problem := _problem(served.url, each))]
    assert not wrong, "\n".join(wrong)
    assert len(exchanges) >= OF_EACH_KIND * 5


@RECORDED
def test_every_recording_is_given_byte_for_byte(
    archive: DataDir, played: list[replay.Played], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("with --long: all recordings once more")
    with Serving(archive.root, "--nodelay", "--match", "exact", "--after-last", "404") as serving:
        replay.play(serving.url, played, connections=1)
    assert f"{len(played)} requests: {len(played)} exact" in serving.said


def _problem(url: str, exchange: dict[str, Any]) -> str:
    """What a caller would miss; empty if nothing."""
    expected = exchange["expected"]
    try:
        got = sdks.complete(url, exchange)
    except Exception as err:  # whatever an SDK raises is what this is about
        return f"{type(err).__name__}: {err}"
    if got.status != exchange["response"]["status"]:
        return f"status {got.status}"
    if isinstance(got.text, str) and expected["text_sha256"] not in (None, hashlib.sha256(got.text.encode()).hexdigest()):
        return f"text {got.text[:80]!r}"
    return f"id {got.id}" if got.id and got.id != expected["response_id"] else ""
