"""What is known of an exchange while it goes on: heads, how far its bodies are, what it cost. State only.

Most of it is at its beginning in most exchanges for most of the time: so it stands in the class, and making one is cheap.
"""

from llmdump_proxy.framing import Body, LengthBody
from llmdump_proxy.head import ResponseHead
from llmdump_proxy.journal import Journal
from llmdump_proxy.plans import Plan


class Exchange:
    """What is known of the exchange that goes on."""

    plan: Plan | None = None
    """None where the request's head was refused."""
    length_digits: bytes = b""
    """Of the request's Content-Length, as sent."""
    length: int = 0
    """Of the request's body in bytes, or `head.CHUNKED`."""
    body: Body = LengthBody(0)
    response: ResponseHead | None = None
    response_body: Body = LengthBody(0)
    response_over = False
    heard = False
    """Whether the backend has said anything to this request."""
    client_eof = False
    """Whether the client's end of sending was passed on, or is to be."""
    client_left = False
    """Whether that came while a response was under way: then it is no half-close."""
    upstream_eof = False
    """Whether the backend's end of sending was passed on, in a pipe."""
    request_bytes = 0
    response_bytes = 0
    forwarded_at_ns = 0
    own_first_ns = 0
    own_worst_ns = 0
    own_sum_ns = 0

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def took(self, took_ns: int) -> None:
        """Count our own time for one read, from reading to writing."""
        self.own_sum_ns += took_ns
        if took_ns > self.own_worst_ns:  # noqa: PLR1730 (this is done for each chunk, and calling `max` takes longer)
            self.own_worst_ns = took_ns
