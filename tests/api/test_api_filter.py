"""`?filter=` over real rows: the same rows as the predicate finds, whatever drives the query."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from made import Instance, append, begin_segment, exchange, new_id, running

from llmdump import filter as filters
from llmdump.data_dir import DataDir
from llmdump_api.filtering import conditions
from llmdump_indexer.follow import Follower
from tests.api.test_api_serve import Served

MODELS = ("gpt-4o", "claude-4", "llama")
STATUSES = (200, 404, 500)
PATHS = ("/v1/chat/completions", "/v1/messages")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, instance = DataDir(tmp_path_factory.mktemp("filter")).create(), Instance()
    path = begin_segment(data)
    for index in range(36):
        body = b'{"model":"%b","stream":false}' % MODELS[index % 3].encode()
        made = exchange(
            instance, new_id(index), body, path=PATHS[index % 2], status=STATUSES[index // 12], response=(b"x" * index,)
        )
        append(path, b"".join(made))
    Follower(data).catch_up()
    with running("api", data) as service:
        yield Served(service, data)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("model=claude-4", [index for index in range(36) if index % 3 == 1]),
        ("model~CLAUDE and status>=400", [index for index in range(12, 36) if index % 3 == 1]),
        ("status=5xx and path=/v1/m*", [index for index in range(24, 36) if index % 2]),
        ("status=404 or resp_bytes>=34", [*range(12, 24), 34, 35]),
        ("not (model=llama or status=200)", [index for index in range(12, 36) if index % 3 != 2]),
        ("client=null and time>now-1h", []),
        ("stream and model=llama", []),
        ("cost=null and resp_bytes<1B", [0]),
        ("status=404.5 or model='x'", []),
        ("status=404.5", []),
    ],
)
def test_the_list_has_the_rows_that_pass(api: Served, text: str, want: list[int]) -> None:
    found = api.ask(f"/api/traces?limit=500&filter={quote(text)}").json["traces"]
    assert [row["id"] for row in found] == [new_id(index) for index in sorted(want, reverse=True)]


def test_it_joins_other_parameters_and_pages(api: Served) -> None:
    path = f"/api/traces?limit=5&status=200&filter={quote('model!=llama')}"
    first = api.ask(path).json
    second = api.ask(f"{path}&cursor={first['next_cursor']}").json
    want = [new_id(index) for index in reversed(range(12)) if index % 3 != 2]
    assert [row["id"] for row in first["traces"] + second["traces"]] == want
    assert second["next_cursor"] is None


def test_what_an_index_serves_stands_alone() -> None:
    found = conditions("model=x and status=5xx and path=/a* and ttft>1s and (model=y or stream)", 0)
    assert [one.column for one in found] == ["model", "status", "route_path", "", ""]
    assert [(one.low, one.high) for one in found[:2]] == [("x", None), (500, 600)]


def test_every_field_has_its_column_in_the_index(api: Served) -> None:
    for name, field in filters.FIELDS.items():
        reply = api.ask(f"/api/traces?filter={quote(f'{name}=null')}")
        assert reply.status == 200, (name, field.column, reply.body)


def test_an_error_points_at_the_character_over_http(api: Served) -> None:
    reply = api.ask(f"/api/traces?filter={quote('stream and modle=x')}")
    assert reply.status == 400
    assert {name: reply.json[name] for name in ("error", "param", "offset")} == {
        "error": "bad_param", "param": "filter", "offset": 11,
    }  # fmt: skip
    assert reply.json["pointed"].splitlines() == [
        "stream and modle=x",
        " " * 11 + "^ expected a field, 'modle' is none; model?",
    ]


EVERYTHING = quote("req_bytes>=0B")
TIME = "since=2026-01-01T00:00:00Z&until=2026-01-01T01:00:00Z"


def test_sums_with_a_filter_are_those_of_what_passes(api: Served) -> None:
    kept, every = api.ask("/api/facets").json["facets"], api.ask(f"/api/facets?filter={EVERYTHING}").json
    assert (every["facets"], every["counted_since"]) == (kept, None)
    some = api.ask(f"/api/facets?by=model,status&filter={quote('status>=400 and not model=llama')}").json["facets"]
    assert [(one["value"], one["requests"], one["errors"]) for one in some["model"]["values"]] == [
        ("claude-4", 8, 8),
        ("gpt-4o", 8, 8),
    ]
    assert [one["value"] for one in some["status"]["values"]] == ["404", "500"]
    none = api.ask(f"/api/facets?by=model&filter=model=x&{TIME}").json
    assert none["facets"]["model"] == {"values": [], "more": False, "cut": False}


@pytest.mark.parametrize(
    "how", ["", "&by=model&step=minute&limit=3", "&by=status", "&by=model&value=llama", "&spread=duration_ms,own_us&step=day"]
)
def test_series_with_a_filter_are_those_of_what_passes(api: Served, how: str) -> None:
    kept, every = api.ask(f"/api/stats?{TIME}{how}").json, api.ask(f"/api/stats?{TIME}{how}&filter={EVERYTHING}").json
    assert every == {**kept, "counted_since": None}
    assert kept["series"]
    some = api.ask(f"/api/stats?{TIME}{how}&filter=status=500").json["series"]
    assert sum(one["total"]["requests"] for one in some) == (4 if "llama" in how else 12)


def test_sessions_with_a_filter_are_those_with_such_an_exchange(api: Served) -> None:
    found = api.ask("/api/sessions?filter=status=404").json["sessions"]
    assert {session["last_status"] for session in found} == {404}
    assert len(found) == len([one for one in api.ask("/api/sessions").json["sessions"] if one["last_status"] == 404]) > 0
    page = api.ask("/api/sessions?limit=1&filter=status=404").json
    rest = []
    while page["next_cursor"]:
        rest += page["sessions"]
        page = api.ask(f"/api/sessions?limit=1&filter=status=404&cursor={page['next_cursor']}").json
    assert rest + page["sessions"] == found


@pytest.mark.parametrize("path", ["facets", "stats", "sessions"])
def test_an_error_in_a_filter_points_at_it_everywhere(api: Served, path: str) -> None:
    reply = api.ask(f"/api/{path}?filter=modell=x")
    assert (reply.status, reply.json["param"], reply.json["offset"]) == (400, "filter", 0)
    assert api.ask(f"/api/{path}?filter=").status == 400
