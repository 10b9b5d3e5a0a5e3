"""What a viewer of the live tail may ask for, by route and by command. Pure, but for the clock of relative times."""

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from llmdump.filter import Filter
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_CLIENT
from llmdump_api import filtering, params
from llmdump_api.live_exchange import LiveExchange
from llmdump_api.params import BadParamError, Param

_RESPONSE: Final = frozenset({BACKEND_TO_PROXY, PROXY_TO_CLIENT})
_DIRECTIONS: Final = {"all": _RESPONSE | {CLIENT_TO_PROXY}, "response": _RESPONSE, "none": frozenset[int]()}
PARAMS: Final = (
    params.FILTER,
    Param("id", "this exchange only, then not with filter", params.UUID_SCHEMA),
    Param("chunks", "which bytes are told", {"type": "string", "enum": list(_DIRECTIONS), "default": "all"}),
)


class Asked(NamedTuple):
    """What a viewer wants to see."""

    words: str = ""
    """The filter as it was written."""
    filter: Filter | None = None
    exchange: str | None = None
    """Only this one."""
    directions: frozenset[int] = frozenset()
    """Of the records whose bytes are told."""

    def is_same(self, other: "Asked") -> bool:
        """Whether it is the same question, asked at another time."""
        return self._replace(filter=None) == other._replace(filter=None)

    def means(self, exchange: LiveExchange) -> bool:
        """Whether it is certain that this exchange is wanted."""
        if self.exchange is not None:
            return exchange.id == self.exchange
        return self.filter is None or self.filter.holds(exchange.facts())


def parse(given: Mapping[str, str]) -> Asked:
    """What parameters ask for, each as described in PARAMS. Raises BadParamError."""
    for param in PARAMS:
        if param.name in given:
            param.check(given[param.name])
    if "filter" in given and "id" in given:
        raise BadParamError("id", "allowed is id or filter, not both")
    words = given.get("filter", "")
    return Asked(
        words,
        filtering.parse(words, round(time.time() * 1000)) if "filter" in given else None,
        given.get("id"),
        _DIRECTIONS[given.get("chunks", "all")],
    )
