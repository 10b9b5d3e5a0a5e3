"""Clients at their sockets: what they sent and what came back, as bytes, each exchange with an id of its own.

    with Load(pipe.proxy, seed) as load:
        load.go_on_for(3.0)
    load.seen        every exchange, also those that were cut

Nothing of the project's own is used to speak HTTP: a message's end is found by thirty lines here. Streams and plain calls,
uploads with a length and in chunks, kept and new connections, by the seed. The id goes out in the target, in a header field
and in the body, and comes back in the answer, so that no two exchanges are alike on either side.
"""

import asyncio
import hashlib
import json
import random
import threading
import time
from typing import Any, Final

from tests.patience import WAIT_S, eventually

WORKERS: Final = 6
THINK_S_MAX: Final = 0.08
UPLOAD_BYTES_MAX: Final = 200_000
"""Most are far smaller: the cube of what is drawn."""
ANSWER_WITHIN_S: Final = 60.0
RETRY_AFTER_S: Final = 0.05
_READ_BYTES: Final = 65536

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer:
    """A response while its bytes come in."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.body = bytearray()
        """Without transfer framing, as far as whole chunks go."""
        self.head_end = 0
        """0 until the head is whole."""
        self.whole = False
        self.at = 0.0
        """When the last bytes came, on the monotonic clock."""
        self._next = 0
        self._length: int | None = None

    def feed(self, data: bytes) -> None:
        """The next bytes of the connection. Raises ValueError for bytes behind the end."""
        self.raw += data
        self.at = time.monotonic()
        if not self.head_end:
            self._head()
        if self.head_end and self._length is None:
            self._chunks()
        elif self.head_end and self._length is not None:
            self.body = self.raw[self.head_end :]
            self.whole = len(self.body) >= self._length
            self._next = self.head_end + self._length
        if self.whole and len(self.raw) > self._next:
            raise ValueError(f"{len(self.raw) - self._next} bytes behind the end of the answer")

    @property
    def status(self) -> int:
        """0 before the head is there."""
        return int(self.raw[9:12]) if self.head_end else 0

    @property
    def head(self) -> bytes:
        """With its blank line; empty until it is whole."""
        return bytes(self.raw[: self.head_end])

    @property
    def wire(self) -> bytes:
        """The body with its transfer framing."""
        return bytes(self.raw[self.head_end :]) if self.head_end else b""

    def _head(self) -> None:
        self.head_end = self._next = self.raw.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in self.raw else 0
        for line in self.head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._length = int(line.partition(b":")[2])

    def _chunks(self) -> None:
        while not self.whole and (line_end := self.raw.find(b"\r\n", self._next)) >= 0:
            size = int(self.raw[self._next : line_end], 16)
            begin, end = line_end + 2, line_end + 2 + size + 2
            if len(self.raw) < end:
                return
            self.body += self.raw[begin : end - 2]
            self._next, self.whole = end, size == 0


class Seen:
    """One exchange as its client saw it."""

    __slots__ = ("answer", "began_at", "body", "connected_at", "ended_at", "error", "head", "id", "wire")

    def __init__(self, own_id: str, head: bytes, body: bytes, wire: bytes) -> None:
        self.id = own_id
        self.head = head
        """Of the request, as sent."""
        self.body = body
        self.wire = wire
        """The request body with its transfer framing."""
        self.answer = Answer()
        self.error = ""
        self.connected_at = 0.0
        """When its connection was asked for, on the monotonic clock."""
        self.began_at = time.monotonic()
        self.ended_at = 0.0


def request(own_id: str, host: str, rng: random.Random) -> Seen:
    """One of the kinds of calls, drawn."""
    kind = rng.choice(("chat stream", "message stream", "chat", "upload", "upload in chunks"))
    fields = [f"Host: {host}", f"X-Sim-Tag: {own_id}", f"X-Sim-Gap-Ms: {rng.choice((1, 5, 20))}"]
    fields += [f"X-Sim-Pieces: {rng.randint(1, 25)}"]
    if rng.random() < 0.3:
        fields.append("Connection: close")
    if kind.startswith("upload"):
        target, body = "/sim/echo", _bytes(own_id, int(rng.random() ** 3 * UPLOAD_BYTES_MAX))
    else:
        target, body = _call(own_id, kind)
    wire = body
    if kind == "upload in chunks":
        fields.append("Transfer-Encoding: chunked")
        wire = _in_chunks(body, rng)
    else:
        fields.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"POST {target}?id={own_id} HTTP/1.1", *fields, "", ""])
    return Seen(own_id, head.encode(), body, wire)


def _call(own_id: str, kind: str) -> tuple[str, bytes]:
    body: dict[str, Any] = {"model": "sim-large", "messages": [{"role": "user", "content": f"{own_id} what is recorded?"}]}
    if kind.endswith("stream"):
        body["stream"] = True
    if kind.startswith("message"):
        return "/v1/messages", json.dumps({**body, "max_tokens": 50}).encode()
    return "/v1/chat/completions", json.dumps(body).encode()


def _bytes(own_id: str, size: int) -> bytes:
    seed = own_id.encode()
    return ((seed + hashlib.sha256(seed).digest()) * (size // 56 + 1))[: max(size, len(seed))]


def _in_chunks(body: bytes, rng: random.Random) -> bytes:
    size = rng.choice((100, 7_000, 50_000))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Load:
    """Clients that ask again and again, until the block is left."""

    def __init__(
        self, url: str, seed: int, *, workers: int = WORKERS, think_s: float = THINK_S_MAX, cuts: bool = False
    ) -> None:
        """With `cuts`, errors of clients are expected: they go on, and errors do not end a wait."""
        self._host = url.removeprefix("http://")
        self._rng = random.Random(seed)
        self._workers, self._think_s, self._cuts = workers, think_s, cuts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self.seen: list[Seen] = []
        self.refused: list[tuple[float, float]] = []
        """From when to when a client tried to connect, and nobody took it."""

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * ANSWER_WITHIN_S)
        assert not self._thread.is_alive()

    @property
    def errors(self) -> list[str]:
        """What went wrong for clients."""
        cut = [f"{one.id}: {one.error}" for one in self.seen if one.error]
        return [*cut, *(f"no connection at {at}" for _, at in self.refused)]

    @property
    def done(self) -> list[Seen]:
        """The exchanges that their clients had whole."""
        return [one for one in self.seen if not one.error]

    def wait_for_more(self, count: int) -> None:
        """Until so many more exchanges are over."""
        enough = len(self.seen) + count
        eventually(lambda: len(self.seen) >= enough or self._is_broken, WAIT_S, f"{count} more exchanges")

    def go_on_for(self, seconds: float) -> None:
        """Until that time has passed."""
        self._stop.wait(seconds)

    @property
    def _is_broken(self) -> bool:
        return not self._cuts and bool(self.errors)

    async def _live(self) -> None:
        seeds = [self._rng.getrandbits(64) for _ in range(self._workers)]
        await asyncio.gather(*(self._work(random.Random(seed)) for seed in seeds))

    async def _work(self, rng: random.Random) -> None:
        connection: Connection | None = None
        connected_at = 0.0
        while not self._stop.is_set():
            if connection is None:
                connected_at = time.monotonic()
                connection = await self._connect()
            if connection is None:
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            one = request(f"{rng.getrandbits(96):024x}", self._host, rng)
            one.connected_at = connected_at
            await _exchange(one, *connection)
            self.seen.append(one)
            if one.error or b"Connection: close" in one.head:
                connection[1].transport.abort()
                connection = None
            await asyncio.sleep(rng.random() * self._think_s)
        if connection:
            connection[1].transport.abort()

    async def _connect(self) -> Connection | None:
        began_at = time.monotonic()
        try:
            return await asyncio.open_connection(*self._host.split(":"))
        except OSError:
            self.refused.append((began_at, time.monotonic()))
            return None


async def _exchange(one: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    one.began_at = time.monotonic()
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            writer.write(one.head + one.wire)
            await writer.drain()
            while not one.answer.whole:
                data = await reader.read(_READ_BYTES)
                if not data:
                    raise EOFError("the connection ended before the answer did")
                one.answer.feed(data)
        if one.answer.status != 200:
            raise ValueError(f"status {one.answer.status}: {one.answer.body[:200]!r}")
    except (OSError, TimeoutError, ValueError, EOFError) as err:
        one.error = f"{type(err).__name__} {err}"
    one.ended_at = time.monotonic()
