"""What is to be done with a request, told from its head alone, and kept: clients send nearly the same head again. Pure.

Between two requests of one SDK mostly the Content-Length differs and nothing else. So what a head means is kept by its
bytes without the digits of that field, and they are put back where they stood:

    POST /v1/messages HTTP/1.1 ⏎ … ⏎ Content-Length: 1023 ⏎ …        what was received
    ────────── before ──────────────────────────────┘    └─ after     key of the plan, and of what is sent and recorded

That is safe: a head that was accepted is accepted with any other row of digits there (RFC 9110 section 8.6), for it has
one such field only, and its value is looked at anew each time. A head that is refused is not kept.

Kept are KEPT_MAX heads of at most HEAD_BYTES_KEPT_MAX, the oldest goes first: some 10 MB if all are that long. Their
credentials stay in this process as long, as they do in `secrets`.
"""

import re
from typing import Final, NamedTuple

from llmdump.secrets import Secrets
from llmdump_proxy import rewrite
from llmdump_proxy.head import RequestHead, origin_form, parse_request
from llmdump_proxy.routes import Route, Routes, provider
from llmdump_proxy.rules import Levels, Rules

KEPT_MAX: Final = 256
HEAD_BYTES_KEPT_MAX: Final = 8192
_LENGTH = re.compile(rb"(?i)\ncontent-length:[ \t]*([0-9]{1,18})(?=[ \t]*\r)")
_NEVER = re.compile(rb"(?!)")


class Blank(NamedTuple):
    """A head without the digits of its Content-Length: they go between the two."""

    before: bytes
    after: bytes


class MaskedHeads(NamedTuple):
    """What may be recorded of a request's heads, their credentials masked."""

    received: Blank
    sent: Blank
    key_hash: str
    secrets: tuple[bytes, ...]


class Plan:
    """What heads mean that differ in their Content-Length only."""

    __slots__ = ("_digits", "_line", "_masked", "head", "levels", "provider", "route", "sent")

    def __init__(self, head: RequestHead, length: re.Match[bytes] | None, route: Route | None, levels: Levels) -> None:
        """`length`: where the field stands in it, if that is what differs."""
        self.head = head
        """Of the first of them: `raw` and `body` are that one's."""
        self.route = route
        self.levels = levels
        self.provider = provider(head.path)
        self._line, self._digits = (length[0], length[1]) if length else (b"", b"")
        self._masked: MaskedHeads | None = None
        self.sent = self._blank(_sent(head.raw, head, route) if route else b"")
        """What the backend gets; nothing without a route."""

    def masked(self, secrets: Secrets) -> MaskedHeads:
        """The heads as they may be recorded; made at the first call."""
        if self._masked is None:
            received = secrets.mask(self.head.raw)
            sent = received.same_in(self.sent.before + self._digits + self.sent.after)
            if sent is None:  # what would have been sent, had the client sent the masked head
                sent = _sent(received.head, self.head, self.route) if self.route else b""
            heads = self._blank(received.head), self._blank(sent)
            self._masked = MaskedHeads(*heads, received.key_hash, received.secrets)
        return self._masked

    def _blank(self, head: bytes) -> Blank:
        if not self._line or not head:
            return Blank(head, b"")
        end = head.index(self._line) + len(self._line)
        return Blank(head[: end - len(self._digits)], head[end:])


def _sent(raw: bytes, head: RequestHead, route: Route) -> bytes:
    target = head.target if raw is head.raw else origin_form(raw[: raw.index(b"\n")].split(b" ")[1])
    return rewrite.request(raw, route.target(target), route.host, head.connection, head.upgrade)


class Plans:
    """The plans that are kept."""

    def __init__(self, routes: Routes, rules: Rules, secrets: Secrets) -> None:
        self._routes = routes
        self._rules = rules
        self._kept: dict[bytes, Plan] = {}
        # Who has the field masked has a plan for each length.
        self._search = _NEVER.search if secrets.masks(b"content-length") else _LENGTH.search

    def of(self, raw: bytes) -> tuple[Plan, bytes]:
        """The plan of a whole request head, and the digits of its Content-Length, or nothing. Raises BadHeadError."""
        length = self._search(raw)
        if length is None:
            key, digits = raw, b""
        else:
            start, end = length.span(1)
            key, digits = raw[:start] + raw[end:], raw[start:end]
        plan = self._kept.get(key)
        if plan is None:
            plan = self._made(raw, length)
            self._keep(key, plan)
        return plan, digits

    def _made(self, raw: bytes, length: re.Match[bytes] | None) -> Plan:
        head = parse_request(raw)
        return Plan(head, length, self._routes.find(head.path), self._rules.levels(head.path))

    def _keep(self, key: bytes, plan: Plan) -> None:
        if len(key) > HEAD_BYTES_KEPT_MAX:
            return
        if len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = plan
