"""Segment files made for tests: records of whole exchanges as a proxy makes them, appended as a writer does it."""

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmdump import presence, record
from llmdump.data_dir import DataDir
from llmdump.presence import Card
from llmdump.segment import header
from tests.patience import WAIT_S, Limit, eventually

BEGAN_S = 1_767_225_600.0


class Instance:
    """A proxy instance: numbers its records, and has a clock that goes on 1 ms a record."""

    def __init__(self, name: str = "00" * 8, began_s: float = BEGAN_S) -> None:
        self.name = name
        self.number = 0
        self.began_s = began_s

    def record(
        self, exchange: str, direction: int, kind: str, data: bytes = b"", common: dict[str, Any] | None = None, **meta: Any
    ) -> bytes:
        """The next record."""
        self.number += 1
        extra, count = record.entries(meta)
        identity = record.Identity(self.name, exchange, common)
        ts = self.began_s + self.number / 1000
        return record.encode(ts, direction, self.number, data, identity, record.kind_entry(kind), extra, count)

    def about(self, kind: str, **meta: Any) -> bytes:
        """A record about the instance itself."""
        return self.record(record.NO_EXCHANGE, 0, kind, **meta)


def new_id(index: int) -> str:
    """An exchange id that rises with the index."""
    return str(uuid.UUID(int=(0x0190 << 112) | (0x7 << 76) | (0x8 << 60) | index))


def exchange(
    instance: Instance,
    id: str,  # noqa: A002
    request: bytes = b'{"model":"gpt-4o","stream":false}',
    response: tuple[bytes, ...] = (b'{"ok":true}',),
    path: str = "/v1/chat/completions",
    status: int = 200,
    content_type: str = "application/json",
    key: str = "ab" * 8,
    end: str = "complete",
    response_fields: str = "",
    upstream: str = "http://backend",
) -> Iterator[bytes]:
    """The records of one exchange, made as they are asked for."""
    common = {"sid": "c1", "be": "openai"}
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\r\n".encode("latin-1")
    yield instance.record(id, 0, "head", head, common, x_peer="127.0.0.1:5000", x_key=key)
    if request:
        yield instance.record(id, 0, "chunk", request, common, ci=1, x_z=True)
    yield instance.record(id, 2, "forward", head, common, x_up=upstream, x_addr="127.0.0.1:9", x_dial=1.5, x_new=True)
    answer = f"HTTP/1.1 {status} Fine\r\ncontent-type: {content_type}\r\n{response_fields}\r\n".encode("latin-1")
    yield instance.record(id, 3, "head", answer, common, sc=status, ttfb=2.0)
    for index, data in enumerate(response, 1):
        last = {"x_z": True} if index == len(response) else {}
        yield instance.record(id, 3, "chunk", data, common, ci=index, **last)
    sizes = {"tc": len(response), "tb": sum(map(len, response)), "x_req": len(request)}
    own = {"x_own": [10, 20, 30], "x_lost": 0}
    yield instance.record(id, 1, "end", b"", common, se=True, x_end=end, x_err="", **sizes, **own)


def begin_segment(data: DataDir, number: int = 1, writer: str = "w0") -> Path:
    """A new CBOR segment with its header."""
    path = data.segments / f"{writer}-{number:08d}.cbor"
    path.write_bytes(header(writer, number, BEGAN_S))
    return path


def append(path: Path, content: bytes) -> None:
    """Write at the end of a file, as a writer does."""
    with path.open("ab", buffering=0) as file:
        file.write(content)


def command(role: str, data: DataDir, **flags: str) -> list[str]:
    """The command line of a service, listening on free ports."""
    code = f"from llmdump_{role}.main import main; main()"
    given = {"indexer": {"indexer-admin-listen": "127.0.0.1:0"}, "api": {"api-listen": "127.0.0.1:0"}}.get(role, {})
    words = [f"--{name}={value}" for name, value in (given | flags).items()]
    return [sys.executable, "-c", code, f"--data-dir={data.root}", *words]


class Service:
    """A service as a real process."""

    def __init__(self, role: str, data: DataDir, **flags: str) -> None:
        self.role = role
        self.data = data
        self.process = subprocess.Popen(command(role, data, **flags), stderr=subprocess.PIPE, text=True)

    def card(self) -> Card:
        """Its card, once it runs."""

        def own() -> Card | None:
            assert self.process.poll() is None, self.errors()
            cards = presence.living(self.data.run, self.role)
            return next((card for card in cards if card.pid == self.process.pid and card.state == "running"), None)

        return until(own)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 5.0) -> int:
        """SIGTERM; its exit code. Fails if it does not leave in time."""
        limit = Limit(within_s)
        self.process.send_signal(signal.SIGTERM)
        until(lambda: self.process.poll() is not None, limit)
        assert self.process.returncode is not None
        return self.process.returncode

    def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        return self.process.communicate()[1] or ""


@contextmanager
def running(role: str, data: DataDir, **flags: str) -> Iterator[Service]:
    """A service that runs within the `with`, killed at its end if it is still there."""
    service = Service(role, data, **flags)
    try:
        service.card()
        yield service
    finally:
        if service.process.poll() is None:
            service.kill()
        if service.process.stderr is not None:
            service.process.stderr.close()


def until(look: Callable[[], Any], within: float | Limit = WAIT_S) -> Any:
    """What `look` gives as soon as it is true; fails if it never is."""
    return eventually(look, within, every_s=0.005)
