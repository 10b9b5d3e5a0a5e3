"""Credentials: masked in every byte that is recorded, told apart by their hash, and forwarded as they were sent."""

import asyncio
import hashlib
from typing import Any

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY
from llmdump.secrets import NO_KEY, Secrets, fingerprint
from llmdump_proxy import rewrite
from tests.proxy.harness import backend, read_request, replying, running, scenario

CANARY = b"sk-canary-0123456789abcdef"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST = b"Host: client.test\r\n"


def hash_of(value: bytes) -> bytes:
    return hashlib.sha256(value).hexdigest()[:16].encode()


@pytest.mark.parametrize(
    ("fields", "key_hash"),
    [
        (b"Authorization: Bearer sk-test-123\r\n", "6981744f7254f742"),
        (b"x-api-key: sk-test-123\r\n", "e0dbaa0c6455768b"),
        (b"x-api-key: sk-test-123\r\nAuthorization: Bearer sk-test-123\r\n", "6981744f7254f742"),
        (b"AUTHORIZATION:Bearer sk-team-A  \r\n", "6a224f892c473e31"),
        (b"X-Api-Key:\tsk-team-B\r\n", "6509f64b987f4bdd"),
        (b"", "0" * 16),
        (b"Authorization:\r\n", "0" * 16),
        (b"Cookie: a=sk-test-123\r\nX: ?sig=sk-test-123\r\n", "0" * 16),
        (b"api-key: later\r\nx-goog-api-key: sk-test-123\r\n", "e0dbaa0c6455768b"),
        (b"api-key: sk-test-123\r\n", "e0dbaa0c6455768b"),
        (b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-test-123, b\r\n", "e0dbaa0c6455768b"),
    ],
)
def test_the_key_hash_is_api_logs(fields: bytes, key_hash: str) -> None:
    for secrets in (Secrets(), Secrets(keep=True)):
        assert secrets.mask(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n").key_hash == key_hash


SIGNED = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=%b/%b/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=%b\r\n"
)


def test_signed_requests_of_one_access_key_have_one_hash() -> None:
    first, next_day, other = (
        Secrets().mask(b"POST /model/m/converse HTTP/1.1\r\n" + HOST + SIGNED % filling + b"\r\n")
        for filling in ((b"AKIDONE", b"20260101", b"aa"), (b"AKIDONE", b"20260102", b"bb"), (b"AKIDTWO", b"20260101", b"aa"))
    )
    assert first.key_hash == next_day.key_hash == hash_of(b"AKIDONE").decode() != other.key_hash
    assert b"AKIDONE" not in first.head and b"Signature" not in first.head
    odd = SIGNED.replace(b"Credential=%b/%b", b"Scope=%b%b") % (b"AKIDONE", b"20260101", b"aa")
    assert Secrets().mask(odd).key_hash == hash_of(odd.partition(b": ")[2].strip()).decode()
    plain = b"Authorization: Bearer Credential=AKIDONE/x\r\n"
    assert Secrets().mask(plain).key_hash == hash_of(b"Bearer Credential=AKIDONE/x").decode()


def test_the_key_hash_is_the_querys_where_no_field_has_a_key() -> None:
    head = b"GET /v1beta/x?alt=sse&sig=other&key=sk-test-123&b HTTP/1.1\r\n" + HOST
    assert Secrets().mask(head + b"\r\n").key_hash == "e0dbaa0c6455768b"
    assert Secrets().mask(head + b"api-key: sk-team-B\r\n\r\n").key_hash == "6509f64b987f4bdd"


FIELDS = [
    b"Authorization: Bearer %b",
    b"authorization:bearer %b",
    b"AUTHORIZATION:  \t %b",
    b"Authorization: Custom %b",
    b"Authorization: %b trailing words",
    b"Authorization: AWS4-HMAC-SHA256 Credential=%b/20260101/us/s3, SignedHeaders=host, Signature=%b",
    b"Proxy-Authorization: Basic %b",
    b"x-api-key: %b",
    b"X-API-KEY:%b",
    b"api-key: %b",
    b"x-goog-api-key: %b",
    b"Cookie: session=%b; other=%b",
    b"Set-Cookie: session=%b; Path=/; HttpOnly",
    b"x-amz-security-token: %b",
    b"cf-aig-authorization: Bearer %b",
    b"Helicone-Auth: Bearer %b",
    b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.%b, openai-beta.realtime-v1",
    b"Referer: https://app.test/?key=%b",
    b"Referer: https://user:%b@app.test/",
]
TARGETS = [
    b"/v1beta/x?key=%b",
    b"/v1beta/x?alt=sse&key=%b",
    b"/v1beta/x?key=%b&alt=sse",
    b"/v1beta/x?KEY=%b",
    b"/v1beta/x?Key=%b#fragment",
    b"/v1beta/x?%%6bey=%b",
    b"/v1beta/x?%%4B%%65%%79=%b",
    b"/v1beta/x?a;key=%b",
    b"/v1beta/x?api_key=%b",
    b"/v1beta/x?api-key=%b",
    b"/v1beta/x?apikey=%b",
    b"/v1beta/x?access_token=%b",
    b"/v1beta/x?access%%5Ftoken=%b",
    b"/v1beta/x?token=%b",
    b"/v1beta/x?X-Amz-Signature=%b&sig=%b",
    b"http://user:%b@client.test/v1beta/x",
    b"http://%b@client.test/v1beta/x",
    b"http://us@er:%b@client.test/v1beta/x?key=%b",
]


def filled(template: bytes) -> bytes:
    return template.replace(b"%b", CANARY).replace(b"%%", b"%")


async def shipped(request: bytes, **settings: Any) -> tuple[bytes, bytes, list[Any]]:
    """What the backend got and every byte that was recorded, with the records."""
    heard = bytearray()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        heard.extend(head + body)
        writer.write(OK)

    async with backend(hear) as address, running(address, **settings) as rig:
        reader, writer = await rig.connect()
        writer.write(request)
        await reader.readuntil(b"ok")
        await rig.ends()
        return bytes(heard), b"".join(rig.shelf.records), rig.records


def test_no_credential_is_in_any_recorded_byte() -> None:
    async def ask() -> None:
        heads = [b"GET /v1/x HTTP/1.1\r\n" + HOST + filled(field) + b"\r\n\r\n" for field in FIELDS]
        heads += [b"GET " + filled(target) + b" HTTP/1.1\r\n" + HOST + b"\r\n" for target in TARGETS]
        for head in heads:
            heard, recorded, records = await shipped(head)
            assert CANARY not in recorded, head
            assert b"masked:" in recorded
            forward = next(r for r in records if r.kind == "forward")
            assert b"masked:" in forward.data or b"http://" in head
            assert CANARY in heard or b"@client.test/v1beta/x HTTP" in head, "what is forwarded is not masked"

    uvloop.run(ask())


@pytest.mark.parametrize("field", FIELDS)
def test_a_masked_head_is_the_head_but_for_its_credentials(field: bytes) -> None:
    head = b"GET /v1/x HTTP/1.1\r\n" + HOST + b"A: b\r\n" + filled(field) + b" \r\nz:Z\r\n\r\n"
    masked = Secrets().mask(head)
    assert masked.head.startswith(b"GET /v1/x HTTP/1.1\r\n" + HOST + b"A: b\r\n" + field.partition(b":")[0] + b":")
    assert masked.head.endswith(b"z:Z\r\n\r\n") and masked.head.count(b"\r\n") == 6
    assert any(CANARY in secret for secret in masked.secrets)


def test_of_an_authorization_a_known_scheme_stays_and_nothing_else() -> None:
    mask = Secrets().mask
    value = b"Bearer " + CANARY
    assert mask(b"Authorization: " + value + b"\r\n").head == b"Authorization: Bearer masked:" + hash_of(value) + b"\r\n"
    value = CANARY + b" Bearer"
    assert mask(b"Authorization: " + value + b"\r\n").head == b"Authorization: masked:" + hash_of(value) + b"\r\n"
    assert mask(b"x-api-key: Bearer k\r\n").head == b"x-api-key: masked:" + hash_of(b"Bearer k") + b"\r\n"


def test_the_same_key_has_the_same_mask_and_another_another() -> None:
    first, again, other = (Secrets().mask(b"x-api-key: %b\r\n" % key).head for key in (b"one", b"one", b"two"))
    assert first == again != other


def test_what_is_no_credential_stays() -> None:
    head = (
        b"GET /v1/monkey=1?monkey=1&keys=2&x=key&tokens=3 HTTP/1.1\r\nX-Api-Key-Id: 1\r\nMy-Cookie: 2\r\n"
        b"X: Authorization: 3\r\nX-Key: 4\r\nFrom: me@client.test\r\nReferer: http://h/a@b\r\n\r\n"
    )
    assert Secrets().mask(head) == (head, NO_KEY, (), ())


def test_further_names_are_masked_as_set() -> None:
    secrets = Secrets(["X-Team-Secret", "x.y"], ["sessionid", "a.b"])
    head = b"GET /?SessionId=%b&a.b=%b&s%%65ssionid=%b HTTP/1.1\r\nx-team-secret: %b\r\nX.Y: %b\r\nxzy: stays\r\n\r\n"
    masked = secrets.mask(filled(head)).head
    assert CANARY not in masked and masked.count(b"masked:") == 5 and b"xzy: stays" in masked
    assert CANARY in Secrets().mask(filled(head)).head


@scenario
async def test_further_names_come_from_the_settings() -> None:
    request = b"GET /?mine=%b HTTP/1.1\r\n%bX-Mine: %b\r\n\r\n" % (CANARY, HOST, CANARY)
    _, recorded, _ = await shipped(request, capture_secret_headers=("x-mine",), capture_secret_query=("mine",))
    assert CANARY not in recorded


@scenario
async def test_keep_keeps_credentials() -> None:
    request = b"GET /?key=%b HTTP/1.1\r\n%bAuthorization: Bearer %b\r\n\r\n" % (CANARY, HOST, CANARY)
    heard, recorded, records = await shipped(request, capture_secrets="keep")
    assert b"masked:" not in recorded
    assert records[0].data == request
    assert next(r for r in records if r.kind == "forward").data == heard
    assert records[0].meta["x_key"].encode() == hash_of(b"Bearer " + CANARY)


@scenario
async def test_credentials_of_responses_and_interim_heads_are_masked() -> None:
    response = b"HTTP/1.1 103 Early\r\nSet-Cookie: a=%b\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=%b\r\nset-cookie: b=%b\r\n"
    response = response.replace(b"%b", CANARY) + b"Content-Length: 2\r\nConnection: close\r\n\r\nok"
    async with backend(replying(response)) as address, running(address) as rig:
        answer = await rig.ask(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert answer.count(CANARY) == 3
        assert CANARY not in b"".join(rig.shelf.records)
        assert rig.of_kind("head", BACKEND_TO_PROXY)[0].data.count(b"masked:") == 2


@scenario
async def test_credentials_in_trailers_are_masked_and_the_rest_is_told() -> None:
    chunked = b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer %b\r\nSet-Cookie: %b\r\n\r\n".replace(b"%b", CANARY)
    request = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in ([chunked], [chunked[:40], chunked[40:]], [chunked[i : i + 1] for i in range(len(chunked))]):
        heard = bytearray()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray = heard) -> None:
            await reader.readuntil(b"\r\n\r\n")
            heard += await reader.readexactly(len(chunked))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)

        async with backend(echo) as address, running(address) as rig:
            reader, writer = await rig.connect()
            for piece in (request, *pieces):
                writer.write(piece)
                await asyncio.sleep(0.001)
            assert (await reader.readuntil(chunked)).endswith(chunked)
            await rig.ends()
            assert heard == chunked
            assert CANARY not in b"".join(rig.shelf.records)
            for direction in (CLIENT_TO_PROXY, BACKEND_TO_PROXY):
                last = rig.of_kind("chunk", direction)[-1]
                assert last.ends_body
                assert b"X-Sum: 1\r\nAuthorization: Bearer masked:" in last.meta["x_f"][-1]


