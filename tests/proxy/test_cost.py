"""No head, however made, keeps the loop from its other connections: all that is done with it takes linear time.

The limit is many times what a head of 64 KiB costs, and a hundredth of what a quadratic search in one costs.
"""

import contextlib
import time
from collections.abc import Callable

import pytest

from llmdump.secrets import Secrets
from llmdump_proxy import head, rewrite, routes
from llmdump_proxy.framing import BadFramingError, ChunkedBody
from llmdump_proxy.head import BadHeadError

SIZE = 65_000
CPU_S_MAX = 0.3
SECRETS = Secrets()
START = b"GET / HTTP/1.1\r\nHost: x\r\n"
PARTS = (
    b" ", b"\t ", b"x \t", b"a", b"=", b"/", b"?key=", b"&key", b"http://", b"http://a@", b"%6b", b"\n", b"\r", b"\r\n",
    b"\naaaa", b"cookie", b"cookie ", b"cookie\n", b"Cookie: a\r\n", b"authorization: bearer ", b"a: b\r\n", b",a", b";", b":",
    b"masked:", b"openai-insecure-api-key.", b"\0", b"/v1", b"/v1/a", b"/v1/a:", b"\xff",
)  # fmt: skip
FRAMES = (
    b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /?key=%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://%b@h/ HTTP/1.1\r\nHost: x\r\n\r\n",
    START + b"%b\r\n\r\n",
    START + b"Upgrade: %bx\r\n\r\n",
    START + b"Upgrade: x%bx\r\n\r\n",
    START + b"Connection: %b\r\n\r\n",
    START + b"Authorization: %b\r\n\r\n",
    START + b"Cookie%b",
    b"?key=%b",
    b"%b:x",
)


def everything_done_with(raw: bytes) -> None:
    """All that the proxy may do with the bytes of a head."""
    refuse(lambda: head.end_of_head(raw, 2 * SIZE))
    refuse(lambda: head.check_request_begins(raw))
    refuse(lambda: head.check_response_begins(raw))
    refuse(lambda: head.parse_response(raw, b"GET"))
    routes.provider(head.path_of_broken(raw))
    SECRETS.mask(raw)
    SECRETS.mask(raw, broken=True)
    refuse(lambda: forward(raw))


def forward(raw: bytes) -> None:
    found = head.parse_request(raw)
    routes.provider(found.path)
    rewrite.request(raw, found.target, b"h", found.connection, found.upgrade)


def refuse(judge: Callable[[], object]) -> None:
    with contextlib.suppress(BadHeadError):
        judge()


@pytest.mark.parametrize("frame", FRAMES)
def test_a_head_of_the_longest_size_costs_linear_time(frame: bytes) -> None:
    for part in PARTS:
        raw = frame.replace(b"%b", part * (SIZE // len(part)))
        began = time.process_time()
        everything_done_with(raw)
        assert time.process_time() - began < CPU_S_MAX, part


@pytest.mark.parametrize("part", [b"/v1", b"/v1/a", b"/v1/a:", b"/a:b", b":"])
def test_a_path_of_the_longest_size_costs_linear_time(part: bytes) -> None:
    path = (part * (SIZE // len(part)) + b"/m:x").decode()
    began = time.process_time()
    routes.provider(path)
    assert time.process_time() - began < CPU_S_MAX


def test_a_chunk_line_that_dribbles_costs_little() -> None:
    body = ChunkedBody()
    began = time.process_time()
    with pytest.raises(BadFramingError):
        for byte in b"5" + b" " * 5000:
            body.feed(bytes((byte,)))
    assert time.process_time() - began < CPU_S_MAX
