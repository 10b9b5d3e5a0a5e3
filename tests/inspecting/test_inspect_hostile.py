"""Files changed at random, of every format: every view still says something, and nothing but refusals are errors."""

import random
from pathlib import Path

import pytest

from tests.inspecting import edges, made
from tests.inspecting.running import call
from tests.inspecting.test_inspect_own import sealed
from tests.writer.test_recovery import begin
from tests.writer.traffic import realistic

VIEWS = (
    "--detect-issues", "--analyze", "--analyze-streaming", "--timeline", "--group-by-session", "--status-summary", "--b2bua",
    "--track-request", 1, "-e", 99, "-v",
)  # fmt: skip
ROUNDS = 5


def changed(content: bytes, chance: random.Random) -> bytes:
    """With some bytes changed, a piece taken out, and a piece doubled."""
    found = bytearray(content)
    for _ in range(chance.randrange(1, 9)):
        found[chance.randrange(len(found))] = chance.randrange(256)
    at, size = chance.randrange(len(found)), chance.randrange(60)
    if chance.random() < 0.5:
        del found[at : at + size]
    else:
        found[at:at] = found[at : at + size]
    return bytes(found)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small capture of each format."""
    place = tmp_path_factory.mktemp("originals")
    cbor, jsonl = (path.read_bytes() for path in begin(place / "segments", "both", realistic().records, close=True))
    return {
        "v2": made.sample(place / "sample.cbor").read_bytes(),
        "lines": edges.lines(place / "lines").read_bytes(),
        "cbor": cbor,
        "jsonl": jsonl,
        "sealed": sealed(cbor),
    }


@pytest.mark.parametrize("form", ["v2", "lines", "cbor", "jsonl", "sealed"])
def test_every_view_takes_what_was_changed_at_random(originals: dict[str, bytes], tmp_path: Path, form: str) -> None:
    path = tmp_path / "changed"
    for seed in range(ROUNDS):
        path.write_bytes(changed(originals[form], random.Random(f"{form} {seed}")))
        for arguments in (VIEWS, (*VIEWS, "--json")):
            done = call(path, *arguments)
            assert done.code == 0 or (done.code == 1 and done.err.startswith("llmdump: ")), (form, seed, done.err)
            assert all(letter == "\n" or letter.isprintable() for letter in done.out), (form, seed)
