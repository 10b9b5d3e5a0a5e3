"""The filter expression: which exchanges are meant, said in one small language wherever it is asked. Pure.

    model~claude and status>=400 and ttft>2s and not client=curl

    text ─ filter_words ─▶ tokens ─ parse ─▶ Node, Comparison ─┬─ sql      a condition with parameters
                                                                └─ matches  a predicate over a row

The grammar is `GRAMMAR` (docs/filter.md shows it); fields and their types come from a table (`filter_fields`). Both forms
mean the same, row for row: a test lets a real SQLite and the predicate judge random rows.

A field that is not known (NULL) passes no test but `=null`, and `not` turns that round: `not client=curl` and `client!=curl`
hold for it. SQL's third truth value is avoided by pushing `not` down to the tests, where NULL can be named; so a plain test
stays plain SQL, and an index can serve it.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llmdump.filter_fields import EXAMPLES, FIELDS, OPERATORS, Field
from llmdump.filter_values import number, status_class
from llmdump.filter_words import FilterError, Token, tokens

GRAMMAR: Final = """\
filter      = or ;
or          = and , { "or" , and } ;
and         = not , { "and" , not } ;
not         = "not" , not | "(" , or , ")" | test ;
test        = text , is , word | text , has , word | text , "=" , prefix
            | number , order , count | size , order , bytes | duration , order , span
            | money , order , dollars | time , order , moment | status , order , count
            | status , is , class | flag , is , truth | flag | field , is , "null" ;
is          = "=" | "!=" ;
has         = "~" | "!~" ;
order       = "=" | "!=" | "<" | "<=" | ">" | ">=" ;
bytes       = count , [ "B" | "KB" | "MB" | "GB" | "KiB" | "MiB" | "GiB" ] ;
span        = count , ( "us" | "ms" | "s" | "m" | "h" | "d" ) ;
dollars     = [ "$" ] , count ;
moment      = date-time | "now" , [ "-" , span ] ;
truth       = "true" | "false" ;
"""

DEPTH_MAX: Final = 50
"""Of parentheses and `not` within each other."""
TESTS_MAX: Final = 200


class Comparison(NamedTuple):
    """A test of one column."""

    column: str
    how: str
    """One of `_HOW`."""
    values: tuple[Any, ...]


class Node(NamedTuple):
    """`and`, `or` or `not` of others."""

    word: str
    parts: "tuple[Node | Comparison, ...]"


class Filter(NamedTuple):
    """A checked expression."""

    root: Node | Comparison

    def sql(self) -> tuple[str, tuple[Any, ...]]:
        """A condition for WHERE and the values of its parameters."""
        return _sql(self.root, negated=False)

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row passes; `row` has values by column, as SQLite has them (a NaN is NULL, a flag 0 or 1)."""
        return _matches(self.root, row)

    def holds(self, known: Mapping[str, Any]) -> bool:
        """Whether a row passes for certain, whatever the columns turn out to be that `known` does not have yet."""
        return _holds(self.root, known, wanted=True)


def parse(text: str, now_ms: int, fields: Mapping[str, Field] = FIELDS) -> Filter:
    """The filter that a text says. `now_ms`, ms since 1970, is what `now` means. Raises FilterError."""
    return Filter(_Parser(text, now_ms, fields).whole())


