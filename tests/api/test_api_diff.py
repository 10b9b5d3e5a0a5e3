"""Two recorded requests compared, by the api and as a command."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from made import exchange, new_id, running

from llmdump.data_dir import DataDir
from tests.api.streams import put
from tests.api.test_api_serve import Served
from tests.patience import WAIT_S

USAGE = json.dumps({
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "ok"}],
    "usage": {"input_tokens": 100, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 2900, "output_tokens": 5},
}).encode()  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = DataDir(tmp_path_factory.mktemp("diff")).create()
    with running("api", data) as service:
        yield Served(service, data)


def ask(api: Served, system: str, **more: object) -> str:
    """Record a request with this system text; its id."""
    document = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 5,
        "system": system,
        "messages": [{"role": "user", "content": "hi"}],
    }
    body = json.dumps(document | more).encode()
    how = {"path": "/v1/messages", "response": (USAGE,), "upstream": "https://api.anthropic.com"}
    return put(api, lambda instance, id_: exchange(instance, id_, body, **how))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair(api: Served) -> tuple[str, str]:
    return ask(api, "Today is 2026-01-30. " + "x" * 5000), ask(api, "Today is 2026-01-31. " + "x" * 5000, temperature=1)


def test_the_first_difference_and_its_cost_are_told(api: Served, pair: tuple[str, str]) -> None:
    told = api.ask(f"/api/diff?a={pair[0]}&b={pair[1]}").json
    assert told["relation"] == "differs"
    assert told["first"] == told["differences"][0]
    assert (told["first"]["kind"], told["first"]["b_pointer"], told["first"]["character"]) == ("date", "/system", 18)
    assert [one["name"] for one in told["differences"]] == ["", "temperature"]
    assert (told["a"]["id"], told["b"]["cache_write_tokens"], told["b"]["request_whole"]) == (pair[0], 2900, True)
    assert told["messages"] == {"same": 0, "a": 1, "b": 1}
    assert told["cache"]["billed_again_tokens"] > 0
    assert told["cache"]["billed_again_usd"] > 0


def test_a_coded_body_is_compared_decoded(api: Served) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}]}'

    def coded(instance: object, id_: str) -> Iterator[bytes]:
        records = list(exchange(instance, id_, gzip.compress(body)))  # type: ignore[arg-type]
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Encoding: gzip\r\n\r\n"
        instance.number = 0  # type: ignore[attr-defined]
        yield instance.record(id_, 0, "head", head, {"sid": "c1", "be": "openai"}, x_peer="1", x_key="ab" * 8)  # type: ignore[attr-defined]
        instance.number = len(records)  # type: ignore[attr-defined]
        yield from records[1:]

    plain = put(api, lambda instance, id_: exchange(instance, id_, body))
    told = api.ask(f"/api/diff?a={plain}&b={put(api, coded)}").json
    assert (told["relation"], told["first"]) == ("same", None)


@pytest.mark.parametrize(("query", "status", "param"), [
    ("", 400, "a"), (f"a={new_id(1)}", 400, "b"), ("a=1&b=2", 400, "a"), (f"a={new_id(8888)}&b={new_id(1)}", 404, "a"),
    ("a=1&b=2&c=3", 400, "c"),
])  # fmt: skip
def test_what_cannot_be_compared_is_named(api: Served, query: str, status: int, param: str) -> None:
    reply = api.ask(f"/api/diff?{query}")
    assert (reply.status, reply.json["param"]) == (status, param)


def test_the_command_says_it_in_words_and_as_json(api: Served, pair: tuple[str, str]) -> None:
    def diff(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "llmdump_api.diff", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    root = str(api.data.root)
    said, as_json, unknown = diff(root, *pair), diff("--json", root, *pair), diff(root, pair[0], new_id(8888))
    lines = said.stdout.splitlines()
    assert lines[2] == "The prompts differ: 0 messages are the same from the beginning, of 1 and 1."
    assert lines[3] == "first: date: system at /system, character 18 (ends what a cache can be read for)"
    assert lines[4] == "  a Today is 2026-01-30. " + "x" * 51
    assert lines[6:8] == ["also:", "  added: parameter temperature at /temperature"]
    assert lines[-1].startswith("about 2,")
    assert json.loads(as_json.stdout) == api.ask(f"/api/diff?a={pair[0]}&b={pair[1]}").json
    assert (unknown.returncode, unknown.stderr) == (1, f"llmdump: no exchange has the id {new_id(8888)}\n")
