"""A stream through all four processes, replayed: what the client got once it gets again."""

import itertools
import json
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.api import chunked
from tests.api.chunked import Reply
from tests.e2e.pipeline import Pipeline

GAP_MS = 20
"""Far enough apart that each chunk is a read of its own."""
CHAT = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.fixture(scope="module")
def pipe(backend: str, place: Path) -> Iterator[Pipeline]:
    with Pipeline(place, upstream=backend) as running:
        yield running


def ask(url: str, request: bytes) -> Reply:
    with closing(chunked.send(url, request)) as sock:
        return chunked.read(sock)


def gap_ms(reply: Reply) -> float:
    """The median."""
    return 1000 * statistics.median(later - earlier for earlier, later in itertools.pairwise(reply.times_s))


def test_the_client_of_a_replay_gets_what_the_client_of_the_proxy_got(pipe: Pipeline) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nx-sim-gap-ms: {GAP_MS}\r\nx-sim-pieces: 30\r\n"
    once = ask(pipe.proxy, f"{head}Content-Type: application/json\r\nContent-Length: {len(CHAT)}\r\n\r\n".encode() + CHAT)
    (row,) = pipe.ended(1)
    token = pipe.data.admin_token.read_text().strip()
    path = f"/api/traces/{row['id']}/replay"
    again = ask(pipe.api, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    assert len(once.chunks) > 30
    assert once.chunks[-1].endswith(b"data: [DONE]\n\n")
    assert again.body == once.body
    assert [len(chunk) for chunk in again.chunks] == [
        chunk["size"] for chunk in pipe.trace(row)["resp"]["chunks"] if chunk["size"]
    ]
    assert (again.status, again.fields["content-type"], again.whole) == (once.status, once.fields["content-type"], True)
    assert gap_ms(again) > GAP_MS / 2
