"""The api as a process: real HTTP, real segment files, an index made by the real indexer."""

import asyncio
import contextlib
import gzip
import hashlib
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import apsw
import orjson
import pytest
from made import Instance, Service, append, begin_segment, exchange, new_id, running, until
from prometheus_client.parser import text_string_to_metric_families

from llmdump.data_dir import DataDir
from llmdump.presence import Presence
from llmdump.reading import prices
from llmdump.settings import Settings
from llmdump_api import described, query, sessions, sums
from llmdump_api.app import Api
from llmdump_api.fleet import Fleet
from llmdump_api.gate import Gate
from llmdump_api.index import Index
from llmdump_api.token import Tokens
from llmdump_indexer.follow import Follower
from tests.patience import WAIT_S


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Served:
    """A running api and its token."""

    def __init__(self, service: Service, data: DataDir) -> None:
        self.service = service
        self.data = data
        self.url = service.card().admin
        self.token = data.admin_token.read_text().strip()

    def ask(self, path: str, *, token: str | None = None, method: str = "GET", **headers: str) -> Reply:
        """One request, with the token unless another is given."""
        return asyncio.run(self._ask(path, {"Authorization": f"Bearer {token or self.token}", **headers}, method))

    async def _ask(self, path: str, headers: dict[str, str], method: str) -> Reply:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, self.url + path, headers=headers) as answer,
        ):
            return Reply(answer.status, answer.headers, await answer.read())


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


