"""ZeroMQ as a proxy and a writer see it, without ZeroMQ: DEALER, ROUTER, the monitor, and descriptors that signal edges.

Within a connection messages arrive in order, each after a delay from the seed. Nothing else is promised:

- a connection may end at any moment, and with it goes what was under way, but for a part of it that arrives all the same
- whoever connects again may find that messages of the old connection come once more, behind the new one's first
- for a while single messages may be lost, though nothing else is wrong: ZeroMQ is trusted with nothing
- a connection may be dead without anybody being told (half open): messages vanish, the end is noticed later
- a descriptor is raised when the first message comes to a reader that has looked and found nothing; every call
  on its socket lowers it, whatever it was for (the trap that `link` of the proxy is written around)
- a peer that does not read makes sending fail with EAGAIN
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from tests.simulation.world import Loop, Process, Thread, World

QUEUE_MESSAGES_MAX = 128
"""Both high-water marks together."""
_first_fd = 1_000_000


class Edge:
    """A descriptor that may be readable."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self.fd = fd
        self._loop = loop
        self._raised = self._planned = False

    def signal(self) -> None:
        self._raised = True
        self.plan()

    def lower(self) -> None:
        self._raised = False

    def plan(self) -> None:
        if self._raised and not self._planned and self.fd in self._loop.readers:
            self._planned = True
            self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        self._planned = False
        reader = self._loop.readers.get(self.fd)
        if self._raised and reader:
            reader()
            self.plan()


class Incoming:
    """What a socket has to read, and its descriptor."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self._queue: deque[tuple[list[bytes], Connection | None]] = deque()
        self._asleep = True

    def put(self, message: list[bytes], connection: "Connection | None" = None) -> None:
        self._queue.append((message, connection))
        if self._asleep:
            self._asleep = False
            self.edge.signal()

    def look(self) -> bool:
        self.edge.lower()
        self._asleep = not self._queue
        return bool(self._queue)

    def take(self) -> list[bytes]:
        if not self.look():
            raise zmq.Again
        return self._queue.popleft()[0]


class Connection:
    """One connection from a DEALER to a ROUTER."""

    def __init__(self, network: "Network", dealer: "Dealer", router: "Router") -> None:
        self.network = network
        self.dealer = dealer
        self.router = router
        self.open = True
        self.half_open = False
        self.pending = 0
        """Messages to the writer that it has not read."""
        self.under_way: deque[tuple[bool, list[bytes]]] = deque()
        self._last = {True: 0.0, False: 0.0}

    def send(self, to_router: bool, message: list[bytes]) -> None:
        if not self.open:
            return
        world = self.network.world
        if self.half_open or (self.network.loss and world.random.random() < self.network.loss):
            return
        when = max(self._last[to_router], world.now + self.network.delay_s())
        self._last[to_router] = when
        one = (to_router, message)
        self.under_way.append(one)
        self.pending += to_router
        world.at(when, lambda: self._arrive(one))

    def _arrive(self, one: tuple[bool, list[bytes]]) -> None:
        if self.network.is_cut(self.router.endpoint):
            self.network.world.after(0.05, lambda: self._arrive(one))
            return
        # Of those that a partition has held, the next in this direction: not always the one this was planned for.
        first = next((other for other in self.under_way if other[0] == one[0]), None)
        if first is None:
            return
        self.under_way = deque(other for other in self.under_way if other is not first)
        self._deliver(*first)

    def _deliver(self, to_router: bool, message: list[bytes]) -> None:
        if to_router:
            self.router.arrived(self, message)
        else:
            self.dealer.incoming.put(message)

    def end(self) -> None:
        """It breaks. A part of what is under way still comes; some of the rest may come again with the next connection."""
        if not self.open:
            return
        self.open = False
        rng = self.network.world.random
        there = [message for to_router, message in self.under_way if to_router]
        back = [message for to_router, message in self.under_way if not to_router]
        self.under_way.clear()
        for messages, to_router in ((there, True), (back, False)):
            for message in messages[: rng.randint(0, len(messages))] if rng.random() < 0.5 and not self.half_open else ():
                self._deliver(to_router, message)
        self.router.lost(self)
        self.dealer.lost(self, there if rng.random() < 0.4 else [])


class Network:
    """All sockets of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.routers: dict[str, Router] = {}
        self.connections: list[Connection] = []
        self.slow_s = self.loss = 0.0
        self.on_sent: Callable[[Process, str, bytes, list[bytes]], None] = lambda process, endpoint, peer, message: None
        """Hears of each message that a proxy hands over: (process, endpoint, instance, frames)."""
        self.on_said: Callable[[Process, str, bytes, list[bytes]], None] = lambda process, endpoint, peer, message: None
        """Hears of each message that a writer hands over, and which process it is for."""
        self._cut_until: dict[str, float] = {}
        self._fd = _first_fd

    def delay_s(self) -> float:
        return self.world.random.uniform(0.00005, 0.0008) + (self.world.random.uniform(0, self.slow_s) if self.slow_s else 0)

    def new_fd(self) -> int:
        self._fd += 1
        return self._fd

    def cut(self, endpoint: str, seconds: float) -> None:
        """Nothing gets through to this writer, or back, and nobody is told."""
        self._cut_until[endpoint] = self.world.now + seconds

    def is_cut(self, endpoint: str) -> bool:
        return self.world.now < self._cut_until.get(endpoint, 0.0)

    def heal(self) -> None:
        self._cut_until.clear()
        self.slow_s = self.loss = 0.0
        for connection in [one for one in self.living() if one.half_open]:
            connection.end()

    def living(self) -> list[Connection]:
        self.connections = [one for one in self.connections if one.open]
        return self.connections


