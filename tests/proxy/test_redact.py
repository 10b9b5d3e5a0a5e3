"""Secrets in bodies: masked however a body is cut, with everything else as it was."""

import asyncio
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from llmdump.settings import Settings
from llmdump_proxy.redact import MATCH_BYTES_MAX, BodyRedactor, Held, Redaction, RedactionError
from tests.proxy.harness import backend, read_request, running, scenario, until, wire_of_chunks

KEY = b"sk-canary-0123456789abcdef"
PATTERNS = [text.encode() for text in Settings().capture_redact_patterns]
TEXT = b'{"a":"' + KEY + b'","b":"word-1","c":"word-10","d":"sk-short","e":"' + KEY + b'"}'
REDACTION = Redaction([b"word-1", b"word-10"], PATTERNS)
MASKED = TEXT.replace(KEY, b"*" * len(KEY)).replace(b"word-10", b"*" * 7).replace(b"word-1", b"*" * 6)


def read(redaction: Redaction, *pieces: bytes, last: bool = True) -> list[Held]:
    """What is recorded of a body that comes in these pieces."""
    redactor = BodyRedactor(redaction)
    given_out = []
    for at, piece in enumerate(pieces):
        given_out += redactor.feed(Held(float(at), piece, [b"f", at], last and at == len(pieces) - 1))
    return given_out + redactor.flush()