@pytest.fixture
def api(data: DataDir) -> Iterator[Served]:
    with running("api", data) as service:
        yield Served(service, data)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An api with nothing to tell, for tests that leave it so."""
    data = DataDir(tmp_path_factory.mktemp("empty")).create()
    with running("api", data) as service:
        yield Served(service, data)


def indexed(data: DataDir, *exchanges: Iterator[bytes], segment: int = 1) -> Path:
    path = begin_segment(data, segment)
    for records in exchanges:
        append(path, b"".join(records))
    Follower(data).catch_up()
    return path


# --- who may ask


@pytest.mark.parametrize("path", ["/api/traces", f"/api/traces/{new_id(1)}", f"/api/traces/{new_id(1)}/request", "/api/none"])
def test_without_the_token_nothing_below_api_is_told(empty: Served, path: str) -> None:
    for token in ("wrong", "0" * 64, empty.token[:-1], empty.token.upper() + "x"):
        reply = empty.ask(path, token=token)
        assert (reply.status, reply.json["error"]) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics"])
def test_without_the_token_health_and_metrics_are_told(empty: Served, path: str) -> None:
    assert empty.ask(path, token="none").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"])
@pytest.mark.parametrize("path", ["/healthz", "/api/traces", "/metrics"])
def test_a_name_that_is_not_ours_is_turned_away(empty: Served, host: str, path: str) -> None:
    reply = empty.ask(path, Host=host)
    assert (reply.status, reply.json["error"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "localhost:7862", "127.0.0.1", "[::1]:1"])
def test_loopback_names_are_ours(empty: Served, host: str) -> None:
    assert empty.ask("/api/traces", Host=host).status == 200


def test_an_empty_token_file_stops_the_start_in_one_line(data: DataDir) -> None:
    data.admin_token.touch()
    service = Service("api", data)
    assert service.process.wait(WAIT_S) == 1
    assert "delete it and start again" in service.errors()


def test_a_taken_port_stops_the_start_in_one_line(api: Served, tmp_path: Path) -> None:
    other = Service("api", DataDir(tmp_path / "other").create(), **{"api-listen": api.url.removeprefix("http://")})
    assert other.process.wait(WAIT_S) == 1
    assert "cannot listen on" in other.errors()


# --- errors


def test_bad_parameters_are_named_over_http(empty: Served) -> None:
    for params, name in (("limit=0", "limit"), ("cursor=x", "cursor"), ("status=3xx", "status"), ("since=now", "since"),
                         ("what=1", "what"), ("limit=1&limit=2", "limit"), ("path=%00", "path")):  # fmt: skip
        reply = empty.ask(f"/api/traces?{params}")
        assert reply.status == 400, params
        assert (reply.json["error"], reply.json["param"]) == ("bad_param", name)
        assert reply.json["message"]
    reply = empty.ask("/api/traces/not-an-id")
    assert (reply.status, reply.json["param"]) == (400, "id")


def test_what_is_not_there_is_a_json_404(empty: Served) -> None:
    for path in ("/nothing", "/api/nothing", f"/api/traces/{new_id(7)}", f"/api/traces/{new_id(7)}/response"):
        reply = empty.ask(path)
        assert (reply.status, reply.json["error"]) == (404, "not_found")
        assert reply.headers["Cache-Control"] == "no-store"
    reply = empty.ask("/api/traces", method="POST")
    assert (reply.status, reply.json["error"], reply.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD")


# --- rows and traces


def test_the_list_begins_empty_and_follows_the_index_wherever_it_goes(api: Served) -> None:
    empty = {"traces": [], "next_cursor": None}
    assert api.ask("/api/traces").json == empty
    indexed(api.data, exchange(Instance(), new_id(1)))
    assert [row["id"] for row in api.ask("/api/traces").json["traces"]] == [new_id(1)]
    with contextlib.closing(apsw.Connection(str(api.data.index))) as db:
        db.wal_checkpoint()
    old = api.data.index.rename(api.data.root / "old.sqlite")
    assert api.ask("/api/traces").json == empty
    append(begin_segment(api.data, 2), b"".join(exchange(Instance("11" * 8), new_id(2))))
    Follower(api.data).catch_up()
    assert [row["id"] for row in api.ask("/api/traces").json["traces"]] == [new_id(2), new_id(1)]
    for suffix in ("-wal", "-shm"):
        Path(f"{api.data.index}{suffix}").unlink(missing_ok=True)
    old.replace(api.data.index)
    assert [row["id"] for row in api.ask("/api/traces").json["traces"]] == [new_id(1)]


def test_an_index_of_another_version_is_told(api: Served) -> None:
    with contextlib.closing(apsw.Connection(str(api.data.index))) as db:
        db.pragma("user_version", 99)
    reply = api.ask("/api/traces")
    assert (reply.status, reply.json["error"]) == (503, "index_unreadable")
    assert "same version" in reply.json["message"]


def test_a_trace_has_both_messages_as_they_were(api: Served) -> None:
    instance = Instance()
    request = b'{"model": "m",  "n": 12345678901234567890123, "a": 1, "a": 2}'
    made = exchange(
        instance, new_id(1), request, (b"data: 1\n\n", b"data: [DONE]\n\n"), path="/v1/x?q=1", content_type="text/event-stream",
        response_fields="Set-Cookie: a\r\nset-cookie: b\r\n",
    )  # fmt: skip
    indexed(api.data, made)
    reply = api.ask(f"/api/traces/{new_id(1)}")
    assert reply.status == 200
    assert request in reply.body  # spliced in as it was: spacing, numbers, doubled keys
    row, trace = reply.json["row"], reply.json["trace"]
    assert (row["path"], row["end_reason"], row["stream"]) == ("/v1/x?q=1", "complete", True)
    assert {name: trace[name] for name in ("id", "method", "path", "upstream", "status", "client", "disconnected")} == {
        "id": new_id(1), "method": "POST", "path": "/v1/x?q=1", "upstream": "http://backend", "status": 200,
        "client": "127.0.0.1:5000", "disconnected": False,
    }  # fmt: skip
    req, resp = trace["req"], trace["resp"]
    assert req["head"].startswith("POST /v1/x?q=1 HTTP/1.1\r\nHost: here\r\n")
    assert req["fields"] == [["Host", "here"], ["Content-Type", "application/json"]]
    assert req["headers"] == {"Host": "here", "Content-Type": "application/json"}
    assert (req["http_version"], req["complete"], req["body"]["model"]) == ("HTTP/1.1", True, "m")
    assert resp["fields"] == [["content-type", "text/event-stream"], ["Set-Cookie", "a"], ["set-cookie", "b"]]
    assert resp["headers"] == {"Content-Type": "text/event-stream", "Set-Cookie": "a, b"}
    assert resp["body_text"] == "data: 1\n\ndata: [DONE]\n\n"
    assert resp["chunks"] == [
        {"t_ms": 4.0, "offset": 0, "size": 9, "record": 5}, {"t_ms": 5.0, "offset": 9, "size": 14, "record": 6},
    ]  # fmt: skip
    assert (trace["forwarded"]["address"], trace["forwarded"]["dial_ms"]) == ("127.0.0.1:9", 1.5)
    assert (trace["end"]["reason"], trace["end"]["own_worst_us"], trace["missing_segments"]) == ("complete", 20, [])


FORMS: list[tuple[bytes, str, str, dict[str, Any]]] = [
    (b"\xff\x00", "application/octet-stream", "", {"body_b64": "/wA="}),
    (b'{"a":1', "application/json", "", {"body_text": '{"a":1'}),
    (b'{"a":1}', "text/event-stream", "", {"body": {"a": 1}}),
    (b"", "application/json", "", {"body": None}),
    (gzip.compress(b'{"z":1}', mtime=0), "application/json", "Content-Encoding: gzip\r\n", {"body": {"z": 1}}),
    (b"[" * 2000 + b"]" * 2000, "application/json", "", {"body_text": "[" * 2000 + "]" * 2000}),
    (
        b"data: \xff\n\n",
        "text/event-stream",
        "",
        {"events": [{"event": "", "data": "\ufffd", "t_delta_ms": 4.0}], "body_b64": "ZGF0YTog/woK", "body_text": None},
    ),
    (b"x", "a/b", "Content-Encoding: lzma\r\n", {"body_text": "x", "body_problem": "cannot decode content-encoding lzma"}),
]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An api with an exchange for each of FORMS."""
    data, instance = DataDir(tmp_path_factory.mktemp("forms")).create(), Instance()
    indexed(
        data,
        *(
            exchange(instance, new_id(index), b"{}", (body,) if body else (), content_type=content_type, response_fields=fields)
            for index, (body, content_type, fields, _) in enumerate(FORMS)
        ),
    )
    with running("api", data) as service:
        yield Served(service, data)


