"""Whose word counts for where a client is: of proxies that stand before this one, as `trusted_proxies` names them. Pure.

Anybody can send X-Forwarded-For, so nobody else is believed, and what is told is recorded beside the peer, not in its place.
"""

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_network

from llmdump import heads
from llmdump.reading.client import client_address, is_within


class TrustedError(ValueError):
    """A setting of `trusted_proxies` is no network; the message is for the user."""


class Trusted:
    """The proxies that are believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        """`networks` as in `10.0.0.0/8` or `::1`. Raises TrustedError."""
        try:
            self._networks = [ip_network(one) for one in networks]
        except ValueError as err:
            raise TrustedError(f"setting trusted_proxies: {err}; allowed is an address or a network, as in 10.0.0.0/8") from err

    def told(self, peer: str) -> Callable[[bytes], str] | None:
        """What gives a client's address from a request head, empty where it tells none; None if `peer` is not believed."""
        if not self._networks or not is_within(peer, self._networks):
            return None
        return partial(self._client, peer)

    def _client(self, peer: str, head: bytes) -> str:
        told = client_address(peer, heads.parse(head).fields, self._networks)
        return "" if told == peer else told
