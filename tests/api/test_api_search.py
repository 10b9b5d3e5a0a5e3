"""Full text: what is found, in which order, and what is shown of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from made import new_id

from llmdump.assembly import Exchange
from llmdump_api import excerpt, params, query, search
from llmdump_api.index import connect
from llmdump_indexer.index import Changes, Index
from llmdump_indexer.read import Read
from llmdump_indexer.store import TraceRow

BASE_US = 1_767_225_600_000_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.sqlite") as found:
        yield found


def store(index: Index, texts: dict[int, tuple[str, str]], **columns: Any) -> None:
    """Rows with these prompts and answers."""
    rows = []
    for number, (prompt, answer) in texts.items():
        exchange = Exchange(
            id=new_id(number), instance="00" * 8, started_us=BASE_US + 1000 * number, first_record=1, end_reason="complete"
        )
        rows.append(TraceRow(number, exchange, Read(prompt_new=prompt, answer_new=answer, **columns)))
    index.save(Changes(rows, [], [], [], [], [], []))


def ask(index: Index, words: str, **given: str) -> search.Hits:
    db: apsw.Connection = connect(index.path)
    try:
        return search.page(db, query.parse({"q": words, **given}), search.expression(words))
    finally:
        db.close()


def numbers(hits: search.Hits) -> list[int]:
    return [int(str(hit.row[0]).replace("-", ""), 16) & 0xFFFFFFFF for hit in hits.hits]


def every(index: Index, words: str, **given: str) -> list[int]:
    """The numbers of all pages: a slow machine has more of them, some empty."""
    page = ask(index, words, **given)
    seen = numbers(page)
    while page.next_cursor is not None:
        page = ask(index, words, cursor=params.encode_cursor(*page.next_cursor), **given)
        seen += numbers(page)
    return seen


TEXTS = {
    1: ("the refund policy", "no refunds"),
    2: ("policy of refund", "see Über-uns"),
    3: ("Where is Zürich?", "the REFUND_POLICY says"),
    4: ("nothing", "here: don't panic"),
    5: ("你好 世界", ""),
}


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("refund", [3, 2, 1]),
        ("refund policy", [3, 2, 1]),
        ('"refund policy"', [3, 1]),
        ('"refund policy', [3, 1]),
        ("refund -zurich", [2, 1]),
        ('policy -"the refund"', [2]),
        ("zurich", [3]),
        ("uber uns", [2]),
        ("don't", [4]),
        ("世界", [5]),
        ("refunds", [1]),
        ("ref", []),
        ("refund AND nothing", []),
        ("NEAR(refund)", []),
        ('" refund', [3, 2, 1]),
        ("prompt:refund", []),
    ],
)
def test_what_is_typed_finds_what_has_all_of_its_words(index: Index, words: str, want: list[int]) -> None:
    store(index, TEXTS)
    assert numbers(ask(index, words)) == want


def test_what_was_found_is_shown_with_what_stands_around_it(index: Index) -> None:
    store(index, {**TEXTS, 6: ("x " * 200 + "some Zürich thing, ZURICH too" + " y" * 200, "no")})
    long, short = ask(index, "zurich").hits
    assert (short.prompt, short.answer) == (["Where is ", "Zürich", "?"], None)
    assert long.prompt is not None
    assert (long.prompt[1], long.prompt[2], long.prompt[3]) == ("Zürich", " thing, ", "ZURICH")
    assert (long.prompt[0][:1], long.prompt[-1][-1:], long.answer) == ("…", "…", None)
    assert len("".join(long.prompt)) < excerpt.BEFORE_CHARS + excerpt.AFTER_CHARS + 20


def test_pages_neither_repeat_nor_skip(index: Index) -> None:
    store(index, {number: ("every one", "odd" if number % 2 else "even") for number in range(1, 300)})
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = ask(index, "every odd", limit="7", **cursor)
        seen += numbers(page)
        if page.next_cursor is None:
            break
        cursor = {"cursor": params.encode_cursor(*page.next_cursor)}
    assert seen == [*range(299, 0, -2)]


def test_filters_hold_for_what_is_found(index: Index) -> None:
    store(index, dict.fromkeys(range(1, 20), ("a word", "")), model="m")
    store(index, dict.fromkeys(range(20, 5000), ("a word", "")), model="n")
    assert every(index, "word", model="m", limit="3") == [*range(19, 0, -1)]
    assert every(index, "word", until="2026-01-01T00:00:00.003Z") == [2, 1]
