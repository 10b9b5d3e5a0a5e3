"""Who may ask the api for what, and what nobody gets it to do: a real process, raw sockets where clients are too polite."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made import Instance, Service, append, begin_segment, exchange, new_id, running, until

from llmdump import presence
from llmdump.data_dir import DataDir
from llmdump_api import failures, params, token
from llmdump_api.failures import Failures
from llmdump_api.gate import HARMLESS, names
from llmdump_api.token import Tokens
from llmdump_indexer.follow import Follower
from tests.api.canned import Backend
from tests.patience import WAIT_S

HTML = b"<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
STREAM, PAGE = new_id(1), new_id(2)
WRONG = "0" * 64


class Api:
    """A running api; sends exactly what it is told to."""

    def __init__(self, service: Service, data: DataDir) -> None:
        self.data = data
        self.address = service.card().admin.removeprefix("http://")
        self.tokens = Tokens(data.admin_token.read_text().strip(), data.read_token.read_text().strip())

    def ask(self, path: str, bearer: str = "", method: str = "GET", body: bytes = b"", **fields: str) -> tuple[int, Any, bytes]:
        """Status, header fields and body."""
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_S)
        try:
            sent = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, body or None, {"Authorization": f"Bearer {bearer or self.tokens.admin}", **sent})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def code(self, path: str, bearer: str = "", method: str = "GET", **fields: str) -> tuple[int, str]:
        """Status and error code."""
        status, _, body = self.ask(path, bearer, method, **fields)
        return status, json.loads(body)["error"] if status >= 400 else ""

    def raw(self, data: bytes, *, ends: bool = False) -> bytes:
        """Bytes as they are, and all that comes back; then the end of what is sent, if it `ends`."""
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as sock:
            sock.sendall(data)
            if ends:
                sock.shutdown(socket.SHUT_WR)
            got = b""
            while more := sock.recv(65536):
                got += more
        return got

    def refused(self) -> dict[str, int]:
        """How many were turned away, by reason."""
        page = self.ask("/metrics?scope=own")[2].decode()
        return {reason: int(float(count)) for reason, count in
                re.findall(r'^llmdump_api_refused_total\{reason="(\w+)"\} (\S+)$', page, re.M)}  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data = DataDir(tmp_path_factory.mktemp("security")).create()
    instance = Instance()
    stream = exchange(instance, STREAM, b'{"stream":true}', (b"data: 1\n\n",), content_type="text/event-stream")
    page = exchange(instance, PAGE, b'{"stream":true}', (HTML,), content_type="text/html")
    append(begin_segment(data), b"".join([*stream, *page]))
    Follower(data).catch_up()
    with running("api", data) as service:
        yield Api(service, data)


# --- tokens and scopes


def test_both_tokens_are_made_for_their_owner_only(api: Api) -> None:
    assert api.tokens.admin != api.tokens.read
    for path in (api.data.admin_token, api.data.read_token):
        assert (path.stat().st_mode & 0o777, len(path.read_text().strip())) == (0o600, 64)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/traces", ""), ("GET", f"/api/traces/{STREAM}", ""), ("GET", f"/api/traces/{STREAM}/request", ""),
        ("GET", "/api/sessions", ""), ("GET", "/api/ledger", ""), ("GET", "/api/plugins/types", ""),
        ("PUT", f"/api/traces/{STREAM}/pin", "forbidden"), ("DELETE", f"/api/traces/{STREAM}/pin", "forbidden"),
        ("GET", "/api/config/retention", "forbidden"), ("PUT", "/api/config/retention", "forbidden"),
        ("POST", "/api/anything", "forbidden"),
    ],
)  # fmt: skip
def test_the_read_token_reads_and_nothing_else(api: Api, method: str, path: str, code: str) -> None:
    assert api.code(path, api.tokens.read, method) == ((403, code) if code else (200, ""))
    assert api.code(path, api.tokens.admin, method)[1] != "forbidden"


def test_a_read_token_pins_nothing(api: Api) -> None:
    api.ask(f"/api/traces/{STREAM}/pin", api.tokens.read, "PUT")
    assert list(api.data.pinned.glob("*.cbor")) == []


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/apix", "//api/traces", "/api//traces", "/%61pi/traces", "/api/../api/traces"]
)
def test_no_spelling_of_a_path_gets_around_the_token(api: Api, path: str) -> None:
    status, _, body = api.ask(path, WRONG)
    assert status in {401, 404, 429}
    assert b"traces" not in body


@pytest.mark.parametrize("content", ["", "short", WRONG + "\n" + WRONG])
def test_a_read_token_that_is_none_stops_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "read_token").write_text(content)
    with pytest.raises(token.TokenError, match="delete it"):
        token.load_all(DataDir(tmp_path))


def test_a_token_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    token.load(tmp_path / "admin_token")
    (tmp_path / "admin_token").chmod(0o640)
    with pytest.raises(token.TokenError, match="chmod 600"):
        token.load(tmp_path / "admin_token")


def test_one_token_in_both_files_stops_the_start(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    shutil.copyfile(_made(data.admin_token), data.read_token)
    data.read_token.chmod(0o600)
    with pytest.raises(token.TokenError, match="holds the admin token"):
        token.load_all(data)


def _made(path: Path) -> Path:
    token.load(path)
    return path


# --- failures


def test_failures_are_limited_and_counted_and_the_owner_still_gets_in(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data").create()
    with running("api", data) as service:
        own = Api(service, data)
        answers = [own.ask("/api/traces", WRONG) for _ in range(failures.EACH_MAX + 5)]
        assert [status for status, _, _ in answers[: failures.EACH_MAX]] == [401] * failures.EACH_MAX
        limited = [(status, fields) for status, fields, _ in answers if status == 429]
        assert len(limited) >= 3
        assert all(1 <= int(fields["Retry-After"]) <= failures.EACH_EVERY_S + 1 for _, fields in limited)
        assert own.code("/api/traces") == (200, "")
        assert own.refused() == {"token": len(answers) - len(limited), "too_many": len(limited)}


def test_an_address_gets_another_try_with_time_and_others_have_their_own() -> None:
    found = Failures(0)
    waits = [found.count("10.0.0.1", 0) for _ in range(failures.EACH_MAX + 1)]
    assert waits == [0] * failures.EACH_MAX + [3]
    assert found.count("10.0.0.2", 0) == 0
    assert found.count("10.0.0.1", failures.EACH_EVERY_S + 0.01) == 0
    assert found.count("10.0.0.1", failures.EACH_EVERY_S + 0.02) > 0


def test_all_addresses_together_are_limited_too() -> None:
    found = Failures(0)
    waits = [found.count(f"10.0.{index >> 8}.{index & 255}", 0) for index in range(failures.ALL_MAX + 1)]
    assert (waits[-2], waits[-1]) == (0, 1)


def test_the_table_of_addresses_is_bounded() -> None:
    found = Failures(0)
    for index in range(3 * failures.ADDRESSES_MAX):
        found.count(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 0)
    assert len(found) == failures.ADDRESSES_MAX
    found.count("10.99.0.1", 1e6)
    assert len(found) == 1  # the others are as good as new


def test_the_addresses_of_one_network_are_one() -> None:
    assert failures.group("2001:db8:1:2::1") == failures.group("2001:db8:1:2:ffff::2") != failures.group("2001:db8:1:3::1")
    assert failures.group("::ffff:10.0.0.1") != failures.group("::ffff:10.0.0.2")
    assert failures.group("fe80::1%eth0") == failures.group("fe80::2")
    assert failures.group("") == ""


# --- the page


PAGE_OF_DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")


def test_the_command_lines_of_the_page_do_what_it_says(api: Api, tmp_path: Path) -> None:
    asks, starts = re.findall(r"^```sh\n(.*?)^```$", PAGE_OF_DOCS, re.MULTILINE | re.DOTALL)
    (tmp_path / "data").symlink_to(api.data.root)
    lines = asks.replace("127.0.0.1:7862", api.address).splitlines()
    told = [json.loads(subprocess.check_output(["sh", "-c", line], cwd=tmp_path, timeout=WAIT_S)) for line in lines]
    assert [one.get("error") for one in told] == [None, "forbidden", None]
    command = starts.strip().replace("0.0.0.0:7862", "127.0.0.1:0")  # tests stay on loopback
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LLMDUMP_DATA_DIR": str(tmp_path / "own")}
    with subprocess.Popen(["sh", "-c", f"exec env {command}"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE) as process:
        try:
            own = Api.__new__(Api)
            own.address = until(lambda: [card.listen for card in presence.living(tmp_path / "own" / "run") if card.listen])[0]
            assert [own.ask("/healthz", WRONG, Host=name)[0] for name in ("metrics.internal", "other")] == [200, 421]
        finally:
            process.terminate()


def test_the_page_has_the_limits_there_are() -> None:
    paces = f"{failures.EACH_EVERY_S:g} s", f"{1 / failures.ALL_EVERY_S:g} a second"
    lengths = f"{params.TEXT_CHARS_MAX:,}", f"{params.PARAM_CHARS_MAX:,}", f"{params.LINE_BYTES_MAX // 1024} KiB"
    for number in (str(failures.EACH_MAX), str(failures.ALL_MAX), *paces, *lengths):
        assert number in PAGE_OF_DOCS
    for name, value in HARMLESS.items():
        assert f"`{name}" in PAGE_OF_DOCS and (value.partition(";")[0] in PAGE_OF_DOCS)


# --- where it listens, and who sends


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_wider_than_loopback_it_listens_only_if_told_by_which_names(tmp_path: Path, listen: str) -> None:
    service = Service("api", DataDir(tmp_path / "data").create(), **{"api-listen": listen})
    assert service.process.wait(WAIT_S) == 1
    assert "wider than loopback: set api_hosts" in service.errors()


def test_with_names_set_those_are_answered_to_and_no_others(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data").create()
    with running("api", data, **{"api-hosts": "llm.example"}) as service:
        own = Api(service, data)
        for name in ("llm.example", "LLM.example:7862", "localhost", own.address):
            assert own.ask("/healthz", WRONG, Host=name)[0] == 200
        assert own.ask("/healthz", WRONG, Host="other.example")[0] == 421


def test_the_names_that_settings_make() -> None:
    assert names("127.0.0.1", ()) == {"localhost", "127.0.0.1", "[::1]"}
    assert names("127.0.0.1", ("A.example",)) == {"localhost", "127.0.0.1", "[::1]", "a.example"}
    assert names("::", ("*",)) is None
    assert names("0.0.0.0", ("a",)) == {"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "a", socket.gethostname().lower()}
    for listen in ("::", "192.0.2.1", "somewhere.example", "127.0.0.1.example"):
        with pytest.raises(ValueError, match="LLMDUMP_API_HOSTS"):
            names(listen, ())


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1:1", "null", "", "file://", "http://127.0.0.1.evil.example"]
)
@pytest.mark.parametrize("path", ["/api/traces", "/healthz", "/metrics"])
def test_pages_of_other_origins_are_refused_with_the_token_too(api: Api, origin: str, path: str) -> None:
    assert api.code(path, Origin=origin) == (403, "origin_not_allowed")


def test_pages_of_our_own_origin_may_ask(api: Api) -> None:
    behind = (f"http://{api.address}.evil.example", f"http://{api.address}0", f"http://{api.address}@evil.example")
    for other in (*behind, f"chrome-extension://{api.address}"):
        assert api.code("/api/traces", Origin=other) == (403, "origin_not_allowed")
    for scheme in ("http", "https"):
        assert api.code("/api/traces", Origin=f"{scheme}://{api.address}") == (200, "")


def test_a_preflight_is_told_nothing(api: Api) -> None:
    status, fields, _ = api.ask(
        "/api/traces", method="OPTIONS", Origin=f"http://{api.address}", Access_Control_Request_Method="PUT"
    )
    assert (status, [name for name in fields if name.lower().startswith("access-control")]) == (405, [])


# --- what is answered does no harm


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/metrics", "/nothing", "/api/traces", "/api/traces/x", f"/api/media/{PAGE}/0",
     f"/api/traces/{STREAM}/replay", f"/api/traces/{PAGE}",
     *(f"/api/traces/{PAGE}/{what}" for what in ("response", "request", "chunks", "har", "curl", "replay"))],
)  # fmt: skip
def test_every_answer_is_kept_by_nobody_and_runs_nowhere(api: Api, path: str) -> None:
    _, fields, _ = api.ask(path)
    assert {name: fields[name] for name in HARMLESS} == HARMLESS
    assert "text/html" not in fields["Content-Type"] or "sandbox" in fields["Content-Security-Policy"]


@pytest.mark.parametrize("side", ["request", "response"])
def test_raw_bodies_are_attachments_of_octets(api: Api, side: str) -> None:
    _, fields, _ = api.ask(f"/api/traces/{PAGE}/{side}")
    assert fields["Content-Type"] == "application/octet-stream"
    assert fields["Content-Disposition"].startswith("attachment;")


# Without a screen, in a container, by root, and asking nobody but who is named.
ALONE = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def test_a_captured_page_does_not_run_in_a_browser(api: Api, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not here (Debian: apt-get install chromium)")
    _, fields, body = api.ask(f"/api/traces/{PAGE}/replay")  # all others are attachments, JSON or plain text
    assert (fields["Content-Type"], body) == ("text/html", HTML)
    assert not _runs(chromium, tmp_path, dict(fields.items()), body)
    assert _runs(chromium, tmp_path, {"Content-Type": "text/html"}, HTML)  # as it would without our fields


def _runs(chromium: str, tmp_path: Path, fields: dict[str, str], body: bytes) -> bool:
    """Whether a browser that is given this answer, without asking for a token, runs the script in it."""
    said = "".join(
        f"{name}: {value}\r\n" for name, value in fields.items() if name not in {"Content-Length", "Transfer-Encoding"}
    )
    head = f"HTTP/1.1 200 OK\r\n{said}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with Backend().running() as backend:
        backend.replies = {"page": [head + body]}
        command = [chromium, *ALONE, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{backend.url}/?t=page"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)
    return "<title>ran</title>" in done.stdout


# --- bytes that mean harm


def test_ids_are_ids_and_never_reach_a_file(api: Api) -> None:
    (api.data.pinned / "00000000-0000-0000-0000-000000000000.cbor").symlink_to("/etc/passwd")
    for id_ in (
        "..",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "../admin_token",
        "%00",
        STREAM.replace("0190", "ABCD"),
        STREAM + "%0a",
        "x" * 5000,
    ):
        for path in (f"/api/traces/{id_}", f"/api/traces/{id_}/response", f"/api/sessions/{id_}", f"/api/media/{id_}/0"):
            status, _, body = api.ask(path)
            assert status in {400, 404}, (path, body)
            assert b"root:" not in body and api.tokens.admin.encode() not in body
    assert api.code("/api/traces/00000000-0000-0000-0000-000000000000/response") == (404, "not_found")
    victim = api.data.root / "victim.cbor"
    victim.touch()
    for method in ("PUT", "DELETE"):
        assert api.code("/api/traces/..%2fvictim/pin", method=method) == (400, "bad_param")
    assert victim.exists()


@pytest.mark.parametrize(
    "query",
    ["limit=" + "9" * 5000, "q=" + "a" * 5000, "filter=" + "(" * 500, "model=" + "a" * 4097, "path=%00", "unknown=1",
     "limit=1&limit=1", "status=%F0%9F%92%A9", "min_tokens=1e999", "cursor=" + "A" * 4000, "since=9999999-01-01T00:00:00Z"],
)  # fmt: skip
def test_parameters_have_limits_and_errors_name_them(api: Api, query: str) -> None:
    status, _, body = api.ask(f"/api/traces?{query}")
    told = json.loads(body)
    assert (status, told["error"], told["param"]) == (400, "bad_param", query.partition("=")[0])
    assert len(body) < 3000


@pytest.mark.parametrize(
    "request_",
    [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
     b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"PUT /api/config/retention HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"],
)  # fmt: skip
def test_what_is_no_request_ends_with_itself(api: Api, request_: bytes) -> None:
    got = api.raw(request_, ends=True)
    assert not got or re.match(rb"HTTP/1\.[01] 4", got)
    assert api.code("/api/traces") == (200, "")


def test_two_hosts_or_none_are_turned_away(api: Api) -> None:
    for hosts in (b"", b"Host: evil.example\r\n", b"Host: localhost\r\nHost: evil.example\r\n"):
        got = api.raw(b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert got.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400", b"HTTP/1.0 400")), got[:200]


def test_a_change_that_is_too_long_is_refused(api: Api) -> None:
    status, _, body = api.ask("/api/config/retention", method="PUT", body=b'{"max_bytes":1}' + b" " * 5000)
    assert (status, json.loads(body)["error"]) == (400, "bad_body")
    assert not api.data.overrides.exists()
