"""The api's pure parts: token, metrics pages merged, content codings, heads."""

import gzip
import threading
import zlib
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmdump import heads
from llmdump.content_coding import Decoder
from llmdump.seekable import zstd
from llmdump_api import token
from llmdump_api.fleet import merge
from llmdump_api.gate import host_name


def test_apis_that_start_at_once_agree_on_a_token(tmp_path: Path) -> None:
    path, start, found = tmp_path / "admin_token", threading.Barrier(8), list[str]()

    def load() -> None:
        start.wait()
        found.append(token.load(path))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin_token"]


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"g" * 64, b"\xff" * 64])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "admin_token").write_bytes(content)
    with pytest.raises(token.TokenError, match="delete it"):
        token.load(tmp_path / "admin_token")


@pytest.mark.parametrize(
    ("authorization", "right"),
    [("Bearer abc", True), ("bearer  abc ", True), ("Bearer abd", False), ("Basic abc", False), ("abc", False), ("", False),
     ("Bearer", False), ("Bearer \udcff", False)],
)  # fmt: skip
def test_only_the_bearer_of_the_token_passes(authorization: str, right: bool) -> None:
    assert token.is_bearer(authorization, "abc") is right


def test_merged_pages_say_whose_each_sample_is() -> None:
    one = b'# HELP llmdump_up 1 while.\n# TYPE llmdump_up gauge\nllmdump_up{role="proxy"} 1.0\n'
    two = (
        b"# HELP a_seconds Time.\n# TYPE a_seconds histogram\n"
        + b"".join(b'a_seconds_bucket{le="%s"} %d\n' % (bound, count) for bound, count in ((b"0.1", 1), (b"+Inf", 2)))
        + b"a_seconds_sum 3\na_seconds_count 2\n# TYPE b_total counter\nb_total 7\n"
    )
    page = merge([("proxy-0", one), ("proxy-1", one + two), ("bad-0", b"{{{ no page")]).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert page.count("# TYPE llmdump_up gauge") == 1
    assert [sample.labels["process"] for sample in families["llmdump_up"].samples] == ["proxy-0", "proxy-1"]
    assert families["a_seconds"].type == "histogram"
    assert 'b_total{process="proxy-1"} 7.0' in page


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost:7862", "localhost"), ("LOCALHOST", "localhost"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:7862", "[::1]"),
     ("[::1]", "[::1]"), ("evil.example:7862", "evil.example"), ("localhost.", "localhost"), ("", "")],
)  # fmt: skip
def test_host_names(host: str, name: str) -> None:
    assert host_name(host) == name


CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "br": brotli.compress,
    "identity": lambda data: data,
}


@given(st.binary(max_size=2000), st.lists(st.sampled_from(sorted(CODINGS)), min_size=1, max_size=3), st.integers(1, 50))
def test_a_coded_body_decodes_however_it_is_cut(body: bytes, codings: list[str], step: int) -> None:
    coded = body
    for coding in codings:
        coded = CODINGS[coding](coded)
    decoder = Decoder(codings, 100_000)
    assert b"".join(decoder.feed(coded[at : at + step]) for at in range(0, len(coded), step)) == body
    assert decoder.problem == ""


def test_raw_deflate_is_deflate_too() -> None:
    compressor = zlib.compressobj(wbits=-15)
    assert Decoder(["deflate"], 100).feed(compressor.compress(b"hello") + compressor.flush()) == b"hello"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    bomb = CODINGS[coding](CODINGS[coding](bytes(50_000_000)))
    decoder = Decoder([coding, coding], 1000)
    assert decoder.feed(bomb) in (bytes(1000), b"")
    assert decoder.problem == "limit"
    assert decoder.feed(b"more") == b""


def test_a_body_of_exactly_the_limit_is_whole() -> None:
    decoder = Decoder(["gzip"], 1000)
    assert decoder.feed(gzip.compress(bytes(1000))) == bytes(1000)
    assert decoder.problem == ""


def test_damaged_coding_gives_what_came_before() -> None:
    decoder = Decoder(["gzip"], 10_000)
    whole = gzip.compress(b"a" * 10 + bytes(range(256)) * 4)
    assert decoder.feed(gzip.compress(b"first") + b"garbage") == b"first"
    assert decoder.problem == "damaged"
    assert Decoder(["gzip"], 10_000).feed(whole[:-9])  # cut is not damaged: what is there is given


@pytest.mark.parametrize("codings", [["compress"], ["gzip", "lzma"], ["gzip"] * 5])
def test_unknown_codings_are_refused(codings: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot decode"):
        Decoder(codings, 10)


def test_a_head_is_shown_as_it_was() -> None:
    head = heads.parse(b"GET /a?b HTTP/1.1\r\nX-A:  1 \r\nx-a:\xff\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n")
    assert head.start == ("GET", "/a?b", "HTTP/1.1")
    assert head.fields == [("X-A", "1"), ("x-a", "ÿ"), ("Set-Cookie", "a"), ("set-cookie", "b")]
    assert head.all("set-cookie") == ["a", "b"]
    assert head.first("nothing") == ""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head(data: bytes) -> None:
    heads.path_of(heads.parse(data).start[1])
