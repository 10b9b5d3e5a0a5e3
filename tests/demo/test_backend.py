"""The simulated backend, judged by the official clients, a WebSocket client, curl and a raw socket."""

import asyncio
import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
import websockets.sync.client
from google import genai
from google.genai import types
from needs import needs_tool

from llmdump.demo import backend, sim
from llmdump.demo.reply import reply_text
from tests.patience import WAIT_S

HELLO = "Say hello."
MESSAGES: Any = [{"role": "user", "content": HELLO}]
FAST = {"x-sim-gap-ms": "0"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A backend in a thread of its own; its base URL."""
    ready: list[Any] = []
    up = threading.Event()

    async def live() -> None:
        stop = asyncio.Event()
        async with backend.serving() as where:
            ready.extend([where, asyncio.get_running_loop(), stop])
            up.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert up.wait(WAIT_S)
    yield ready[0]
    ready[1].call_soon_threadsafe(ready[2].set)
    thread.join(WAIT_S)


@pytest.fixture
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-sim", default_headers=FAST, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-sim", default_headers=FAST, max_retries=0) as client:
        yield client


@pytest.fixture
def gemini_client(url: str) -> Iterator[genai.Client]:
    client = genai.Client(api_key="AIza-sim", http_options=types.HttpOptions(base_url=url, headers=FAST))
    yield client
    client.close()


def test_openai_client_reads_a_plain_chat(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="sim-large", messages=MESSAGES)
    assert answer.choices[0].message.content == reply_text(HELLO)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 2


def test_openai_client_reads_a_streamed_chat_with_usage(openai_client: openai.OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model="sim-large", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == reply_text(HELLO)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert not chunks[-1].choices


def test_openai_client_reads_a_stream_without_usage(openai_client: openai.OpenAI) -> None:
    chunks = list(openai_client.chat.completions.create(model="sim-large", messages=MESSAGES, stream=True))
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert all(chunk.choices for chunk in chunks)


def test_openai_client_reads_a_plain_response(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(model="sim-large", input=HELLO)
    assert answer.output_text == reply_text(HELLO)
    assert answer.status == "completed"


def test_openai_client_reads_a_streamed_response(openai_client: openai.OpenAI) -> None:
    with openai_client.responses.stream(model="sim-large", input=HELLO) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == reply_text(HELLO)


def test_openai_client_lists_models_and_embeds(openai_client: openai.OpenAI) -> None:
    assert "sim-large" in [model.id for model in openai_client.models.list()]
    assert openai_client.models.retrieve("anything").id == "anything"
    as_default = openai_client.embeddings.create(model="sim-embed", input=["one", "two"])
    as_floats = openai_client.embeddings.create(model="sim-embed", input=["one", "two"], encoding_format="float")
    assert len(as_default.data) == 2
    for one, other in zip(as_default.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)


def test_embedding_is_base64_only_if_asked_for(url: str) -> None:
    asked = {"model": "sim-embed", "input": "one"}
    assert isinstance(json.loads(curl(f"{url}/v1/embeddings", asked))["data"][0]["embedding"], list)
    as_base64 = {**asked, "encoding_format": "base64"}
    assert isinstance(json.loads(curl(f"{url}/v1/embeddings", as_base64))["data"][0]["embedding"], str)


def test_openai_client_sees_a_refusal(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages"):
        openai_client.chat.completions.create(model="sim-large", messages=[])


def test_anthropic_client_reads_a_plain_message(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.create(model="sim-large", max_tokens=100, messages=MESSAGES)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == reply_text(HELLO)
    assert answer.stop_reason == "end_turn"


def test_anthropic_client_reads_a_streamed_message(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(model="sim-large", max_tokens=100, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == reply_text(HELLO)
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 1


def test_anthropic_stream_has_the_real_order_of_events(url: str) -> None:
    body = {"model": "m", "max_tokens": 1, "stream": True, "messages": MESSAGES}
    names = [line.split()[1] for line in curl(f"{url}/v1/messages?x-sim-gap-ms=0", body).splitlines() if line[:6] == "event:"]
    deltas = names.count("content_block_delta")
    assert names == [
        "message_start", "content_block_start", "ping", *["content_block_delta"] * deltas,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert deltas > 5


def test_anthropic_client_counts_tokens(anthropic_client: anthropic.Anthropic) -> None:
    assert anthropic_client.messages.count_tokens(model="sim-large", messages=MESSAGES).input_tokens > 1


def test_gemini_client_reads_a_plain_answer(gemini_client: genai.Client) -> None:
    answer = gemini_client.models.generate_content(model="sim-large", contents=HELLO)
    assert answer.text == reply_text(HELLO)


def test_gemini_client_reads_a_stream(gemini_client: genai.Client) -> None:
    chunks = list(gemini_client.models.generate_content_stream(model="sim-large", contents=HELLO))
    assert len(chunks) > 5
    assert "".join(chunk.text or "" for chunk in chunks) == reply_text(HELLO)
    assert chunks[-1].usage_metadata is not None


def test_gemini_stream_without_sse_is_one_json_array(url: str) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": HELLO}]}]}
    answers = json.loads(curl(f"{url}/v1beta/models/sim:streamGenerateContent?x-sim-gap-ms=0", body))
    text = "".join(answer["candidates"][0]["content"]["parts"][0]["text"] for answer in answers)
    assert text == reply_text(HELLO)


@pytest.mark.parametrize(("path", "more"), [("chat", {"messages": MESSAGES}), ("generate", {"prompt": HELLO})])
def test_ollama_streams_json_lines_unless_told_not_to(url: str, path: str, more: dict[str, Any]) -> None:
    def spoken(line: dict[str, Any]) -> str:
        return str(line["message"]["content"] if path == "chat" else line["response"])

    where = f"{url}/api/{path}?x-sim-gap-ms=0"
    lines = [json.loads(line) for line in curl(where, {"model": "sim", **more}).splitlines()]
    assert "".join(map(spoken, lines)) == reply_text(HELLO)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    whole = json.loads(curl(where, {"model": "sim", "stream": False, **more}))
    assert spoken(whole) == reply_text(HELLO)
    assert whole["eval_count"] == lines[-1]["eval_count"]


def test_websocket_messages_come_back(url: str) -> None:
    where = url.replace("http:", "ws:") + "/ws/echo"
    with websockets.sync.client.connect(where) as socket_:
        for message in ("hello", b"\x00\x01binary", "x" * 100_000):
            socket_.send(message)
            assert socket_.recv() == message


def test_realtime_session_answers(url: str) -> None:
    where = url.replace("http:", "ws:") + "/v1/realtime?x-sim-gap-ms=0"
    with websockets.sync.client.connect(where) as socket_:
        assert json.loads(socket_.recv())["type"] == "session.created"
        socket_.send(json.dumps({"type": "response.create"}))
        while (event := json.loads(socket_.recv(timeout=WAIT_S)))["type"] != "response.done":
            assert event["type"] in {"response.created", "response.output_text.delta"}


def test_stream_keeps_its_pace_and_its_number_of_pieces(url: str) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True}
    begin = time.monotonic()
    events = curl(f"{url}/v1/chat/completions?x-sim-gap-ms=10&x-sim-pieces=30", body).split("\n\n")
    assert time.monotonic() - begin > 32 * 0.010  # role, 30 pieces, finish, [DONE]: 32 gaps
    assert len(events) == 30 + 3 + 1


def test_sizes_chunks_and_statuses_are_as_asked(url: str) -> None:
    head, body = raw(url, "/sim/bytes/200000")
    assert b"Content-Length: 200000\r\n" in head
    assert body == (sim.BLOCK * 4)[:200000]
    head, body = raw(url, "/sim/chunks?n=3&size=5")
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert body == b"5\r\n\x00\x01\x02\x03\x04\r\n" * 3 + b"0\r\n\r\n"
    assert raw(url, "/sim/status/418")[0].startswith(b"HTTP/1.1 418 ")
    head, body = raw(url, "/sim/status/204")
    assert (head[:13], body) == (b"HTTP/1.1 204 ", b"")
    assert raw(url, "/sim/chunks?n=many")[0].startswith(b"HTTP/1.1 400 ")


def test_slow_answer_waits(url: str) -> None:
    begin = time.monotonic()
    raw(url, "/sim/slow?ms=150")
    assert time.monotonic() - begin > 0.15


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_cut_is_in_mid_body(url: str, framing: str) -> None:
    head, body = raw(url, f"/sim/cut?after=1000&framing={framing}")
    if framing == "length":
        assert b"Content-Length: 2000\r\n" in head
        assert body == sim.BLOCK[:1000]
    else:
        assert not body.endswith(b"0\r\n\r\n")
        assert sim.BLOCK[:1000] in body


def test_cut_by_reset_is_a_reset(url: str) -> None:
    with pytest.raises(ConnectionResetError):
        raw(url, "/sim/cut?after=1000000&how=reset")


def test_echo_tells_header_order_case_and_body(url: str) -> None:
    where = urlsplit(url).netloc
    body = b"\x1f\x8bnot gzip at all"
    head = f"PUT /sim/echo/%2e%2E//?q=1 HTTP/1.1\r\nhOsT: {where}\r\nX-B: 1\r\nx-a: 2\r\nX-B:  3\r\nContent-Encoding: gzip\r\n"
    request = head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    told = json.loads(exchange(url, request)[1])
    assert (told["method"], told["path"]) == ("PUT", "/sim/echo/%2e%2E//?q=1")
    assert told["headers"][:4] == [["hOsT", where], ["X-B", "1"], ["x-a", "2"], ["X-B", "3"]]
    assert (told["body_bytes"], told["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def curl(where: str, body: Any) -> str:
    """What curl prints for a POST of this JSON."""
    command = [needs_tool("curl"), "-sSN", "--fail-with-body", "--max-time", "20", where]
    return subprocess.run([*command, "--json", json.dumps(body)], check=True, capture_output=True, text=True).stdout


def raw(url: str, target: str) -> tuple[bytes, bytes]:
    """Head and body bytes of a GET, until the backend closes."""
    return exchange(url, f"GET {target} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n".encode())


def exchange(url: str, request: bytes) -> tuple[bytes, bytes]:
    where = urlsplit(url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 80), timeout=WAIT_S) as sock:
        sock.sendall(request)
        received = b""
        while block := sock.recv(65536):
            received += block
    head, _, body = received.partition(b"\r\n\r\n")
    return head + b"\r\n", body


def test_tagged_request_is_answered_with_the_same_bytes_each_time(url: str) -> None:
    def ask(*headers: str) -> str:
        body = json.dumps({"model": "sim-large", "messages": MESSAGES, "stream": True})
        command = ["curl", "-sS", *(part for header in headers for part in ("-H", header)), "-d", body]
        command += [f"{url}/v1/chat/completions?x-sim-gap-ms=0"]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout

    needs_tool("curl")
    assert ask("x-sim-tag: 7") == ask("x-sim-tag: 7") != ask("x-sim-tag: 8")
    assert ask() != ask()
    assert "x-sim-tag is" in ask("x-sim-tag: secret")
