"""Many streams held open at the same time: a backend that sends an event to each now and then, and a client that reads it.

with Streams(count) as streams:           # the backend is there: point routes at streams.backend
    streams.open(pipe.proxy)              # all of them have begun
    …
    streams.finish()                      # the backend ends each, and all clients have read to the end
streams.check_all_is_stored(pipe)
"""

import asyncio
import threading
import uuid
from typing import Final

from tests.e2e.load import by_request
from tests.e2e.pipeline import Reader, free_port
from tests.patience import WAIT_S, eventually

PATH: Final = "/held"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Streams:
    """The streams, and what was sent and received on each, by the id in its request."""

    def __init__(self, count: int, gap_s: float = 0.5) -> None:
        self._count = count
        self._gap_s = gap_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._release = asyncio.Event()
        self.backend = f"http://127.0.0.1:{free_port()}"
        self.sent: dict[bytes, bytes] = {}
        self.got: dict[bytes, bytes] = {}
        self.whole: set[bytes] = set()
        self._clients: list[asyncio.Task[None]] = []

    def __enter__(self) -> "Streams":
        self._thread.start()
        self._run(self._serve())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def open(self, url: str) -> None:
        """Open all of them at this proxy; each has had its first event."""
        self._run(self._connect(*url.removeprefix("http://").split(":")))
        eventually(lambda: len(self.got) == self._count and all(self.got.values()), WAIT_S, "all streams have begun")

    def finish(self) -> None:
        """End all at the backend, and wait until every client knows the end of its own."""
        self._loop.call_soon_threadsafe(self._release.set)
        eventually(lambda: all(client.done() for client in self._clients), WAIT_S, "all streams have ended")

    @property
    def broken(self) -> int:
        """Streams that ended otherwise than by their end."""
        return sum(client.done() for client in self._clients) - len(self.whole)

    def check_all_is_stored(self, pipe: Reader) -> None:
        """Every stream is whole, with every byte that the backend sent; and so it is stored, once, and complete."""
        assert len(self.whole) == self._count
        assert self.got == self.sent
        stored = by_request(pipe, [row for row in pipe.rows() if row["route_path"].startswith(PATH)])
        assert {name: [row["end_reason"] for row in rows] for name, rows in stored.items()} == {
            name: ["complete"] for name in self.sent
        }
        assert {name: pipe.response_body(rows[0]) for name, rows in stored.items()} == self.sent

    def _run(self, what: object) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(60)  # type: ignore[arg-type]

    async def _serve(self) -> None:
        host, _, port = self.backend.removeprefix("http://").partition(":")
        self._server = await asyncio.start_server(self._answer, host, int(port), backlog=4096)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        name = await reader.readexactly(32)
        writer.write(_HEAD)
        self.sent[name] = b""
        while not self._release.is_set():
            self._send(writer, name, b"data: %b %d\n\n" % (name, len(self.sent[name])))
            await asyncio.sleep(self._gap_s)
        self._send(writer, name, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        writer.close()

    def _send(self, writer: asyncio.StreamWriter, name: bytes, event: bytes) -> None:
        self.sent[name] += event
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    async def _connect(self, host: str, port: str) -> None:
        self._clients = [asyncio.create_task(self._read(host, int(port))) for _ in range(self._count)]

    async def _read(self, host: str, port: int) -> None:
        name = uuid.uuid4().hex.encode()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST %b/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 32\r\n\r\n%b" % (PATH.encode(), name))
        self.got[name] = b""
        try:
            await reader.readuntil(b"\r\n\r\n")
            while size := int(await reader.readline(), 16):
                self.got[name] += (await reader.readexactly(size + 2))[:-2]
            self.whole.add(name)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # `whole` tells
        finally:
            writer.close()

    async def _end(self) -> None:
        self._release.set()
        for client in self._clients:
            client.cancel()
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=self._gap_s + 5)
