"""The filter expression: its grammar, what it means in SQL and in Python, and where its errors point."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdump import filter as filters
from llmdump.filter import DEPTH_MAX, GRAMMAR, TESTS_MAX, Filter, parse
from llmdump.filter_fields import EXAMPLES, FIELDS, OPERATORS, SIZES, SPANS, within
from llmdump.filter_words import FILTER_CHARS_MAX, FilterError

NOW_MS = 1_767_225_600_000
PAGE = (Path(__file__).parents[2] / "docs" / "filter.md").read_text("utf-8")
COLUMNS = sorted({field.column for field in FIELDS.values()})


def meant(text: str) -> Filter:
    return parse(text, NOW_MS)


def holds(text: str, **row: Any) -> bool:
    """Whether an expression holds for a row, by both ways."""
    whole = {column: row.get(column) for column in COLUMNS}
    found = meant(text).matches(whole)
    assert in_sqlite(text, [whole]) == [found]
    return found


def in_sqlite(text: str, rows: list[dict[str, Any]]) -> list[bool]:
    """The same by a real SQLite."""
    db = apsw.Connection(":memory:")
    db.execute(f"CREATE TABLE trace (number INTEGER PRIMARY KEY, {', '.join(COLUMNS)})")
    marks = ", ".join("?" * len(COLUMNS))
    for row in rows:
        db.execute(f"INSERT INTO trace ({', '.join(COLUMNS)}) VALUES ({marks})", [row[column] for column in COLUMNS])
    where, values = meant(text).sql()
    passed = {number for (number,) in db.execute(f"SELECT number FROM trace WHERE {where}", values)}
    db.close()
    return [number in passed for number in range(1, len(rows) + 1)]


# --- what it means


@pytest.mark.parametrize(
    ("text", "row", "want"),
    [
        ("model~claude", {"model": "Anthropic/CLAUDE-4"}, True),
        ("model~CLAUDE", {"model": "claude"}, True),
        ("model~É", {"model": "é"}, False),
        ("model~é", {"model": "É"}, False),
        ("model~%", {"model": "x"}, False),
        ("model=claude", {"model": "Claude"}, False),
        ("model!~claude", {"model": None}, True),
        ("path=/v1_x*", {"route_path": "/v1/x"}, False),
        ("path=/v1/*", {"route_path": "/v1/chat"}, True),
        ("path='/v1/*'", {"route_path": "/v1/chat"}, False),
        ("path=*", {"route_path": ""}, True),
        ("path=*", {}, False),
        ("status>=400", {"status": 400}, True),
        ("status=4xx", {"status": 499}, True),
        ("status!=4xx", {"status": 500}, True),
        ("status!=4xx", {}, True),
        ("status<400", {}, False),
        ("not status<400", {}, True),
        ("ttft>2s", {"ttft_us": 2_000_001}, True),
        ("ttft>2s", {"ttft_us": 2_000_000}, False),
        ("ttft<=2s", {"ttft_us": 2_000_000}, True),
        ("ttft<=2s", {"ttft_us": 2_000_001}, False),
        ("ttft<2s", {"ttft_us": 2_000_000}, False),
        ("ttft>=2s", {"ttft_us": 1_999_999}, False),
        ("ttft=1.5ms", {"ttft_us": 1500}, True),
        ("duration>=1m and duration<1h", {"duration_us": 60_000_000}, True),
        ("duration<1m", {"duration_us": 59_999_999}, True),
        ("duration<1d", {"duration_us": 86_399_999_999}, True),
        ("resp_bytes=64KB", {"resp_bytes": 64_000}, True),
        ("resp_bytes=64kib", {"resp_bytes": 65_536}, True),
        ("resp_bytes>1.5MB", {"resp_bytes": 1_500_001}, True),
        ("cost>=$0.05", {"cost_nano_usd": 50_000_000}, True),
        ("cost<0.05", {"cost_nano_usd": 49_999_999}, True),
        ("time>=2026-01-01T00:00:00Z", {"ts_start": NOW_MS}, True),
        ("time<2026-01-01T01:00:00+01:00", {"ts_start": NOW_MS}, False),
        ("time>now-2h", {"ts_start": NOW_MS - 7_199_999}, True),
        ("time>now", {"ts_start": NOW_MS}, False),
        ("tokens>2.5", {"total_tokens": 3}, True),
        ("stream", {"stream": 1}, True),
        ("stream", {}, False),
        ("not stream", {}, True),
        ("STREAM = False", {"stream": 0}, True),
        ("client=null", {}, True),
        ("client!=NULL", {}, False),
        ("client='null'", {}, False),
        ("not client=curl", {}, True),
        ("client!=curl", {"client_kind": "curl"}, False),
        ("tokens_per_second=null", {"tokens_per_second": math.nan}, True),
        ("tokens_per_second<5", {"tokens_per_second": math.nan}, False),
        (r"""model='it\'s \\' or model="\"" """, {"model": "it's \\"}, True),
        ("model=and", {"model": "and"}, True),
        ("model~claude and status>=400 and ttft>2s and not client=curl",
         {"model": "claude", "status": 500, "ttft_us": 3_000_000}, True),
    ],
)  # fmt: skip
def test_an_expression_means(text: str, row: dict[str, Any], want: bool) -> None:
    assert holds(text, **row) is want


@pytest.mark.parametrize(
    ("plain", "explicit"),
    [
        ("stream or altered and pinned", "stream or (altered and pinned)"),
        ("stream and altered or pinned", "(stream and altered) or pinned"),
        ("not stream and altered", "(not stream) and altered"),
        ("not not stream or altered", "(not (not stream)) or altered"),
        ("NOT stream OR Altered", "not stream or altered"),
        ("status!=5", "not status=5"),
        ("(((stream)))", " stream\t\r\n"),
        ("stream and(altered)or(pinned)", "stream and altered or pinned"),
    ],
)
def test_words_bind_as_the_grammar_says(plain: str, explicit: str) -> None:
    assert meant(plain) == meant(explicit)


TEXTS = st.one_of(st.none(), st.text(st.sampled_from("aAbéZ/*%_'\"\\\U0010ffff "), max_size=4))
NUMBERS = st.one_of(st.none(), st.sampled_from([0, 1, 2, 200, 404, 499, 500, 1000, 1024, 2000, 10**6, NOW_MS, NOW_MS - 1000]),
                    st.floats(-3, 600), st.just(math.nan))  # fmt: skip
OF_COLUMN = {field.column: TEXTS if field.kind == "text" else st.sampled_from([0, 1, None]) if field.kind == "flag" else NUMBERS
             for field in FIELDS.values()}  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries(OF_COLUMN), min_size=1, max_size=8)


class Sentences:
    """Random sentences of the grammar as it is written. An alternative is a list of sequences, a sequence one of items."""

    def __init__(self, grammar: str) -> None:
        productions = re.findall(r"(\S+)\s*= (.*?) ;", grammar, re.S)
        self.of = {name: self.read(re.findall(r'"[^"]*"|[\w-]+|[][(){}|,]', body)) for name, body in productions}

    def read(self, words: list[str]) -> list[list[Any]]:
        """An alternative, up to its closing bracket, which is taken too."""
        found: list[list[Any]] = [[]]
        while words and (word := words.pop(0)) not in ")]}":
            if word == "|":
                found.append([])
            elif word in "([{":
                found[-1].append((word, self.read(words)))
            elif word != ",":
                found[-1].append(word)
        return found

    def sentence(self, draw: st.DrawFn, name: str, depth: int = 0) -> str:
        """A sentence of a production; without what may be left out when it is deep."""
        if name.startswith('"'):
            return name[1:-1]
        if name not in self.of:
            return str(draw(self.terminal(name)))
        return self.either(draw, self.of[name], depth + 1)

    def either(self, draw: st.DrawFn, alternatives: list[list[Any]], depth: int) -> str:
        chosen = draw(st.sampled_from(alternatives if depth < 18 else alternatives[-1:]))
        parts = [self.item(draw, item, depth) for item in chosen]
        whole = "".join(parts)
        # Within a value there are no blanks.
        is_value = re.fullmatch(r"\$?[0-9.]+[A-Za-z]*|now(-[0-9.]+[a-z]+)?|-[0-9.]+[a-z]+", whole)
        return whole if is_value else " ".join(filter(None, parts))

    def item(self, draw: st.DrawFn, item: Any, depth: int) -> str:
        if isinstance(item, str):
            return self.sentence(draw, item, depth)
        bracket, alternatives = item
        if bracket != "(" and (depth >= 18 or not draw(st.booleans())):
            return ""
        return self.either(draw, alternatives, depth)

    @staticmethod
    def terminal(name: str) -> st.SearchStrategy[str]:
        """What the grammar does not spell out."""
        if name in OPERATORS:
            return st.sampled_from([field for field, about in FIELDS.items() if about.kind == name])
        return {
            "field": st.sampled_from(sorted(FIELDS)),
            "word": st.one_of(st.sampled_from(["a", "A", "é", "%", "/a"]), TEXTS.filter(bool).map(quoted)),
            "prefix": st.sampled_from(["*", "a*", "/*", "'*"[1:]]),
            "count": st.sampled_from(["0", "1", "2", "1.5", "404", "500", "1000"]),
            "class": st.sampled_from(["2xx", "4xx", "5xx"]),
            "date-time": st.sampled_from(["2026-01-01T00:00:00Z", "2025-12-31T23:59:59.5+00:00"]),
        }[name]


def quoted(text: str | None) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text or "") + '"'


@st.composite
def sentences(draw: st.DrawFn) -> str:
    return Sentences(GRAMMAR).sentence(draw, "filter")


@settings(max_examples=120, deadline=None)
@given(text=sentences(), rows=ROWS)
def test_sqlite_and_python_agree_on_every_sentence_of_the_grammar(text: str, rows: list[dict[str, Any]]) -> None:
    found = meant(text)
    assert in_sqlite(text, rows) == [found.matches(row) for row in rows]
    turned = parse(f"not ({text})", NOW_MS)
    assert [turned.matches(row) for row in rows] == [not found.matches(row) for row in rows]


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "a field"),
        ("  ", 2, "a field"),
        ("model", 5, "= != ~ !~"),
        ("model=", 6, "a word"),
        ("modle=x", 0, "model?"),
        ("stream and", 10, "a field"),
        ("stream or or pinned", 10, "a field"),
        ("stream pinned", 7, "`and`, `or` or the end"),
        ("(stream", 7, "`)`"),
        ("stream)", 6, "`and`, `or` or the end"),
        ("not", 3, "a field"),
        ("model>x", 5, "after model, a text"),
        ("ttft~2s", 4, "after ttft, a duration"),
        ("ttft>2", 5, "with its unit"),
        ("ttft>-2s", 5, "with its unit"),
        ("status>5xx", 7, "404 or 5xx"),
        ("status=6xx", 7, "404 or 5xx"),
        ("stream=maybe", 7, "true or false"),
        ("cost>1e3", 5, "dollars"),
        ("req_bytes>1TB", 10, "a size"),
        ("time>yesterday", 5, "now-2h"),
        ("time>2026-01-01", 5, "2026-01-31T12:00:00Z"),
        ("time>2026-01-01T00:00:00", 5, "a time"),
        ("tokens>999999999999999999 and cost>999999999999999999", 35, "dollars"),
        ("tokens<null", 7, "a number"),
        ("model='x", 6, "closing quote"),
        (r"model='x\n'", 6, "closing quote"),
        ("model ! x", 6, "`!=`"),
        ("model=a\0b", 7, "no character"),
        ("model=\ud800", 6, "no character"),
        ("stream and ttft>2s and modle~x", 23, "model?"),
        ("'model'=x", 0, "a field"),
        ("not (stream or (altered and status>))", 35, "a status"),
    ],
)  # fmt: skip
def test_an_error_points_at_the_character(text: str, offset: int, message: str) -> None:
    with pytest.raises(FilterError) as err:
        meant(text)
    assert err.value.offset == offset
    assert message in err.value.message
    shown, caret = err.value.pointed.split("\n")
    assert caret.index("^") <= 70
    assert (
        shown[caret.index("^") : caret.index("^") + 1].strip("\0\ud800") == text[offset : offset + 1].strip("\0\ud800 ") or "\0"
    )


def test_of_a_long_expression_the_place_is_shown() -> None:
    for before, after in ((0, 40), (40, 0), (20, 20)):
        with pytest.raises(FilterError) as err:
            meant("stream or " * before + "modle" + " or stream" * after)
        shown, caret = err.value.pointed.split("\n")
        assert shown[caret.index("^") :].startswith("modle")
        assert len(shown) == 70


def test_limits_have_their_place() -> None:
    meant("not " * DEPTH_MAX + "stream")
    meant(" or ".join(["stream"] * TESTS_MAX))
    meant(" or ".join(["(stream)"] * (DEPTH_MAX + 1)))
    too_much = {
        "not " * (DEPTH_MAX + 1) + "stream": 4 * DEPTH_MAX,
        "(" * 2000: DEPTH_MAX,
        " or ".join(["stream"] * (TESTS_MAX + 1)): TESTS_MAX * len("stream or "),
        "x" * (FILTER_CHARS_MAX + 1): FILTER_CHARS_MAX,
        "model=" + "x" * FILTER_CHARS_MAX: FILTER_CHARS_MAX,
    }
    for text, offset in too_much.items():
        with pytest.raises(FilterError) as err:
            meant(text)
        assert err.value.offset == offset
        assert len(err.value.pointed) < 300


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(
    ["model", "ttft", "stream", "and", "or", "not", "(", ")", "=", "!=", "~", "<", "2s", "5xx", '"', "'", "null", " ",
     "now-1", "\\"]
), max_size=12).map("".join)))  # fmt: skip
def test_any_text_is_a_filter_or_an_error_with_a_place(text: str) -> None:
    try:
        where, values = meant(text).sql()
    except FilterError as err:
        assert 0 <= err.offset <= len(text)
    else:
        assert where.count("?") == len(values)


def test_a_value_never_gets_into_the_sql() -> None:
    where, values = meant('model="x\' OR 1=1 --"').sql()
    assert (where, values) == ("model = ?", ("x' OR 1=1 --",))


def test_an_index_can_serve_a_plain_test() -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE trace (number INTEGER PRIMARY KEY, model, status); CREATE INDEX by_model ON trace (model)")
    where, values = meant("model=gpt-4o and status>=400").sql()
    plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN SELECT number FROM trace WHERE {where}", values))
    assert "by_model" in plan


def test_a_table_without_a_column_has_no_field_for_it() -> None:
    fields = within({"model", "status"})
    assert set(fields) == {"model", "status"}
    with pytest.raises(FilterError, match="'ttft' is none"):
        parse("ttft>1s", NOW_MS, fields)


# --- the page


def examples() -> Iterator[str]:
    section = PAGE.partition("\n\n    ")[2].partition("\n\n")[0]
    return (line.strip() for line in section.splitlines())


def test_the_page_has_the_grammar_the_fields_and_examples_that_hold() -> None:
    assert f"```ebnf\n{GRAMMAR}```" in PAGE
    shown = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", PAGE, re.M)
    assert shown == [(name, field.kind, field.about) for name, field in FIELDS.items()]
    wrong = []
    for text in examples():
        try:
            meant(text)
        except FilterError as err:
            wrong.append(text)
            assert "\n".join(f"    {line}" for line in err.pointed.splitlines()) in PAGE
    assert wrong == ["cost>$0.05 or total>1m"]
    assert f"{FILTER_CHARS_MAX} characters, {TESTS_MAX} tests and {DEPTH_MAX} levels" in PAGE


def test_the_grammar_names_every_operator_and_unit() -> None:
    written = set(re.findall(r'"([^"]+)"', GRAMMAR))
    assert {operator for operators in OPERATORS.values() for operator in operators} <= written
    assert {*SPANS, *SIZES} - {""} <= written
    assert set(EXAMPLES) == set(OPERATORS)
    assert filters.GRAMMAR is GRAMMAR
