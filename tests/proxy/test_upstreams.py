"""The way to backends: TLS with verification, IPv6, names with several addresses, prefixes, and what failure says."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmdump import address
from llmdump.record import BACKEND_TO_PROXY
from tests.patience import WAIT_S, Limit
from tests.proxy.harness import Handler, Rig, backend, read_request, replying, running, scenario, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
DAY = datetime.timedelta(days=1)


class Authority:
    """A CA made for one test."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = self._certificate(self._name, self._key.public_key(), 1, x509.BasicConstraints(True, None), usage)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """What a server for these hosts needs; expired if `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        made = self._certificate(subject, key.public_key(), days, x509.SubjectAlternativeName(alternatives))
        file = self.folder / "server.pem"
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(self, subject: x509.Name, key: Any, days: int, *extensions: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        issued = (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        for extension in extensions:
            issued = issued.add_extension(extension, isinstance(extension, x509.BasicConstraints))
        return issued.sign(self._key, hashes.SHA256())


class NamesLoop(uvloop.Loop):
    """A loop that knows some names by itself."""

    names: ClassVar[dict[str, list[tuple[str, int]]]] = {}

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        if host not in self.names:
            return await super().getaddrinfo(host, port, **options)
        if not self.names[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, there))
            for at, there in self.names[host]
        ]


async def error_of(rig: Rig) -> dict[str, Any]:
    """What the client is told when the backend cannot be reached."""
    head, _, body = (await rig.ask(GET)).partition(b"\r\n\r\n")
    [end] = await rig.ends()
    error = orjson.loads(body)["error"]
    assert error["type"] == "llmdump_error"
    assert end.meta["x_err"] == error["code"]
    status = int(head.split()[1])
    assert end.meta["x_end"] == ("timeout" if status == 504 else "upstream_error")
    return {"status": status, **error}


# ------------------------------------------------------------------ TLS


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_backend_with_tls_is_verified_with_a_ca_file_and_kept(tmp_path: Path, name: str) -> None:
    authority = Authority(tmp_path)

    @scenario
    async def talk() -> None:
        async with backend(replying(OK), ssl=authority.server(name)) as where:
            port = address.split(where)[1]
            async with running(f"{name}:{port}", scheme="https", upstream_ca_file=str(authority.file)) as rig:
                assert (await rig.ask(GET)).endswith(b"ok")
                assert (await rig.ask(GET)).endswith(b"ok")
                assert [told.meta["x_new"] for told in rig.of_kind("forward")] == [True, False]
                assert rig.of_kind("forward")[0].meta["x_up"] == f"https://{name}:{port}"
                assert rig.of_kind("forward")[0].meta["x_addr"] == where
                assert f"Host: {name}:{port}\r\n".encode() in rig.of_kind("forward")[0].data

    talk()


@pytest.mark.parametrize(
    ("names", "days", "trusted", "says"),
    [
        (["elsewhere.example"], 1, True, "Hostname mismatch"),
        (["localhost"], -1, True, "certificate has expired"),
        (["localhost"], 1, False, "upstream_ca_file"),
    ],
)
def test_a_certificate_that_does_not_fit_is_a_502_that_names_the_cause(
    tmp_path: Path, names: list[str], days: int, trusted: bool, says: str
) -> None:
    authority = Authority(tmp_path)

    @scenario
    async def refuse() -> None:
        seen: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.read())

        async with backend(serve, ssl=authority.server(*names, days=days)) as where:
            file = str(authority.file) if trusted else ""
            named = f"localhost:{address.split(where)[1]}"
            async with running(named, scheme="https", upstream_ca_file=file) as rig:
                error = await error_of(rig)
        assert (error["status"], error["code"]) == (502, "upstream_tls")
        assert says in error["message"]
        assert f"https://{named}" in error["message"]
        assert not any(seen), "nothing is sent to whom we do not trust"

    refuse()


@pytest.mark.parametrize(("words", "status", "code"), [(OK, 502, "upstream_tls"), (b"", 504, "upstream_connect_timeout")])
def test_a_backend_that_does_not_speak_tls_is_a_failure_in_time(words: bytes, status: int, code: str) -> None:
    @scenario
    async def plain() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read(5)
            writer.write(words)
            await reader.read()

        async with backend(serve) as where, running(where, scheme="https", upstream_connect_timeout_s=0.3) as rig:
            error = await error_of(rig)
            assert (error["status"], error["code"]) == (status, code)

    plain()


def test_a_tls_backend_that_leaves_is_told_from_one_that_is_done(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    words = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

    @scenario
    async def leave() -> None:
        async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(words)

        async with (
            backend(leaving, ssl=authority.server("127.0.0.1")) as where,
            running(where, scheme="https", upstream_ca_file=str(authority.file)) as rig,
        ):
            assert (await rig.ask(GET)).endswith(b"5\r\nhello\r\n")
            [end] = await rig.ends()
            assert (end.meta["x_end"], end.meta["x_err"]) == ("upstream_closed", "upstream_cut")

    leave()


@pytest.mark.parametrize("says_so", [True, False])
def test_a_tls_body_that_ends_with_the_connection_is_whole_only_if_tls_says_that_this_is_the_end(
    tmp_path: Path, says_so: bool
) -> None:
    """RFC 9112 section 9.8: anybody on the way can end a TCP connection, and only the backend can send close_notify."""
    authority = Authority(tmp_path)

    @scenario
    async def end() -> None:
        async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            await writer.drain()
            if not says_so:
                with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as plain:
                    plain.shutdown(socket.SHUT_WR)
                await reader.read()

        async with (
            backend(ending, ssl=authority.server("127.0.0.1")) as where,
            running(where, scheme="https", upstream_ca_file=str(authority.file)) as rig,
        ):
            answer = b""
            with contextlib.nullcontext() if says_so else pytest.raises(ConnectionResetError):
                answer = await rig.ask(GET)
            assert answer.endswith(b"hello") == says_so
            [end] = await rig.ends()
            told = (end.meta["x_end"], end.meta["x_err"])
            assert told == (("complete", "") if says_so else ("upstream_closed", "upstream_cut"))
            assert rig.of_kind("chunk", BACKEND_TO_PROXY)[-1].ends_body == says_so

    end()


def test_a_tls_backend_that_closes_as_it_accepts_is_a_502_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    @scenario
    async def slam() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with (
            backend(serve, ssl=authority.server("127.0.0.1")) as where,
            running(where, scheme="https", upstream_ca_file=str(authority.file)) as rig,
        ):
            for _ in range(20):
                async with asyncio.timeout(WAIT_S):
                    assert (await rig.ask(GET)).startswith(b"HTTP/1.1 502 ")

    slam()


def test_a_tls_backend_is_paused_while_the_client_does_not_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    body = random.Random(5).randbytes(1_000_000) * 40

    @scenario
    async def pause() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            for at in range(0, len(body), 1_000_000):
                writer.write(body[at : at + 1_000_000])
                await writer.drain()

        async with (
            backend(serve, ssl=authority.server("127.0.0.1")) as where,
            running(where, scheme="https", upstream_ca_file=str(authority.file)) as rig,
        ):
            reader, writer = await rig.connect()
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()
            rested, passed = 0, -1
            while rested < 20:
                await asyncio.sleep(0.01)
                rested = rested + 1 if rig.engine.stats.upstream_bytes == passed else 0
                passed = rig.engine.stats.upstream_bytes
            assert passed < len(body) / 2
            writer.transport.resume_reading()
            async with asyncio.timeout(WAIT_S):
                assert await reader.read(-1) == body

    pause()


def test_the_backend_sees_at_once_that_a_client_of_a_tls_backend_has_left(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    @scenario
    async def leave() -> None:
        left = asyncio.Event()

        async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            try:
                await reader.read()
            finally:
                left.set()

        async with (
            backend(patient, ssl=authority.server("127.0.0.1")) as where,
            running(where, scheme="https", upstream_ca_file=str(authority.file)) as rig,
        ):
            _, writer = await rig.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await rig.recorded("forward")
            writer.close()
            async with asyncio.timeout(1):
                await left.wait()
            assert [end.meta["x_end"] for end in await rig.ends()] == ["client_closed"]

    leave()


# ------------------------------------------------------------------ addresses


@scenario
async def test_ipv6_on_both_sides() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        writer.write(OK)

    async with backend(serve, "::1") as where, running(where, host="::1") as rig:
        assert (await rig.ask(GET)).endswith(b"ok")
        assert where.startswith("[::1]:")
        assert f"Host: {where}\r\n".encode() in heads[0]
        assert rig.of_kind("forward")[0].meta["x_addr"] == where
        assert rig.of_kind("head", 0)[0].meta["x_peer"].startswith("[::1]:")


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that does not answer a connection attempt: its queue is full, so the kernel drops what comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def with_names(use: Any) -> None:
    """Run with a live backend's port, a refusing port and a silent one."""
    async with backend(replying(OK)) as where, silent_port() as silent:
        await use(address.split(where)[1], free_port(), silent)


def on_names_loop(use: Any) -> None:
    with asyncio.Runner(loop_factory=NamesLoop) as runner:
        runner.run(with_names(use))


@pytest.mark.parametrize("first", ["refuses", "is silent", "is silent and refuses"])
def test_a_name_with_several_addresses_is_reached_by_one_that_answers(first: str) -> None:
    async def reach(alive: int, refusing: int, silent: int) -> None:
        dead = [("127.0.0.1", silent)] * ("silent" in first) + [("::1", refusing)] * ("refuses" in first)
        NamesLoop.names = {"several.example": [*dead, ("127.0.0.1", alive)]}
        async with running("several.example") as rig:
            limit = Limit(2.0)
            assert (await rig.ask(GET)).endswith(b"ok")
            assert limit.is_kept
            assert rig.of_kind("forward")[0].meta["x_addr"] == f"127.0.0.1:{alive}"

    on_names_loop(reach)


def test_a_name_whose_addresses_all_refuse_is_a_502_that_says_so() -> None:
    async def fail(alive: int, refusing: int, silent: int) -> None:
        NamesLoop.names = {"several.example": [("::1", refusing), ("127.0.0.1", refusing)]}
        async with running("several.example") as rig:
            error = await error_of(rig)
            assert (error["status"], error["code"]) == (502, "upstream_refused")

    on_names_loop(fail)


def test_a_silent_backend_is_a_504_in_time() -> None:
    async def fail(alive: int, refusing: int, silent: int) -> None:
        async with running(f"127.0.0.1:{silent}", upstream_connect_timeout_s=0.3) as rig:
            error = await error_of(rig)
            assert (error["status"], error["code"]) == (504, "upstream_connect_timeout")

    on_names_loop(fail)


def test_a_name_that_cannot_be_resolved_is_a_502_that_says_so() -> None:
    async def fail(alive: int, refusing: int, silent: int) -> None:
        NamesLoop.names = {"nobody.example": []}
        async with running("nobody.example:80") as rig:
            error = await error_of(rig)
            assert (error["status"], error["code"]) == (502, "upstream_name_failure")
            assert "http://nobody.example:80" in error["message"]

    on_names_loop(fail)


@scenario
async def test_a_refused_connection_is_a_502_that_asks_whether_it_runs() -> None:
    async with running(f"127.0.0.1:{free_port()}") as rig:
        error = await error_of(rig)
        assert (error["status"], error["code"]) == (502, "upstream_refused")
        assert "is it running?" in error["message"]


def test_a_client_that_leaves_while_the_backend_is_dialled_leaves_nothing() -> None:
    async def leave(alive: int, refusing: int, silent: int) -> None:
        async with running(f"127.0.0.1:{silent}", upstream_connect_timeout_s=60) as rig:
            _, writer = await rig.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            await rig.recorded("chunk")
            writer.close()
            [end] = await rig.ends()
            assert end.meta["x_end"] == "client_closed"
            await until(lambda: len(asyncio.all_tasks()) == 2)  # this one and the rig's clock

    on_names_loop(leave)


def test_a_client_is_held_back_while_the_backend_is_dialled() -> None:
    async def hold(alive: int, refusing: int, silent: int) -> None:
        async with running(f"127.0.0.1:{silent}", upstream_connect_timeout_s=0.5) as rig:
            _, writer = await rig.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + bytes(40_000_000))
            [end] = await rig.ends()
            assert end.meta["x_err"] == "upstream_connect_timeout"
            assert 0 < end.meta["x_req"] < 1_000_000
            writer.transport.abort()

    on_names_loop(hold)


@scenario
async def test_a_request_larger_than_what_waits_for_a_dial_arrives_whole() -> None:
    size = 20_000_000
    got: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"POST " in head
        got.append(len(await reader.readexactly(size)))
        writer.write(OK)

    async with backend(serve) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(len(OK)) == OK
        assert got == [size]


# ------------------------------------------------------------------ routes


def naming(name: bytes, targets: list[bytes]) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            targets.append(name + b" " + (await read_request(reader))[0].split(b" ")[1])
            writer.write(OK)

    return handle


@scenario
async def test_each_path_goes_to_the_backend_of_its_longest_prefix() -> None:
    targets: list[bytes] = []
    async with backend(naming(b"A", targets)) as a, backend(naming(b"B", targets)) as b:
        table = (f"/v1=http://{a}", f"/v1/messages=http://{b}/base/", f"/demo/*=http://{b}", f"/both/*=http://{a}/base")
        async with running(routes=table) as rig:
            reader, writer = await rig.connect()
            for path in (b"/v1", b"/v1/chat?x=1", b"/v1/messages/1", b"/demo/v1/x?y", b"/demo", b"/demo?y", b"/both/z"):
                writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await reader.readexactly(len(OK)) == OK
            writer.write(b"GET /v10 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.read(-1)).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert targets == [
        b"A /v1", b"A /v1/chat?x=1", b"B /base/v1/messages/1", b"B /v1/x?y", b"B /", b"B /?y", b"A /base/z",
    ]  # fmt: skip
