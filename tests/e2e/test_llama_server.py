"""Real clients and a real LLM server, llama.cpp's, with the whole pipeline between them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import llama
from tests.e2e.calls import LLAMA, Call, Where, openai_embeddings
from tests.e2e.crossing import Crossing
from tests.e2e.pipeline import Pipeline
from tests.e2e.tap import Message, tapping

pytestmark = pytest.mark.xdist_group("e2e-llama")
EMBEDDINGS = Call("openai_embeddings", openai_embeddings, "/v1/embeddings", "openai")
# Ids, clock and speed differ from one answer of the server to the next, the sampled text at temperature 0 does not.
_NOT_REPEATED = re.compile(
    rb'("(?:id|item_id|response_id|system_fingerprint)":")[^"]*|("(?:created|created_at|completed_at|cache\w*|cached_tokens'
    rb'|input_tokens|total_tokens|prompt\w*|predicted\w*|draft\w*)":)[0-9.e+-]+|(Content-Length: )[0-9]+'
)


def repeated(message: Message) -> tuple[list[bytes], bytes]:
    """Head and body of an answer without what differs from one answer to the next."""
    return [_NOT_REPEATED.sub(rb"\1\2\3", line) for line in message.lines], _NOT_REPEATED.sub(rb"\1\2", message.body)


@pytest.fixture(scope="module")
def llama_embeddings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from llama.server_process(tmp_path_factory.mktemp("llama-embeddings"), "--embeddings", "--pooling", "mean")


@pytest.fixture(scope="module")
def crossing(llama_server: str, place: Path) -> Iterator[Crossing]:
    """A pipeline between two taps, before the real server."""
    with (
        tapping(llama_server) as back,
        Pipeline(place, upstream=back.url, upstream_keepalive_s=0) as pipe,
        tapping(pipe.proxy) as front,
    ):
        yield Crossing(pipe, front, back)


@pytest.mark.parametrize("call", LLAMA, ids=repr)
def test_client_of_a_real_server_gets_the_same_and_one_trace_tells_it_all(
    crossing: Crossing, call: Call, tmp_path: Path
) -> None:
    check(crossing, call, tmp_path)


def test_embeddings_of_a_real_server_are_the_same(llama_embeddings: str, tmp_path: Path) -> None:
    with (
        tapping(llama_embeddings) as back,
        Pipeline(tmp_path / "pipeline", upstream=back.url, upstream_keepalive_s=0) as pipe,
        tapping(pipe.proxy) as front,
    ):
        check(Crossing(pipe, front, back), EMBEDDINGS, tmp_path)


def check(crossing: Crossing, call: Call, place: Path) -> None:
    direct = crossing.direct(call, Where(crossing.back.url, llama.MODEL, {}, place))
    proxied = crossing.proxied(call, Where(crossing.front.url, llama.MODEL, {}, place))
    assert proxied.at_backend.request.lines == direct.at_backend.request.lines
    assert proxied.at_backend.request.body == direct.at_backend.request.body
    assert repeated(proxied.at_client.response) == repeated(direct.at_backend.response)
    crossing.check_nothing_was_changed(proxied)
    crossing.check_row(proxied.row, call, llama.MODEL)
    crossing.check_end(proxied, call)
    crossing.check_stored_bodies(proxied)
    crossing.check_chunks(proxied)