class Context:
    """The `zmq.Context` of one process."""

    def __init__(self, network: Network, thread: Thread) -> None:
        self._network = network
        self._thread = thread
        self._sockets: list[Any] = []
        thread.process.at_end.append(self._break)

    def socket(self, kind: int) -> Any:
        made = Dealer(self._network, self._thread) if kind == zmq.DEALER else Router(self._network, self._thread)
        self._sockets.append(made)
        return made

    @property
    def router(self) -> "Router":
        """The one that was made last."""
        made: Router = self._sockets[-1]
        return made

    def term(self) -> None:
        self._break()

    def _break(self) -> None:
        for one in self._sockets:
            one.close()


class Monitor:
    """The monitor of a DEALER."""

    def __init__(self, edge: Edge) -> None:
        self.incoming = Incoming(edge)

    def getsockopt(self, option: int) -> int:
        return self.incoming.edge.fd

    def get(self, option: int) -> int:
        return zmq.POLLIN if self.incoming.look() else 0

    def recv_multipart(self, flags: int) -> list[bytes]:
        return self.incoming.take()

    def close(self, linger: int = 0) -> None:
        pass


class Dealer:
    """A proxy's socket to one writer."""

    def __init__(self, network: Network, thread: Thread) -> None:
        assert thread.loop is not None
        self.closed = False
        self.process = thread.process
        self._network = network
        self._loop = thread.loop
        self.incoming = Incoming(self._edge())
        self._monitor = Monitor(self._edge())
        self._options: dict[int, Any] = {}
        self._endpoint = ""
        self._connection: Connection | None = None
        self._parts: list[bytes] = []
        self._again: list[list[bytes]] = []

    @property
    def edges(self) -> tuple[Edge, Edge]:
        return self.incoming.edge, self._monitor.incoming.edge

    def _edge(self) -> Edge:
        return Edge(self._loop, self._network.new_fd())

    def setsockopt(self, option: int, value: Any) -> None:
        self._options[option] = value

    def getsockopt(self, option: int) -> int:
        return self.incoming.edge.fd

    def get(self, option: int) -> int:
        can_read = self.incoming.look()
        return (zmq.POLLIN if can_read else 0) | (zmq.POLLOUT if self._connection else 0)

    def get_monitor_socket(self, events: int) -> Monitor:
        return self._monitor

    def disable_monitor(self) -> None:
        pass

    def connect(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._retry()

    def send(self, frame: bytes, flags: int) -> None:
        self.incoming.edge.lower()
        connection = self._connection
        if connection is None or connection.pending >= QUEUE_MESSAGES_MAX:
            raise zmq.Again
        self._parts.append(bytes(frame))
        if flags & zmq.SNDMORE:
            return
        message, self._parts = self._parts, []
        self._network.on_sent(self.process, self._endpoint, self.name, message)
        connection.send(True, message)

    def recv_multipart(self, flags: int) -> list[bytes]:
        return self.incoming.take()

    def close(self, linger: int = 0) -> None:
        if self.closed:
            return
        self.closed = True
        if self._connection:
            connection = self._connection
            # What was handed over before a close that lingers gets out; then the other side sees the end.
            self._network.world.after(0.002 if linger else 0.0, connection.end)

    @property
    def name(self) -> bytes:
        """The routing id."""
        return bytes(self._options[zmq.ROUTING_ID])

    def writable(self) -> None:
        self.incoming.edge.signal()

    def lost(self, connection: Connection, again: list[list[bytes]]) -> None:
        if self._connection is connection:
            self._connection = None
            self._again = again
            if not self.closed:
                self._monitor.incoming.put(_event(zmq.EVENT_DISCONNECTED))
                self._retry()

    def _retry(self) -> None:
        self._network.world.after(self._network.world.random.uniform(0.002, 0.1), self._try)

    def _try(self) -> None:
        if self.closed or self._connection:
            return
        router = self._network.routers.get(self._endpoint)
        if router is None or self._network.is_cut(self._endpoint):
            self._retry()
            return
        self._connection = Connection(self._network, self, router)
        self._network.connections.append(self._connection)
        router.joined(self.name, self._connection)
        self._monitor.incoming.put(_event(zmq.EVENT_HANDSHAKE_SUCCEEDED))
        self.writable()
        if self._again:
            again, self._again = self._again, []
            connection = self._connection
            delay_s = self._network.world.random.uniform(0, 0.02)
            self._network.world.after(delay_s, lambda: [connection.send(True, message) for message in again])


def _event(event: int) -> list[bytes]:
    return [struct.pack("=hi", event, 0), b""]


class Router:
    """A writer's socket."""

    def __init__(self, network: Network, thread: Thread) -> None:
        self.endpoint = ""
        self.on_message: Callable[[], None] = lambda: None
        self._network = network
        self._queue: deque[tuple[bytes, list[bytes], Connection]] = deque()
        self._peers: dict[bytes, Connection] = {}
        self._closed = False

    def setsockopt(self, option: int, value: Any) -> None:
        pass

    def bind(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._network.routers[endpoint] = self

    def recv_multipart(self, flags: int) -> list[bytes]:
        self._network.world.check_alive()
        if not self._queue:
            raise zmq.Again
        peer, message, connection = self._queue.popleft()
        connection.pending -= 1
        if connection.pending == QUEUE_MESSAGES_MAX - 1 and connection.open:
            connection.dealer.writable()
        return [peer, *message]

    def send_multipart(self, message: list[bytes], flags: int) -> None:
        self._network.world.check_alive()
        peer, *rest = message
        connection = self._peers.get(peer)
        if connection:
            self._network.on_said(connection.dealer.process, self.endpoint, peer, rest)
            connection.send(False, rest)

    def poll(self, timeout_ms: int) -> int:
        self._network.world.wait(timeout_ms / 1000, lambda: bool(self._queue))
        return len(self._queue)

    def close(self, linger: int = 0) -> None:
        if self._closed:
            return
        self._closed = True
        if self._network.routers.get(self.endpoint) is self:
            del self._network.routers[self.endpoint]
        for connection in [*self._peers.values()]:
            self._network.world.after(0.002 if linger else 0.0, connection.end)

    def joined(self, peer: bytes, connection: Connection) -> None:
        """ROUTER_HANDOVER: the new connection replaces the old."""
        before = self._peers.get(peer)
        self._peers[peer] = connection
        if before:
            before.end()

    def lost(self, connection: Connection) -> None:
        for peer, one in [*self._peers.items()]:
            if one is connection:
                del self._peers[peer]

    def arrived(self, connection: Connection, message: list[bytes]) -> None:
        if not self._closed:
            self._queue.append((connection.dealer.name, message, connection))
            self.on_message()
