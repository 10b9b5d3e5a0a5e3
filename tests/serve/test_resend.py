"""`llmdump resend`: a recorded request sent again to a backend that tells what it got."""

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from made import Instance, append, begin_segment, new_id

from llmdump.data_dir import DataDir
from llmdump.presence import Presence
from llmdump_api import edits
from llmdump_api.beside import text as beside
from llmdump_indexer.follow import Follower
from tests.patience import WAIT_S
from tests.serve.rig import BIN

BODY: Final = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 1}
MASKED: Final = "masked:" + "ab" * 8
HEAD: Final = (
    "POST {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer " + MASKED + "\r\nCookie: " + MASKED + "\r\n"
    "X-Kept: yes\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
)
RECORDED: Final = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m-1", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}  # fmt: skip

Run = Callable[..., subprocess.CompletedProcess[str]]


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers a chat with what was asked, and keeps it."""

    protocol_version = "HTTP/1.1"
    got: list[tuple[str, dict[str, str], Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        text = f"You said {body['messages'][0]['content']} to {body['model']}."
        answer = json.dumps({**RECORDED, "model": body["model"], "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}]}).encode()  # fmt: skip
        self.send_response_only(429 if body["model"] == "busy" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def backend() -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Backend,), {"got": got}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join(WAIT_S)
    server.server_close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, backend: tuple[str, list[Any]]) -> DataDir:
    data = DataDir(tmp_path_factory.mktemp("data")).create()
    instance = Instance()
    append(begin_segment(data), b"".join(_records(instance, new_id(1), backend[0])))
    append(data.segments / "w0-00000001.cbor", b"".join(_records(instance, new_id(2), "https://api.openai.example")))
    Follower(data).catch_up()
    return data


def _records(instance: Instance, id_: str, upstream: str) -> Iterator[bytes]:
    common, body = {"sid": "c1", "be": "openai"}, json.dumps(BODY).encode()
    head = HEAD.format(target="/openai/v1/chat/completions", host="proxy", size=len(body)).encode()
    yield instance.record(id_, 0, "head", head, common, x_peer="127.0.0.1:5", x_key="ab" * 8)
    yield instance.record(id_, 0, "chunk", body, common, ci=1, x_z=True)
    sent = HEAD.format(target="/v1/chat/completions", host="backend", size=len(body)).encode()
    yield instance.record(id_, 2, "forward", sent, common, x_up=upstream, x_addr="127.0.0.1:9", x_dial=1.0, x_new=True)
    answer = json.dumps(RECORDED).encode()
    yield instance.record(
        id_, 3, "head", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", common, sc=200, ttfb=2.0
    )
    yield instance.record(id_, 3, "chunk", answer, common, ci=1, x_z=True)
    sizes = {"tc": 1, "tb": len(answer), "x_req": len(body)}
    yield instance.record(id_, 1, "end", b"", common, se=True, x_end="complete", x_err="", x_own=[1, 2, 3], x_lost=0, **sizes)


@pytest.fixture
def resend(data: DataDir) -> Run:
    """Runs `llmdump resend …` for this data directory, with only these keys in the environment."""
    clean = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}

    def run(*arguments: str, **keys: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "llmdump", "resend", *arguments, "--data-dir", data.root]
        environ = {**clean, **keys, "COLUMNS": "100"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False)

    return run


def test_it_is_sent_as_it_was_with_the_key_of_the_environment(resend: Run, backend: tuple[str, list[Any]]) -> None:
    done = resend(new_id(1), OPENAI_API_KEY="sk-mine")
    assert done.returncode == 0, done.stderr
    path, fields, body = backend[1][-1]
    assert (path, body) == ("/v1/chat/completions", BODY)
    assert fields["authorization"] == "Bearer sk-mine"
    assert fields["x-kept"] == "yes"
    assert "cookie" not in fields
    assert fields["host"] == backend[0].removeprefix("http://")
    assert "without Cookie" in done.stderr
    assert "sk-mine" not in done.stdout + done.stderr
    assert "Hello there." in done.stdout.splitlines()[-1]
    assert "│ You said hi to m." in done.stdout.splitlines()[-1]
    assert any(line.split() == ["finish", "stop", "length"] for line in done.stdout.splitlines())


def test_it_is_changed_and_told_as_json_and_goes_where_it_is_told(
    resend: Run, backend: tuple[str, list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "patch.json").write_text('{"temperature": null, "seed": 7}')
    arguments = ("--set", "messages.0.content=bye", "--set", "model=busy", "--patch", str(tmp_path / "patch.json"))
    done = resend(new_id(2), *arguments, "--to", backend[0] + "/v1", "--json", "--key-env", "MY_KEY", MY_KEY="other")
    assert done.returncode == 1  # the answer is an error
    path, fields, body = backend[1][-1]
    assert (path, fields["authorization"]) == ("/v1/chat/completions", "Bearer other")
    assert body == {"model": "busy", "messages": [{"role": "user", "content": "bye"}], "seed": 7}
    told = json.loads(done.stdout)
    assert (told["recorded"]["status"], told["now"]["status"]) == (200, 429)
    assert told["recorded"]["text"] == "Hello there."
    assert told["request"]["key_from"] == "MY_KEY"


def test_through_the_proxy_it_is_asked_as_the_client_asked(resend: Run, data: DataDir, backend: tuple[str, list[Any]]) -> None:
    card = Presence.claim(data.run, "proxy")
    try:
        card.update(state="running", listen=backend[0].removeprefix("http://"))
        assert resend(new_id(2), "--via").returncode == 0
    finally:
        card.release()
    path, fields, _ = backend[1][-1]
    assert path == "/openai/v1/chat/completions"
    assert "authorization" not in fields  # none in the environment, and this backend is our own


def test_without_a_key_nothing_is_sent_to_others(resend: Run) -> None:
    done = resend(new_id(2))
    assert done.returncode == 1
    assert "OPENAI_API_KEY" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("a", 1, {"a": 1, "l": [{"x": 1}]}),
        ("b.c", 1, {"b": {"c": 1}, "l": [{"x": 1}]}),
        ("l.0.x", 2, {"l": [{"x": 2}]}),
        ("l.1", 3, {"l": [{"x": 1}, 3]}),
        ("l.0", 3, {"l": [3]}),
    ],
)
def test_a_value_is_set_at_its_path(path: str, value: Any, expected: Any) -> None:
    document = {"l": [{"x": 1}]}
    edits.put(document, path.split("."), value)
    assert document == expected


@pytest.mark.parametrize("path", ["l.2", "l.x", "l.5.x", "l.0.x.y", "s.x"])
def test_a_path_that_is_not_there_is_said(path: str) -> None:
    with pytest.raises(edits.EditError, match=r"there is nothing of this name"):
        edits.put({"l": [{"x": 1}], "s": "text"}, path.split("."), 1)


def test_a_merge_patch_is_that_of_rfc_7396() -> None:
    assert edits.merged({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert edits.merged({"a": [1]}, {"a": [None, 2]}) == {"a": [None, 2]}
    assert edits.merged([1], {"a": {"b": None}}) == {"a": {}}


def test_nothing_that_was_recorded_drives_the_terminal() -> None:
    told = {"status": 200, "model": "\x1b[2Jm", "finish_reason": None, "input_tokens": None, "cached_tokens": None,
            "output_tokens": None, "cost_usd": None, "ttft_ms": None, "duration_ms": None, "tool_calls": [],
            "text": "\x1b]0;x\x07" + "word " * 50, "error_message": None}  # fmt: skip
    shown = beside(("recorded", "now"), told, told, 80)
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
