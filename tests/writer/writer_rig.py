"""A real writer process and a raw DEALER that speaks to it as a proxy does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import zmq

from llmdump import jsonl, presence, record, segment, wire
from llmdump.process import LEAVE_WITHIN_S
from llmdump.record import Identity, Record
from llmdump.segment import Damage, Located, SegmentFile
from llmdump.wire import Ack, Batch, FromWriter, Have, Hello, Resync, Retire
from tests.patience import WAIT_S, Limit, eventually

EXCHANGE = "01900000-0000-7000-8000-000000000001"
T = TypeVar("T")


def wait_for(what: Callable[[], T | None], within_s: float = WAIT_S) -> T:
    """What `what` gives, once it gives something true; an AssertionError if it never does."""
    found = eventually(what, within_s, every_s=0.005)
    assert found is not None
    return found


class Writer:
    """One `llmdump-writer` on a data directory. Use in a `with`; it is killed at the end."""

    def __init__(
        self, data: Path, command: Sequence[str] = (), program: Sequence[str] = ("-m", "llmdump_writer.main"), **settings: Any
    ) -> None:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in {**DEFAULTS, **settings}.items()]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LLMDUMP_")}
        self.data = data
        self.log_path = data.parent / f"writer-{time.monotonic_ns()}.log"
        data.mkdir(mode=0o700, exist_ok=True)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, *program, f"--data-dir={data}", *flags],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=data.parent,
                env=clean,
            )

    @property
    def log(self) -> str:
        """What it said on stderr."""
        return self.log_path.read_text()

    def card(self) -> presence.Card:
        """Its card, once it works."""
        return wait_for(self._card)

    def _card(self) -> presence.Card | None:
        assert self.process.poll() is None, self.log
        cards = presence.living(self.data / "run", "writer") if (self.data / "run").exists() else []
        return next((card for card in cards if card.pid == self.process.pid and card.listen), None)

    def metrics(self) -> dict[str, float]:
        """Its metrics page: each line's name with labels, and value."""
        with urllib.request.urlopen(self.card().admin + "/metrics", timeout=WAIT_S) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def health(self) -> int:
        """The status of its /healthz."""
        try:
            with urllib.request.urlopen(self.card().admin + "/healthz", timeout=WAIT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as err:
            return err.code

    def health_details(self) -> dict[str, Any]:
        """What its /healthz says."""
        try:
            with urllib.request.urlopen(self.card().admin + "/healthz", timeout=WAIT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as err:
            return dict(json.load(err))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self, within_s: float = LEAVE_WITHIN_S) -> float:
        """SIGTERM; the seconds it took to leave. Fails if it does not in time."""
        limit = Limit(within_s)
        self.process.send_signal(signal.SIGTERM)
        eventually(lambda: self.process.poll() is not None, limit, lambda: self.log, every_s=0.005)
        assert self.process.returncode == 0, self.log
        return limit.passed_s

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


DEFAULTS = {"capture_flush_interval": 0.02, "capture_seal": "false", "writer_admin_listen": "127.0.0.1:0"}


def chunk(number: int, data: bytes, instance: str, exchange: str = EXCHANGE) -> bytes:
    """A chunk record."""
    return record.encode_chunk(1700000000.5 + number, 3, number, data, Identity(instance, exchange), number, False)


class Proxy:
    """A raw DEALER. Use in a `with`."""

    def __init__(self, endpoint: str, instance: str = "00000000000000aa") -> None:
        self.instance = instance
        self.nonce = b""
        self.seq = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, instance.encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.connect(endpoint)

    def say(self, message: wire.FromProxy) -> None:
        """Send any message."""
        self._socket.send_multipart(wire.encode(message))

    def send_frames(self, frames: list[bytes]) -> None:
        """Send anything."""
        self._socket.send_multipart(frames)

    def hear(self, within_s: float = WAIT_S) -> FromWriter | None:
        """The next message, or None."""
        if not self._socket.poll(int(within_s * 1000)):
            return None
        return wire.from_writer(self._socket.recv_multipart())

    def hello(self, within_s: float = WAIT_S) -> int:
        """Begin a session: what the writer holds."""
        self.nonce, self.seq = os.urandom(8), 0
        self.say(Hello(self.nonce))
        while (answer := self.hear(within_s)) is not None:
            if isinstance(answer, Have) and answer.nonce == self.nonce:
                return answer.held
        raise AssertionError("no HAVE")

    def batch(self, records: Sequence[bytes]) -> None:
        """Send records as the next batch."""
        self.seq += 1
        numbers = [record.number_of(one) for one in records]
        lengths = [len(one) for one in records]
        self.say(Batch(self.nonce, self.seq, numbers[0], numbers[-1], lengths, b"".join(records)))

    def send(self, first: int, last: int, data: bytes = b"x" * 50) -> None:
        """Send chunks of these numbers as one batch."""
        self.batch([chunk(number, data, self.instance) for number in range(first, last + 1)])

    def acknowledged(self, number: int, within_s: float = WAIT_S) -> None:
        """Wait until everything up to `number` is acknowledged."""
        until = time.monotonic() + within_s
        while (answer := self.hear(max(0.0, until - time.monotonic()))) is not None:
            if isinstance(answer, Ack) and answer.nonce == self.nonce and answer.held >= number:
                return
            assert not isinstance(answer, Resync | Retire), answer
        raise AssertionError(f"no ACK of {number}")

    def close(self) -> None:
        """Leave without a word."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def located(directory: Path, name: segment.Name, *, damage_ok: bool = False) -> Iterator[Located]:
    """All records of a segment, plain or sealed."""
    with SegmentFile(directory, name.segment) as file:
        content = file.read(0, file.size)
    begin = segment.skip_header(content) if name.format == "cbor" else 0
    scan = segment.scan if name.format == "cbor" else jsonl.scan
    for found in scan(content[begin:], begin, closed=True):
        assert damage_ok or not isinstance(found, Damage), f"{name.file}: {found}"
        if isinstance(found, Located):
            yield found


def stored(data: Path, file_format: str = "cbor", instance: str | None = None) -> list[Record]:
    """All records in a data directory in the order of files, without footers."""
    names = [name for name in segment.find(data / "segments") if name.format == file_format]
    records = [found.record for name in names for found in located(data / "segments", name)]
    return [one for one in records if one.kind != "footer" and instance in {None, one.instance}]


def numbers(data: Path, file_format: str = "cbor", instance: str | None = None) -> list[int]:
    """Their numbers."""
    return [one.number for one in stored(data, file_format, instance)]


def files(data: Path) -> dict[str, int]:
    """The names and sizes of what is in `segments`, but for the list of what was deleted."""
    found = {}
    for path in sorted(path for path in (data / "segments").iterdir() if path.name != "deleted.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found
