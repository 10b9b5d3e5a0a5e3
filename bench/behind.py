"""How far the api is behind the wire: from the last byte of an answer at the client to the finished row in the list.

    python -m bench.behind [--exchanges N]

One exchange at a time, at random moments, since a flush comes at fixed ones; default settings.
"""

import argparse
import http.client
import random
import tempfile
import time
from pathlib import Path

import orjson

from bench import backend, bodies, cells
from bench.arms.llmdump import Instance, Llmdump
from bench.results import Run, percentile

SEEN_WITHIN_S = 10.0
LOOK_EVERY_S = 0.002
PAUSE_S = 0.3
MS = 1e6


def measure(exchanges: int) -> Run:
    """A run of it."""
    source = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, backend.plain(Path(folder)) as port:
        with Llmdump(cells.CBOR).instance(port, Path(folder)) as (run, target):
            lags_ns = []
            for number in range(exchanges):
                lags_ns.append(_lag_ns(run, target.port, f"{bodies.PATH}?number={number}"))
                time.sleep(PAUSE_S * source.random())
            run.catch_up()
        account = run.account()
    figures = {
        f"behind_{name}_ms": percentile(lags_ns, part) / MS for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
    figures |= {"made": account.made, "stored": account.stored, "indexed": account.indexed, "exchanges": account.exchanges}
    return Run(cells.BEHIND, cells.CBOR, 0, figures, account.lost)


def _lag_ns(run: Instance, port: int, target: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SEEN_WITHIN_S)
    connection.request("POST", target, bodies.body(1024, 0), {"Content-Type": "application/json"})
    connection.getresponse().read()
    ended_ns = time.monotonic_ns()
    connection.close()
    while time.monotonic_ns() - ended_ns < SEEN_WITHIN_S * 1e9:
        rows = orjson.loads(run.api("/api/traces?limit=1"))["traces"]
        if rows and rows[0]["path"] == target and rows[0]["end_reason"]:
            return time.monotonic_ns() - ended_ns
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"{target} was not in the list within {SEEN_WITHIN_S} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=50)
    print(measure(parser.parse_args().exchanges))
