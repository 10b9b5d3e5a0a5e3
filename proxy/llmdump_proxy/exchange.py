"""What is known of an exchange while it goes on: heads, how far its bodies are, what it cost. State only."""

import time

from llmdump_proxy.framing import Body, LengthBody
from llmdump_proxy.head import RequestHead, ResponseHead
from llmdump_proxy.journal import Journal
from llmdump_proxy.routes import Route


class Exchange:
    """What is known of the exchange that goes on."""

    __slots__ = (
        "body", "client_eof", "client_left", "forwarded_at_ns", "heard", "journal", "own_first_ns", "own_sum_ns",
        "own_worst_ns", "request", "request_bytes", "response", "response_body", "response_bytes", "response_over", "route",
        "upstream_eof",
    )  # fmt: skip

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.request: RequestHead | None = None
        self.route: Route | None = None
        self.body: Body = LengthBody(0)
        self.response: ResponseHead | None = None
        self.response_body: Body = LengthBody(0)
        self.response_over = False
        self.heard = False
        """Whether the backend has said anything to this request."""
        self.client_eof = False
        """Whether the client's end of sending was passed on, or is to be."""
        self.client_left = False
        """Whether that came while a response was under way: then it is no half-close."""
        self.upstream_eof = False
        """Whether the backend's end of sending was passed on, in a pipe."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.forwarded_at_ns = 0
        self.own_first_ns = 0
        self.own_worst_ns = 0
        self.own_sum_ns = 0

    def took(self, since_ns: int, *, first: bool = False) -> None:
        """Count our own time for one read, from `since_ns` to now."""
        took_ns = time.perf_counter_ns() - since_ns
        self.own_sum_ns += took_ns
        self.own_worst_ns = max(self.own_worst_ns, took_ns)
        if first:
            self.own_first_ns = took_ns
