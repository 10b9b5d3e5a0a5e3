"""Spans for a collector, sent to a real one over HTTP: once, and as exchanges end, whatever happens to either."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import BEGAN_S, append, until

from llmdump.commands import export
from llmdump.data_dir import DataDir
from llmdump_api.export import otlp, selection
from llmdump_api.export.forms import FORMS
from llmdump_api.export.otlp import Collector
from llmdump_api.export.selection import Archive, ExportError, Selection
from llmdump_indexer.follow import Follower
from tests.api.exported import ANSWER, CHAT, CLAUDE, Made, compact, every_sort
from tests.api.test_api_export import BIN, exported, llmdump
from tests.patience import WAIT_S
from tests.writer.traffic import sse


class Collected(ThreadingHTTPServer):
    """A collector that answers with the statuses it is given, then 200."""

    daemon_threads = True

    def __init__(self, *statuses: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.statuses = list(statuses)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: dict[str, Any] = {}

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans that were taken."""
        return [span for _, _, body in self.asked for span in spans_of(body)]


class _Handler(BaseHTTPRequestHandler):
    server: Collected

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.asked.append((self.path, dict(self.headers), body))
        answer = json.dumps(self.server.answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in http.server)
        """Nothing."""


@contextmanager
def collecting(*statuses: int, port: int = 0) -> Iterator[Collected]:
    with Collected(*statuses, port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def url(server: Collected) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def spans_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    [resource] = body["resourceSpans"]
    assert resource["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "llmdump"}}]
    [scope] = resource["scopeSpans"]
    spans: list[dict[str, Any]] = scope["spans"]
    return spans


def facts(span: dict[str, Any]) -> dict[str, Any]:
    """The attributes, as values."""

    def value(told: dict[str, Any]) -> Any:
        [(kind, one)] = told.items()
        if kind == "arrayValue":
            return [value(item) for item in one["values"]]
        assert isinstance(one, str) or kind not in {"intValue", "stringValue"}
        return int(one) if kind == "intValue" else one

    return {one["key"]: value(one["value"]) for one in span["attributes"]}


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


def test_a_span_has_what_the_conventions_say(data: DataDir) -> None:
    made = Made()
    events = [b"event: %b\n" % event["type"].encode() + sse(event)[0] for event in CLAUDE]
    asked = {"model": "claude-sonnet-4-5", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    made.call(
        "/v1/messages?beta=true", [compact(asked)], events, content_type="text/event-stream", backend="anthropic",
        upstream="https://api.anthropic.com:8443", request_fields=parent,
    )  # fmt: skip
    made.store(data)
    [line] = exported(data, "otlp").splitlines()
    [span] = spans_of(json.loads(line))
    assert (span["name"], span["kind"], span["status"]) == ("chat claude-sonnet-4-5", 3, {})
    assert (span["traceId"], "parentSpanId" in span) == ("4bf92f3577b34da6a3ce929d0e0e4736", False)
    assert span["spanId"] == made.ids[0].replace("-", "")[16:]
    assert int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) == pytest.approx(176e6, abs=1e6)
    told = facts(span)
    assert told["llmdump.exchange.id"] == made.ids[0]
    assert {name: told[name] for name in told if name.startswith(("gen_ai", "server", "http", "url", "error"))} == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5", "gen_ai.response.model": "claude-sonnet-4-5",
        "gen_ai.response.id": "msg_1", "gen_ai.response.finish_reasons": ["tool_use"], "gen_ai.usage.input_tokens": 14,
        "gen_ai.usage.output_tokens": 7, "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.conversation.id": made.ids[0], "server.address": "api.anthropic.com", "server.port": 8443,
        "http.request.method": "POST", "http.response.status_code": 200, "url.path": "/v1/messages",
    }  # fmt: skip


def test_exchanges_of_every_sort_are_spans_and_failures_are_told(data: DataDir) -> None:
    made = every_sort().store(data)
    spans = {facts(span)["llmdump.exchange.id"]: span for line in exported(data, "otlp").splitlines()
             for span in spans_of(json.loads(line))}  # fmt: skip
    assert set(spans) == set(made.ids)
    errors = {id_: facts(span).get("error.type") for id_, span in spans.items() if span["status"]}
    assert errors == {made.ids[3]: "reset", made.ids[4]: "connect_refused", made.ids[5]: "rate_limit_error"}
    assert all(spans[id_]["status"]["code"] == 2 for id_ in errors)
    operations = {facts(span)["gen_ai.operation.name"] for span in spans.values()}
    assert {"chat", "embeddings"} <= operations


def test_turns_of_a_session_are_one_trace(data: DataDir) -> None:
    made = Made()
    first = CHAT["messages"]
    for messages in (first, [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More?"}]):
        made.call("/v1/chat/completions", [compact({"model": "gpt-4o", "messages": messages})], [compact(ANSWER)])
    made.store(data)
    second, begin = spans_of(json.loads(exported(data, "otlp")))
    assert second["traceId"] == begin["traceId"] == made.ids[0].replace("-", "")
    assert (second["parentSpanId"], "parentSpanId" in begin) == (begin["spanId"], False)


def sent(data: DataDir, server: Collected, headers: str = "") -> tuple[Collector, list[str], Selection]:
    """Send everything; what was said meanwhile."""
    archive, said = Archive(data), list[str]()
    collector = Collector(url(server), headers, otlp.TRIES_MAX, said.append)
    chosen = Selection([archive], selection.parse({"format": "otlp"}, FORMS, "otlp", 0))
    try:
        list(otlp.send(chosen, collector))
    finally:
        archive.close()
    return collector, said, chosen


def test_what_the_collector_cannot_take_now_is_sent_again(data: DataDir) -> None:
    every_sort().store(data)
    with collecting(503) as server:
        server.answer = {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "no"}}
        collector, said, chosen = sent(data, server, "x-tenant=a%20b,authorization=Bearer t")
    assert (chosen.told.exchanges, collector.rejected, len(server.spans)) == (12, 2, 12)
    [(path, headers, _)] = server.asked
    assert (path, headers["Content-Type"], headers["X-Tenant"]) == ("/v1/traces", "application/json", "a b")
    assert said[0].endswith("503 Service Unavailable; again in 1 s")


def test_what_no_retry_will_help_ends_it(data: DataDir) -> None:
    every_sort().store(data)
    with collecting(401) as server, pytest.raises(ExportError, match="answered 401"):
        sent(data, server)
    assert server.spans == []


@contextmanager
def following(data: DataDir, to: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [BIN / "llmdump", "export", "--format", "otlp", "--to", to, "--follow", *more, data.root]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_followed_exchanges_are_sent_when_they_end_and_once(data: DataDir) -> None:
    made = Made()
    made.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)])
    made.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)], end=None)
    made.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)], status="429 No")
    over = {"se": True, "tc": 1, "tb": 9, "x_req": 9, "x_end": "complete", "x_err": "", "x_lost": 0}
    late = made.instance.record(made.ids[1], 1, "end", b"", **over)
    made.store(data)

    def got() -> list[str]:
        return [facts(span)["llmdump.exchange.id"] for span in server.spans]

    with collecting() as server:
        port, place = server.server_port, data.root / "place.json"
        with following(data, url(server), "--cursor-file", str(place)) as process:
            until(lambda: got() == [made.ids[0], made.ids[2]] and place.exists())
            append(data.segments / "w0-00000001.cbor", late)
            Follower(data).catch_up()
            until(lambda: got() == [made.ids[0], made.ids[2], made.ids[1]])
            until(lambda: not json.loads(place.read_text())["open"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
    with following(data, f"http://127.0.0.1:{port}", "--cursor-file", str(place)) as process:  # nobody listens there now
        fourth = Made("7a" * 8, first=9)
        fourth.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)])
        fourth.store(data, 2)
        assert process.stderr is not None
        assert "no answer" in process.stderr.readline()
        with collecting(port=port) as server:
            until(lambda: got() == fourth.ids)