class _Parser:
    """Recursive descent, a method for each production."""

    def __init__(self, text: str, now_ms: int, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._now_ms = now_ms
        self._fields = fields
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0
        self._tests = 0

    def whole(self) -> Node | Comparison:
        root = self._or()
        if self._next.kind != "end":
            raise self._error(self._next, "`and`, `or` or the end")
        return root

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _error(self, token: Token, expected: str) -> FilterError:
        return FilterError(self._text, token.offset, f"expected {expected}")

    def _or(self) -> Node | Comparison:
        return self._joined("or", self._and)

    def _and(self) -> Node | Comparison:
        return self._joined("and", self._not)

    def _joined(self, word: str, part: Any) -> Node | Comparison:
        parts = [part()]
        while self._next.is_word(word):
            self._take()
            parts.append(part())
        return Node(word, tuple(parts)) if len(parts) > 1 else parts[0]

    def _not(self) -> Node | Comparison:
        token = self._next
        if not (token.is_word("not") or token.kind == "("):
            return self._test()
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FilterError(self._text, token.offset, f"allowed are {DEPTH_MAX} of `not` and `(` within each other")
        self._take()
        inner = Node("not", (self._not(),)) if token.kind != "(" else self._or()
        if token.kind == "(" and self._take().kind != ")":
            raise self._error(self._tokens[self._at - 1], "`)`, `and` or `or`")
        self._depth -= 1
        return inner

    def _test(self) -> Node | Comparison:
        name = self._take()
        field = self._field(name)
        self._tests += 1
        if self._tests > TESTS_MAX:
            raise FilterError(self._text, name.offset, f"allowed are {TESTS_MAX} tests")
        if self._next.kind != "operator" and field.kind == "flag":
            return Comparison(field.column, "=", (1,))
        operator, allowed = self._take(), OPERATORS[field.kind]
        if operator.kind != "operator" or operator.text not in allowed:
            raise self._error(operator, f"{' '.join(allowed)} after {name.text}, a {field.kind}")
        value = self._take()
        if value.kind not in {"bare", "quoted"}:
            raise self._error(value, EXAMPLES[field.kind])
        if operator.text in {"!=", "!~"}:
            return Node("not", (self._compared(field, operator.text[1], value),))
        return self._compared(field, operator.text, value)

    def _field(self, name: Token) -> Field:
        if name.kind != "bare" or name.is_keyword:
            raise self._error(name, "a field, `not` or `(`")
        field = self._fields.get(name.text.lower())
        if field is None:
            near = difflib.get_close_matches(name.text.lower(), self._fields, 1) if len(name.text) < _NEAR_CHARS_MAX else []
            raise self._error(name, f"a field, {name.text[:_NEAR_CHARS_MAX]!r} is none" + (f"; {near[0]}?" if near else ""))
        return field

    def _compared(self, field: Field, operator: str, value: Token) -> Comparison:
        """The test that an operator without its `!` and a value make."""
        word, is_bare = value.text, value.kind == "bare"
        if operator == "=" and is_bare and word.lower() == "null":
            return Comparison(field.column, "null", ())
        if field.kind == "text":
            return _of_text(field, operator, word, is_bare=is_bare)
        if field.kind == "flag" and word.lower() in _TRUTH:
            return Comparison(field.column, "=", (_TRUTH[word.lower()],))
        bounds = status_class(word) if field.kind == "status" and operator == "=" else None
        if bounds:
            return Comparison(field.column, "range", bounds)
        found = number(field.kind, word, self._now_ms) if field.kind != "flag" else None
        if found is None:
            raise self._error(value, EXAMPLES[field.kind])
        return Comparison(field.column, operator, (found,))


def _of_text(field: Field, operator: str, word: str, *, is_bare: bool) -> Comparison:
    if operator == "~":
        return Comparison(field.column, "~", (_lower(word),))
    if is_bare and word.endswith("*"):
        return Comparison(field.column, "range", (word[:-1], word[:-1] + _LAST_CHARACTER))
    return Comparison(field.column, "=", (word,))


def _lower(text: str) -> str:
    """As SQLite's lower() does it: ASCII alone."""
    return text.translate(_ASCII_LOWER)


_ASCII_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_LAST_CHARACTER: Final = "\U0010ffff"
_TRUTH: Final = {"true": 1, "false": 0}
_NEAR_CHARS_MAX: Final = 40

# What a test is in SQL, of a column and for each value a `?`; and in Python, of a value that is not None.
_HOW: Final[dict[str, tuple[str, Callable[..., bool]]]] = {
    "=": ("{} = ?", lambda found, value: found == value),
    "<": ("{} < ?", lambda found, value: found < value),
    "<=": ("{} <= ?", lambda found, value: found <= value),
    ">": ("{} > ?", lambda found, value: found > value),
    ">=": ("{} >= ?", lambda found, value: found >= value),
    "range": ("({0} >= ? AND {0} < ?)", lambda found, low, high: low <= found < high),
    "~": ("instr(lower({}), ?) > 0", lambda found, value: value in _lower(found)),
    "null": ("{} IS NULL", lambda _: False),
}


def _sql(part: Node | Comparison, *, negated: bool) -> tuple[str, tuple[Any, ...]]:
    """A condition that is never NULL where it matters: false and NULL are the same to WHERE, AND and OR."""
    if isinstance(part, Comparison):
        plain = _HOW[part.how][0].format(part.column)
        if not negated:
            return plain, part.values
        if part.how == "null":
            return f"{part.column} IS NOT NULL", ()
        return f"({part.column} IS NULL OR NOT {plain})", part.values
    if part.word == "not":
        return _sql(part.parts[0], negated=not negated)
    word = "AND" if (part.word == "and") is not negated else "OR"
    parts = [_sql(one, negated=negated) for one in part.parts]
    return f"({f' {word} '.join(text for text, _ in parts)})", tuple(value for _, values in parts for value in values)


def _matches(part: Node | Comparison, row: Mapping[str, Any]) -> bool:
    if isinstance(part, Comparison):
        value = row[part.column]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return part.how == "null"
        return _HOW[part.how][1](value, *part.values)
    if part.word == "not":
        return not _matches(part.parts[0], row)
    return (all if part.word == "and" else any)(_matches(one, row) for one in part.parts)


def _holds(part: Node | Comparison, known: Mapping[str, Any], *, wanted: bool) -> bool:
    """Whether a part is certain to be true; or false, if that is `wanted`."""
    if isinstance(part, Comparison):
        return part.column in known and _matches(part, known) is wanted
    if part.word == "not":
        return _holds(part.parts[0], known, wanted=not wanted)
    every = all if (part.word == "and") is wanted else any
    return every(_holds(one, known, wanted=wanted) for one in part.parts)
