"""Flow control: a real proxy process stays small however much passes and however slowly a peer reads.

No writer runs, so the capture budget fills up and is part of what is measured.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import pytest

from llmdump import address, presence
from llmdump.data_dir import DataDir
from tests.patience import WAIT_S

GIB = 2**30
MIB = 2**20
GROWTH_BYTES_MAX = 64 * MIB
PIECE = os.urandom(MIB)
# Kernel buffers of two loopback connections, and what the proxy itself may hold, with room to spare.
IN_FLIGHT_BYTES_MAX = 48 * MIB
SLOWLY_S = 0.004


class ProxyProcess:
    """A running `llmdump-proxy`."""

    def __init__(self, folder: Path, upstream: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
        environment |= {
            "LLMDUMP_DATA_DIR": str(folder),
            "LLMDUMP_PROXY_LISTEN": "127.0.0.1:0",
            "LLMDUMP_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
            "LLMDUMP_UPSTREAM": f"http://{upstream}",
        }
        program = Path(sys.executable).with_name("llmdump-proxy")
        self.process = subprocess.Popen([program], cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        self.port = address.split(self._card(folder).listen)[1]
        self._at_start = self._status("VmRSS")

    def _card(self, folder: Path) -> presence.Card:
        data, deadline = DataDir(folder).create(), time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for card in presence.living(data.run):
                if card.role == "proxy" and card.state == "running":
                    return card
            time.sleep(0.02)
        raise TimeoutError("the proxy does not start")

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0]) * 1024

    @property
    def grown_bytes(self) -> int:
        """How much larger the resident set has been than it was at the start."""
        return self._status("VmHWM") - self._at_start

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


class Stream(threading.Thread):
    """A thread that sends or receives a body; `passed_bytes` so far, and the checksum of them."""

    def __init__(self, sock: socket.socket, size: int, *, send: bool, slow: bool = False) -> None:
        super().__init__(daemon=True)
        self._sock = sock
        self._size = size
        self._work = self._send if send else self._receive
        self._pause_s = SLOWLY_S if slow else 0.0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.passed_bytes = 0
        self.checksum = 0
        self.start()

    def run(self) -> None:
        while self.passed_bytes < self._size:
            self.may_go_on.wait()
            before = self.passed_bytes
            self._work(min(MIB, self._size - self.passed_bytes))
            if self.passed_bytes == before:
                return
            if self._pause_s:
                time.sleep(self._pause_s)

    def _send(self, most: int) -> None:
        at = self.passed_bytes % MIB
        self._count(PIECE[at : at + self._sock.send(memoryview(PIECE)[at : at + most])])

    def _receive(self, most: int) -> None:
        self._count(self._sock.recv(most))

    def _count(self, data: bytes) -> None:
        self.checksum = google_crc32c.extend(self.checksum, data)
        self.passed_bytes += len(data)

    def finish(self) -> tuple[int, int]:
        self.join(WAIT_S)
        assert not self.is_alive(), f"stuck after {self.passed_bytes} bytes"
        return self.passed_bytes, self.checksum


class Line:
    """A connection from a client through the proxy process to a backend, heads exchanged, one body to come."""

    def __init__(self, proxy: ProxyProcess, listening: socket.socket, size: int, *, upload: bool) -> None:
        head = b"Host: x\r\nContent-Length: %d\r\n\r\n" % (size if upload else 0)
        self.client = socket.create_connection(("127.0.0.1", proxy.port), WAIT_S)
        self.client.sendall(b"POST / HTTP/1.1\r\n" + head)
        self.server, _ = listening.accept()
        self.server.settimeout(WAIT_S)
        _read_head(self.server)
        if not upload:
            self.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            _read_head(self.client)
        self.upload = upload

    def close(self) -> None:
        self.client.close()
        self.server.close()


def _read_head(sock: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int, bool], tuple[ProxyProcess, Line]]]:
    lines: list[Line] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = ProxyProcess(tmp_path, address.bound(listening))

        def connect(size: int, upload: bool) -> tuple[ProxyProcess, Line]:
            lines.append(Line(proxy, listening, size, upload=upload))
            return proxy, lines[-1]

        yield connect
        for line in lines:
            line.close()
        assert proxy.stop() == 0


@pytest.mark.parametrize("upload", [True, False], ids=["upload", "download"])
@pytest.mark.parametrize(
    ("slow_sender", "slow_reader", "size"),
    [(False, False, GIB), (False, True, GIB // 4), (True, False, GIB // 4)],
    ids=["fast", "slow reader", "slow sender"],
)
def test_memory_does_not_grow_with_the_body(
    make: Callable[[int, bool], tuple[ProxyProcess, Line]], upload: bool, slow_sender: bool, slow_reader: bool, size: int
) -> None:
    proxy, line = make(size, upload)
    source, sink = (line.client, line.server) if upload else (line.server, line.client)
    sending = Stream(source, size, send=True, slow=slow_sender)
    receiving = Stream(sink, size, send=False, slow=slow_reader)
    assert sending.finish() == receiving.finish() == (size, sending.checksum)
    print(f"grown by {proxy.grown_bytes / MIB:.1f} MiB")
    assert proxy.grown_bytes < GROWTH_BYTES_MAX


@pytest.mark.parametrize("upload", [True, False], ids=["upload", "download"])
def test_a_sender_is_really_paused_while_the_other_side_does_not_read(
    make: Callable[[int, bool], tuple[ProxyProcess, Line]], upload: bool
) -> None:
    size = GIB // 4
    proxy, line = make(size, upload)
    source, sink = (line.client, line.server) if upload else (line.server, line.client)
    sending = Stream(source, size, send=True)
    _until_it_rests(sending)
    assert 0 < sending.passed_bytes < IN_FLIGHT_BYTES_MAX
    receiving = Stream(sink, size, send=False)
    assert sending.finish() == receiving.finish()
    assert proxy.grown_bytes < GROWTH_BYTES_MAX


def _until_it_rests(stream: Stream) -> None:
    """Wait until nothing has passed for a while."""
    deadline, passed, since = time.monotonic() + WAIT_S, -1, time.monotonic()
    while time.monotonic() < deadline:
        if stream.passed_bytes != passed:
            passed, since = stream.passed_bytes, time.monotonic()
        if passed > 0 and time.monotonic() - since > 0.4:
            return
        time.sleep(0.02)
    raise TimeoutError(f"still sending after {passed} bytes")
