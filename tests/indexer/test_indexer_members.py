"""`model` and `stream` are found in JSON however it is cut."""

import json
from typing import Any

import pytest

from llmdump.members import VALUE_BYTES_MAX, Members

OBJECTS: list[dict[str, Any]] = [
    {"model": 'a"b\\', "stream": True},
    {"messages": [{"model": "nested", "stream": False, "x": ["{", '\\"']}], "model": "m", "stream": False},
    {"a": {}, "b": [], "stream": None, "model": {"x": 1}},
    {"text": '","model":"evil"', "model": "ü€"},
    {"x": "\\"},
    {},
]


def found(*parts: bytes) -> dict[str, Any]:
    members = Members()
    for part in parts:
        members.feed(part)
    return {name: value for name, value in members.found.items() if value is not None}


@pytest.mark.parametrize("whole", OBJECTS)
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n ", " : ")])
def test_members_are_found_wherever_the_body_is_cut(whole: dict[str, Any], separators: tuple[str, str]) -> None:
    body = b" \n" + json.dumps(whole, separators=separators).encode()
    want = {name: whole[name] for name in ("model", "stream") if whole.get(name) is not None}
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            assert found(body[:first], body[first:second], body[second:]) == want


def test_every_byte_alone_is_enough() -> None:
    body = json.dumps(OBJECTS[1]).encode()
    assert found(*(body[at : at + 1] for at in range(len(body)))) == {"model": "m", "stream": False}


@pytest.mark.parametrize("body", [b'["model","x"]', b'"model"', b"model=x&stream=true", b"", b"\x00\xff", b'{"model":'])
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    assert found(body) == {}


def test_a_model_behind_megabytes_is_found_without_holding_them() -> None:
    members = Members()
    members.feed(b'{"messages":["')
    for _ in range(100):
        members.feed(b"x\\n" * 10_000)
    members.feed(b'"],"model":"far"')
    assert not members.done
    members.feed(b"}")
    assert members.done
    assert members.found == {"model": "far"}
    assert len(members._value) <= VALUE_BYTES_MAX
