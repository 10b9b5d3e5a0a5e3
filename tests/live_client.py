"""A client of /api/live, and what it was told."""

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.patience import WAIT_S


class Said(NamedTuple):
    """One event."""

    id: str
    kind: str
    data: dict[str, Any]
    at: float
    """When it was read, s since 1970."""


class Watcher:
    """A viewer that reads in a thread of its own; it is in when it is made. Close it, or use it in a `with`."""

    def __init__(
        self, api: str, token: str, *, last: str = "", receive_bytes: int = 0, reads: bool = True, **query: str
    ) -> None:
        """`api` is a base URL. `reads` False: it takes nothing off the socket before `read`."""
        self.said: list[Said] = []
        self.ended = False
        """The stream came to its end."""
        self.comments = 0
        self._connection = http.client.HTTPConnection(api.removeprefix("http://"), timeout=WAIT_S)
        self._connection.connect()
        self._sock = self._connection.sock
        if receive_bytes:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        fields = {"Authorization": f"Bearer {token}", **({"Last-Event-ID": last} if last else {})}
        self._connection.request("GET", f"/api/live?{asked}", headers=fields)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self.status != 200:
            self.error = json.loads(self._answer.read())
            self.close()
        elif reads:
            self.read()

    def read(self) -> None:
        """Begin to read."""
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        rest = b""
        try:
            while data := self._answer.read1(1 << 16):  # raises where the last chunk is missing, which iterating does not
                *lines, rest = (rest + data).split(b"\n")
                for raw in lines:
                    fields = self._line(raw.decode(), fields)
            self.ended = True
        except (OSError, ValueError, http.client.HTTPException):
            return

    def _line(self, line: str, fields: dict[str, str]) -> dict[str, str]:
        """What there is of the next event, after another line."""
        if line.startswith(":"):
            self.comments += 1
        elif not line:
            self._event(fields)
            return {}
        else:
            name, _, value = line.partition(": ")
            fields[name] = value
        return fields

    def _event(self, fields: Mapping[str, str]) -> None:
        if "event" in fields:
            self.said.append(Said(fields["id"], fields["event"], json.loads(fields["data"]), time.time()))

    def kinds(self, exchange: str = "") -> list[str]:
        """The kinds of events, in order; of one exchange."""
        return [one.kind for one in list(self.said) if not exchange or one.data.get("id") == exchange]

    def has(self, kind: str, count: int = 1, exchange: str = "") -> bool:
        """Whether there were so many of a kind; of one exchange."""
        return self.kinds(exchange).count(kind) >= count

    def until(self, kind: str, count: int = 1, exchange: str = "") -> "Watcher":
        """Wait until there were so many of a kind; fails if they do not come."""
        deadline = time.monotonic() + WAIT_S
        while not self.has(kind, count, exchange):
            assert time.monotonic() < deadline, f"no {count} {kind}: {self.kinds()[-20:]}"
            time.sleep(0.005)
        return self

    def body(self, exchange: str, side: str = "response") -> bytes:
        """The bytes of a body; each chunk begins where the one before ended."""
        whole = bytearray()
        for one in list(self.said):
            if one.kind == "chunk" and (one.data["id"], one.data["side"]) == (exchange, side):
                assert one.data["offset"] == len(whole), one
                whole += one.data["text"].encode() if "text" in one.data else base64.b64decode(one.data["b64"])
        return bytes(whole)

    def close(self) -> None:
        """Leave."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(WAIT_S)
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
