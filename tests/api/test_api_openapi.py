"""/openapi.json: what it says is so, as schemathesis finds against a real process with an archive."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from made import Instance, append, begin_segment, exchange, new_id, running

from llmdump.data_dir import DataDir
from llmdump_api import described, openapi, sums
from llmdump_api.params import BadParamError, Param
from llmdump_indexer.follow import Follower
from tests.api.test_api_security import Api

STREAM, PLAIN = new_id(1), new_id(2)
PNG = "data:image/png;base64,iVBORw0KGgo="
EXAMPLES, EXAMPLES_LONG = 4, 100
# Values that the schema allows and the code does not: cursors and filters that nobody made, days that no calendar has,
# steps too short for their range. They are 400, which the document has. And failures without a token soon are 429.
LEFT_OUT = "positive_data_acceptance,ignored_auth"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data, instance = DataDir(tmp_path_factory.mktemp("openapi")).create(), Instance()
    asked = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": [{"image_url": {"url": PNG}}]}]})
    stream = exchange(
        instance, STREAM, asked.encode(), (b'data: {"a":1}\n\n', b"data: [DONE]\n\n"), content_type="text/event-stream"
    )
    append(begin_segment(data), b"".join([*stream, *exchange(instance, PLAIN, status=500)]))
    Follower(data).catch_up()
    with running("api", data) as service:
        yield Api(service, data)


def operations() -> Iterator[tuple[str, str, Any]]:
    for path, methods in openapi.document("0")["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_is_served_as_it_is_made(api: Api) -> None:
    status, _, body = api.ask("/openapi.json", "none")
    told = json.loads(body)
    assert (status, told["openapi"]) == (200, "3.1.0")
    assert told == json.loads(json.dumps(openapi.document(told["info"]["version"])))


def test_every_schema_is_one_and_every_name_is_used_once() -> None:
    for _, _, operation in operations():
        for param in operation["parameters"]:
            Draft202012Validator.check_schema(param["schema"])
    for schema in openapi.SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names) == len(described.ROUTES)


def test_every_parameter_that_is_described_is_taken_and_no_other(api: Api) -> None:
    for route in described.ROUTES:
        if route.method != "GET":
            continue
        path = route.path.replace("{id}", STREAM).replace("{n}", "0")
        needed = [
            f"{param.name}={STREAM}" for param in route.query if param.is_required or (param.name, path) == ("id", "/api/live")
        ]
        assert api.ask(f"{path}?{'&'.join(needed)}")[0] in {200, 404, 503}, path
        if route.scope:
            status, _, body = api.ask(f"{path}?nothing=1")
            assert (status, json.loads(body)["error"], json.loads(body)["param"]) == (400, route.code, "nothing")


GOOD: dict[str, list[str]] = {
    "limit": ["1", "200"], "step": ["hour"], "by": ["model"], "spread": ["", "ttft_ms,own_us"], "speed": ["100", "0.5", ".5"],
    "status": ["404", "5xx"], "key_hash": ["ab" * 4, "ab" * 8], "min_tokens": ["0", "1.5"], "pinned": ["true"],
    "model": ["x" * 1024], "q": ["x" * 4096],
}  # fmt: skip
BAD: dict[str, list[str]] = {
    "limit": ["0", "100000001", "1e2", "", "-1", "1.0"], "step": ["second"], "by": ["path"], "spread": ["x", "ttft_ms,"],
    "speed": ["0", "100.1", "nan", "", "."], "status": ["3xx", "99", "200 "], "key_hash": ["ab", "AB" * 8],
    "min_tokens": ["-1", "x"], "pinned": ["1"], "model": ["x" * 1025], "q": ["x" * 4097],
    "cursor": ["", "!"], "session_root_id": ["x"], "nodelay": ["yes"],
}  # fmt: skip


def params() -> list[Param]:
    return [param for route in described.ROUTES for param in route.query]


@pytest.mark.parametrize("param", params(), ids=lambda param: param.name)
def test_a_value_is_held_against_the_schema_that_the_document_has(param: Param) -> None:
    for value in GOOD.get(param.name, []):
        param.check(value)
    for value in BAD.get(param.name, []):
        with pytest.raises(BadParamError, match="allowed is"):
            param.check(value)


def test_a_list_that_may_not_be_empty_is_not() -> None:
    with pytest.raises(BadParamError, match="some of model, api"):
        sums.FACET_PARAMS[0].check("")


def test_schemathesis_finds_nothing(api: Api, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every operation with values that the document allows and with others; answers are held against it."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(f'[parameters]\n"path.id" = "{STREAM}"\n"path.n" = 0\n')
    examples = EXAMPLES_LONG if request.config.getoption("long") else EXAMPLES
    options = [
        "--checks=all", f"--exclude-checks={LEFT_OUT}", f"--max-examples={examples}", "--phases=examples,fuzzing",
        "--seed=1", "--generation-database=none", "--no-color", "--workers=1", "--exclude-path=/readyz",
        "--exclude-path=/api/live",  # does not end
        f"--header=Authorization: Bearer {api.tokens.admin}",
    ]  # fmt: skip
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        f"--config-file={config}",
        "run",
        f"http://{api.address}/openapi.json",
        *options,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    page = api.ask("/metrics?scope=own")[2].decode()
    for route in ("/api/traces", "/api/traces/{id}", "/api/traces/{id}/replay", "/api/media/{id}/{n}", "/api/config/retention"):
        assert f'llmdump_api_requests_total{{route="{route}",status="200"}}' in page