def test_an_index_made_anew_is_gone_on_with(data: DataDir) -> None:
    made = Made()
    made.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)])
    made.store(data)
    with collecting() as server, following(data, url(server)) as process:
        until(lambda: len(server.spans) == 1)
        until(lambda: list(data.root.glob("otlp-*.json")))
        for file in data.root.glob("index.sqlite*"):
            file.unlink()
        other = Made("7a" * 8, first=9)
        other.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)])
        other.store(data, 2)
        until(lambda: len(server.spans) == 2)
        assert facts(server.spans[1])["llmdump.exchange.id"] == other.ids[0]
        assert process.poll() is None


def test_the_command_sends_and_tells(data: DataDir) -> None:
    every_sort().store(data)
    with collecting() as server:
        done = llmdump("export", "--format", "otlp", "--to", url(server), "--json", data.root)
    told = json.loads(done.stdout)
    assert (told["exchanges"], told["rejected"], len(server.spans)) == (12, 0, 12)


def test_options_that_do_not_fit_are_refused(data: DataDir) -> None:
    for wrong in (["--follow"], ["--to", "http://x"]):
        assert CliRunner().invoke(export.command, [*wrong, str(data.root)]).exit_code == 2
    with pytest.raises(ExportError, match="no http URL"):
        Collector("ftp://x", "", 1, print)


# --- the page

LINES = re.findall(
    r"^    (llmdump export .* --to .*)$", (Path(__file__).parents[2] / "docs" / "export.md").read_text(), re.MULTILINE
)


def test_the_command_lines_of_the_page_send_what_it_says(data: DataDir, tmp_path: Path) -> None:
    old, new = Made(), Made("7a" * 8, first=int((time.time() - BEGAN_S) / 1000))
    for segment, made in enumerate((old, new), 1):
        made.call("/v1/chat/completions", [compact(CHAT)], [compact(ANSWER)])
        made.store(data, segment)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    environ = {**clean, "PATH": f"{BIN}{os.pathsep}{clean['PATH']}"}
    once, on_and_on = LINES
    with collecting() as server:
        shell = [["sh", "-c", "exec " + line.replace("http://127.0.0.1:4318", url(server))] for line in (once, on_and_on)]
        subprocess.run(shell[0], cwd=tmp_path, env=environ, check=True, timeout=WAIT_S)
        assert [facts(span)["llmdump.exchange.id"] for span in server.spans] == new.ids
        with subprocess.Popen(shell[1], cwd=tmp_path, env=environ) as process:
            try:
                until(lambda: len(server.spans) == 3)
                process.send_signal(signal.SIGINT)
                assert process.wait(WAIT_S) == 0
            finally:
                process.kill()
    assert [path for path, _, _ in server.asked] == ["/v1/traces"] * len(server.asked)
