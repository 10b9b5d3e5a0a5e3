"""Steady load from several clients, each request with an id of its own in its body, and the check that all of it is stored.

with Load(pipe.proxy) as load:
    load.wait_for_more(20)
    …
load.check_all_is_stored_once(pipe)
"""

import asyncio
import hashlib
import http.client
import json
import threading
import time
import urllib.request
import uuid
from typing import Any, Final, NamedTuple

import aiohttp

from tests.e2e.pipeline import Pipeline, Reader
from tests.patience import WAIT_S, eventually

WORKERS: Final = 4
UPLOAD_BYTES: Final = 20_000
RETRY_AFTER_S: Final = 0.05


class Done(NamedTuple):
    """An exchange as the client saw it."""

    path: str
    request: bytes
    response: bytes
    at: float
    """When the client had all of it, on the monotonic clock."""


class Load:
    """Clients that ask without a pause, streams and uploads by turns, until the block is left."""

    def __init__(self, url: str, workers: int = WORKERS, *, goes_on: bool = False) -> None:
        """With `goes_on`, errors of clients are expected and do not end a wait."""
        self._url = url
        self._goes_on = goes_on
        self._workers = workers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self.done: list[Done] = []
        self.errors: list[str] = []

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Begin no more, and wait for what is under way."""
        self._stop.set()
        self._thread.join(2 * WAIT_S)
        assert not self._thread.is_alive()

    def wait_for_more(self, count: int) -> None:
        """Until so many more exchanges are done."""
        enough = len(self.done) + count
        eventually(lambda: len(self.done) >= enough or (self.errors and not self._goes_on), WAIT_S, f"{count} more exchanges")

    def go_on_for(self, seconds: float) -> None:
        """Until that time has passed, or an error."""
        self._stop.wait(seconds)

    async def _live(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session:
            await asyncio.gather(*(self._work(session, worker) for worker in range(self._workers)))

    async def _work(self, session: aiohttp.ClientSession, worker: int) -> None:
        turn = worker
        while not self._stop.is_set():
            turn += 1
            path, body = _stream() if turn % 2 else _upload()
            try:
                async with session.post(self._url + path, data=body, headers={"x-sim-gap-ms": "10"}) as answer:
                    response = await answer.read()
                    assert answer.status == 200
                    self.done.append(Done(path, body, response, time.monotonic()))
            except (aiohttp.ClientError, OSError, TimeoutError, AssertionError) as err:
                self.errors.append(f"{path}: {type(err).__name__} {err}")
                await asyncio.sleep(RETRY_AFTER_S)

    def check_all_is_stored_once(self, pipe: Reader) -> None:
        """No client saw an error, and what they saw is what is stored, each exchange once, byte for byte."""
        assert self.errors == []
        check_stored_once(pipe, self.done)


class Reading(threading.Thread):
    """A client in a thread of its own that reads an answer as far as it comes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.got = bytearray()
        self.begun = threading.Event()
        self.whole = False
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._url, timeout=WAIT_S) as answer:
                while data := answer.read1(65536):
                    self.got += data
                    self.begun.set()
                self.whole = True
        except (OSError, http.client.IncompleteRead):
            pass


def check_stored_once(pipe: Reader, done: list[Done], others: int = 0) -> None:
    """Each of these exchanges is stored once, byte for byte, and complete; beside them there are `others`."""
    stored = by_request(pipe, pipe.ended(len(done) + others))
    for one in done:
        found = stored.get(one.request, [])
        assert len(found) == 1, f"{one.path} is stored {len(found)} times: {one.request[:100]!r}"
        assert found[0]["end_reason"] == "complete", found[0]
        assert pipe.response_body(found[0]) == one.response


def by_request(pipe: Reader, rows: list[dict[str, Any]]) -> dict[bytes, list[dict[str, Any]]]:
    """Rows by their stored request body, of which each that the clients here send is unique."""
    stored: dict[bytes, list[dict[str, Any]]] = {}
    for row in rows:
        stored.setdefault(pipe.request_body(row), []).append(row)
    return stored


def check_numbers(pipe: Pipeline) -> dict[str, float]:
    """All records that proxies made have been written and indexed, and none was dropped; the metrics."""
    pipe.wait_until_ready()

    def look() -> dict[str, float]:
        found = pipe.metrics()
        waiting = [found.get(name) for name in ("llmdump_queue_depth_records", "llmdump_indexer_lag_bytes")]
        return found if waiting == [0, 0] else {}

    found = eventually(look, WAIT_S, lambda: f"all is acknowledged and indexed: {pipe.metrics()}")
    assert found["llmdump_records_dropped_total"] == 0
    return found


def _stream() -> tuple[str, bytes]:
    body = {"model": "sim-large", "stream": True, "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
    return "/v1/chat/completions?x-sim-pieces=12", json.dumps(body).encode()


def _upload() -> tuple[str, bytes]:
    unique = uuid.uuid4().bytes
    return "/sim/echo", (unique + hashlib.sha256(unique).digest()) * (UPLOAD_BYTES // 48)
