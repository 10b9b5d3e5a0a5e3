"""tcp:// with CURVE: keys made by the command, real sockets; strangers get nothing in, and proxies that belong get all."""

import asyncio
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from llmdump import keys, wire
from llmdump.data_dir import DataDir
from llmdump.settings import Settings
from llmdump.wire import Hello
from llmdump_proxy.link import Shipping
from tests.patience import WAIT_S
from tests.writer.writer_rig import Proxy, Writer, chunk, numbers, wait_for

BIN = Path(sys.executable).parent
INSTANCE = "00000000000000aa"


def llmdump(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    """`llmdump …` in this directory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMDUMP_")}
    return subprocess.run([BIN / "llmdump", *arguments], cwd=where, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory with keys for a writer and two proxies."""
    done = llmdump("keys", "new", "--dir", "keys", "--proxies", "2", where=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "keys"


def free_port() -> int:
    """A port of loopback that nobody has now."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def at_writer(made: Path, endpoint: str) -> dict[str, str]:
    """The settings of a writer with keys."""
    return {
        "writer_endpoints": endpoint,
        "curve_writer_secret_key_file": str(made / "writer.secret"),
        "curve_proxy_public_keys_file": str(made / "proxies.public"),
    }


def at_proxy(made: Path, endpoint: str, number: int = 1) -> Settings:
    """The settings of a proxy with keys."""
    return Settings(
        writer_endpoints=(endpoint,),
        curve_proxy_secret_key_file=str(made / f"proxy-{number}.secret"),
        curve_writer_public_key_file=str(made / "writer.public"),
    )


async def ship(shipping: Shipping, first: int, last: int) -> bool:
    """Hand over records; whether all were acknowledged."""
    for number in range(first, last + 1):
        lane = shipping.lane(f"exchange-{number % 7}")
        assert shipping.ship(lane, number, chunk(number, b"x" * 100, INSTANCE))
        await asyncio.sleep(0)
    return await shipping.drain(15)


# --- the files


def test_keys_are_private_and_never_replaced(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {
        "writer.secret", "writer.public", "proxy-1.secret", "proxy-2.secret", "proxies.public",
    }  # fmt: skip
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    before = {path: path.read_bytes() for path in made.iterdir()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in before)
    (made / "proxy-1.secret").unlink()
    again = llmdump("keys", "new", "--dir", "keys", where=made.parent)
    assert again.returncode != 0 and "is there already" in again.stderr and again.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in made.iterdir()} == {
        path: content for path, content in before.items() if path.name != "proxy-1.secret"
    }


def test_public_keys_belong_to_the_secret_ones(made: Path) -> None:
    secret = (made / "writer.secret").read_bytes().strip()
    assert zmq.curve_public(secret) == (made / "writer.public").read_bytes().strip()
    admitted = keys.of_writer(Settings(**{k: v for k, v in at_writer(made, "").items() if k != "writer_endpoints"}))
    own = [keys.of_proxy(at_proxy(made, "tcp://127.0.0.1:1", number)) for number in (1, 2)]
    assert admitted is not None and admitted.admitted == {one.public for one in own if one}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"", "it has 0"),
        (b"x" * 40 + b"\n" + b"y" * 40, "it has 2"),
        (b"x" * 39, "40 characters"),
        (b"~" * 40, "40 characters"),
        (b'"' * 40, "40 characters"),
        (bytes(40), "40 characters"),
        (b"#" * 40, "40 characters"),
        (bytes(range(33, 256)) * 20, "it has|40 characters"),
    ],
    ids=range(9),
)
def test_a_key_file_that_is_none_stops_the_start_with_a_line(made: Path, content: bytes | None, complaint: str) -> None:
    path = made / "writer.secret"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with Writer(made.parent / "data", **at_writer(made, "tcp://127.0.0.1:1")) as writer:
        assert writer.process.wait(WAIT_S) != 0
        assert re.search(rf"^llmdump: writer-0: key file .*writer.secret: .*({complaint})", writer.log), writer.log
        assert writer.log.count("\n") == 1


def test_half_of_the_keys_is_not_enough(made: Path) -> None:
    settings = at_writer(made, "tcp://127.0.0.1:1")
    del settings["curve_proxy_public_keys_file"]
    with Writer(made.parent / "data", **settings) as writer:
        assert writer.process.wait(WAIT_S) != 0
        assert "curve_writer_secret_key_file is set and curve_proxy_public_keys_file is not" in writer.log
    with pytest.raises(keys.KeyFileError, match="curve_proxy_secret_key_file is set and"):
        keys.of_proxy(Settings(curve_proxy_secret_key_file=str(made / "proxy-1.secret")))


def test_other_hosts_need_keys_on_both_sides(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", writer_endpoints="tcp://0.0.0.0:1") as writer:
        assert writer.process.wait(WAIT_S) != 0
        assert "without CURVE keys" in writer.log and writer.log.count("\n") == 1

    async def start() -> None:
        Shipping(Settings(writer_endpoints=("tcp://192.0.2.1:5",)), DataDir(tmp_path), INSTANCE, asyncio.get_running_loop())

    with pytest.raises(keys.KeyFileError, match="without CURVE keys"):
        asyncio.run(start())


# --- over the wire


def test_a_proxy_with_its_key_ships_all_and_a_killed_writer_loses_nothing(made: Path) -> None:
    endpoint, data = f"tcp://127.0.0.1:{free_port()}", made.parent / "data"

    async def run() -> None:
        shipping = Shipping(at_proxy(made, endpoint, 2), DataDir(data), INSTANCE, asyncio.get_running_loop())
        await shipping.start()
        for round_ in range(3):
            with Writer(data, **at_writer(made, endpoint)) as writer:
                await asyncio.to_thread(writer.card)
                assert await ship(shipping, 500 * round_ + 1, 500 * round_ + 250)
                shipping_more = asyncio.create_task(ship(shipping, 500 * round_ + 251, 500 * round_ + 500))
                await asyncio.sleep(0)
                writer.kill()
                with Writer(data, **at_writer(made, endpoint)) as next_writer:
                    assert await shipping_more
                    assert next_writer.process.poll() is None
        await shipping.close()

    asyncio.run(run())
    assert numbers(data) == list(range(1, 1501))


def stranger(endpoint: str, public: bytes | None, secret: bytes | None, server: bytes | None) -> "zmq.Socket[bytes]":
    """A DEALER that speaks the protocol, with these keys or none."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, b"00000000000000bb")
    socket.setsockopt(zmq.LINGER, 0)
    if public and secret and server:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.connect(endpoint)
    return socket


@pytest.mark.parametrize("who", ["another's key", "the wrong writer key", "no key"])
def test_a_stranger_gets_nothing_in_and_is_counted(made: Path, who: str) -> None:
    endpoint, data = f"tcp://127.0.0.1:{free_port()}", made.parent / "data"
    public, secret = zmq.curve_keypair()
    writer_key = (made / "writer.public").read_bytes().strip()
    own = (made / "proxy-1.secret").read_bytes().strip()
    with Writer(data, **at_writer(made, endpoint)) as writer:
        writer.card()
        if who == "another's key":
            socket = stranger(endpoint, public, secret, writer_key)
        elif who == "the wrong writer key":
            socket = stranger(endpoint, zmq.curve_public(own), own, public)
        else:
            socket = stranger(endpoint, None, None, None)
        for frames in (wire.encode(Hello(b"12345678")), [b"anything"]):
            socket.send_multipart(frames)
        wait_for(lambda: writer.metrics()["llmdump_writer_connections_refused_total"])
        assert not socket.poll(300), "the stranger was answered"
        socket.close()
        assert "stranger_refused" in writer.log
        assert writer.health() == 200
        with Proxy(endpoint) as plain, pytest.raises(AssertionError, match="no HAVE"):
            plain.hello(within_s=0.3)
        assert not numbers(data)


def test_keys_do_not_stand_in_the_way_of_the_data_directory(made: Path) -> None:
    settings = at_writer(made, "")
    del settings["writer_endpoints"]
    with Writer(made.parent / "data", **settings) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 0
