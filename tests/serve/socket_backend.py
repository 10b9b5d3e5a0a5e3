"""A WebSocket backend in the way of OpenAI's: Responses, where the client speaks first, and Realtime, where it does not.

Each response.create is answered with three events; a Realtime session begins with session.created.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.patience import WAIT_S


@contextmanager
def serving() -> Iterator[str]:
    """Serves it; gives the base URL."""
    with serve(_handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(WAIT_S)


def _handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    if "/realtime" in connection.request.path:
        connection.send(json.dumps({"type": "session.created", "session": {"id": "sess_1"}}))
    for number, message in enumerate(connection):
        asked = json.loads(message).get("input")
        connection.send(json.dumps({"type": "response.created", "response": {"id": f"resp_{asked}_{number}"}}))
        connection.send(json.dumps({"type": "response.output_text.delta", "delta": f"You said {asked}. " * 20}))
        connection.send(json.dumps({"type": "response.completed", "response": {"id": f"resp_{asked}_{number}"}}))
        if asked == "bye":
            return


def asking(text: str, **more: Any) -> str:
    """A message of the client."""
    return json.dumps({"type": "response.create", "model": "m", "input": text, **more})


def talk(url: str, messages: Sequence[str], *, server_first: bool = False, compression: str | None = "deflate") -> list[Any]:
    """The events that a client gets who says these, each after the answer to the one before."""
    got: list[Any] = []
    address = url.replace("http://", "ws://")
    with connect(address, compression=compression, open_timeout=20, close_timeout=5) as connection:  # type: ignore[arg-type]
        if server_first:
            got.append(json.loads(connection.recv(timeout=WAIT_S)))
        for message in messages:
            connection.send(message)
            while not got or got[-1]["type"] not in {"response.completed", "error"} or got[-1].get("seen"):
                got.append(json.loads(connection.recv(timeout=WAIT_S)))
            got[-1]["seen"] = True
        got.append(_code(connection) if got[-1]["type"] == "error" else None)
    return [{key: value for key, value in one.items() if key != "seen"} if isinstance(one, dict) else one for one in got]


def _code(connection: Any) -> int | None:
    with suppress(ConnectionClosedError):
        for _ in connection:
            pass
    return connection.close_code  # type: ignore[no-any-return]