@pytest.mark.parametrize("index", range(len(FORMS)))
def test_a_body_is_shown_in_the_form_that_says_most(forms: Served, index: int) -> None:
    body, _, _, want = FORMS[index]
    resp = forms.ask(f"/api/traces/{new_id(index)}").json["trace"]["resp"]
    assert {name: resp.get(name) for name in want} == want
    assert resp["body_bytes"] == len(body)
    assert forms.ask(f"/api/traces/{new_id(index)}/response").body == body


def test_a_proxys_own_answer_is_a_response(api: Served) -> None:
    instance = Instance()
    records = list(exchange(instance, new_id(1)))[:2]
    said = b'HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\r\n{"error":"refused"}'
    records.append(instance.record(new_id(1), 1, "answer", said, sc=502))
    indexed(api.data, iter(records))
    trace = api.ask(f"/api/traces/{new_id(1)}").json["trace"]
    assert (trace["status"], trace["answered_by_proxy"], trace["resp"]["body"]) == (502, True, {"error": "refused"})
    assert api.ask(f"/api/traces/{new_id(1)}/response").body == b'{"error":"refused"}'


def test_an_open_exchange_is_a_trace_so_far(api: Served) -> None:
    indexed(api.data, iter(list(exchange(Instance(), new_id(1), response=(b"one", b"two")))[:5]))
    found = api.ask(f"/api/traces/{new_id(1)}").json
    assert (found["row"]["end_reason"], found["trace"]["end"], found["trace"]["resp"]["complete"]) == (None, None, False)
    assert found["trace"]["resp"]["body_text"] == "one"


# --- sums, sessions, search


def test_sums_sessions_and_search_are_empty_while_there_is_no_index(empty: Served) -> None:
    assert empty.ask("/api/sessions").json == {"sessions": [], "next_cursor": None}
    assert empty.ask("/api/facets?by=model").json["facets"] == {"model": {"values": [], "more": False, "cut": False}}
    assert empty.ask("/api/stats").json["series"] == []
    assert empty.ask("/api/traces?q=word").json == {"traces": [], "next_cursor": None}
    assert empty.ask(f"/api/sessions/{new_id(1)}").status == 404


