"""CURVE keys for tcp:// between proxies and writers: the files, and what each side takes from them.

    writer.secret     the writer's own secret key              on the writer's host only
    writer.public     by which proxies know the writer         on every proxy's host
    proxy-1.secret    a proxy's own secret key                 on that proxy's host only
    proxies.public    the proxies that a writer lets in        on the writer's host, a line a proxy

A key is 40 characters of Z85 (ZeroMQ RFC 32), the first word of a line; what follows is a name for its reader, and
empty lines are passed over.
A secret key's public one follows from it. `llmdump keys new` makes all of them.
"""

import errno
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from llmdump.settings import Settings

FILE_BYTES_MAX: Final = 1024 * 1024
_KEY_BYTES: Final = 32
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class KeyFileError(OSError):
    """A key file cannot be used; `strerror` is one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, message)


class WriterKeys(NamedTuple):
    """What a writer needs. Keys are Z85."""

    secret: bytes
    admitted: frozenset[bytes]
    """Public keys of the proxies that may connect."""


class ProxyKeys(NamedTuple):
    """What a proxy needs. Keys are Z85."""

    secret: bytes
    public: bytes
    writer: bytes
    """The writer's public key."""


def of_writer(settings: Settings) -> WriterKeys | None:
    """The keys that the settings name for a writer; None where they name none. Blocking. Raises KeyFileError."""
    own, others = settings.curve_writer_secret_key_file, settings.curve_proxy_public_keys_file
    if not own and not others:
        return None
    _need_both(own=("curve_writer_secret_key_file", own), other=("curve_proxy_public_keys_file", others))
    return WriterKeys(_one(own), frozenset(_keys(others)))


def of_proxy(settings: Settings) -> ProxyKeys | None:
    """As `of_writer`, for a proxy."""
    own, other = settings.curve_proxy_secret_key_file, settings.curve_writer_public_key_file
    if not own and not other:
        return None
    _need_both(own=("curve_proxy_secret_key_file", own), other=("curve_writer_public_key_file", other))
    secret = _one(own)
    return ProxyKeys(secret, zmq.curve_public(secret), _one(other))


def refusal(endpoint: str, *, curve: bool) -> str | None:
    """Why records may not go over this endpoint with or without keys, in a line for the user; None if they may."""
    if curve or not endpoint.startswith("tcp://") or urlsplit(endpoint).hostname in _LOOPBACK:
        return None
    return (
        f"writer_endpoints: {endpoint} goes to other hosts, and tcp:// without CURVE keys is for loopback only: "
        "`llmdump keys new` makes keys, docs/wire.md says where they go"
    )


def write_new(directory: Path, proxies: int) -> list[Path]:
    """Make keys for a writer and so many proxies; their files, mode 0600. Blocking.

    Raises KeyFileError where one of the files is there already, before any is written, and OSError.
    """
    public, secret = zmq.curve_keypair()
    contents = {"writer.secret": secret, "writer.public": public}
    admitted = b""
    for number in range(1, proxies + 1):
        public, secret = zmq.curve_keypair()
        contents[f"proxy-{number}.secret"] = secret
        admitted += public + b"  proxy-%d\n" % number
    contents["proxies.public"] = admitted.rstrip(b"\n")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {directory / name: content + b"\n" for name, content in contents.items()}
    for path in paths:
        if path.exists():
            raise KeyFileError(f"{path} is there already: keys are never replaced; name another --dir, or remove it")
    for path, content in paths.items():
        _write_private(path, content)
    return list(paths)


def _write_private(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _need_both(own: tuple[str, str], other: tuple[str, str]) -> None:
    for (key, value), (named, _) in ((own, other), (other, own)):
        if not value:
            raise KeyFileError(f"{named} is set and {key} is not: CURVE needs both")


def _one(file: str) -> bytes:
    found = _keys(file)
    if len(found) != 1:
        raise KeyFileError(f"key file {file}: expected is one key, it has {len(found)}")
    return found[0]


def _keys(file: str) -> list[bytes]:
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX)
    except OSError as err:
        raise KeyFileError(f"key file {file}: {err.strerror}") from err
    found = [words[0] for words in (line.split() for line in content.splitlines()) if words]
    for key in found:
        if not _is_key(key):
            raise KeyFileError(f"key file {file}: expected are keys of 40 characters (Z85), a line each")
    return found


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 40 and len(z85.decode(key)) == _KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False
