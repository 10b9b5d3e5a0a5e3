"""A plan, kept for one head and filled for another, says what reading that other head anew would say."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.secrets import Secrets
from llmdump.settings import Settings
from llmdump_proxy import plans
from llmdump_proxy.head import BadHeadError, parse_request
from llmdump_proxy.plans import Blank, Plan, Plans
from llmdump_proxy.routes import Routes
from llmdump_proxy.rules import Rules

SECRETS = Secrets(("x-mine",))
SETTINGS = Settings(upstream="http://backend:81/base")

LINES = (
    b"Authorization: Bearer sk-1023", b"x-api-key: 1023", b"X-Mine: a", b"Accept: */*", b"Connection: x-hop, close",
    b"X-Hop: 1023", b"Upgrade: websocket", b"Connection: upgrade", b"Keep-Alive: 5", b"Cookie: a=1023; b=c",
    b"X-Content-Length: 7", b"Content-Length-X: 7", b"Content-Type: application/json", b"Proxy-Authorization: Basic eA==",
)  # fmt: skip
LENGTH_NAMES = (b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH: \t")
TARGETS = (b"/v1/chat/completions", b"/v1/x?key=1023&a=b", b"http://user:1023@host/v1/y?api_key=k", b"/1023", b"*")


def made(secrets: Secrets = SECRETS, **settings: object) -> Plans:
    use = Settings(upstream=SETTINGS.upstream, **settings)  # type: ignore[arg-type]
    return Plans(Routes(use), Rules(use.capture_rules), secrets)


def filled(blank: Blank, digits: bytes) -> bytes:
    return blank.before + digits + blank.after


def told(found: tuple[Plan, bytes], secrets: Secrets = SECRETS) -> tuple[object, ...]:
    """All that a session and its journal take from it."""
    plan, digits = found
    masked = plan.masked(secrets)
    heads = [filled(blank, digits) for blank in (plan.sent, masked.received, masked.sent)]
    facts = plan.head._replace(raw=b"", body=int(digits) if digits else plan.head.body)
    return (facts, plan.levels, plan.provider, *heads, masked.key_hash, masked.secrets)


@given(
    st.sampled_from((b"POST", b"GET", b"OPTIONS")), st.sampled_from(TARGETS), st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from(LENGTH_NAMES), st.lists(st.sampled_from((b"0", b"7", b"007", b"1023", b"999999999999999999")), min_size=2),
    st.integers(0, 5), st.sampled_from((b"", b" ", b"\t ")),
)  # fmt: skip
def test_what_was_kept_says_the_same_as_what_is_read_anew(
    method: bytes, target: bytes, lines: list[bytes], name: bytes, lengths: list[bytes], at: int, after: bytes
) -> None:
    kept = made()
    for digits in lengths:
        fields = [b"Host: me", *lines[:at], name + digits + after, *lines[at:]]
        raw = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, target, b"\r\n".join(fields))
        try:
            parse_request(raw)
        except BadHeadError:
            with pytest.raises(BadHeadError):
                kept.of(raw)
            continue
        assert told(kept.of(raw)) == told(made().of(raw))
        plan, own = kept.of(raw)
        masked = SECRETS.mask(raw)
        assert (filled(plan.masked(SECRETS).received, own), plan.masked(SECRETS).secrets) == (masked.head, masked.secrets)
        assert own == digits


HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n"


def test_heads_that_differ_in_their_length_share_a_plan_and_others_do_not() -> None:
    kept = made()
    assert kept.of(HEAD % b"10")[0] is kept.of(HEAD % b"2000")[0]
    assert kept.of(HEAD % b"10")[0] is not kept.of((HEAD % b"10").replace(b"Host: a", b"Host: b"))[0]


@pytest.mark.parametrize("value", [b"-1", b"1, 1", b"", b"1" * 19, b"+5", b"0x5", b"5\r\nContent-Length: 5"])
def test_a_length_that_is_none_is_refused_though_such_a_head_is_kept(value: bytes) -> None:
    kept = made()
    kept.of(HEAD % b"5")
    if value == b"":  # llhttp takes it for none, whatever is kept
        assert kept.of(HEAD % value)[1] == b""
        return
    with pytest.raises(BadHeadError):
        kept.of(HEAD % value)


def test_who_has_the_length_masked_gets_it_masked() -> None:
    secrets = Secrets(("Content-Length",))
    kept = made(secrets)
    for digits in (b"10", b"2000"):
        plan, own = kept.of(HEAD % digits)
        assert digits not in filled(plan.masked(secrets).received, own)
        assert digits in filled(plan.sent, own)


def test_not_more_than_so_many_are_kept_and_none_that_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "KEPT_MAX", 3)
    kept = made()
    long = (HEAD % b"5").replace(b"Host: a", b"Host: a\r\nX: " + b"x" * plans.HEAD_BYTES_KEPT_MAX)
    assert kept.of(long)[0] is not kept.of(long)[0]
    heads = [(HEAD % b"5").replace(b"/x", b"/%d" % number) for number in range(4)]
    first = [kept.of(head)[0] for head in heads]
    again = [kept.of(head)[0] for head in heads[1:]]
    assert all(itertools.starmap(lambda a, b: a is b, zip(first[1:], again, strict=True)))
    assert kept.of(heads[0])[0] is not first[0]