def test_sums_and_sessions_tell_what_crossed(api: Served) -> None:
    instance = Instance()
    indexed(
        api.data, exchange(instance, new_id(1)), exchange(instance, new_id(2), status=500),
        exchange(instance, new_id(3), b'{"model":"other"}'),
    )  # fmt: skip
    models = api.ask("/api/facets?by=model,status_class").json["facets"]
    assert [(one["value"], one["requests"]) for one in models["model"]["values"]] == [("gpt-4o", 2), ("other", 1)]
    assert [(one["value"], one["errors"]) for one in models["status_class"]["values"]] == [("2xx", 0), ("5xx", 1)]
    ranged = "since=2026-01-01T00:00:00Z&until=2026-01-01T01:00:00Z"
    assert api.ask(f"/api/facets?by=model,status_class&{ranged}").json["facets"] == models
    assert api.ask("/api/facets?by=model&until=2026-01-01T00:00:00Z").json["facets"]["model"]["values"] == []
    (series,) = api.ask(f"/api/stats?spread=duration_ms,own_us&{ranged}").json["series"]
    assert (series["value"], series["total"]["requests"], series["total"]["errors"]) == ("", 3, 1)
    assert [bucket["ts"] for bucket in series["buckets"]] == ["2026-01-01T00:00:00.000Z"]
    assert series["total"]["duration_ms"]["p50"] == pytest.approx(5.0, rel=0.03)
    by_model = api.ask(f"/api/stats?by=model&step=minute&limit=5&{ranged}").json["series"]
    assert [one["value"] for one in by_model] == ["gpt-4o", "other"]
    assert [one["total"]["requests"] for one in api.ask(f"/api/stats?by=model&value=other&{ranged}").json["series"]] == [1]
    page = api.ask("/api/sessions?limit=2").json
    assert [session["session_root_id"] for session in page["sessions"]] == [new_id(3), new_id(2)]
    (last,) = api.ask(f"/api/sessions?cursor={page['next_cursor']}").json["sessions"]
    assert (last["session_root_id"], last["n_turns"], last["models"], last["ok_count"]) == (new_id(1), 1, ["gpt-4o"], 1)
    tree = api.ask(f"/api/sessions/{new_id(2)}").json
    assert (tree["session"]["err_count"], [turn["id"] for turn in tree["turns"]]) == (1, [new_id(2)])


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("facets?by=nobody", "by"), ("facets?by=", "by"), ("facets?limit=201", "limit"), ("facets?model=x", "model"),
        ("facets?since=now", "since"), ("stats?by=path", "by"), ("stats?value=x", "value"), ("stats?step=second", "step"),
        ("stats?by=api&step=minute", "step"), ("stats?step=minute", "step"), ("stats?spread=x", "spread"),
        ("stats?by=model&spread=ttft_ms,own_us", "step"), ("stats?by=model&step=hour&limit=100", "step"),
        ("sessions?limit=0", "limit"), ("sessions?key_hash=x", "key_hash"), ("sessions?project=a&client=b", "client"),
        ("sessions?cursor=x", "cursor"), ("sessions/x", "id"), (f"sessions/{new_id(1)}?since=x", "since"),
        ("traces?q=", "q"), ("traces?q=-word", "q"), ("traces?q=%22%22", "q"), ("traces?q=%E2%80%A6", "q"),
        ("traces?q=" + "+".join(["w"] * 40), "q"),
    ],
)  # fmt: skip
def test_bad_parameters_of_the_others_are_named(empty: Served, path: str, param: str) -> None:
    reply = empty.ask(f"/api/{path}")
    assert (reply.status, reply.json.get("param")) == (400, param)


# --- raw bodies


