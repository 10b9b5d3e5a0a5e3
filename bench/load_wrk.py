"""As many plain requests as an arm takes: wrk, which sends the next one on a connection when the answer is there."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench import bodies

SCRIPT = Path(__file__).with_name("load.lua")
LATE_S = 30


class Done(NamedTuple):
    """What wrk counted."""

    requests: int
    took_s: float
    captured_bytes: int
    """Heads and bodies of both directions."""
    failed: int


def run(port: int, request_bytes: int, connections: int, duration_s: int, place: Path) -> Done:
    """Blocking. One thread of wrk makes more than twice what nginx forwards. Raises CalledProcessError."""
    before, after = bodies.halves(request_bytes)
    (place / "before").write_bytes(before)
    (place / "after").write_bytes(after)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout=20s", f"-s{SCRIPT}"]
    command += [f"http://127.0.0.1:{port}{bodies.PATH}", "--", place / "before", place / "after", str(bodies.DIGITS)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=duration_s + LATE_S).stdout
    told = json.loads(out.splitlines()[-1])
    sent_bytes = told["done"] * len(bodies.request(request_bytes, 0))
    return Done(told["done"], told["took_us"] / 1e6, told["bytes"] + sent_bytes, told["failed"])