def cut(text: bytes, *places: int) -> list[bytes]:
    bounds = [0, *sorted(places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def check(pieces: list[bytes], masked: bytes, redaction: Redaction = REDACTION, *, last: bool = True) -> None:
    given_out = read(redaction, *pieces, last=last)
    assert b"".join(held.data for held in given_out) == masked
    assert [len(held.data) for held in given_out] == [len(piece) for piece in pieces]
    assert [(held.ts, held.framing) for held in given_out] == [(float(at), [b"f", at]) for at in range(len(pieces))]
    assert [held.altered for held in given_out] == [h.data != piece for h, piece in zip(given_out, pieces, strict=True)]


@pytest.mark.parametrize("last", [True, False])
def test_a_secret_is_masked_wherever_the_body_is_cut(last: bool) -> None:
    """In two, in three, and byte by byte; at the end of the body, or where it was broken off."""
    check([TEXT], MASKED, last=last)
    for first in range(len(TEXT) + 1):
        check(cut(TEXT, first), MASKED, last=last)
    for first in range(0, len(TEXT), 2):
        for second in range(first, len(TEXT), 3):
            check(cut(TEXT, first, second), MASKED, last=last)
    check([TEXT[at : at + 1] for at in range(len(TEXT))], MASKED, last=last)


def test_a_secret_in_a_long_body_is_masked_wherever_it_stands() -> None:
    for before in range(MATCH_BYTES_MAX - 30, MATCH_BYTES_MAX + 30):
        text = b"." * before + KEY + b"." * 600
        masked = b"." * before + b"*" * len(KEY) + b"." * 600
        for size in (1, 7, 255, 256, 257, 1000):
            check([text[at : at + size] for at in range(0, len(text), size)], masked)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from([KEY, b"word-1", b"word-10", b"sk-short", b"AIza" + b"x" * 35, b"*", b"sk-", b" ", b"." * 200]),
        max_size=12,
    ),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_what_is_masked_does_not_depend_on_the_cuts(words: list[bytes], places: list[int]) -> None:
    text = b" ".join(words)
    whole = b"".join(held.data for held in read(REDACTION, text))
    masked = REDACTION.regex.sub(lambda match: b"*" * len(match[0]), text)
    if not any(len(found) > MATCH_BYTES_MAX for found in REDACTION.regex.findall(text)):
        assert whole == masked
        check(cut(text, *[place for place in places if place <= len(text)]), masked)


def test_an_own_credential_of_any_length_is_masked_wherever_it_is_cut() -> None:
    """A token of a kilobyte, as identity providers make them, in two reads and in many."""
    token = bytes(97 + at * 7 % 26 for at in range(1500))
    redaction = REDACTION.with_secrets([token, b"short"])
    text = b"x" * 300 + token + b" short " + b"y" * 300
    masked = text.replace(token, b"*" * len(token))
    for place in range(0, len(text), 13):
        check(cut(text, place), masked, redaction)
    check([text[at : at + 100] for at in range(0, len(text), 100)], masked, redaction)


def test_a_pattern_may_look_around_itself() -> None:
    redaction = Redaction([], [rb"\bkey-\d+\b", rb"(?<=token=)\w+(?=;)"])
    text = b"monkey-1 key-2 key-3x token=abc; token=abc " * 20
    masked = text.replace(b" key-2", b" *****").replace(b"token=abc;", b"token=***;")
    for size in (1, 2, 3, 50):
        check([text[at : at + size] for at in range(0, len(text), size)], masked, redaction)


def test_what_waits_is_bounded() -> None:
    """A stream of a million small reads holds back a few hundred bytes, not the stream."""
    redactor = BodyRedactor(REDACTION)
    most = 0
    for at in range(20_000):
        redactor.feed(Held(0.0, b"0123456789", None, False))
        most = max(most, len(redactor._waiting) * 10, len(redactor._window))
        if at % 1000 == 0:
            assert sys.getsizeof(redactor._window) < 4096
    assert most <= 2 * MATCH_BYTES_MAX + 20
    assert sum(len(held.data) for held in redactor.flush()) <= MATCH_BYTES_MAX + 10


def test_a_read_without_a_secret_is_given_as_it_came() -> None:
    (held,) = read(REDACTION, b"nothing here")
    assert held == Held(0.0, b"nothing here", [b"f", 0], True)


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(RedactionError, match="capture_redact_patterns"):
        Redaction([], [b"("])


def test_without_anything_to_look_for_nothing_is_masked() -> None:
    check([TEXT], TEXT, Redaction([], []))


# ---------------------------------------------------------------- in the proxy


@pytest.mark.parametrize("size", [1, 2, 7, 30, 10_000])
def test_records_are_masked_and_what_is_forwarded_is_not(size: int) -> None:
    body = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(TEXT), TEXT, 400, KEY[:13] + b"." * 374 + KEY[:13])
    request = b"POST / HTTP/1.1\r\nHost: x\r\nx-api-key: own-credential\r\nTransfer-Encoding: chunked\r\n\r\n"
    words = b"I am told own-credential and " + KEY

    @scenario
    async def ask() -> None:
        heard = bytearray()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            heard.extend(await reader.readexactly(len(body)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(words))
            for at in range(0, len(words), size):
                writer.write(words[at : at + size])
                await asyncio.sleep(0)
            await reader.read(1)

        async with (
            backend(answer) as address,
            running(address, capture_redact_bodies=True, capture_redact_literals=("word-1", "word-10")) as rig,
        ):
            reader, writer = await rig.connect()
            writer.write(request)
            for at in range(0, len(body), size):
                before = rig.engine.stats.client_bytes
                writer.write(body[at : at + size])
                while rig.engine.stats.client_bytes == before:
                    await asyncio.sleep(0)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head and await reader.readexactly(len(words)) == words
            await rig.ends()
            assert heard == body
            recorded = b"".join(rig.shelf.records)
            assert KEY not in recorded and b"own-credential" not in recorded and b"word-1" not in recorded
            upward, downward = rig.of_kind("chunk", CLIENT_TO_PROXY), rig.of_kind("chunk", BACKEND_TO_PROXY)
            assert wire_of_chunks(upward) == body.replace(TEXT, MASKED)
            assert b"".join(r.data for r in upward) == MASKED + KEY[:13] + b"." * 374 + KEY[:13]
            assert b"".join(r.data for r in downward) == b"I am told %b and %b" % (b"*" * 14, b"*" * len(KEY))
            for record in (*upward, *downward):
                assert bool(record.meta.get("x_alt")) == (b"*" in record.data)
            assert upward[-1].ends_body and downward[-1].ends_body
            assert [r.meta["ci"] for r in upward] == list(range(1, len(upward) + 1))
            end = rig.of_kind("end")[0]
            assert (end.meta["tb"], end.meta["tc"]) == (len(words), len(downward))

    ask()


@scenario
async def test_what_was_held_back_is_recorded_when_a_response_is_cut() -> None:
    async def cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello " + KEY[:-1])
        await asyncio.sleep(0.05)

    async with backend(cut_short) as address, running(address, capture_redact_bodies=True) as rig:
        answer = await rig.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(KEY[:-1])
        (end,) = await rig.ends()
        assert end.meta["x_end"] == "upstream_closed"
        (chunk,) = rig.of_kind("chunk")
        assert chunk.data == b"hello " + b"*" * (len(KEY) - 1) and not chunk.ends_body
        assert rig.records[-1].kind == "end"


@scenario
async def test_a_long_stream_is_recorded_as_it_goes_on() -> None:
    """Redaction holds back a few hundred bytes of it, never the whole."""
    go_on = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
        await asyncio.sleep(0.05)
        writer.write(b"y" * 1000)
        await go_on.wait()

    async with backend(stream) as address, running(address, capture_redact_bodies=True) as rig:
        reader, writer = await rig.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"y" * 1000)
        await until(lambda: any(r.data == b"x" * 1000 for r in rig.of_kind("chunk")))
        go_on.set()


@scenario
async def test_bytes_after_an_upgrade_are_masked_too() -> None:
    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + KEY[:9])
        await reader.readexactly(len(KEY))
        writer.write(KEY[9:])

    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with backend(switch) as address, running(address, capture_redact_bodies=True) as rig:
        reader, writer = await rig.connect()
        writer.write(request)
        await reader.readuntil(KEY[:9])
        writer.write(KEY)
        assert (await reader.read(-1)).endswith(KEY[9:])
        writer.close()
        await rig.ends()
        for direction in (CLIENT_TO_PROXY, BACKEND_TO_PROXY):
            pipes = rig.of_kind("pipe", direction)
            assert b"".join(r.data for r in pipes) == b"*" * len(KEY)
            assert all(r.meta["x_alt"] for r in pipes)