def test_raw_bodies_are_the_bytes_that_crossed(api: Served) -> None:
    instance, id_ = Instance(), new_id(1)
    request, parts = os.urandom(3_000_000), [os.urandom(size) for size in (1, 70_000, 5, 2_000_000, 0, 17)]
    other = exchange(instance, new_id(2), response=(b"other",) * 6)
    head, *_ = exchange(instance, id_, content_type="image/png")
    records = [head, *(instance.record(id_, 0, "chunk", request[at : at + 64_000], ci=1) for at in range(0, 3_000_000, 64_000))]
    records.append(instance.record(id_, 3, "head", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", sc=200, ttfb=1.0))
    framing = [b"1f4;x=1\r\n", 1, b"\r\n"]
    for part in parts:  # interleaved with another exchange, and framed by hand
        records += [instance.record(id_, 3, "chunk", part, ci=1, x_f=framing), *([next(other)] if part else [])]
    indexed(api.data, iter(records))
    reply = api.ask(f"/api/traces/{id_}/request")
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(request).digest()
    reply = api.ask(f"/api/traces/{id_}/response")
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(b"".join(parts)).digest()
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert reply.headers["X-Llmdump-Content-Type"] == "image/png"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{id_}.response"'


def test_encoded_bodies_stay_encoded_when_raw(api: Served) -> None:
    coded = gzip.compress(b"hello" * 100)
    indexed(
        api.data, exchange(Instance(), new_id(1), b"", (coded[:20], coded[20:]), response_fields="Content-Encoding: gzip\r\n")
    )
    assert api.ask(f"/api/traces/{new_id(1)}/response").body == coded
    assert api.ask(f"/api/traces/{new_id(1)}/request").body == b""


def test_a_large_body_is_cut_in_the_trace_and_whole_when_raw(api: Served) -> None:
    part = b"a" * 1_000_000
    indexed(api.data, exchange(Instance(), new_id(1), response=(part,) * 9, content_type="text/plain"))
    resp = api.ask(f"/api/traces/{new_id(1)}").json["trace"]["resp"]
    assert (len(resp["body_text"]), resp["body_truncated"], resp["body_bytes"]) == (8 * 1024 * 1024, True, 9_000_000)
    assert api.ask(resp["body_url"]).body == part * 9


def test_a_hostile_content_type_cannot_forge_a_header(api: Served) -> None:
    content_type = "text/html\x00\x7f\r\n evil: 1"
    indexed(api.data, exchange(Instance(), new_id(1), content_type=content_type))
    reply = api.ask(f"/api/traces/{new_id(1)}/response")
    assert reply.status == 200
    assert "evil" not in reply.headers
    assert reply.headers["X-Llmdump-Content-Type"] == "text/html"


@pytest.mark.parametrize("noticed", [True, False])
def test_a_body_whose_segment_was_deleted_is_gone(api: Served, noticed: bool) -> None:
    path = indexed(api.data, exchange(Instance(), new_id(1)))
    path.unlink()
    if noticed:
        Follower(api.data).catch_up()
    reply = api.ask(f"/api/traces/{new_id(1)}/response")
    assert (reply.status, reply.json["error"]) == (410, "gone")
    assert path.name in reply.json["segments"][0]
    found = api.ask(f"/api/traces/{new_id(1)}").json
    assert found["row"]["status"] == 200
    if noticed:
        assert found["trace"] is None
    else:
        assert found["trace"]["missing_segments"] == [path.name]


# --- the others


class Fake:
    """A process that shows a card and answers like a service; what it says can be changed."""

    def __init__(self, data: DataDir, role: str, page: bytes = b"") -> None:
        outer = self
        self.status = 200
        self.page = page or b'# TYPE llmdump_up gauge\nllmdump_up{role="%s"} 1\n' % role.encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.page)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.presence = Presence.claim(data.run, role)
        self.presence.update(state="running", admin=f"http://127.0.0.1:{self.server.server_port}")

    def close(self) -> None:
        self.presence.release()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def others(data: DataDir) -> Iterator[dict[str, Fake]]:
    found = {role: Fake(data, role) for role in ("proxy", "writer")}
    yield found
    for fake in found.values():
        fake.close()


def test_ready_when_all_four_work_and_else_it_says_what_to_start(api: Served, others: dict[str, Fake]) -> None:
    reply = api.ask("/readyz", token="none")
    assert reply.status == 503
    assert reply.json["missing"] == [{"role": "indexer", "reason": "no process", "start": "llmdump-indexer"}]
    with running("indexer", api.data) as service:
        assert api.ask("/readyz").status == 200
        others["writer"].status = 503
        reply = api.ask("/readyz")
        assert (reply.status, reply.json["missing"][0]["reason"]) == (503, "writer-0 is failing")
        others["writer"].status = 200
        others["proxy"].presence.update(state="stopping")
        assert api.ask("/readyz").json["missing"][0]["reason"] == "proxy-0 is stopping"
        others["proxy"].presence.update(state="running")
        assert api.ask("/readyz").status == 200
        service.kill()
        assert until(lambda: [role["role"] for role in api.ask("/readyz").json.get("missing", [])]) == ["indexer"]


def test_one_page_has_the_metrics_of_all(api: Served, others: dict[str, Fake]) -> None:
    others["proxy"].page += b"# TYPE llmdump_records_made_total counter\nllmdump_records_made_total 5\n"
    with running("indexer", api.data):
        page = api.ask("/metrics", token="none").body.decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    up = {sample.labels["process"] for sample in families["llmdump_up"].samples}
    assert up == {"api-0", "indexer-0", "proxy-0", "writer-0"}
    assert families["llmdump_indexer_commit_seconds"].type == "histogram"
    assert 'llmdump_records_made_total{process="proxy-0"} 5.0' in page
    assert 'llmdump_api_processes{process="api-0",role="indexer"} 1.0' in page
    assert len(re.findall("^# TYPE llmdump_up ", page, re.M)) == 1
    own = api.ask("/metrics?scope=own").body.decode()
    assert 'llmdump_api_requests_total{route="/metrics",status="200"} 1.0' in own
    assert "process=" not in own


def test_a_process_that_does_not_answer_is_counted_and_holds_nobody_up(api: Served, others: dict[str, Fake]) -> None:
    others["writer"].status = 500
    page = api.ask("/metrics").body.decode()
    assert 'llmdump_up{process="proxy-0",role="proxy"} 1.0' in page
    assert 'process="writer-0"' not in page
    assert 'where="metrics_not_fetched"' in api.ask("/metrics?scope=own").body.decode()


# --- leaving, docs


def test_a_signal_ends_it_soon_and_cleanly(api: Served) -> None:
    assert api.ask("/healthz").json["role"] == "api"
    assert api.service.stop(4.0) == 0


def test_the_token_survives_a_restart(api: Served) -> None:
    api.service.stop()
    with running("api", api.data) as service:
        assert Served(service, api.data).ask("/api/traces", token=api.token).status == 200


DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def test_docs_name_every_route_and_no_other(data: DataDir) -> None:
    async def routes() -> set[tuple[str, str]]:
        own, index = Presence.claim(data.run, "api"), Index(data.index)
        async with aiohttp.ClientSession() as http:
            api = Api(
                data, own, index, Fleet(data.run, own, http), Gate(Tokens("admin", "read"), None), Settings(), prices.load("")
            )
            found = {
                (route.method, resource.canonical)
                for resource in api.application().router.resources()
                for route in resource
                if route.method != "HEAD"
            }
        own.release()
        index.close()
        return found

    served = asyncio.run(routes())
    assert set(re.findall(r"^## ([A-Z]+) (\S+)$", DOCS, re.M)) == served
    assert set(described.BY_PATH) == served


def test_docs_name_every_parameter_and_column() -> None:
    named = set(re.findall(r"`(\w+)`", DOCS))
    shown = query.row_object(tuple(None for _ in query.COLUMNS))
    given = {*query.PARAMETERS, *sums.FACET_PARAMETERS, *sums.SERIES_PARAMETERS, *sessions.PARAMETERS, *sums.DIMENSIONS}
    assert not ({*given, *shown, *sessions.TURN_SHOWN, *sessions.SHOWN, *sums.SHOWN} - named)