@scenario
async def test_errors_hold_no_credential() -> None:
    """What is answered names the path and the backend, never a key."""
    async with running("127.0.0.1:1") as rig:
        answer = await rig.ask(filled(b"GET /v1/x?key=%b HTTP/1.1\r\n" + HOST + b"x-api-key: %b\r\n\r\n"))
        assert b" 502 " in answer and CANARY not in answer


# ---------------------------------------------------------------- heads that were refused

BROKEN = [
    b"GET /?key=%b",
    b"GET /?a=b&key=sk- %b HTTP/1.1\r\n",
    b"GET /?key=\r%b HTTP/1.1\r\nHost: x\r\n",
    b"GET / HTTP/1.1\rAuthorization: Bearer %b\r\r",
    b"GET / HTTP/1.1\nAuthorization: Bearer %b\n\n",
    b"GET / HTTP/1.1\r\nAuthorization:\r\n Bearer %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Bearer\r\n\t%b\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Bearer\r%b\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Bearer\n%b\n\n",
    b"GET / HTTP/1.1\r\nAuthorization : Bearer %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization\r\n: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization Bearer %b\r\n\r\n",
    b"GET / HTTP/1.1\r\n Authorization: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\0Authorization: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\rAuthorization: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: a\0%b\r\n\r\n",
    b"GET / HTTP/1.1\r\nCookie: a=b;\r\n c=%b;\r\n d=%b\r\nContent-Length: x\r\n\r\n",
    b"GET http://user:%b@h/ HTTP/3\r\n\r\n",
    b"x-api-key: %b\r\n\r\n",
    b"Authorization: %b",
    b"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: openai-insecure-api-key.%b\r\n",
]


