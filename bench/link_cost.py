"""What handing a record over costs the forwarding loop: `ship` alone, and `ship` with sending, at several loads.

    taskset -c 0 python bench/link_cost.py        the peer that acknowledges runs on another core, if there is one

CPU is that of the whole process, ZeroMQ's own thread included, less what the same turns cost without records. A turn of
an idle loop costs more than one of a busy loop, since both threads must be woken.
"""

import asyncio
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import uvloop
import zmq

from llmdump import wire
from llmdump.data_dir import DataDir
from llmdump.settings import Settings
from llmdump_proxy.link import Shipping
from llmdump_proxy.outbox import Outbox

RECORD = b"r" * 200
SECONDS = 2.0
ACK_EVERY_S = 0.02
WORK_S = 0.0002
LOADS = ((1, 0.02), (1, 0.001), (20, 0.001), (1, 0.0), (5, 0.0), (20, 0.0))
"""Records a turn, and how long the loop is idle between turns; 0: it is busy for WORK_S instead."""


def peer(endpoint: str, ready: Event) -> None:
    """A writer that stores nothing and acknowledges what came, every ACK_EVERY_S."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    ready.set()
    owed: tuple[bytes, wire.Ack] | None = None
    ack_at = 0.0
    while True:
        if router.poll(int(ACK_EVERY_S * 1000)):
            routing_id, *frames = router.recv_multipart()
            message = wire.from_proxy(frames)
            if isinstance(message, wire.Hello):
                router.send_multipart([routing_id, *wire.encode(wire.Have(message.nonce, 0, "w0"))])
            elif isinstance(message, wire.Batch):
                owed = routing_id, wire.Ack(message.nonce, message.last)
            else:
                return
        if owed and time.monotonic() >= ack_at:
            router.send_multipart([owed[0], *wire.encode(owed[1])])
            owed, ack_at = None, time.monotonic() + ACK_EVERY_S


def cpu_s() -> float:
    """CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def turns(shipping: Shipping | None, per_turn: int, idle_s: float) -> tuple[int, float, float]:
    """Turns done, CPU seconds of the process and of this thread. Without `shipping` the same turns, doing nothing."""
    loop = asyncio.get_running_loop()
    number, count, end = int(time.monotonic() * 1e6), 0, time.monotonic() + SECONDS
    begin, thread = cpu_s(), time.thread_time()
    while time.monotonic() < end:
        if shipping:
            lane = shipping.lane("x")
            for _ in range(per_turn):
                number += 1
                if not shipping.ship(lane, number, RECORD):
                    raise SystemExit("the peer is too slow for this load")
        count += 1
        if idle_s:
            waiter = loop.create_future()
            loop.call_later(idle_s, waiter.set_result, None)
            await waiter
        else:
            work()
            await asyncio.sleep(0)
    return count, cpu_s() - begin, time.thread_time() - thread


def work() -> None:
    """What else a turn of a busy loop does: WORK_S of CPU, not of time."""
    end = time.thread_time() + WORK_S
    while time.thread_time() < end:
        pass


async def measure(data: DataDir, endpoint: str) -> None:
    """Print a line for each load."""
    shipping = Shipping(Settings(writer_endpoints=(endpoint,)), data, "0123456789abcdef", asyncio.get_running_loop())
    await shipping.start()
    while not shipping.writers_connected:
        await asyncio.sleep(0.01)
    columns = ("records/turn", "idle ms", "turns/s", "records/s", "µs/turn", "µs/record", "(loop thread)")
    print("".join(column.rjust(14) for column in columns))
    for per_turn, idle_s in LOADS:
        bare_count, bare_s, bare_thread_s = await turns(None, per_turn, idle_s)
        count, used_s, thread_s = await turns(shipping, per_turn, idle_s)
        us = (used_s / count - bare_s / bare_count) * 1e6
        thread_us = (thread_s / count - bare_thread_s / bare_count) * 1e6
        rates = f"{count / SECONDS:14.0f}{count * per_turn / SECONDS:14.0f}"
        print(f"{per_turn:14}{idle_s * 1e3:14.0f}{rates}{us:14.1f}{us / per_turn:14.2f}{thread_us / per_turn:14.2f}")
        await shipping.drain(5)
    await shipping.close()


def add_alone() -> None:
    """Print the cost of `Outbox.add`."""
    outbox = Outbox(1 << 40, spills=True)
    lane = outbox.lane("x")
    count = 200_000
    begin = time.thread_time()
    for number in range(1, count + 1):
        outbox.add(lane, number, RECORD)
    print(f"Outbox.add: {(time.thread_time() - begin) / count * 1e6:.2f} µs a record")


def main() -> None:
    """Measure and print."""
    add_alone()
    with tempfile.TemporaryDirectory() as directory:
        endpoint, ready = f"ipc://{directory}/w.sock", multiprocessing.Event()
        process = multiprocessing.Process(target=peer, args=(endpoint, ready), daemon=True)
        process.start()
        ready.wait()
        uvloop.run(measure(DataDir(Path(directory)).create(), endpoint))
        process.join(2)


if __name__ == "__main__":
    main()
