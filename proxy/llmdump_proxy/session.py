"""One client connection: what to do for each thing that happens. No sockets, no clock, no tasks in here.

A `Session` is told what its transports saw and calls `write`, `close`, `pause_reading` … on them; tests hand in small
fakes and read a transcript. The handler of each side *is* the state of that side:

    client side      _await_head ──▶ _request_body ──▶ _await_response ──▶ _await_head …
                         │                 │                  └─(101)─▶ _pipe_up
                         └──── refused, or answered by us ────▶ _discard ─▶ closed
    backend side     _no_upstream ──▶ _response_head ──▶ _response_body ──▶ _response_over ──▶ _no_upstream
                                            │                               (request still coming)
                                            └─(101)─▶ _pipe_down

Rules for whoever edits this file:
- Bytes read are written on in the same call, unchanged, before anything is recorded or counted.
- An exchange begins when its head is whole (or refused) and ends by `_finish`, exactly once, with a reason.
- A response that was begun and cannot be completed ends in a cut connection, never in what looks like a clean end.
- One exchange at a time: what a client sends early waits in `_pending` (pipelining, RFC 9112 section 9.3.2).
"""

import time
from collections.abc import Callable
from typing import Final

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, entries
from llmdump_proxy import flow_control, overdue, rewrite
from llmdump_proxy.answers import error_response
from llmdump_proxy.engine import Engine
from llmdump_proxy.exchange import Exchange
from llmdump_proxy.flow_control import Brake
from llmdump_proxy.framing import BadFramingError, Piece, UntilCloseBody, body_of
from llmdump_proxy.head import (
    CRLF2,
    UNTIL_CLOSE,
    BadHeadError,
    RequestHead,
    ResponseHead,
    check_request_begins,
    check_response_begins,
    end_of_head,
    parse_response,
    path_of_broken,
)
from llmdump_proxy.journal import Journal
from llmdump_proxy.plans import Plan
from llmdump_proxy.ports import Transport, Upstream
from llmdump_proxy.rules import Levels

