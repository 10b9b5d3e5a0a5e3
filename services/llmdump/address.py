"""`host:port` texts and listening sockets."""

import ipaddress
import socket
from typing import Final

LISTEN_BACKLOG: Final = 4096


def split(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url(address: str) -> str:
    """The base URL by which a client on this machine reaches a listening `host:port`. Raises ValueError."""
    host, port = split(address)
    return "http://" + join({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def resolved(address: str) -> str:
    """The `host:port` with the host's number for its name, as `bound` tells it. Blocking. Raises OSError, ValueError."""
    return join(*_found(address)[4][:2])


def _found(address: str) -> tuple[int, int, int, str, tuple[str, int]]:
    host, port = split(address)
    family, kind, proto, name, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, kind, proto, name, where  # type: ignore[return-value]


def listen(address: str, *, shared: bool = False) -> socket.socket:
    """A listening, non-blocking TCP socket; `shared` lets several processes take the same port (SO_REUSEPORT).

    Blocking (a look-up of the host). Raises OSError, ValueError.
    """
    family, kind, proto, _, where = _found(address)
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
    except OSError as err:
        sock.close()
        raise OSError(err.errno, f"cannot listen on {address}: {err.strerror or err}") from err
    return sock


def listen_near(address: str) -> socket.socket:
    """As `listen`, but where the port is taken, on any free one of the same host."""
    try:
        return listen(address)
    except OSError:
        return listen(join(split(address)[0], 0))


def bound(sock: socket.socket) -> str:
    """The `host:port` that a listening socket is bound to."""
    host, port = sock.getsockname()[:2]
    return join(host, port)
