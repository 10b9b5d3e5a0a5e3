"""The connections of a load: opened before it begins, closed when it is over."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

AT_ONCE = 200
"""A listener's queue is not endless."""
GONE_AFTER_S = 0.05


class Client(Protocol):
    """A protocol that knows its transport."""

    transport: asyncio.WriteTransport


Made = TypeVar("Made", bound=asyncio.BaseProtocol)


async def connect(make: Callable[[], Made], port: int, count: int) -> list[Made]:
    """So many open connections, some at a time. Raises OSError."""
    create = asyncio.get_running_loop().create_connection
    made: list[Made] = []
    while len(made) < count:
        some = min(AT_ONCE, count - len(made))
        made += [client for _, client in await asyncio.gather(*(create(make, "127.0.0.1", port) for _ in range(some)))]
    return made


async def leave(clients: Iterable[Client]) -> None:
    """Close them all: a loop that ends with open ones complains."""
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(GONE_AFTER_S)
