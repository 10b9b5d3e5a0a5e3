"""Capture rules: what is recorded by path; what is left out is marked, and never counted as lost."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import uvloop

from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, Record
from llmdump_proxy.rules import EVERYTHING, LEVELS, Levels, RuleError, Rules
from tests.patience import WAIT_S
from tests.proxy.harness import MemoryShelf, Rig, backend, replying, running, scenario, until

HEAD = b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nSecret-Field: canary-head\r\nContent-Length: 11\r\n\r\n"
BODY = b"canary-body"
RESPONSE_HEAD = b"HTTP/1.1 200 OK\r\nSecret-Field: canary-reply\r\nContent-Length: 14\r\nX: y\r\n\r\n"
RESPONSE_BODY = b"canary-content"


@pytest.mark.parametrize(
    ("lines", "path", "levels"),
    [
        ((), "/", EVERYTHING),
        (("/v1/chat=none",), "/v1/chat", Levels("none", "none")),
        (("/v1/chat=none",), "/v1/chat/", EVERYTHING),
        (("/v1/chat=none",), "/v1/chats", EVERYTHING),
        (("/v1/*=heads/all",), "/v1/", Levels("heads", "all")),
        (("/v1/*=heads/all",), "/v1/a/b", Levels("heads", "all")),
        (("/v1/*=heads/all",), "/v1", EVERYTHING),
        (("/v1*=sizes",), "/v1", Levels("sizes", "sizes")),
        (("/*=none",), "/anything", Levels("none", "none")),
        (("/v1/a=all", "/v1/*=none"), "/v1/a", EVERYTHING),
        (("/v1/*=none", "/v1/a=all"), "/v1/a", Levels("none", "none")),
        (("/a=b=sizes/none",), "/a=b", Levels("sizes", "none")),
        (("/a = none / heads ",), "/a", Levels("none", "heads")),
    ],
)
def test_the_first_rule_that_fits_counts(lines: tuple[str, ...], path: str, levels: Levels) -> None:
    assert Rules(lines).levels(path) == levels


@pytest.mark.parametrize(
    "line", ["", "/a", "a=none", "=none", "/a=", "/a=some", "/a=all/some", "/a=all/", "/a=all/all/all", "/a=ALL"]
)
def test_a_rule_that_cannot_be_used_is_named(line: str) -> None:
    if line == "/a=all/":  # nothing after the slash is the same for both sides
        assert Rules((line,)).levels("/a") == EVERYTHING
        return
    with pytest.raises(RuleError, match="all, heads, sizes, none") as caught:
        Rules((line,))
    assert repr(line) in str(caught.value) and "\n" not in str(caught.value)


def test_a_bad_rule_stops_the_start_with_one_line(tmp_path: Path) -> None:
    environ = os.environ | {"LLMDUMP_DATA_DIR": str(tmp_path), "LLMDUMP_CAPTURE_RULES": "/a=some"}
    ended = subprocess.run(
        [sys.executable, "-c", "from llmdump_proxy.main import main; main()"],
        env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "capture_rules" in ended.stderr and "/a=some" in ended.stderr and "all" in ended.stderr


async def exchange(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(HEAD + BODY)
    passed = RESPONSE_HEAD + RESPONSE_BODY
    assert await reader.readexactly(len(passed)) == passed
    await until(lambda: rig.engine.stats.ends["complete"] == 1)


def check_side(records: list[Record], level: str, head: bytes, body: bytes) -> None:
    """The head and the chunks of one side are what the level leaves."""
    heads = [r for r in records if r.kind in {"head", "forward"}]
    chunks = [r for r in records if r.kind == "chunk"]
    assert heads
    if level in {"all", "heads"}:
        assert all(head in r.data for r in heads) and not any("x_off" in r.meta for r in heads)
    else:
        for record in heads:
            assert record.data == b"" and record.meta["x_off"] is True
            assert (record.meta["x_cut"] > 50) == (level == "sizes")
    if level == "all":
        assert b"".join(r.data for r in chunks) == body and not any("x_off" in r.meta for r in chunks)
    elif level == "none":
        assert not chunks
    else:
        assert b"".join(r.data for r in chunks) == b""
        assert all(r.meta["x_off"] is True for r in chunks)
        assert sum(r.meta["x_cut"] for r in chunks) == len(body)
        assert chunks[-1].ends_body


@pytest.mark.parametrize("levels", [pair for pair in product(LEVELS, LEVELS) if pair != ("none", "none")], ids="/".join)
def test_each_level_on_each_side_leaves_what_it_says(levels: tuple[str, str]) -> None:
    async def ask() -> None:
        rule = f"/v1/chat={levels[0]}/{levels[1]}"
        async with backend(replying(RESPONSE_HEAD + RESPONSE_BODY)) as address, running(address, capture_rules=(rule,)) as rig:
            await exchange(rig)
            upward = [r for r in rig.records if r.direction in {CLIENT_TO_PROXY, 2}]
            check_side(upward, levels[0], b"canary-head", BODY)
            check_side([r for r in rig.records if r.direction == BACKEND_TO_PROXY], levels[1], b"canary-reply", RESPONSE_BODY)
            assert rig.of_kind("head")[0].meta.get("x_rule") == (None if levels == ("all", "all") else "/".join(levels))
            (end,) = rig.of_kind("end")
            assert (end.meta["x_lost"], end.meta["x_req"], end.meta["tb"]) == (0, len(BODY), len(RESPONSE_BODY))
            assert rig.engine.recorder.dropped == rig.engine.stats.unrecorded == 0
            assert [r.number for r in rig.records] == list(range(1, len(rig.records) + 1))

    uvloop.run(ask())


@scenario
async def test_nothing_of_an_exchange_is_recorded_by_none_and_it_is_counted() -> None:
    rules = ("/v1/chat=none",)
    async with backend(replying(RESPONSE_HEAD + RESPONSE_BODY)) as address, running(address, capture_rules=rules) as rig:
        await exchange(rig)
        assert rig.records == [] and rig.engine.recorder.made == 0
        assert rig.engine.stats.unrecorded == 1 and rig.engine.stats.open_exchanges == 0


@scenario
async def test_rules_look_at_the_path_without_its_query() -> None:
    rules = ("/v1/chat=none",)
    async with backend(replying(RESPONSE_HEAD + RESPONSE_BODY)) as address, running(address, capture_rules=rules) as rig:
        for target in (b"/v1/chat?x=1", b"http://elsewhere/v1/chat?x"):
            reader, writer = await rig.connect()
            writer.write(HEAD.replace(b"/v1/chat", target) + BODY)
            await reader.readuntil(RESPONSE_BODY)
        await until(lambda: rig.engine.stats.ends["complete"] == 2)
        assert rig.records == []


@pytest.mark.parametrize("limit", [1, 5, 10, 11, 14])
def test_a_payload_is_cut_to_a_length_and_says_what_it_was(limit: int) -> None:
    async def ask() -> None:
        respond = replying(RESPONSE_HEAD + RESPONSE_BODY)
        async with backend(respond) as address, running(address, capture_truncate_bytes=limit) as rig:
            await exchange(rig)
            for direction, body in ((CLIENT_TO_PROXY, BODY), (BACKEND_TO_PROXY, RESPONSE_BODY)):
                (chunk,) = rig.of_kind("chunk", direction)
                assert chunk.data == body[:limit]
                assert chunk.meta.get("x_cut") == (len(body) if len(body) > limit else None)
                assert "x_off" not in chunk.meta and chunk.ends_body
            assert b"canary-head" in rig.of_kind("head")[0].data, "heads are whole"
            assert rig.of_kind("end")[0].meta["tb"] == len(RESPONSE_BODY)

    uvloop.run(ask())


@scenario
async def test_what_a_rule_leaves_out_is_not_what_had_no_room() -> None:
    """The two are told apart in one exchange: sizes by rule, and then no room for the rest."""
    shelf = MemoryShelf()
    rules = ("/v1/chat=sizes",)
    respond = replying(RESPONSE_HEAD + RESPONSE_BODY)
    async with backend(respond) as address, running(address, shelf=shelf, capture_rules=rules) as rig:
        shelf.room = False
        await exchange(rig)
        (end,) = rig.of_kind("end")
        assert end.meta["x_lost"] == rig.engine.recorder.dropped == 5