@pytest.mark.parametrize("head", BROKEN)
def test_a_broken_head_is_masked_too(head: bytes) -> None:
    masked = Secrets().mask(filled(head), broken=True)
    assert CANARY not in masked.head and b"masked:" in masked.head
    assert masked.key_hash != NO_KEY or head in {BROKEN[16], BROKEN[17]}


@scenario
async def test_a_broken_head_is_masked_in_its_record() -> None:
    async with running("127.0.0.1:1", client_header_timeout_s=0.1) as rig:
        for count, head in enumerate(BROKEN, 1):
            await rig.ask(filled(head))
            await rig.ends(count)
        assert CANARY not in b"".join(rig.shelf.records)
        assert len(rig.of_kind("head")) == len(BROKEN)


def test_a_broken_head_keeps_what_is_no_credential() -> None:
    head = b"GET / HTTP/1.1\r\nHost : x\r\nAuthorization: Bearer %b\r\nX: kept\r\n\r\n" % CANARY
    value = b"Bearer " + CANARY
    masked = Secrets().mask(head, broken=True)
    assert masked.head == head.replace(CANARY, b"masked:" + fingerprint(value))
    assert masked.key_hash.encode() == hash_of(value)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BROKEN), st.integers(0, 200), st.binary(max_size=3), st.booleans())
