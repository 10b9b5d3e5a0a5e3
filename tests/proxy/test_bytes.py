"""Bytes pass untouched: heads but for Host and hop-by-hop fields, bodies altogether, and the records tell the same."""

import asyncio
import gzip
import os

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND
from llmdump_proxy.framing import ChunkedBody
from tests.patience import WAIT_S
from tests.proxy.harness import Rig, backend, read_request, replying, running, scenario, until, wire_of_chunks

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# What frames, routes, authenticates or ends at one hop has tests of its own.
TAKEN = {
    b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"keep-alive",
    b"proxy-connection", b"authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key", b"x-goog-api-key",
    b"proxy-authorization",
}  # fmt: skip


def made_of(characters: bytes, least: int, most: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(characters), min_size=least, max_size=most).map(bytes)


names = made_of(TOKEN, 1, 12).filter(lambda name: name.lower() not in TAKEN)
values = made_of(bytes((9, *range(32, 127), *range(128, 256))), 0, 30)
lines = st.tuples(names, st.sampled_from((b":", b": ", b":  ", b":\t")), values).map(lambda parts: b"".join(parts) + b"\r\n")
fields = st.lists(lines, max_size=8).map(lambda some: some + some[:2])
targets = made_of(TOKEN + b"/?=;:@,()", 0, 30).map(lambda rest: b"/" + rest)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body in chunks as it is on the wire, and what it carries."""
    extension = st.sampled_from((b"", b"", b";a", b"; name=value", b' ; q="a b"'))
    wire, carried = b"", b""
    for size in draw(st.lists(st.integers(1, 600), max_size=5)):
        data = draw(st.binary(min_size=size, max_size=size))
        wire += draw(st.sampled_from((b"%x", b"%X", b"0%x"))) % size + draw(extension) + b"\r\n" + data + b"\r\n"
        carried += data
    trailer = b"".join(draw(st.lists(lines, max_size=2)))
    return wire + b"0" + draw(extension) + b"\r\n" + trailer + b"\r\n", carried


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """The framing field, the body on the wire, and what it carries."""
    if draw(st.booleans()):
        return (b"Transfer-Encoding: chunked\r\n", *draw(chunked()))
    body = draw(st.binary(max_size=2000))
    return b"content-LENGTH:  %d \r\n" % len(body), body, body


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[bytes], bytes, bytes]:
    """The fields of a head, and its body on the wire and as it is carried."""
    framing, wire, carried = draw(bodies())
    lines = draw(fields)
    lines.insert(draw(st.integers(0, len(lines))), framing)
    return lines, wire, carried


def mixed(draw: st.DrawFn, lines: list[bytes], extra: list[bytes]) -> list[bytes]:
    """`lines` with those of `extra` put between."""
    lines = list(lines)
    for line in extra:
        lines.insert(draw(st.integers(0, len(lines))), line)
    return lines


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    """A request as the client sends it, as the backend must get it, its body; the same of a response."""
    lines, wire, request_body = draw(messages())
    start = draw(st.sampled_from((b"POST", b"PUT", b"PATCH"))) + b" " + draw(targets) + b" HTTP/1.1\r\n"
    hops = [
        b"Proxy-Connection: keep-alive\r\n",
        b"CONNECTION: X-Hop, keep-alive\r\n",
        b"x-hop: 1\r\n",
        b"Keep-Alive: timeout=5\r\n",
    ]
    lines = [line for line in lines if not line.lower().startswith(b"x-hop")]
    lines.insert(draw(st.integers(0, len(lines))), b"hOsT: somewhere.example\r\n")
    request = start + b"".join(mixed(draw, lines, draw(st.sampled_from(([], hops))))) + b"\r\n" + wire
    forwarded = [b"Host: BACKEND\r\n" if line[:5] == b"hOsT:" else line for line in lines]
    lines, response_wire, response_body = draw(messages())
    lines = [line for line in lines if not line.lower().startswith(b"x-hop")]
    start_line = draw(st.sampled_from((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 418 I'm a  teapot\r\n")))
    response = start_line + b"".join(mixed(draw, lines, draw(st.sampled_from(([], hops))))) + b"\r\n" + response_wire
    passed = start_line + b"".join(lines) + b"\r\n" + response_wire
    return request, start + b"".join(forwarded) + b"\r\n" + wire, request_body, response, passed, response_body


async def write_in_pieces(writer: asyncio.StreamWriter, data: bytes, cuts: list[int]) -> None:
    """In pieces that end at `cuts`, each one written in a loop turn of its own."""
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        writer.write(data[at:cut])
        await asyncio.sleep(0)
        at = cut


@settings(max_examples=100, deadline=None)
@given(exchanges(), st.lists(st.integers(0, 3000), max_size=4), st.lists(st.integers(0, 3000), max_size=4))
def test_whatever_is_sent_arrives_and_is_recorded(
    exchange: tuple[bytes, bytes, bytes, bytes, bytes, bytes], request_cuts: list[int], response_cuts: list[int]
) -> None:
    request, forwarded, request_body, response, passed, response_body = exchange

    async def cross() -> None:
        expected = b""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readexactly(len(expected)) == expected
            await write_in_pieces(writer, response, response_cuts)
            await reader.read()

        async with backend(serve) as where, running(where, capture_secrets="keep") as rig:
            expected = forwarded.replace(b"Host: BACKEND", b"Host: " + where.encode())
            reader, writer = await rig.connect()
            await write_in_pieces(writer, request, request_cuts)
            async with asyncio.timeout(WAIT_S):
                assert await reader.readexactly(len(passed)) == passed
            await rig.ends()
        check_records(rig, request, expected, request_body, response, response_body)

    uvloop.run(cross())


def check_records(
    rig: Rig, request: bytes, forwarded: bytes, request_body: bytes, response: bytes, response_body: bytes
) -> None:
    [sent], [told], [received] = rig.of_kind("head", 0), rig.of_kind("forward"), rig.of_kind("head", 3)
    assert request.startswith(sent.data)
    assert forwarded.startswith(told.data)
    assert response.startswith(received.data)
    assert told.direction == PROXY_TO_BACKEND
    for direction, message, body in ((CLIENT_TO_PROXY, request, request_body), (BACKEND_TO_PROXY, response, response_body)):
        chunks = rig.of_kind("chunk", direction)
        assert b"".join(chunk.data for chunk in chunks) == body
        assert [chunk.ends_body for chunk in chunks] == [False] * (len(chunks) - 1) + [True] * bool(chunks)
        wire = message.partition(b"\r\n\r\n")[2]
        if b"chunked" in message.partition(b"\r\n\r\n")[0]:
            assert wire_of_chunks(chunks) == wire
        else:
            assert b"".join(chunk.data for chunk in chunks) == wire
    [end] = rig.of_kind("end")
    assert (end.meta["x_end"], end.meta["x_err"], end.meta["x_lost"]) == ("complete", "", 0)
    assert (end.meta["x_req"], end.meta["tb"]) == (len(request_body), len(response_body))
    assert end.meta["tc"] == len(rig.of_kind("chunk", BACKEND_TO_PROXY))


CHUNKS = b"5\r\nhello\r\n6;x=y\r\n world\r\n00A\r\n0123456789\r\n0\r\nETag: a\r\n\r\n"
CARRIED = b"hello world0123456789"


def test_a_chunked_body_cut_at_any_two_bytes_is_told_whole() -> None:
    for first in range(len(CHUNKS) + 1):
        for second in range(first, len(CHUNKS) + 1):
            body, payload, wire = ChunkedBody(), b"", b""
            for read in (CHUNKS[:first], CHUNKS[first:second], CHUNKS[second:] + b"GET / NEXT"):
                piece = body.feed(read) if read and not body.done else None
                if piece:
                    payload += piece.payload
                    wire += _wire(piece.payload, piece.framing)
                    assert piece.used == len(read.removesuffix(b"GET / NEXT"))
            assert (payload, wire, body.done) == (CARRIED, CHUNKS, True)


def _wire(payload: bytes, framing: list[bytes | int] | None) -> bytes:
    if framing is None:
        return b"%x\r\n%b\r\n" % (len(payload), payload)
    out, at = b"", 0
    for item in framing:
        out += item if isinstance(item, bytes) else payload[at : at + item]
        at += item if isinstance(item, int) else 0
    return out


@scenario
async def test_each_write_of_the_backend_is_one_read_of_the_client_wherever_a_chunk_is_cut() -> None:
    parts = [(CHUNKS[:at], CHUNKS[at:]) for at in range(1, len(CHUNKS))]
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pieces in parts:
            await read_request(reader)
            for piece in (b"HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n", *pieces):
                go_on.clear()
                writer.write(piece)
                await go_on.wait()

    async with backend(serve) as where, running(where) as rig:
        reader, writer = await rig.connect()
        for pieces in parts:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            go_on.set()
            for piece in pieces:
                assert await reader.read(65536) == piece
                go_on.set()
        ends = await rig.ends(len(parts))
        by_exchange = [[r for r in rig.of_kind("chunk", 3) if r.exchange == end.exchange] for end in ends]
        for chunks, pieces in zip(by_exchange, parts, strict=True):
            assert len(chunks) == len(pieces), "each read is a record"
            assert wire_of_chunks(chunks) == CHUNKS
            assert b"".join(chunk.data for chunk in chunks) == CARRIED


@scenario
async def test_each_write_of_the_client_is_one_read_of_the_backend() -> None:
    pieces = [b"5\r\nhel", b"lo\r\n", b"3\r\nabc\r\n", b"0\r\n", b"\r\n"]
    read: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while b"".join(read) != b"".join(pieces):
            read.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with backend(serve) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await rig.recorded("forward")
        for number, piece in enumerate(pieces, 1):
            writer.write(piece)
            await until(lambda number=number: len(read) == number)
        await reader.readuntil(b"\r\n\r\n")
    assert read == pieces
    assert [wire_of_chunks([chunk]) for chunk in rig.of_kind("chunk", 0)] == pieces


@scenario
async def test_a_compressed_body_and_accept_encoding_are_not_touched() -> None:
    packed = gzip.compress(os.urandom(5000) + b"text " * 5000)
    response = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    for offered in (b"Accept-Encoding: gzip;q=0.5,  br , *;q=0\r\n", b""):
        async with backend(replying(response, close=True)) as where, running(where) as rig:
            request = b"POST / HTTP/1.1\r\nHost: x\r\n%bConnection: close\r\nContent-Length: %d\r\n\r\n" % (
                offered,
                len(packed),
            )
            answer = await rig.ask(request + packed)
        assert answer.partition(b"\r\n\r\n")[2] == packed
        [told] = rig.of_kind("forward")
        assert (
            told.data
            == b"POST / HTTP/1.1\r\nHost: " + where.encode() + b"\r\n" + offered + b"Content-Length: %d\r\n\r\n" % len(packed)
        )
        assert rig.bodies(0) == rig.bodies(3) == [packed]


@scenario
async def test_hop_by_hop_fields_end_here_but_framing_stays_whatever_connection_names() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        heads.append(head)
        assert body == b"ok"
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: content-length, x-b\r\nX-B: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nhi"
        )

    async with backend(serve) as where, running(where) as rig:
        reader, writer = await rig.connect()
        writer.write(
            b"POST / HTTP/1.1\r\nConnection: Content-Length, Host,X-A\r\nconnection: X-C\r\nHost: x\r\nX-A: 1\r\n"
            b"x-c: 2\r\nTE: trailers\r\nContent-Length: 2\r\n\r\nok"
        )
        assert await reader.readuntil(b"hi") == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert heads == [b"POST / HTTP/1.1\r\nHost: " + where.encode() + b"\r\nTE: trailers\r\nContent-Length: 2\r\n\r\n"]
