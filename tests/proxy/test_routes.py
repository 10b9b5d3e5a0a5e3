"""Routes: which backend a path goes to, as what, and what stops the start."""

import pytest

from llmdump.settings import Settings
from llmdump_proxy.routes import Origin, RouteError, Routes, parse


@pytest.mark.parametrize(
    ("line", "origin", "host"),
    [
        ("=http://h", Origin("http", "h", 80), b"h"),
        ("=https://h", Origin("https", "h", 443), b"h"),
        ("=https://h:8443/base/", Origin("https", "h", 8443), b"h:8443"),
        ("=http://127.0.0.1:80", Origin("http", "127.0.0.1", 80), b"127.0.0.1:80"),
        ("=http://[::1]:1", Origin("http", "::1", 1), b"[::1]:1"),
        ("=https://[::1]", Origin("https", "::1", 443), b"[::1]"),
        ("=http://Bücher.test:8", Origin("http", "xn--bcher-kva.test", 8), b"xn--bcher-kva.test:8"),
        (" /v1 = http://h. ", Origin("http", "h.", 80), b"h."),
    ],
)
def test_a_line_names_a_backend(line: str, origin: Origin, host: bytes) -> None:
    route = parse(line)
    assert (route.origin, route.host) == (origin, host)


@pytest.mark.parametrize(
    "line",
    [
        "", "=", "/v1", "/v1=", "=h", "=ftp://h", "=http://", "=http://:80", "=http://h:0", "=http://h:99999", "=http://h:x",
        "=http://[::1", "=http://[zz]", "=http://a..b", "=http://.a", f"=http://{'a' * 64}", "=http://a b", "=http://a\0",
        "=http://h/日本", "=http://h/a b", "=http://h/?q", "=http://h/#f", "v1=http://h", "/v1*=http://h", "/a*b=http://h",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named(line: str) -> None:
    with pytest.raises(RouteError, match="setting routes: ") as caught:
        parse(line)
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize(
    "line", ["=http://user:s3cret@h", "/v1=https://s3cret@h:99999/x", "=http://u:s3cret@h@i", "x=http://s3cret@h"]
)
def test_a_users_password_in_a_url_is_refused_and_never_printed(line: str) -> None:
    with pytest.raises(RouteError, match="clients send credentials") as caught:
        parse(line)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "backend"),
    [("/v1/messages", "a"), ("/v1/messages/batches", "a"), ("/v1/messagesx", "b"), ("/v1", "b"), ("/v1x", None), ("/", None)],
)
def test_the_longest_prefix_that_ends_at_a_slash_wins(path: str, backend: str | None) -> None:
    routes = Routes(Settings(routes=("/v1=http://b", "/v1/messages=http://a")))
    found = routes.find(path)
    assert (found and found.origin.host) == backend


def test_with_an_upstream_everything_goes_there() -> None:
    routes = Routes(Settings(upstream="http://h/base"))
    for path in ("/", "/v1/x", "*"):
        found = routes.find(path)
        assert found is not None and found.origin.host == "h"


@pytest.mark.parametrize(
    ("line", "target", "forwarded"),
    [
        ("=http://h", b"/v1/x?q", b"/v1/x?q"),
        ("=http://h/base", b"/v1/x?q", b"/base/v1/x?q"),
        ("=http://h/base/", b"/", b"/base/"),
        ("=http://h/base", b"/%2e%2e/x", b"/base/%2e%2e/x"),
        ("=http://h/base", b"*", b"*"),
        ("/demo/*=http://h", b"/demo/v1/x", b"/v1/x"),
        ("/demo/*=http://h", b"/demo", b"/"),
        ("/demo/*=http://h", b"/demo?q", b"/?q"),
        ("/demo/*=http://h/base", b"/demo/x", b"/base/x"),
        ("/demo=http://h/base", b"/demo/x", b"/base/demo/x"),
    ],
)
def test_the_target_at_the_backend_keeps_what_the_route_does_not_take(line: str, target: bytes, forwarded: bytes) -> None:
    assert parse(line).target(target) == forwarded
