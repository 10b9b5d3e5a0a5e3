"""How an exchange may fail: what the client is answered, the code, the end reason. docs/proxy.md says the same."""

from typing import Final, NamedTuple

CUT: Final = 0
"""Instead of a status: the response had begun, and is cut."""


class Error(NamedTuple):
    """One line of the table."""

    status: int
    code: str
    reason: str
    cause: str


ERRORS: Final = (
    Error(
        400, "malformed_head", "bad_request", "The request head is not HTTP/1.0 or 1.1, or frames its body in a doubtful way"
    ),
    Error(400, "tls_on_plain_port", "bad_request", "A TLS handshake: this port speaks plain HTTP"),
    Error(400, "malformed_body", "bad_request", "The chunks of the request body are malformed"),
    Error(404, "no_route", "bad_request", "No route fits the path"),
    Error(431, "head_too_large", "bad_request", "The request head is longer than `max_head_bytes`"),
    Error(501, "transfer_coding", "bad_request", "A transfer coding other than `chunked`"),
    Error(501, "connect_not_supported", "bad_request", "CONNECT: llmdump is a base URL, not a forward proxy"),
    Error(408, "head_timeout", "timeout", "The request head did not come within `client_header_timeout_s`"),
    Error(408, "request_timeout", "timeout", "The request body stood still for `client_body_timeout_s`"),
    Error(CUT, "client_stalled", "timeout", "The client did not read for `client_body_timeout_s`"),
    Error(CUT, "client_left", "client_closed", "The client closed its connection"),
    Error(CUT, "head_cut", "client_closed", "The client's connection ended within its request head"),
    Error(CUT, "request_cut", "client_closed", "The client stopped sending within its request body"),
    Error(502, "upstream_name_failure", "upstream_error", "The backend's name cannot be resolved"),
    Error(502, "upstream_refused", "upstream_error", "The backend refuses connections"),
    Error(502, "upstream_unreachable", "upstream_error", "There is no way to the backend's address"),
    Error(502, "upstream_tls", "upstream_error", "The TLS handshake failed, or the certificate does not fit"),
    Error(502, "upstream_reset", "upstream_error", "The backend broke the connection before it answered"),
    Error(502, "upstream_closed", "upstream_closed", "The backend closed the connection without an answer"),
    Error(502, "upstream_malformed", "upstream_error", "The backend's answer is not HTTP/1, or switches protocols unasked"),
    Error(502, "upstream_head_too_large", "upstream_error", "The response head is longer than `max_head_bytes`"),
    Error(504, "upstream_connect_timeout", "timeout", "No connection within `upstream_connect_timeout_s`"),
    Error(504, "upstream_timeout", "timeout", "No response head within `upstream_header_timeout_s`"),
    Error(504, "upstream_stalled", "timeout", "The backend did not read the request for `upstream_idle_timeout_s`"),
    Error(CUT, "upstream_stalled", "timeout", "The response stood still for `upstream_idle_timeout_s`"),
    Error(CUT, "upstream_cut", "upstream_closed", "The backend closed the connection within its response"),
    Error(CUT, "upstream_reset", "upstream_error", "The backend broke the connection within its response"),
    Error(CUT, "upstream_malformed", "upstream_error", "The chunks of the response are malformed"),
    Error(503, "shutdown", "shutdown", "llmdump was stopped before the backend answered"),
    Error(CUT, "shutdown", "shutdown", "llmdump was stopped within the response; the end record's code is empty"),
    Error(503, "too_many_connections", "", "`max_connections` are open; the connection is no exchange, only counted"),
)

BY_OUTCOME: Final = {(error.status, error.code): error for error in ERRORS}
