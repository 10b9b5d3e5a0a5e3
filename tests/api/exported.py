"""Exchanges of every sort that an export has to carry, in segments, indexed."""

import gzip
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from made import BEGAN_S, Instance, append, begin_segment, new_id

from llmdump.data_dir import DataDir
from llmdump_indexer.follow import Follower
from tests.writer.traffic import sse

CHAT = {"model": "gpt-4o", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo <1>?"}]}
ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}  # fmt: skip
CLAUDE: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
     "content": [], "usage": {"input_tokens": 10, "cache_read_input_tokens": 4, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Let me "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "look."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1,
     "content_block": {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"path\": "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "\"/x\"}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip
TOOLS = [{"name": "ls", "description": "List.", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}]
ASKED_CLAUDE = {"model": "claude-sonnet-4-5", "max_tokens": 100, "stream": True, "system": "You look.", "tools": TOOLS,
                "messages": [{"role": "user", "content": "What is in /x?"}]}  # fmt: skip
LARGE = b'{"pad":"' + b"0123456789" * 60_000 + b'"}'


def compact(value: Any) -> bytes:
    """As clients send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def frame(data: bytes, opcode: int, mask: bytes = b"") -> bytes:
    """A WebSocket frame of fewer than 126 bytes."""
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)) if mask else data
    return bytes((0x80 | opcode, (0x80 if mask else 0) | len(data))) + mask + masked


class Made:
    """One instance whose exchanges begin a second after each other."""

    def __init__(self, name: str = "5e" * 8, first: int = 1) -> None:
        self.instance = Instance(name)
        self.ids: list[str] = []
        self.records: list[bytes] = [
            self.instance.about("hello", x_about={"version": "1", "pid": 1, "host": "h", "listen": "l"})
        ]
        self._next = first

    def call(
        self,
        path: str,
        request: list[bytes],
        response: list[bytes],
        *,
        status: str = "200 OK",
        content_type: str = "application/json",
        fields: str = "",
        request_fields: str = "",
        backend: str = "openai",
        upstream: str = "https://api.openai.com",
        end: str | None = "complete",
        whole: bool = True,
        cut: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """An exchange of chunks that are read 10 ms after each other; its id. `cut`: more of the first chunk of the answer."""
        id_, common = self._new(), {"sid": f"c{self._next}", "be": backend}
        length = f"Content-Length: {sum(map(len, request))}\r\n" if request else ""
        host = upstream.rpartition("/")[2]
        key = "Authorization: Bearer masked:0123456789abcdef\r\nUser-Agent: OpenAI/Python 1.55.0\r\n"
        fixed = f"Content-Type: application/json\r\n{key}{request_fields}{length}\r\n"
        method = "POST" if request else "GET"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost:7861\r\n{fixed}".encode()
        peer = {"x_peer": "127.0.0.1:5000", "x_client": "203.0.113.9"}
        self._put(id_, 0, "head", head, common, x_key="0123456789abcdef", **peer)
        self._chunks(id_, 0, request, common, whole=True)
        sent = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fixed}".encode()
        self._put(id_, 2, "forward", sent, common, x_up=upstream, x_addr="1.2.3.4:443", x_dial=1.5, x_new=True)
        self._put(id_, 3, "interim", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", common, sc=103)
        answer = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{fields}\r\n".encode()
        self._put(id_, 3, "head", answer, common, sc=int(status[:3]), ttfb=12.5)
        self._chunks(id_, 3, response, common, whole=whole, first=cut)
        self._end(id_, common, end, request, response)
        return id_

    def refused(self) -> str:
        """An exchange that the proxy itself answered."""
        id_, common = self._new(), {"sid": "c", "be": "openai"}
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        self._put(id_, 0, "head", head, common, x_peer="127.0.0.1:5000", x_key="0" * 16)
        self._chunks(id_, 0, [b"{}"], common, whole=True)
        answer = b'HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\r\n{"error":"connect"}'
        self._put(id_, 1, "answer", answer, common, sc=502)
        self._end(id_, common, "upstream_error", [b"{}"], [], code="connect_refused")
        return id_

    def websocket(self) -> str:
        """A Realtime session of two messages."""
        id_, common = self._new(), {"sid": "c", "be": "openai"}
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        head = b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: here\r\n" + upgrade
        self._put(id_, 0, "head", head, common, x_peer="127.0.0.1:5000", x_key="0" * 16)
        self._put(id_, 2, "forward", head, common, x_up="https://api.openai.com", x_addr="1.2.3.4:443", x_dial=1.5, x_new=True)
        answer = b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade
        self._put(id_, 3, "head", answer, common, sc=101, ttfb=1.0)
        asked = frame(b'{"type":"response.create"}', 1, b"abcd")
        self._put(id_, 0, "pipe", asked[:9], common, ci=1)
        self._put(id_, 0, "pipe", asked[9:], common, ci=2)
        done = {"type": "response.done", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}
        self._put(id_, 3, "pipe", frame(compact(done), 1) + frame(b"\xff\x00", 2), common, ci=1)
        self._end(id_, common, "complete", [], [])
        return id_

    def store(self, data: DataDir, segment: int = 1) -> "Made":
        """Put what was made into a segment, and index it."""
        append(begin_segment(data, segment), b"".join(self.records))
        self.records = []
        Follower(data).catch_up()
        return self

    def _new(self) -> str:
        id_ = new_id(self._next)
        self.instance.began_s = BEGAN_S + 1000 * self._next
        self._next += 1
        self.ids.append(id_)
        return id_

    def _put(self, id_: str, direction: int, kind: str, data: bytes, common: dict[str, Any], **meta: Any) -> None:
        self.instance.began_s += 0.01
        self.records.append(self.instance.record(id_, direction, kind, data, common, **meta))

    def _chunks(
        self, id_: str, direction: int, chunks: list[bytes], common: dict[str, Any], *, whole: bool,
        first: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        for index, data in enumerate(chunks, 1):
            last = {"x_z": True} if whole and index == len(chunks) else {}
            self._put(id_, direction, "chunk", data, common, ci=index, **last, **(first if index == 1 else {}))

    def _end(
        self, id_: str, common: dict[str, Any], end: str | None, request: list[bytes], response: list[bytes], code: str = ""
    ) -> None:
        if end is not None:
            sizes = {"tc": len(response), "tb": sum(map(len, response)), "x_req": sum(map(len, request))}
            code = code or ("" if end == "complete" else "reset")
            self._put(id_, 1, "end", b"", common, se=True, x_end=end, x_err=code, x_own=[1, 2, 3], x_lost=0, **sizes)


def every_sort(name: str = "5e" * 8) -> Made:
    """Plain, in pieces, streamed, compressed, cut off, refused, an error, without bodies, large, a WebSocket, a cut body."""
    made = Made(name)
    chat = compact(CHAT)
    made.call("/v1/chat/completions", [chat[:20], chat[20:]], [compact(ANSWER)[:50], compact(ANSWER)[50:]])
    claude = [b"event: %b\n" % event["type"].encode() + sse(event)[0] for event in CLAUDE]
    made.call(
        "/v1/messages", [compact(ASKED_CLAUDE)], claude, content_type="text/event-stream; charset=utf-8",
        backend="anthropic", upstream="https://api.anthropic.com", fields="Request-Id: req_1\r\n",
    )  # fmt: skip
    made.call("/v1/chat/completions", [chat], [gzip.compress(compact(ANSWER))], fields="Content-Encoding: gzip\r\n")
    words = sse(*({"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Hi", " there")))
    made.call(
        "/v1/chat/completions", [compact(CHAT | {"stream": True})], [words[0], words[1][:10]], whole=False,
        content_type="text/event-stream", end="upstream_closed",
    )  # fmt: skip
    made.refused()
    made.call(
        "/v1/chat/completions", [chat], [compact({"error": {"type": "rate_limit_error", "message": "no"}})], status="429 No"
    )
    made.call("/v1/models", [], [b'["not", "an object"]'])
    made.call("/v1/files/1", [], [], status="204 No Content", fields="Content-Length: 0\r\n")
    made.call("/v1/audio/speech", [chat], [b"\xff\xfb\x90\x00", bytes(range(256))], content_type="audio/mpeg")
    made.call("/v1/embeddings", [LARGE[:200_000], LARGE[200_000:]], [LARGE[:65_536], LARGE[65_536:]])
    made.websocket()
    made.call("/v1/chat/completions", [chat], sse("{}", "[DONE]"), content_type="text/event-stream", cut={"x_cut": 900})
    return made
