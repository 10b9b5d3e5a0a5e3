"""Who is believed when he says where a client is."""

import pytest

from llmdump_proxy.trusted import Trusted, TrustedError

HEAD = b"GET / HTTP/1.1\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n"


@pytest.mark.parametrize(
    ("networks", "peer", "client"),
    [
        ((), "127.0.0.1:5", None), (("10.0.0.0/8",), "127.0.0.1:5", None), (("127.0.0.1",), "127.0.0.1:5", "8.8.8.8"),
        (("10.0.0.0/8", "::1"), "[::1]:5", "8.8.8.8"), (("127.0.0.0/8",), "", None),
        (("127.0.0.0/8",), "[::ffff:127.0.0.1]:5", "8.8.8.8"),
    ],
)  # fmt: skip
def test_only_who_is_named_is_believed(networks: tuple[str, ...], peer: str, client: str | None) -> None:
    told = Trusted(networks).told(peer)
    assert (told and told(HEAD)) == client


def test_a_proxy_that_tells_nothing_tells_nothing() -> None:
    told = Trusted(("127.0.0.1",)).told("127.0.0.1:5")
    assert told is not None
    for head in (b"", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1, what\r\n\r\n"):
        assert told(head) == ""


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "::/129", "1.2.3", "abc"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(TrustedError, match="as in"):
        Trusted((network,))
