"""A writer that follows docs/wire.md with one plain file, as a process of its own, to be killed and stopped.

    python wire_peer.py ENDPOINT FILE [--flush-s 0.01] [--mute]

A record is a line that begins with its number; FILE is all that was stored, in order. `--mute`: stores, but never sends
an ACK. A long `--flush-s`: takes batches and holds them in memory.
"""

import argparse
import sys
import time
from pathlib import Path

import zmq

from llmdump import wire
from llmdump.wire import Ack, Batch, Bye, Have, Hello, Resync


class Peer:
    """One instance's sessions, as rules 2, 5 and 6 of the protocol have it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("ab", buffering=0)
        content = path.read_bytes()
        # A kill in the middle of a write leaves a torn line (seen: cut at a page's end): it is not held.
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            print(f"cut {len(content) - len(whole)} torn bytes at {len(whole)}", file=sys.stderr)
            self.file.truncate(len(whole))
        lines = whole.splitlines()
        self.held = int(lines[-1].split()[0]) if lines else 0
        self.nonce = b""
        self.seq = 0
        self.taken: list[Batch] = []

    def hear(self, message: wire.FromProxy) -> list[wire.FromWriter]:
        """What to answer."""
        if isinstance(message, Hello):
            self.flush()
            self.nonce, self.seq = message.nonce, 0
            return [Have(message.nonce, self.held, "w0")]
        if isinstance(message, Bye):
            return []
        if (message.nonce, message.seq) != (self.nonce, self.seq + 1):
            self.nonce = b""
            return [Resync(message.nonce)]
        self.seq += 1
        self.taken.append(message)
        return []

    def flush(self) -> list[wire.FromWriter]:
        """Store what was taken; the ACK for it."""
        if not self.taken:
            return []
        for batch in self.taken:
            self.file.write(batch.body)
            self.held = batch.last
        self.taken = []
        return [Ack(self.nonce, self.held)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("path", type=Path)
    parser.add_argument("--flush-s", type=float, default=0.01)
    parser.add_argument("--mute", action="store_true")
    args = parser.parse_args()
    router = zmq.Context().socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.RCVHWM, 64)
    router.bind(args.endpoint)
    peer, routing_id = Peer(args.path), b""
    print("ready", flush=True)
    flush_at = time.monotonic()
    while True:
        answers: list[wire.FromWriter] = []
        if router.poll(10):
            routing_id, *frames = router.recv_multipart()
            answers += peer.hear(wire.from_proxy(frames))
        if time.monotonic() >= flush_at:
            answers += peer.flush()
            flush_at = time.monotonic() + args.flush_s
        for answer in answers:
            if not (args.mute and isinstance(answer, Ack)):
                router.send_multipart([routing_id, *wire.encode(answer)])


if __name__ == "__main__":
    main()
