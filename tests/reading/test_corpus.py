"""Recordings of real exchanges with twenty services: each field that is expected of them."""

from typing import Any

import pytest

from llmdump.reading.exchange import Request
from tests.reading.exchanges import CORPUS, decoded, lines, read

SESSIONS = ("parent_seq", "parent_by")
"""What needs more than one exchange to tell."""
EXCHANGES = lines(CORPUS) if CORPUS.exists() else []
APIS = sorted({exchange["api"] for exchange in EXCHANGES})

pytestmark = pytest.mark.skipif(not EXCHANGES, reason="the recordings are not beside this checkout")


def expected(exchange: dict[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in exchange["expected"].items() if key not in SESSIONS}
    return {**fields, **{key: exchange[key] for key in ("api", "framing", "stream")}}


def told(exchange: dict[str, Any], framed: bytes) -> dict[str, Any]:
    asked, answered = exchange["request"], exchange["response"]
    fields = [(name, value) for name, value in asked["headers"]]
    request = Request(exchange["method"], exchange["endpoint"], exchange["host"], "", fields, decoded(asked["body_b64"]))
    return read(request, answered["status"], [(name, value) for name, value in answered["headers"]], [framed]).reading


@pytest.mark.parametrize("api", APIS)
def test_every_expected_field_of_an_api_is_told(api: str) -> None:
    wrong = []
    for exchange in (each for each in EXCHANGES if each["api"] == api):
        found = told(exchange, decoded(exchange["response"]["body_b64"]))
        wrong += [
            f"{exchange['id']} {key}: {found.get(key, 'missing')!r}, not {value!r}"
            for key, value in expected(exchange).items()
            if found.get(key, "missing") != value
        ]
    assert not wrong, "\n".join(wrong)


def test_all_recordings_are_there() -> None:
    assert len(EXCHANGES) == 300
    assert all("text" in told(exchange, b"") for exchange in EXCHANGES[:3])


def test_a_provider_is_told_by_its_host() -> None:
    hosts = {(each["host"], each["provider"]) for each in EXCHANGES if not each["host"].startswith(("localhost", "127."))}
    for host, provider in sorted(hosts):
        exchange = next(each for each in EXCHANGES if each["host"] == host)
        assert told(exchange, b"")["provider"] == provider, host