PENDING_BYTES_MAX: Final = 65536
"""Pipelined bytes kept while an exchange goes on; beyond, the client is not read."""
BACKLOG_BYTES_MAX: Final = 65536
"""Request body kept while the backend is being reached; beyond, the client is not read."""
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Session:
    """One client connection and the backend connection that serves it at the moment."""

    def __init__(self, engine: Engine, client: Transport, peer: str) -> None:
        """`peer` is the client's address, `host:port`."""
        self._engine = engine
        self._client = client
        self._peer = entries({"x_peer": peer})[0]
        self._told = engine.trusted.told(peer)
        self._name = engine.session_name()
        self._upstream: Upstream | None = None
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._pending = b""
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._client_brake = Brake(client)
        self._upstream_brake = Brake()
        self._dial: Callable[[], None] | None = None
        self._from_client: Callable[[bytes], None] = self._await_head
        self._from_upstream: Callable[[bytes], None] = self._no_upstream
        self._touched = engine.clock.now
        self._head_since = 0.0
        self._client_ended = False
        self._closing = False

    # ------------------------------------------------------------------ what the transports saw

    def client_data(self, data: bytes) -> None:
        """Bytes came from the client."""
        self._touched = self._engine.clock.now
        self._engine.stats.client_bytes += len(data)
        self._from_client(data)

    def upstream_data(self, data: bytes) -> None:
        """Bytes came from the backend."""
        self._touched = self._engine.clock.now
        self._engine.stats.upstream_bytes += len(data)
        self._from_upstream(data)

    def client_eof(self) -> bool:
        """The client sends no more. True keeps the connection open for what is still to be answered.

        A half-close is passed on where it can be (plain TCP): the backend then decides, as it would have without us.
        To a TLS backend it cannot be, and is taken for what it nearly always is: the client has gone.
        """
        exchange = self._exchange
        if exchange is None:
            self._head_cut()
            return False
        if self._from_client == self._discard:
            return False
        if not exchange.body.done and not self._piping:
            over = exchange.response_over
            self._finish("complete" if over else "client_closed", "request_unfinished" if over else "request_cut")
            return False
        self._client_ended = True
        if self._pending:
            return True  # what was sent ahead is answered first
        if exchange.upstream_eof:
            self._finish("complete", "")
            return False
        exchange.client_eof = True
        exchange.client_left = exchange.response is not None and not self._piping
        return self._upstream is None or self._pass_eof_on(self._upstream)

    def _pass_eof_on(self, upstream: Upstream) -> bool:
        if upstream.transport.can_write_eof():
            upstream.transport.write_eof()
            return True
        self._finish("client_closed", "client_left")
        return False

    def client_lost(self) -> None:
        """The client's connection is gone."""
        self._closing = True
        if self._exchange:
            self._finish("client_closed", "client_left")
        else:
            self._head_cut()

    def upstream_ready(self, upstream: Upstream) -> None:
        """The backend was reached."""
        self._dial = None
        self._touched = self._engine.clock.now
        exchange = self._exchange
        assert exchange and exchange.plan
        self._attach(exchange, upstream, b"".join(self._backlog))
        self._backlog, self._backlog_bytes = [], 0
        exchange.journal.forward(exchange.plan, exchange.length_digits, upstream)
        self._client_brake.release(flow_control.BACKLOG)
        if exchange.client_eof:
            self._pass_eof_on(upstream)

    def upstream_failed(self, status: int, code: str, message: str) -> None:
        """The backend was not reached."""
        self._dial = None
        self._answer(status, code, message, "timeout" if status == 504 else "upstream_error")

    def upstream_lost(self, error: Exception | None) -> None:
        """The backend's connection is gone; see `ports.Served`."""
        cut_short = isinstance(error, EOFError)
        if cut_short:
            error = None
        upstream, self._upstream = self._upstream, None
        self._upstream_brake.detach()
        self._from_upstream = self._no_upstream
        exchange = self._exchange
        if exchange is None or upstream is None:
            return
        if exchange.response_over:
            self._finish("complete", "request_unfinished")
        elif exchange.response is None:
            self._lost_before_response(exchange, upstream, error)
        elif error is None and (self._piping or (isinstance(exchange.response_body, UntilCloseBody) and not cut_short)):
            self._end_of_body(exchange)
        else:
            self._cut_by_upstream(exchange, error)

    def upstream_eof(self) -> bool:
        """The backend sends no more. True keeps its connection open, for a pipe is two streams and one has not ended."""
        exchange, upstream = self._exchange, self._upstream
        if not exchange or not upstream or not self._piping or exchange.client_eof or not upstream.transport.can_write_eof():
            return False
        exchange.upstream_eof = True
        self._client.write_eof()
        return True

    def client_full(self) -> None:
        """The client reads slower than we write."""
        self._upstream_brake.hold(flow_control.CLIENT_FULL)

    def client_drained(self) -> None:
        """The client has caught up."""
        self._touched = self._engine.clock.now
        self._upstream_brake.release(flow_control.CLIENT_FULL)

    def upstream_full(self) -> None:
        """The backend reads slower than we write."""
        self._client_brake.hold(flow_control.UPSTREAM_FULL)

    def upstream_drained(self) -> None:
        """The backend has caught up."""
        self._touched = self._engine.clock.now
        self._client_brake.release(flow_control.UPSTREAM_FULL)

    def capture_full(self) -> None:
        """Records have no room, and clients are to wait (`on_overflow: block`)."""
        self._client_brake.hold(flow_control.CAPTURE)
        self._upstream_brake.hold(flow_control.CAPTURE)

    def capture_drained(self) -> None:
        """Records have room again."""
        self._touched = self._engine.clock.now
        self._client_brake.release(flow_control.CAPTURE)
        self._upstream_brake.release(flow_control.CAPTURE)

    # ------------------------------------------------------------------ time and stopping

    @property
    def last_active(self) -> float:
        """When something came from either side, on the engine's clock."""
        return self._touched

    def tick(self) -> None:
        """Look whether something has taken too long. Called a few times a second."""
        limits, now = self._engine.settings, self._engine.clock.now
        silent_s = now - self._touched
        if self._client_brake.why and self._engine.has_died(self._client):
            self._client.abort()  # `client_lost` follows
            return
        if self._client_brake.why & flow_control.CAPTURE:
            return
        if self._from_client == self._discard:
            self._tick_closing(now - self._head_since, silent_s)
        elif self._exchange is not None:
            self._tick_exchange(self._exchange, silent_s)
        elif self._buffer:
            if now - self._head_since > limits.client_header_timeout_s:
                self._refuse(self._buffer, BadHeadError(408, "head_timeout", "the request head did not come in time"))
        elif silent_s > limits.client_idle_timeout_s:
            self._client.close()

    def _tick_closing(self, lingering_s: float, silent_s: float) -> None:
        if silent_s > self._engine.settings.client_body_timeout_s:
            self._client.abort()  # it does not even read our last word
        elif lingering_s > overdue.LINGER_S:
            self._client.close()

    def _tick_exchange(self, exchange: Exchange, silent_s: float) -> None:
        limits = self._engine.settings
        if self._piping:
            found = overdue.of_pipe(exchange, silent_s, limits)
        elif self._dial:
            return
        else:
            found = overdue.of_exchange(exchange, silent_s, limits, self._client_brake.why, self._upstream_brake.why)
        if found is None:
            return
        if found.reason == "complete":
            self._finish("complete", found.code)
        else:
            self._answer(found.status, found.code, found.message, found.reason)

    def turn_away(self) -> None:
        """Serve nothing: there are too many connections."""
        self._engine.stats.refused_connections += 1
        limit = self._engine.settings.max_connections
        self._client.write(error_response(503, "too_many_connections", f"{limit} connections are open (max_connections)"))
        self._close_client(lingering=True, reset=False)

    def shut_down(self) -> None:
        """End whatever goes on, now."""
        self._closing = True
        if self._exchange is None:
            self._client.close()
        elif self._exchange.response is None:
            self._answer(503, "shutdown", "llmdump is stopping", "shutdown")
        else:
            self._cut(self._exchange, "shutdown", "")

    # ------------------------------------------------------------------ the client's side

    def _await_head(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        if self._buffer:
            data = self._buffer + data
        else:
            self._head_since = self._engine.clock.now
        if data[:1] in b"\r\n":
            data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2
        try:
            end = data.find(CRLF2) + 4
            if not 4 <= end <= self._engine.settings.max_head_bytes:
                self._head_goes_on(data)
                return
            plan, digits = self._engine.plans.of(data[:end])
        except BadHeadError as err:
            self._refuse(data, err)
            return
        self._buffer = b""
        self._begin(plan, digits, data[end:], since_ns)

    def _head_goes_on(self, data: bytes) -> None:
        """Keep the beginning of a head. Raises BadHeadError for what never will be one."""
        if data and CRLF2 not in data:
            check_request_begins(data)
        end_of_head(data, self._engine.settings.max_head_bytes)
        self._buffer = data

    def _begin(self, plan: Plan, digits: bytes, rest: bytes, since_ns: int) -> None:
        """A whole head was read, and `rest` behind it."""
        exchange = self._open(plan.provider, plan.levels)
        exchange.plan, exchange.length_digits = plan, digits
        exchange.length = int(digits) if digits else plan.head.body
        exchange.body = body_of(exchange.length)
        self._from_client = self._request_body if exchange.length else self._await_response
        if plan.route is None:
            exchange.journal.request(plan, digits)
            path = plan.head.path
            self._answer(404, "no_route", f"no backend for {path}: set LLMDUMP_UPSTREAM or a route", "bad_request")
            return
        upstream = self._engine.take_upstream(plan.route.origin)
        if upstream is None:
            exchange.journal.request(plan, digits)
            self._dial = self._engine.dial(self, plan.route.origin)
            if rest:
                self._from_client(rest)
        else:
            self._pass_on(exchange, plan, upstream, rest, since_ns)

    def _pass_on(self, exchange: Exchange, plan: Plan, upstream: Upstream, rest: bytes, since_ns: int) -> None:
        """Send the head on, in one write with what was read of a body of known length."""
        piece = exchange.body.feed(rest) if rest and exchange.length > 0 else None
        self._attach(exchange, upstream, rest[: piece.used] if piece else b"")
        exchange.took(exchange.forwarded_at_ns - since_ns)
        exchange.journal.request(plan, exchange.length_digits)
        exchange.journal.forward(plan, exchange.length_digits, upstream)
        if piece:
            self._took_of_request(exchange, piece, rest)
        elif rest:
            self._from_client(rest)

    def _open(self, provider: str, levels: Levels) -> Exchange:
        engine = self._engine
        journal = Journal(engine.recorder, engine.secrets, self._peer, self._told, self._name, provider, levels)
        engine.stats.began(recorded=journal.recorded)
        exchange = self._exchange = Exchange(journal)
        return exchange

    def _attach(self, exchange: Exchange, upstream: Upstream, body: bytes) -> None:
        """Send the head on, and what there is of the body."""
        assert exchange.plan is not None
        self._upstream = upstream
        upstream.uses += 1
        upstream.attach(self)
        self._upstream_brake.attach(upstream.transport)
        self._from_upstream = self._response_head
        before, after = exchange.plan.sent
        upstream.transport.write(b"%b%b%b%b" % (before, exchange.length_digits, after, body))
        exchange.forwarded_at_ns = time.perf_counter_ns()

    def _request_body(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        exchange = self._exchange
        assert exchange is not None
        try:
            piece = exchange.body.feed(data)
        except BadFramingError as err:
            self._answer(400, "malformed_body", str(err), "bad_request")
            return
        self._send_upstream(data if piece.used == len(data) else data[: piece.used])
        exchange.took(time.perf_counter_ns() - since_ns)
        self._took_of_request(exchange, piece, data)

    def _took_of_request(self, exchange: Exchange, piece: Piece, data: bytes) -> None:
        exchange.request_bytes += len(piece.payload)
        exchange.journal.body(CLIENT_TO_PROXY, piece)
        if piece.done:
            self._request_over(exchange, data[piece.used :])

    def _request_over(self, exchange: Exchange, rest: bytes) -> None:
        self._from_client = self._await_response
        if exchange.response_over:
            self._pending = rest
            self._finish("complete", "")
        elif rest:
            self._await_response(rest)

    def _send_upstream(self, data: bytes) -> None:
        if self._upstream:
            self._upstream.transport.write(data)
            return
        self._backlog.append(data)
        self._backlog_bytes += len(data)
        if self._backlog_bytes > BACKLOG_BYTES_MAX:
            self._client_brake.hold(flow_control.BACKLOG)

    def _await_response(self, data: bytes) -> None:
        """The client sends ahead: the next request, or the first frames after an upgrade it asked for."""
        self._pending += data
        if len(self._pending) > PENDING_BYTES_MAX:
            self._client_brake.hold(flow_control.PENDING)

    def _discard(self, data: bytes) -> None:
        """What comes after our last word is read and dropped, for a while, so that the client can read that word."""

    # ------------------------------------------------------------------ the backend's side

    def _no_upstream(self, data: bytes) -> None:
        raise AssertionError("data from a backend that is not attached")

    def _response_head(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        exchange = self._exchange
        assert exchange and exchange.plan
        request = exchange.plan.head
        exchange.heard = True
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        try:
            end = end_of_head(data, self._engine.settings.max_head_bytes)
            if not end:
                check_response_begins(data)
                self._buffer = data
                return
            response = parse_response(data[:end], request.method)
            if response.status == 101 and not request.upgrade:
                raise BadHeadError(502, "upstream_malformed", "the backend switches protocols, nobody asked it to")
        except BadHeadError as err:
            code = "upstream_head_too_large" if err.status == 431 else "upstream_malformed"
            self._answer(502, code, f"the backend's answer cannot be passed on: {err}", "upstream_error")
            return
        if response.status >= 200:
            self._begin_response(exchange, request, response, data, since_ns)
        elif response.status == 101:
            self._switch(exchange, response, data[end:])
        else:
            self._interim(exchange, request, response, data[end:])

    def _interim(self, exchange: Exchange, request: RequestHead, response: ResponseHead, rest: bytes) -> None:
        if request.raw.find(b" HTTP/1.1\r\n") > 0:  # RFC 9110 section 15.2: never to an HTTP/1.0 client
            self._client.write(response.raw)
        exchange.journal.interim(response.raw, response.status)
        if rest:
            self._response_head(rest)

    def _begin_response(
        self, exchange: Exchange, request: RequestHead, response: ResponseHead, data: bytes, since_ns: int
    ) -> None:
        """A final head was read, and what is behind it in `data`."""
        rest = data[len(response.raw) :]
        body = exchange.response_body = body_of(response.body)
        try:
            piece = body.feed(rest) if rest and not body.done else _NOTHING
        except BadFramingError as err:
            self._answer(502, "upstream_malformed", f"the backend's answer cannot be passed on: {err}", "upstream_error")
            return
        exchange.response = response
        # Whoever reads HTTP/1.0 takes the end of the connection for the end of the message, whatever the framing says.
        until_close = response.body == UNTIL_CLOSE or response.raw.startswith(b"HTTP/1.0")
        if until_close or self._engine.leaving or not request.keep_alive or not exchange.body.done:
            self._closing = True
        if self._closing or response.hop_by_hop or piece.used != len(rest):
            data = rewrite.response(response.raw, response.connection, close=self._closing) + rest[: piece.used]
        self._client.write(data)
        exchange.own_first_ns = time.perf_counter_ns() - since_ns
        exchange.took(exchange.own_first_ns)
        self._from_upstream = self._response_body
        exchange.journal.response(response.raw, response.status, (since_ns - exchange.forwarded_at_ns) / 1e6)
        if piece.used:
            self._took_of_response(exchange, piece, rest)
        elif body.done:
            self._response_ends(exchange, rest)

    def _response_body(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        exchange = self._exchange
        assert exchange is not None
        try:
            piece = exchange.response_body.feed(data)
        except BadFramingError:
            self._cut(exchange, "upstream_error", "upstream_malformed")
            return
        self._client.write(data if piece.used == len(data) else data[: piece.used])
        exchange.took(time.perf_counter_ns() - since_ns)
        self._took_of_response(exchange, piece, data)

    def _took_of_response(self, exchange: Exchange, piece: Piece, data: bytes) -> None:
        exchange.response_bytes += len(piece.payload)
        exchange.journal.body(BACKEND_TO_PROXY, piece)
        if piece.done:
            self._response_ends(exchange, data[piece.used :])

    def _response_ends(self, exchange: Exchange, rest: bytes) -> None:
        exchange.response_over = True
        upstream = self._upstream
        assert upstream and exchange.response
        if rest:  # nobody asked for more: this connection cannot be trusted with another request
            exchange.response = exchange.response._replace(keep_alive=False)
        if exchange.body.done:
            self._finish("complete", "")
        else:
            self._closing = self._closing or not exchange.response.keep_alive
            self._from_upstream = self._response_over

    def _response_over(self, data: bytes) -> None:
        """The backend sends something after its whole response, while the request still goes on."""
        self._finish("complete", "request_unfinished")

    def _end_of_body(self, exchange: Exchange) -> None:
        """The backend's clean end of connection is the end of the message, unless it was told that the client has left."""
        if exchange.client_left:
            self._cut(exchange, "client_closed", "client_left")
            return
        exchange.response_over = True
        if not self._piping:
            exchange.journal.body(BACKEND_TO_PROXY, _LAST)
        self._closing = True
        self._finish("complete", "")

    # ------------------------------------------------------------------ upgrades

    @property
    def _piping(self) -> bool:
        return self._from_upstream == self._pipe_down

    def _switch(self, exchange: Exchange, response: ResponseHead, rest: bytes) -> None:
        """The backend has switched protocols: from here on two streams of bytes, RFC 9110 section 7.8."""
        self._client.write(response.raw)
        exchange.response = response
        exchange.body = exchange.response_body = UntilCloseBody()
        self._closing = True
        exchange.journal.response(response.raw, 101, (time.perf_counter_ns() - exchange.forwarded_at_ns) / 1e6)
        self._from_client, self._from_upstream = self._pipe_up, self._pipe_down
        early, self._pending = self._pending, b""
        self._client_brake.release(flow_control.PENDING)
        if early:
            self._pipe_up(early)
        if rest:
            self._pipe_down(rest)
        if self._client_ended:
            self.client_eof()

    def _pipe_up(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        exchange = self._exchange
        assert exchange and self._upstream
        self._upstream.transport.write(data)
        exchange.took(time.perf_counter_ns() - since_ns)
        exchange.request_bytes += len(data)
        exchange.journal.pipe(CLIENT_TO_PROXY, data)

    def _pipe_down(self, data: bytes) -> None:
        since_ns = time.perf_counter_ns()
        exchange = self._exchange
        assert exchange is not None
        self._client.write(data)
        exchange.took(time.perf_counter_ns() - since_ns)
        exchange.response_bytes += len(data)
        exchange.journal.pipe(BACKEND_TO_PROXY, data)

    # ------------------------------------------------------------------ endings

    def _lost_before_response(self, exchange: Exchange, upstream: Upstream, error: Exception | None) -> None:
        assert exchange.plan and exchange.plan.route
        idempotent = exchange.plan.head.method in _IDEMPOTENT
        if exchange.client_eof:
            self._closing = True
            self._finish("client_closed", "client_left")
        elif upstream.uses > 1 and not exchange.heard and idempotent and exchange.length == 0:
            # A kept connection that died as we used it: RFC 9110 section 9.2.2 lets these be sent once more.
            self._dial = self._engine.dial(self, exchange.plan.route.origin)
        elif error is None:
            self._answer(502, "upstream_closed", "the backend closed the connection without an answer", "upstream_closed")
        else:
            self._answer(502, "upstream_reset", f"the backend broke the connection: {error}", "upstream_error")

    def _cut_by_upstream(self, exchange: Exchange, error: Exception | None) -> None:
        if exchange.client_eof:
            self._cut(exchange, "client_closed", "client_left")
        elif error is None:
            self._cut(exchange, "upstream_closed", "upstream_cut")
        else:
            self._cut(exchange, "upstream_error", "upstream_reset")

    def _cut(self, exchange: Exchange, reason: str, code: str) -> None:
        """End a response that was begun, so that the client cannot take it for a whole one."""
        unframed = isinstance(exchange.response_body, UntilCloseBody)
        self._closing = True
        self._finish(reason, code, reset=unframed)

    def _refuse(self, received: bytes, err: BadHeadError) -> None:
        """Answer a head that is not to be forwarded; the exchange is recorded with what was received of it."""
        self._buffer = b""
        engine = self._engine
        end = received.find(b"\r\n\r\n") + 4
        received = received[: end if end > 3 else engine.settings.max_head_bytes]
        levels = engine.rules.levels(path_of_broken(received))
        exchange = self._open("unknown", levels)
        exchange.body = UntilCloseBody()  # whatever follows is not a body we could tell the end of
        exchange.journal.refused(received, err.code)
        reason = "timeout" if err.status == 408 else "bad_request"
        self._answer(err.status, err.code, str(err), reason)

    def _head_cut(self) -> None:
        """The client's connection ends: what there is of a head is recorded, for it came."""
        received, self._buffer = self._buffer, b""
        if received:
            exchange = self._open("unknown", self._engine.rules.levels(path_of_broken(received)))
            exchange.journal.refused(received, "head_cut")
            self._closing = True
            self._finish("client_closed", "head_cut")

    def _answer(self, status: int, code: str, message: str, reason: str) -> None:
        """Answer in the backend's place and end the exchange and the connection. A begun response is cut instead."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.response is not None:
            self._cut(exchange, reason, code)
            return
        head_only = exchange.plan is not None and exchange.plan.head.method == b"HEAD"
        response = error_response(status, code, message, head_only=head_only)
        self._client.write(response)
        exchange.journal.answer(response, status)
        self._closing = True
        self._finish(reason, code)

    def _finish(self, reason: str, code: str, *, reset: bool = False) -> None:
        """The exchange is over, whatever way it went. Leaves the session ready for the next one, or closing."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        if self._dial:
            self._dial()
            self._dial = None
        self._buffer = b""
        if self._backlog:
            self._backlog, self._backlog_bytes = [], 0
        request_over = exchange.body.done and self._from_client != self._pipe_up
        self._leave_upstream(exchange, complete=reason == "complete", request_over=request_over)
        self._end_record(exchange, reason, code)
        if request_over and not self._closing and not exchange.client_eof:
            self._next_exchange()
        else:
            sends_more = not request_over or bool(self._pending)
            lingering = sends_more and not self._client_ended and reason != "client_closed"
            self._close_client(lingering=lingering, reset=reset)

    def _end_record(self, exchange: Exchange, reason: str, code: str) -> None:
        own_ns = (exchange.own_first_ns, exchange.own_worst_ns, exchange.own_sum_ns)
        self._engine.stats.ended(reason, own_ns)
        exchange.journal.end(reason, code, exchange.request_bytes, exchange.response_bytes, own_ns)

    def _leave_upstream(self, exchange: Exchange, *, complete: bool, request_over: bool) -> None:
        upstream, self._upstream = self._upstream, None
        self._from_upstream = self._no_upstream
        if upstream is None:
            return
        self._upstream_brake.detach()
        kept = exchange.response is not None and exchange.response.keep_alive and not exchange.client_eof
        self._engine.leave_upstream(upstream, reusable=complete and request_over and kept, flush=complete)

    def _next_exchange(self) -> None:
        self._from_client = self._await_head
        if self._client_brake.why:
            self._client_brake.release(~flow_control.CAPTURE)
        pending, self._pending = self._pending, b""
        if pending:
            self._await_head(pending)
        if self._client_ended and not self.client_eof():
            self._client.close()

    def _close_client(self, *, lingering: bool, reset: bool) -> None:
        self._from_client = self._discard
        self._head_since = self._engine.clock.now
        if reset:
            self._engine.reset(self._client)
        elif lingering and self._client.can_write_eof() and not self._client.is_closing():
            self._client_brake.release(flow_control.ANY)
            self._client.write_eof()
        else:
            self._client.close()


_NOTHING: Final = Piece(0, b"", None, False)
_LAST: Final = Piece(0, b"", None, True)
