"""What agents' sessions take on disk, and how long one turn takes to read back from there.

    python -m bench.agents [--sessions N] [--turns N]

Sessions take turns, as those of several agents do at one proxy. Each turn sends the whole history again: instructions, what
was said so far, what is new. They go through a real proxy to a real writer, whose segments are sealed as it always does it;
then a fresh api reads exchanges at random.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import uvloop

from bench import backend, bodies, cells
from bench.arms.llmdump import Instance, Llmdump
from bench.connections import connect, leave
from bench.results import Figures, Run, percentile

INSTRUCTIONS_BYTES = 12_000
ASKED_BYTES = 1_800
"""New in a turn: a question, or what a tool brought."""
ANSWER_BYTES = 500
THINKS_S = 0.1
"""Between turns. 20 sessions then send some 20 MB/s; at full speed it would be a test of the spill file."""
READS = 60
HEAD = "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
MS = 1e6


class Session:
    """An agent's history, which grows."""

    def __init__(self, seed: int) -> None:
        self._seed = seed * 100_000
        self._said = [self._message("system", INSTRUCTIONS_BYTES, 0)]

    def turns(self, count: int) -> Iterator[bytes]:
        """The request of each turn."""
        for turn in range(count):
            self._said.append(self._message("user", ASKED_BYTES, 2 * turn + 1))
            yield b'{"model":"gpt-4o","messages":[%b]}' % b",".join(self._said)
            self._said.append(self._message("assistant", ANSWER_BYTES, 2 * turn + 2))

    def _message(self, role: str, size_bytes: int, number: int) -> bytes:
        return orjson.dumps({"role": role, "content": bodies.words(size_bytes, self._seed + number).decode()})


class Client(asyncio.Protocol):
    """Sends a session's turns, each when the answer before has come. Answers are of one read: they are small."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport
        self._answered: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_result(len(data))

    async def send(self, session: Session, turns: int) -> int:
        """All of them; bytes of both directions."""
        crossed_bytes = 0
        for body in session.turns(turns):
            head = HEAD.format(path=bodies.PATH, size=len(body))
            self._answered = asyncio.get_running_loop().create_future()
            self.transport.write(head.encode() + body)
            crossed_bytes += len(head) + len(body) + await asyncio.wait_for(self._answered, 30)
            await asyncio.sleep(THINKS_S)
        return crossed_bytes


async def send(port: int, sessions: int, turns: int) -> int:
    """All sessions at once; bytes of both directions."""
    clients = await connect(Client, port, sessions)
    try:
        return sum(await asyncio.gather(*(client.send(Session(seed), turns) for seed, client in enumerate(clients))))
    finally:
        await leave(clients)


def measure(sessions: int, turns: int) -> Run:
    """A run of it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, backend.plain(Path(folder)) as port:
        place = Path(folder)
        with Llmdump(cells.CBOR).instance(port, place) as (run, target):
            crossed_bytes = uvloop.run(send(target.port, sessions, turns))
            run.catch_up()
        account = run.account()
        run.seal()
        figures: Figures = {
            "raw_mb": crossed_bytes / 1e6,
            "sealed_percent": 100 * _segments_bytes(run) / crossed_bytes,
            "made": account.made,
            "stored": account.stored,
            "indexed": account.indexed,
            "exchanges": account.exchanges,
        }
        with run.processes("api"):
            took_ns = [_read_ns(run, name) for name in random.Random(1).choices(_names(run), k=READS)]
    figures |= {f"read_{name}_ms": percentile(took_ns, part) / MS for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    lost = account.lost or ("" if account.exchanges == sessions * turns else f"{account.exchanges} exchanges are stored")
    return Run(cells.AGENTS, cells.CBOR, 0, figures, lost)


def _segments_bytes(run: Instance) -> int:
    return sum(path.stat().st_size for path in run.data.segments.glob("w*"))


def _names(run: Instance) -> list[str]:
    names, cursor = [], ""
    while True:
        answer = orjson.loads(run.api(f"/api/traces?limit=500{cursor}"))
        names += [row["id"] for row in answer["traces"]]
        if answer["next_cursor"] is None:
            return names
        cursor = f"&cursor={answer['next_cursor']}"


def _read_ns(run: Instance, name: str) -> int:
    began_ns = time.monotonic_ns()
    run.api(f"/api/traces/{name}")
    return time.monotonic_ns() - began_ns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--turns", type=int, default=100)
    given = parser.parse_args()
    print(measure(given.sessions, given.turns))