def test_a_credential_in_a_broken_head_is_masked_whatever_stands_around_it(
    head: bytes, at: int, noise: bytes, early: bool
) -> None:
    before, _, after = head.partition(b"%b")
    at = min(at, len(after))
    noisy = before + CANARY + after[:at] + noise + after[at:] if not early else noise + before + CANARY + after
    if b"\n" not in noise and b":" not in noise:
        assert CANARY not in Secrets().mask(noisy.replace(b"%b", CANARY), broken=True).head or _is_token_char(noise[-1:])


def _is_token_char(byte: bytes) -> bool:
    """Glued to a name's front, it makes another name of it, which is nobody's credential."""
    return byte.isalnum() or byte in b"!#$%&'*+.^_`|~-"


LINES = [
    b"Cookie: a=secret1", b"Cookie: a=secret12", b"Authorization: Bearer secret12", b"authorization:secret1 ", b"X: secret1",
    b"Connection: cookie", b"Connection: x, api-key", b"api-key: secret1", b"Host: u:secret1@h", b"X-Cookie: secret1",
]  # fmt: skip


@settings(deadline=None)
@example(LINES[:2], b"/a", False)
@given(
    st.lists(st.sampled_from(LINES), max_size=6),
    st.sampled_from([b"/a", b"/a?key=secret1", b"http://u:secret1@h/a?b"]),
    st.booleans(),
)
def test_a_sent_head_is_masked_as_if_the_masked_head_were_sent(fields: list[bytes], target: bytes, keep: bool) -> None:
    raw = b"GET " + target + b" HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    connection = b",".join(field[12:] for field in fields if field.startswith(b"Connection:"))
    masked = Secrets(keep=keep).mask(raw)

    def sent(head: bytes) -> bytes:
        return rewrite.request(head, head.split(b" ")[1], b"backend", connection, b"")

    found = masked.same_in(sent(raw))
    if found is None:
        assert b"secret1@" in raw or b"key=secret1" in raw
    else:
        assert found == sent(masked.head)
