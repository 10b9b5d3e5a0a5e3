"""What has taken too long in an exchange, and how it ends then. Pure.

A stream that goes on, however slowly, is never overdue; a pipe may be silent for ever (TCP keep-alive guards it), and
dialling has a time-out of its own.
"""

from typing import Final, NamedTuple

from llmdump.settings import Settings
from llmdump_proxy import flow_control
from llmdump_proxy.exchange import Exchange

LINGER_S: Final = 2.0
"""How long a client that was answered early may go on sending, so that it can read the answer before a reset."""


class Overdue(NamedTuple):
    """How an exchange ends that has taken too long. With `reason` complete nothing was lacking."""

    reason: str
    code: str
    status: int = 504
    """Answered if no response has begun; else the response is cut."""
    message: str = ""


def of_exchange(exchange: Exchange, silent_s: float, limits: Settings, client: int, upstream: int) -> Overdue | None:
    """What ends an exchange on which nothing has moved for `silent_s`, if anything does.

    `client` and `upstream` are the reasons why they are not read (`flow_control`).
    """
    if exchange.response_over:
        return Overdue("complete", "request_unfinished") if silent_s > LINGER_S else None
    if exchange.response is not None:
        return _response(silent_s, limits, client_is_full=bool(upstream & flow_control.CLIENT_FULL))
    if not exchange.body.done:
        return _request(silent_s, limits, upstream_is_full=bool(client & flow_control.UPSTREAM_FULL))
    limit_s = limits.upstream_header_timeout_s
    message = f"no response head for {limit_s:g} s (upstream_header_timeout_s)"
    return Overdue("timeout", "upstream_timeout", message=message) if silent_s > limit_s else None


def of_pipe(exchange: Exchange, silent_s: float, limits: Settings) -> Overdue | None:
    """The same for two streams after an upgrade: when one has ended, the other is given some time."""
    over = exchange.upstream_eof and silent_s > limits.client_idle_timeout_s
    return Overdue("complete", "") if over else None


def _request(silent_s: float, limits: Settings, *, upstream_is_full: bool) -> Overdue | None:
    limit_s = limits.upstream_idle_timeout_s if upstream_is_full else limits.client_body_timeout_s
    if silent_s <= limit_s:
        return None
    status, code = (504, "upstream_stalled") if upstream_is_full else (408, "request_timeout")
    return Overdue("timeout", code, status, f"no progress for {limit_s:g} s")


def _response(silent_s: float, limits: Settings, *, client_is_full: bool) -> Overdue | None:
    if silent_s <= (limits.client_body_timeout_s if client_is_full else limits.upstream_idle_timeout_s):
        return None
    return Overdue("timeout", "client_stalled" if client_is_full else "upstream_stalled")
