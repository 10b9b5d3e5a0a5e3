"""The demo's logic: its requests are what it says, every exchange is matched with its own trace, faults say what to do."""

import asyncio
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmdump.data_dir import DataDir
from llmdump.demo import backend, exchanges, show
from llmdump.settings import Settings

WANTED = exchanges.all_exchanges()


def at_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def trace(path: str, start_ms: int, **more: Any) -> dict[str, Any]:
    started = at_ms(start_ms).isoformat().replace("+00:00", "Z")
    row = {"id": f"{start_ms}{path}", "path": path, "ts_start": started, "status": 200, "duration_ms": 5.4}
    return {**row, "model": "m", "resp_chunks": 3, "end_reason": "complete", **more}


def traces_of_all(first_ms: int) -> list[dict[str, Any]]:
    return [trace(one.path, first_ms + at) for at, one in enumerate(WANTED)]


def test_demo_speaks_with_every_provider_streamed_and_not() -> None:
    paths = [one.path for one in WANTED]
    for part in ("chat/completions", "responses", "messages", "streamGenerateContent", "/api/chat"):
        assert any(part in path for path in paths)
    streamed = {json.loads(one.body).get("stream") for one in WANTED if "chat/completions" in one.path}
    assert streamed == {True, None}


def test_second_turn_carries_the_first_and_the_answer_it_got() -> None:
    async def first_answer(body: dict[str, Any]) -> str:
        plain = {**body, "stream": False}
        async with (
            backend.serving() as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/messages", json=plain) as answer,
        ):
            return str((await answer.json())["content"][0]["text"])

    one, two = (json.loads(one.body) for one in WANTED if "messages" in one.path)
    assert two["messages"][:1] == one["messages"]
    assert two["messages"][1] == {"role": "assistant", "content": asyncio.run(first_answer(one))}


def test_backend_answers_every_request_of_the_demo() -> None:
    async def statuses() -> list[int]:
        async with backend.serving() as url, aiohttp.ClientSession() as session:
            answers = []
            for one in WANTED:
                async with session.post(url + one.target, data=one.body, headers={**one.headers, "x-sim-gap-ms": "0"}) as got:
                    await got.read()
                    answers.append(got.status)
            return answers

    assert asyncio.run(statuses()) == [200] * len(WANTED)


def test_each_exchange_gets_the_trace_of_its_turn() -> None:
    traces = traces_of_all(1000)
    found = show.match(WANTED, reversed(traces), since=at_ms(1000))
    assert found == traces


def test_missing_trace_is_nobody_elses() -> None:
    traces = [one for one in traces_of_all(1000) if "responses" not in one["path"]]
    found = show.match(WANTED, traces, since=at_ms(1000))
    assert [one.path for one, its in zip(WANTED, found, strict=True) if its is None] == ["/demo/v1/responses"]


def test_traces_from_before_and_unfinished_ones_do_not_count() -> None:
    assert show.match(WANTED, traces_of_all(500), since=at_ms(1000)) == [None] * len(WANTED)
    unfinished = [{**one, "end_reason": None} for one in traces_of_all(1000)]
    assert show.match(WANTED, unfinished, since=at_ms(1000)) == [None] * len(WANTED)


def test_query_is_no_part_of_the_path() -> None:
    traces = [trace(one.path + "?x=1", 1000 + at) for at, one in enumerate(WANTED)]
    assert show.match(WANTED, traces, since=at_ms(1000)) == traces


def test_table_has_a_line_an_exchange_and_says_what_is_missing() -> None:
    lines = show.table(WANTED, [*traces_of_all(1000)[:-1], None]).splitlines()
    assert len(lines) == 1 + len(WANTED)
    assert lines[0].split() == ["time", "model", "path", "status", "chunks", "duration", "end"]
    assert lines[1].split()[1:] == ["m", "/demo/v1/chat/completions", "200", "3", "5", "ms", "complete"]
    assert lines[-1].endswith("NOT CAPTURED")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(upstream="http://x"), "`upstream` empty"),
        (Settings(routes=("/v1=http://x",)), "add /demo/*=http://127.0.0.1:7869 to `routes`"),
    ],
)
def test_settings_that_leave_no_way_to_the_backend_are_named(settings: Settings, says: str) -> None:
    with pytest.raises(show.DemoError, match=says.replace("*", r"\*")):
        show.backend_listen(settings)


def test_default_route_leads_to_the_default_address() -> None:
    assert show.backend_listen(Settings()) == backend.LISTEN


def test_missing_token_is_named(tmp_path: Path) -> None:
    with pytest.raises(show.DemoError, match="admin_token"):
        show.place(Settings(), DataDir(tmp_path))


def test_stranger_on_the_backends_port_is_not_taken_for_it() -> None:
    async def enter(listen: str) -> None:
        async with show.simulated_backend(listen):
            pass

    with socket.create_server(("127.0.0.1", 0)) as stranger, pytest.raises(show.DemoError, match="end what listens there"):
        asyncio.run(enter(f"127.0.0.1:{stranger.getsockname()[1]}"))


def test_backend_that_is_there_already_is_used() -> None:
    async def enter_beside_it() -> None:
        async with backend.serving() as url, show.simulated_backend(url.removeprefix("http://")):
            pass

    asyncio.run(enter_beside_it())


def test_proxy_that_is_away_is_named_with_the_next_command() -> None:
    with pytest.raises(show.DemoError, match="llmdump status"):
        asyncio.run(show.send_all("http://127.0.0.1:1", WANTED))
