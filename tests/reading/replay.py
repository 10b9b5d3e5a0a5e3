"""Recorded exchanges played again: a backend that gives the recorded answers, and clients that ask for them.

    client ── X-Played: 17 ──▶ proxy ──▶ Backend: answer 17, its body framed in one of the ways of FRAMED

An answer is sent in pieces, each flushed by itself, so that the proxy reads events that are cut anywhere. Exchanges of
one recording are sent one after another, each recording with an API key of its own.
"""

import http.client
import http.server
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from tests.patience import WAIT_S

MARK: Final = "X-Played"
PIECES_MAX: Final = 150
# How the body is framed, and its pieces' size: a length, chunks of many sizes, or the connection's end.
FRAMED: Final = (("length", 1 << 20), ("chunked", 1 << 20), ("chunked", 1000), ("chunked", 61), ("length", 700), ("close", 333))
_CREDENTIALS: Final = frozenset(
    ("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "x-amz-security-token", "proxy-authorization")
)
_NOT_REPLAYED: Final = frozenset(("host", "content-length", "connection", "transfer-encoding", "expect"))

Fields = list[tuple[str, str]]


class Played(NamedTuple):
    """One exchange to be played."""

    name: str
    recording: str
    method: str
    target: str
    fields: Fields
    body: bytes
    status: int
    answer_fields: Fields
    answer: bytes
    """With its content codings."""


class Backend:
    """Serves the answers of these exchanges, at `url` while within `serving`."""

    def __init__(self, exchanges: Sequence[Played]) -> None:
        self._exchanges = exchanges
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["Backend"]:
        """Listens on a port of its own."""
        exchanges = self._exchanges

        class Handler(_Handler):
            answers = exchanges

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join(WAIT_S)
            server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answers: Sequence[Played] = ()

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number = int(self.headers[MARK])
        played = self.answers[number]
        framed, size = FRAMED[number % len(FRAMED)]
        self.send_response_only(played.status)
        for name, value in played.answer_fields:
            self.send_header(name, value)
        framing = {"length": ("Content-Length", str(len(played.answer))), "chunked": ("Transfer-Encoding", "chunked")}
        self.send_header(*framing.get(framed, ("Connection", "close")))
        self.end_headers()
        self._body(played.answer, framed == "chunked", max(size, len(played.answer) // PIECES_MAX))

    def _body(self, body: bytes, chunked: bool, size: int) -> None:
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.flush()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server calls them so

    def log_message(self, *_: object) -> None:
        """Silent."""


def play(proxy: str, exchanges: Sequence[Played], connections: int = 4) -> None:
    """Sends all of them through a proxy, and fails unless each answer comes as it is."""
    recordings: dict[str, list[int]] = {}
    for number, played in enumerate(exchanges):
        recordings.setdefault(played.recording, []).append(number)
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda numbers: _play(proxy, [(number, exchanges[number]) for number in numbers]), recordings.values()))


def _play(proxy: str, recording: list[tuple[int, Played]]) -> None:
    connection = http.client.HTTPConnection(proxy.removeprefix("http://"), timeout=WAIT_S)
    try:
        for number, played in recording:
            connection.request(played.method, played.target, played.body or None, dict(sent_fields(number, played)))
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (played.status, played.answer), played.name
    finally:
        connection.close()


def sent_fields(number: int, played: Played) -> dict[str, str]:
    """The recorded fields, with the recording's own key in place of placeholders."""
    kept = {name: value for name, value in played.fields if name.lower() not in _CREDENTIALS | _NOT_REPLAYED}
    return {**kept, "Authorization": f"Bearer sk-{played.recording}", MARK: str(number)}


def answers(pipe: Any, exchanges: Sequence[Played]) -> dict[str, Any]:
    """What the api says of each, by its name; rows that have none fail."""
    found = {}
    for row in pipe.ended(len(exchanges), within_s=60.0):
        told = pipe.get(f"/api/traces/{row['id']}")
        marks = [value for name, value in told["trace"]["req"]["fields"] if name == MARK]
        found[exchanges[int(marks[0])].name] = told
    return found
