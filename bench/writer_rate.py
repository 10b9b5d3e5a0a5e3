"""How many chunk records a second one writer makes durable: a real writer process, one connection, acknowledged batches.

    python bench/writer_rate.py [--records 400000] [--data-bytes 300] [--capture-format cbor] [--window 4194304]

The sender keeps a window of unacknowledged bytes under way, as a proxy does. `CPU per record` is the writer's own user
and system time, which says what one core can do when nobody else wants it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import zmq

from llmdump import presence, record, wire
from llmdump.record import Identity
from llmdump.wire import Ack, Batch, Hello

INSTANCE = "00000000000000aa"
EXCHANGE = "01900000-0000-7000-8000-000000000001"
BATCH_BYTES = 64 * 1024


def batches(records: int, data_bytes: int) -> list[tuple[Batch, int]]:
    """All batches, made beforehand, with the last number of each."""
    identity = Identity(INSTANCE, EXCHANGE, {"sid": "s", "be": "openai"})
    each = max(1, BATCH_BYTES // (data_bytes + 200))
    made = []
    for seq, first in enumerate(range(1, records + 1, each), 1):
        last = min(first + each - 1, records)
        parts = [record.encode_chunk(1.5, 3, n, os.urandom(data_bytes), identity, n, False) for n in range(first, last + 1)]
        made.append((Batch(b"12345678", seq, first, last, [len(part) for part in parts], b"".join(parts)), last))
    return made


def cpu_seconds(admin: str) -> float:
    """User and system time of the writer, from its own metrics."""
    page = urllib.request.urlopen(admin + "/metrics", timeout=5).read().decode()
    return float(next(line.split()[1] for line in page.splitlines() if line.startswith("llmdump_cpu_seconds_total ")))


def drive(endpoint: str, made: list[tuple[Batch, int]], window_bytes: int) -> float:
    """Seconds from the first batch to the last acknowledgement."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, INSTANCE.encode())
    socket.connect(endpoint)
    socket.send_multipart(wire.encode(Hello(b"12345678")))
    wire.from_writer(socket.recv_multipart())
    begin, under_way = time.perf_counter(), 0
    sizes = {last: len(batch.body) for batch, last in made}
    waiting = [last for _, last in made]
    acknowledged = 0
    for batch, _ in made:
        while under_way > window_bytes or socket.poll(0):
            answer = wire.from_writer(socket.recv_multipart())
            assert isinstance(answer, Ack), answer
            while acknowledged < len(waiting) and waiting[acknowledged] <= answer.held:
                under_way -= sizes[waiting[acknowledged]]
                acknowledged += 1
        socket.send_multipart(wire.encode(batch), copy=False)
        under_way += len(batch.body)
    while acknowledged < len(waiting):
        answer = wire.from_writer(socket.recv_multipart())
        assert isinstance(answer, Ack), answer
        while acknowledged < len(waiting) and waiting[acknowledged] <= answer.held:
            acknowledged += 1
    took = time.perf_counter() - begin
    context.destroy(linger=0)
    return took


class Rate(NamedTuple):
    """Of one run."""

    records: int
    size_bytes: int
    took_s: float
    cpu_s: float


def measure(records: int, data_bytes: int, capture_format: str, window_bytes: int) -> Rate:
    """A writer of its own in a directory of its own."""
    made = batches(records, data_bytes)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        command = [sys.executable, "-m", "llmdump_writer.main", f"--data-dir={data}", "--writer-admin-listen=127.0.0.1:0"]
        command += [f"--capture-format={capture_format}", "--capture-seal=false"]
        writer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            card = None
            while card is None or not card.listen:
                time.sleep(0.05)
                card = next(iter(presence.living(data / "run", "writer")), None) if data.exists() else None
            before_s = cpu_seconds(card.admin)
            took_s = drive(card.listen, made, window_bytes)
            cpu_s = cpu_seconds(card.admin) - before_s
        finally:
            writer.terminate()
            writer.wait()
    return Rate(records, sum(len(batch.body) for batch, _ in made), took_s, cpu_s)


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--data-bytes", type=int, default=300)
    parser.add_argument("--capture-format", default="cbor")
    parser.add_argument("--window", type=int, default=wire.WINDOW_BYTES)
    options = parser.parse_args()
    rate = measure(options.records, options.data_bytes, options.capture_format, options.window)
    print(
        f"{options.capture_format}: {rate.records} chunks of {options.data_bytes} B synced and acknowledged "
        f"in {rate.took_s:.2f} s: {rate.records / rate.took_s:,.0f}/s, {rate.size_bytes / rate.took_s / 1e6:.0f} MB/s; "
        f"CPU per record {rate.cpu_s / rate.records * 1e6:.2f} µs, so {rate.records / rate.cpu_s:,.0f}/s on one core"
    )


if __name__ == "__main__":
    main()
